"""The machine as a process may use it: limits of containers, devices by name."""

from pathlib import Path

import pytest
import torch

from llm_from_scratch import machine


def test_limits_of_control_groups(tmp_path: Path) -> None:
    def limits(membership: str, **files: str) -> list[int]:
        mount = tmp_path / str(len(list(tmp_path.iterdir())))
        for place, text in files.items():
            path = mount / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "membership").write_text(membership)
        return sorted(machine.cgroup_limits(tmp_path / "membership", mount))

    # Version 2: the group of a batch job within a slice without a limit; and a container, whose
    # root is its own group.
    files = {"slice/job/memory.max": "4096\n", "slice/memory.max": "max\n", "memory.max": "8192\n"}
    assert limits("0::/slice/job\n", **files) == [4096, 8192]
    assert limits("0::/\n", **{"memory.max": "512\n"}) == [512]
    # Version 1: the path of the host, of which the container sees the last folder alone.
    version_1 = "9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/\n"
    assert limits(version_1, **{"memory/memory.limit_in_bytes": "2048\n"}) == [2048]
    assert limits("1:cpu:/x\n", **{"memory/memory.limit_in_bytes": "2048\n"}) == []
    assert machine.cgroup_limits(tmp_path / "none", tmp_path) == []  # not Linux


def test_the_smallest_limit_is_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cgroup_limits", lambda: [2**60, 2**20])
    assert machine.memory_bytes() == 2**20


def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_cuda", lambda: False)
    monkeypatch.setattr(machine, "has_mps", lambda: True)
    assert machine.pick_device("auto") == torch.device("mps")
    assert machine.pick_dtype("auto", machine.pick_device("cpu")) is torch.float32
    assert machine.pick_dtype("bfloat16", machine.pick_device("cpu")) is torch.bfloat16
    with pytest.raises(ValueError, match=r"^device=cuda: this machine has mps, cpu$"):
        machine.pick_device("cuda")
