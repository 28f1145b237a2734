"""The machine as this process may use it: cores, memory, devices, bfloat16.

Functions import torch themselves, so that counting cores does not load it.
"""

import functools
import ipaddress
import math
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llm_from_scratch.errors import UserError

if TYPE_CHECKING:
    import torch

ASSUMED_BYTES = 8 * 1024**3  # memory where the system reports none, as on Windows
# Where trainer.precision=auto computes in bfloat16 on a processor: the gain of a product, and the
# width (n_embd). With AMX narrower models gain less, 1.2 to 1.4 (docs/log.md).
BFLOAT16_GAIN = 1.3
WIDE = 256


def cores() -> int:
    """Counts the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_loopback(host: str) -> bool:
    """Returns whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def memory_bytes() -> int:
    """Returns the total memory in bytes, or the container's limit where that is lower."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        memory = ASSUMED_BYTES
    return min([memory, *cgroup_limits()])


def cgroup_limits(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Returns the memory limits, in bytes, of this process's control groups and their parents.

    The list is empty without a limit. `membership` is the file of the process's groups, `mount` the
    root of their folders.
    """
    limits = []
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers == "":  # cgroup version 2; in `unified` where version 1 is mounted, too
            places = [(mount, "memory.max"), (mount / "unified", "memory.max")]
        elif "memory" in controllers.split(","):
            places = [(mount / "memory", "memory.limit_in_bytes")]
        else:
            places = []
        for root, name in places:
            inner = root / group.strip("/")
            # In a container the path may be the host's, so that some of the folders are missing.
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(root) and (folder / name).is_file():
                    text = (folder / name).read_text(encoding="utf-8").strip()
                    if text.isdigit():  # else "max"
                        limits.append(int(text))
    return limits


def has_cuda() -> bool:
    """Returns whether torch finds a CUDA GPU."""
    import torch

    return torch.cuda.is_available()


def has_mps() -> bool:
    """Returns whether torch finds an Apple GPU."""
    import torch

    return torch.backends.mps.is_available()


def gpu_bytes() -> list[int]:
    """Returns the total memory of each visible CUDA GPU, in bytes."""
    import torch

    return [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]


def devices() -> list[str]:
    """Lists torch's names of this machine's device types (cuda, mps, cpu), fastest first."""
    names = ["cpu"]
    if has_mps():
        names.insert(0, "mps")
    if has_cuda():
        names.insert(0, "cuda")
    return names


def device_name(kind: str) -> str:
    """Returns the model name of the CUDA GPU, or else of the processor.

    Args:
        kind: torch's device type: cuda, mps or cpu.
    """
    if kind == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def has_bfloat16(device: str) -> bool:
    """Returns whether a device type (cuda, mps, cpu) multiplies bfloat16 in hardware."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        cpu = Path("/proc/cpuinfo")
        return cpu.exists() and " bf16" in cpu.read_text(encoding="utf-8", errors="replace")
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@functools.cache
def bfloat16_pays() -> bool:
    """Returns whether this processor multiplies bfloat16 faster than float32.

    Where it has instructions for it, a linear layer is timed forward and backward at both
    precisions, in turns and with the casts of autocast: 0.05 to 0.1 s.
    """
    if not has_bfloat16("cpu"):
        return False
    import torch

    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(512, size, generator=generator, requires_grad=True) for size in (512, 512))
    best = {False: math.inf, True: math.inf}
    for _ in range(6):
        for low in best:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                product = torch.nn.functional.linear(x, weight)
            product.sum().backward()
            best[low] = min(best[low], time.perf_counter() - start)
    return best[False] > BFLOAT16_GAIN * best[True]


def pick_device(name: str) -> "torch.device":
    """Returns the device of a name; `auto` is the fastest one of this machine.

    Raises:
        UserError: when this machine lacks the device.
    """
    import torch

    here = devices()
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise UserError(f"device={name}: this machine has {', '.join(here)}")
    return torch.device(name)


DTYPES = ("auto", "float32", "bfloat16", "int8")  # of a model that writes


def pick_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """Returns the dtype of a name of DTYPES; `int8`: of what is not in 8 bits.

    `auto` is bfloat16 on CUDA with hardware for it, else float32.
    """
    import torch

    if name in ("auto", "int8"):
        name = "bfloat16" if name == "auto" and device.type == "cuda" and has_bfloat16("cuda") else "float32"
    return getattr(torch, name)
