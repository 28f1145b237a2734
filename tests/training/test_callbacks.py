"""Callbacks of the user's in a run: one that does not fit leaves nothing behind."""

from pathlib import Path

import pytest
from conftest import SMALL, story

from llm_from_scratch.commands import train

SETS = '''
from lightning.pytorch.callbacks import Callback


class Sets(Callback):
    """A state that no checkpoint holds."""

    def state_dict(self):
        return {"seen": {1, 2}}
'''


def test_a_state_that_no_checkpoint_holds_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    (tmp_path / "sets_of_a_test.py").write_text(SETS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, "trainer.max_steps=2", "run_dir=run", "+callbacks.sets._target_=sets_of_a_test.Sets"]
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    assert "error: callbacks.sets: its state holds a set" in capsys.readouterr().err
    assert not Path("run").exists()
