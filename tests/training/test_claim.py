"""The claim on a run folder: a run that never started leaves nothing behind."""

from pathlib import Path

from llm_from_scratch.config import Config
from llm_from_scratch.training.claim import Claim


def test_what_loggers_make_before_the_start_goes(tmp_path: Path) -> None:
    run = tmp_path / "outputs/oz/run"
    with Claim(Config(run_dir=str(run)), owner=True):
        for name in ("tensorboard", "csv", "wandb"):
            (run / name).mkdir()
            (run / name / "log").write_text("a point")
        (run / "trackers.json").write_text("01234567")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_started_stays(tmp_path: Path) -> None:
    with Claim(Config(run_dir=str(tmp_path / "run")), owner=True) as claim:
        claim.start()
    assert (tmp_path / "run/config.yaml").exists()
