"""Peak FLOP/s of a device, and what of it a training uses."""

import time
from collections.abc import Iterator

import pytest
import torch

from llm_from_scratch.training import peak
from llm_from_scratch.training.peak import measured_flops, peak_flops


@pytest.fixture(autouse=True)
def measured_anew() -> Iterator[None]:
    peak._measured_once.cache_clear()
    yield
    peak._measured_once.cache_clear()


@pytest.mark.parametrize(
    ("name", "precision", "wanted"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989.4e12),
        ("NVIDIA H100 PCIe", "bf16-mixed", 756e12),
        ("NVIDIA A100-SXM4-80GB", "32-true", 156e12),  # TensorFloat-32
        ("NVIDIA L40S", "bf16-true", 362e12),
        ("NVIDIA L4", "16-mixed", 121e12),
    ],
)
def test_peaks_of_data_sheets(name: str, precision: str, wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), precision) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A4000",
        "NVIDIA RTX A3000 Laptop GPU",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 MIG 1g.10gb",
    ],
)
def test_a_gpu_of_a_similar_name_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(peak, "measured_flops", lambda device, dtype: 5.0)
    assert peak_flops(torch.device("cuda"), "bf16-mixed") == 5.0


def test_a_measured_peak_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 ms for 256 rows, 2 ms for 512, 32 ms for 1024: rates of 33.6, 134 and 67 GFLOP/s."""
    seconds = {256: 0.001, 512: 0.002, 1024: 0.032}
    monkeypatch.setattr(peak, "_product_seconds", lambda a: seconds[len(a)])
    assert measured_flops(torch.device("cpu"), torch.float32) == 2 * 512**3 / 0.002


def test_this_processors_peak_is_measured_quickly_and_once() -> None:
    start = time.perf_counter()
    found = peak_flops(torch.device("cpu"), "32-true")
    assert found > 1e8
    assert time.perf_counter() - start < 5
    assert peak_flops(torch.device("cpu"), "32-true") == found
