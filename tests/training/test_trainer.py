import pytest

from llm_from_scratch.config import TrainerConfig
from llm_from_scratch.training import trainer


@pytest.mark.parametrize(
    ("asked", "accelerator", "gpu", "mps", "bfloat16", "expected"),
    [
        ("auto", "auto", False, False, True, "32-true"),  # a processor computes in float32 unless told
        ("bf16-auto", "auto", False, False, True, "bf16-mixed"),
        ("bf16-auto", "auto", False, False, False, "32-true"),
        ("bf16-auto", "cpu", False, True, True, "bf16-mixed"),
        ("bf16-auto", "auto", False, True, True, "32-true"),  # Apple's GPU has none
        ("bf16-auto", "mps", False, True, True, "32-true"),
        ("bf16-auto", "auto", True, False, True, "bf16-mixed"),
        ("bf16-auto", "auto", True, False, False, "16-mixed"),
        ("64-true", "auto", True, False, True, "64-true"),
    ],
)
def test_precision_follows_the_device(
    asked: str, accelerator: str, gpu: bool, mps: bool, bfloat16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "on_gpu", lambda settings: gpu)
    monkeypatch.setattr(trainer, "has_mps", lambda: mps)
    monkeypatch.setattr(trainer, "has_bfloat16", lambda device: bfloat16)
    assert trainer.precision(TrainerConfig(precision=asked, accelerator=accelerator)) == expected
