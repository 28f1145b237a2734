"""The machine as this process may use it: cores, memory, devices, matrix units.

torch is imported inside the functions: counting cores needs none.
"""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from llm_from_scratch.errors import UserError

if TYPE_CHECKING:
    import torch

# Turns of a loop in which a thread of OpenMP waits for the others before it sleeps: 0.1 ms or so.
SPINS = 10_000
SPINS_VARIABLE = "GOMP_SPINCOUNT"  # of libgomp, which torch brings for Linux
ASSUMED_BYTES = 8 * 1024**3  # where the system tells no size, as on Windows


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Lets threads that wait leave their core to other programs; a variable of the user's own
    counts instead.

    libgomp reads it when torch is loaded, so this comes before. By itself it waits 300,000 turns, 3
    ms or so, in which two trainings on the same cores take each other's time
    (benchmarks/side_by_side.py).
    """
    if not {SPINS_VARIABLE, "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ[SPINS_VARIABLE] = str(SPINS)


def memory_bytes() -> int:
    """Bytes of the memory, or of the container's limit; free memory does not count."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        memory = ASSUMED_BYTES
    return min([memory, *cgroup_limits()])


def cgroup_limits(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Memory limits in bytes of this process's control groups and the groups around them."""
    limits = []
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers == "":  # version 2, in a folder of its own beside version 1
            places = [(mount, "memory.max"), (mount / "unified", "memory.max")]
        elif "memory" in controllers.split(","):
            places = [(mount / "memory", "memory.limit_in_bytes")]
        else:
            places = []
        for root, name in places:
            inner = root / group.strip("/")
            # A container may see the outer group's path and its own folders alone: some are
            # missing.
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(root) and (folder / name).is_file():
                    text = (folder / name).read_text(encoding="utf-8").strip()
                    if text.isdigit():  # else "max"
                        limits.append(int(text))
    return limits


def has_cuda() -> bool:
    """Whether torch finds a CUDA GPU."""
    import torch

    return torch.cuda.is_available()


def has_mps() -> bool:
    """Whether torch finds an Apple GPU."""
    import torch

    return torch.backends.mps.is_available()


def gpu_bytes() -> list[int]:
    """The memory of each visible CUDA GPU."""
    import torch

    return [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]


def devices() -> list[str]:
    """The names that torch gives to this machine's devices, the fastest first."""
    names = ["cpu"]
    if has_mps():
        names.insert(0, "mps")
    if has_cuda():
        names.insert(0, "cuda")
    return names


def device_name(kind: str) -> str:
    """The name of the GPU, or of the processor.

    Args:
        kind: torch's type of a device: cuda, mps, cpu.
    """
    if kind == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def has_bfloat16(device: str) -> bool:
    """Whether a device multiplies in bfloat16 in hardware."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        cpu = Path("/proc/cpuinfo")
        return cpu.exists() and " bf16" in cpu.read_text(encoding="utf-8", errors="replace")
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def pick_device(name: str) -> "torch.device":
    """The device of a name; `auto` is the fastest one here.

    Raises:
        UserError: this machine lacks it.
    """
    import torch

    here = devices()
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise UserError(f"device={name}: this machine has {', '.join(here)}")
    return torch.device(name)


def pick_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """torch's type of a name; `auto` is bfloat16 on CUDA GPUs with it in hardware, else float32."""
    import torch

    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and has_bfloat16("cuda") else "float32"
    return getattr(torch, name)
