import pytest
import torch

from llm_from_scratch import machine
from llm_from_scratch.config import TrainerConfig
from llm_from_scratch.training import trainer


@pytest.mark.parametrize(
    ("settings", "gpu", "mps", "bfloat16", "expected"),
    [
        ({}, False, False, True, "bf16-mixed"),
        ({}, False, False, False, "32-true"),
        ({"accelerator": "cpu"}, False, True, True, "bf16-mixed"),
        ({}, False, True, True, "32-true"),  # Apple's GPU has none
        ({"accelerator": "mps"}, False, True, True, "32-true"),
        ({}, True, False, True, "bf16-mixed"),
        ({}, True, False, False, "16-mixed"),
        ({"precision": "64-true"}, True, False, True, "64-true"),
        ({"precision": "bf16-mixed"}, False, False, False, "bf16-mixed"),
        ({"devices": 2}, False, False, True, "32-true"),  # two processes might measure otherwise
        ({"devices": "auto"}, False, False, True, "bf16-mixed"),
        ({"num_nodes": 2}, False, False, True, "32-true"),
    ],
)
def test_precision_follows_the_device(
    settings: dict, gpu: bool, mps: bool, bfloat16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "on_gpu", lambda settings: gpu)
    monkeypatch.setattr(trainer, "has_mps", lambda: mps)
    monkeypatch.setattr(trainer, "has_bfloat16", lambda device: bfloat16)
    monkeypatch.setattr(trainer, "bfloat16_pays", lambda: bfloat16)
    asked = TrainerConfig(**settings)
    assert trainer.precision(asked, 256) == expected
    if asked.precision == "auto" and not gpu:
        assert trainer.precision(asked, 255) == "32-true"


@pytest.mark.parametrize("pays", [False, True])
def test_a_resumed_run_keeps_its_precision_where_the_processor_has_it(
    pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "on_gpu", lambda settings: False)
    monkeypatch.setattr(trainer, "has_mps", lambda: False)
    monkeypatch.setattr(trainer, "bfloat16_pays", lambda: pays)
    for has in (False, True):
        monkeypatch.setattr(trainer, "has_bfloat16", lambda device, has=has: has)
        assert trainer.precision(TrainerConfig(), 256, "32-true") == "32-true"
        kept = trainer.precision(TrainerConfig(), 256, "bf16-mixed")
        assert kept == ("bf16-mixed" if has or pays else "32-true")


def test_a_processor_without_bfloat16_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(torch.nn.functional, "linear", None)
    machine.bfloat16_pays.cache_clear()
    assert not machine.bfloat16_pays()
    machine.bfloat16_pays.cache_clear()


def test_the_faster_precision_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: True)
    for seconds, expected in (({False: 0.4, True: 0.1}, True), ({False: 0.4, True: 0.35}, False)):
        clock = [0.0]

        def linear(x: torch.Tensor, weight: torch.Tensor, seconds: dict = seconds, clock: list = clock) -> torch.Tensor:
            clock[0] += seconds[torch.is_autocast_enabled("cpu")]
            return x + weight

        monkeypatch.setattr(torch.nn.functional, "linear", linear)
        monkeypatch.setattr(machine.time, "perf_counter", lambda clock=clock: clock[0])
        machine.bfloat16_pays.cache_clear()
        assert machine.bfloat16_pays() is expected
    machine.bfloat16_pays.cache_clear()
