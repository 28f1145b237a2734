"""docs/extend.md: its files and its lines work as they stand there, in a checkout that has nothing
else of the user's.
"""

import re
import shutil
from pathlib import Path

import pytest
from conftest import REPO, run, story

from llm_from_scratch.checkpoint import load_state
from llm_from_scratch.run import read_rows

PAGE = (REPO / "docs" / "extend.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
LINES = re.findall(r"^```sh\npython train.py (.*)\n```$", PAGE, re.MULTILINE)
QUICK = (
    *("tokenizer.vocab_size=320", "trainer=cpu", "sample.max_new_tokens=0", "model.block_size=16"),
    *("optim.schedule=constant", "trainer.val_check_interval=4", "trainer.log_every_n_steps=2"),
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The checkout with the files of the page, and a text where its path says."""
    for name in ("src", "configs"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    shutil.copy(REPO / "train.py", tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "texts" / "fables").mkdir(parents=True)
    for number in range(2):
        (tmp_path / "texts" / "fables" / f"{number}.txt").write_text(story(8000, number), encoding="utf-8")
    return tmp_path


def test_the_page_has_a_file_and_a_line_for_each() -> None:
    assert sorted(FILES) == [
        "configs/data/fables.yaml",
        "configs/model/wide.yaml",
        "my_callback.py",
        "my_logger.py",
        "my_optimizer.py",
    ]
    assert len(LINES) == 5


def test_the_lines_of_the_page_together_also_on_resume(checkout: Path) -> None:
    def train(*words: str) -> None:
        done = run([str(checkout / "train.py"), *words], checkout, {"PYTHONPATH": str(checkout / "src")})
        assert done.returncode == 0, done.stderr

    words = [word for line in LINES for word in line.split()]
    train(*words, *QUICK, "run_dir=whole", "trainer.max_steps=8")
    train(*words, *QUICK, "run_dir=run", "trainer.max_steps=4")
    lines = (checkout / "lines.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("4 val/loss=") for line in lines)
    assert any(line.startswith("2 weight_norm=") for line in lines)
    train("resume=run", "trainer.max_steps=8")

    rows = read_rows(checkout / "run" / "metrics.jsonl")
    assert rows == read_rows(checkout / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "user" and "weight_norm" in row] == [2, 4, 6, 8]
    states = [load_state(checkout / name / "checkpoints" / "step_00000008") for name in ("run", "whole")]
    resumed, straight = (state["optimizer_states"][0] for state in states)
    for number, state in straight["state"].items():
        assert list(state) == ["average"]
        assert resumed["state"][number]["average"].equal(state["average"])
    assert [group["beta2"] for group in resumed["param_groups"]] == [0.98, 0.98]
    assert (checkout / "data" / "fables").is_dir()
    assert straight["state"][0]["average"].shape == (320, 96)
