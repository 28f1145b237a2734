"""docs/mistakes.md says what each mistake is answered with: every row is typed here."""

import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
from conftest import REPO

from llm_from_scratch import mistakes
from llm_from_scratch.config import Config, GenerateConfig, TrainerConfig, keys

ROWS = [
    (typed.replace("\\|", "|"), answer.replace("\\|", "|").replace("&lt;", "<").removesuffix("…"))
    for typed, answer in re.findall(r"^\| `(.+?)` \| (.+) \|$", (REPO / "docs/mistakes.md").read_text("utf-8"), re.M)
]


def program(words: list[str]) -> Callable[[], None]:
    from llm_from_scratch import cli
    from llm_from_scratch.commands import generate, train

    return {"train.py": train.main, "generate.py": generate.main}.get(words[0]) or (lambda: cli.main(words[2:]))


@pytest.mark.parametrize(("typed", "answer"), ROWS, ids=[typed for typed, _ in ROWS])
def test_a_mistake_is_answered_as_the_page_says(
    typed: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_book.txt").write_text("A book.", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    _, *words = shlex.split(typed)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        program(words)()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith(f"error: {answer}")
    assert printed.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_page_has_sixty_mistakes() -> None:
    assert len(ROWS) >= 60


def test_every_argument_of_lightnings_trainer_has_an_answer() -> None:
    ours = set(vars(TrainerConfig())) | set(vars(Config()))
    names = set(inspect.signature(lightning.Trainer.__init__).parameters) - {"self"}
    assert [name for name in sorted(names - ours) if not mistakes.answer(f"trainer.{name}", "train")] == []
    assert set(mistakes.TRAINER_EXTRA) <= names


@pytest.mark.parametrize(
    ("names", "schema"), [(mistakes.TRAIN_NAMES, Config), (mistakes.GENERATE_NAMES, GenerateConfig)]
)
def test_an_answer_names_settings_that_exist(names: dict[str, str], schema: type) -> None:
    known = {
        *keys(schema),
        "logger.wandb.project",
        "data",
        "model",
        "tokenizer",
        "optim",
        "trainer",
        "logger",
        "debug",
        "prompt",
    }
    known |= set(keys(GenerateConfig))
    for answer in names.values():
        for key in re.findall(r"(?<![+.\w])([a-z_]+(?:\.[a-z_]+)*)=", answer):
            assert key in known, answer
