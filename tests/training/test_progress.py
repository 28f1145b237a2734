"""What a training says: one line at its start, the time that is left, samples as they come, a
validation loss that rises.
"""

import functools
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPO, SMALL, story

from llm_from_scratch import terminal
from llm_from_scratch.check import check
from llm_from_scratch.config import Config, ModelConfig, OptimConfig, TrainerConfig
from llm_from_scratch.pace import Pace
from llm_from_scratch.plan import estimate, warnings
from llm_from_scratch.plan.sizes import TextSize
from llm_from_scratch.training.fit import first_words
from llm_from_scratch.training.progress import Overfitting, clock

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="a terminal of Unix")


def train(folder: Path, *words: str, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """train.py in this process: what it wrote to both streams."""
    from llm_from_scratch.commands import train

    capsys.readouterr()
    terminal.note.cache_clear()
    patch.chdir(folder)
    patch.setattr("sys.argv", [str(REPO / "train.py"), *words])
    train.main()
    return capsys.readouterr()


def test_a_run_says_what_it_is_and_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    words = ("trainer.max_steps=40", "trainer.val_check_interval=20", "optim.warmup_steps=2", "run_dir=run")
    out, err = train(tmp_path, *SMALL, *words, "sample.show=true", patch=monkeypatch, capsys=capsys)
    assert out == "run: run\n"
    lines = err.splitlines()
    start = (
        r"run: [\d,]{5,} parameters \(2 layers, width 32\) on the CPU, \d+ threads?, float32; 40 steps of 256 tokens,"
        r" 0\.\d+ passes over the text"
    )
    (place,) = (i for i, line in enumerate(lines) if re.fullmatch(start, line))
    assert place <= 3, err
    expected = r"step 20/40  loss [\d.]+  [\d,]+ tokens/s  about \d+ s left"
    assert len([line for line in lines if re.fullmatch(expected, line)]) == 1
    samples = (tmp_path / "run" / "samples.md").read_text(encoding="utf-8")
    for text in samples.split("## Step ")[1:]:
        assert terminal.printable(text.partition("\n\n")[2].rstrip("\n")) in err
    said = [line for line in lines if line.strip() and not set(line) <= set("━┃┏┓┗┛┡┩│└┘─┴╇┳╇┻ ")]
    assert len(set(said)) == len(said)  # no line twice
    out, err = train(tmp_path, "resume=run", "trainer.max_steps=45", patch=monkeypatch, capsys=capsys)
    assert "; steps 41 to 45 of 256 tokens" in err
    # sample.show=auto is off in a pipe
    assert samples.split("## Step ")[1].splitlines()[2] not in err


def test_a_validation_loss_that_rises_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "story.txt").write_text(story(3000), encoding="utf-8")
    settings = ("model.n_embd=64", "optim.lr=1e-2", "optim.schedule=constant", "optim.warmup_steps=2")
    small = [word for word in SMALL if not word.startswith("model.n_embd")]
    words = (*small, *settings, "trainer.max_steps=80", "trainer.val_check_interval=20")
    _, err = train(tmp_path, *words, "run_dir=run", patch=monkeypatch, capsys=capsys)
    (line,) = (line for line in err.splitlines() if "the validation loss rises" in line)
    said = r"step \d+: the validation loss rises, after [\d.]+ passes over the text; the best weights, "
    said += r"of step (\d+) \(([\d.]+) nats a token\), are in model/; .*optim\.patience=2.*model\.dropout.*optim\.weight_decay.*"
    found = re.fullmatch(said, line)
    assert found, line
    assert f"step {found[1]}/80  validation loss {found[2]}, " in err
    _, err = train(tmp_path, *words, "run_dir=other", "optim.patience=2", patch=monkeypatch, capsys=capsys)
    assert "loss rises" not in err  # the run stops instead
    assert "2 validations without a lower loss: training stops" in err


def rises(losses: list[float], passes: float = 10.0) -> list[int]:
    """The validations at which a rise is said."""
    said: list[int] = []
    callback = Overfitting(
        Path("nowhere"), Config(), lambda step: passes, lambda line: said.append(int(line.split()[1][:-1]))
    )
    for step, loss in enumerate(losses, start=1):
        trainer: Any = SimpleNamespace(global_step=step, is_global_zero=True)
        module: Any = SimpleNamespace(val_row={"loss": loss})
        callback.on_validation_end(trainer, module)
    return said


def test_a_rise_is_two_in_a_row_and_is_said_again_after_a_better_one() -> None:
    assert rises([3, 2, 2.01, 2.005, 2.01, 2.004]) == []  # a plateau
    assert rises([3, 2, 2.2, 2.1, 2.15]) == [4]  # clearly above
    assert rises([3, 2, 2.001, 2.002]) == [4]
    assert rises([3, 2, 2.1, 2.2, 2.3, 2.4]) == [4]
    assert rises([3, 2, 2.1, 2.2, 1.9, 1.95, 1.96]) == [4, 7]
    assert rises([3, 2, float("nan"), 2.2, 2.3]) == [5]
    assert rises([3, 2, 2.1, 2.2], passes=0.5) == []  # the text was not even read once


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "more model.dropout than 0 or more optim.weight_decay than 0.1 lets it learn for longer"),
        (
            {"init_from": "smollm2"},
            "a smaller optim.lr than 0.001 or finetune=lora changes less of what the model had learned",
        ),
        (
            {"init_from": "smollm2", "finetune": {"method": "lora"}},
            "a smaller optim.lr than 0.001, a smaller finetune.rank than 8 or more finetune.dropout than 0 lets it learn for longer",
        ),
        (
            {"init_from": "smollm2", "finetune": {"method": "head"}},
            "a smaller optim.lr than 0.001 lets it learn for longer",
        ),
        ({"init_from": "w.pt"}, "a smaller optim.lr than 0.001 lets it learn for longer"),
        (
            {"init_from": "r", "loss": {"name": "dpo"}, "data": {"format": "preferences"}, "finetune": {"method": "lora"}},
            "a smaller optim.lr than 0.001 or a larger loss.beta than 0.1 keeps the model nearer to the reference",
        ),
    ],
)  # fmt: skip
def test_the_advice_at_a_rise_fits_the_training(settings: dict[str, Any], advice: str) -> None:
    said: list[str] = []
    callback = Overfitting(Path("nowhere"), check(settings, Config), lambda step: 10.0, said.append)
    for step, loss in enumerate((3, 2, 2.1, 2.2), start=1):
        trainer: Any = SimpleNamespace(global_step=step, is_global_zero=True)
        callback.on_validation_end(trainer, SimpleNamespace(val_row={"loss": loss}))  # type: ignore[arg-type]
    (line,) = said
    assert line.endswith(f"; optim.patience=2 ends a run there; {advice}")


def test_the_time_that_is_left() -> None:
    pace = Pace(float, 100, 40)
    pace.trained(0, 10, 50.0)
    pace.trained(10, 20, 10.0)  # the first one warmed up
    assert pace.left(20) == 80.0
    pace.validated(7.0)
    assert pace.left(40) == 60.0 + 2 * 7.0  # at step 80 and at the end
    pace.watched(2.0)  # beside the last validation
    assert pace.left(40) == 60.0 + 2 * 9.0
    assert pace.left(100) == 0.0
    growing = Pace(lambda step: float(step**2), 4, 10)
    growing.trained(0, 2, 4.0)
    assert growing.left(2) == 12.0
    assert [clock(s) for s in (0.4, 59, 80, 3725, 40_000, 200_000)] == [
        *("0 s", "59 s", "1 min 20 s", "1 h 2 min", "11 h", "2.3 days")
    ]


# ------------------------------------------------------------------------------------ in a terminal
def screen_of(folder: Path, *words: str, interrupted_at: bytes = b"") -> tuple[str, int]:
    """Runs train.py in a terminal of 80 columns: its output and its exit status.

    Ctrl-C is sent once the output holds `interrupted_at`.
    """
    main, other = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, str(REPO / "train.py"), *words]
    process = subprocess.Popen(command, cwd=folder, stdout=other, stderr=other, env=environment)
    os.close(other)
    seen, interrupted = b"", not interrupted_at
    while select.select([main], [], [], 120)[0]:
        try:
            seen += os.read(main, 10_000)
        except OSError:  # the terminal's other side is closed
            break
        if not interrupted and interrupted_at in seen:
            interrupted = True
            process.send_signal(signal.SIGINT)
    os.close(main)
    return seen.decode(), process.wait()


@needs_pty
def test_a_bar_in_a_terminal_is_calm(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    name = f"run_dir={'long_' * 12}"  # so that the command does not fit into one line
    words = (*SMALL, "trainer.max_steps=9000", "trainer.log_every_n_steps=2", "sample.show=false", name)
    seen, status = screen_of(tmp_path, *words, interrupted_at=b" s left")
    assert status == 130
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen)
    # The bar ends before the last words, which a person copies: they are one line, whatever its
    # width.
    assert re.search(rf"\r\nstopped at step \d+; go on with: python train\.py resume={'long_' * 12}\r\n$", shown)
    # Its figures have the terminal's own colour: yellow cannot be read on white.
    assert set(re.findall(r"\x1b\[([\d;]+)m", seen)) <= {"0", "38;5;197", "90", "39"}
    bars = re.findall(r"training [^\r\n]*", shown)
    assert max(map(len, bars)) <= 80
    assert "-:--" not in seen


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("of a line.\n\nDorothy was quite grieved at this view of her", "Dorothy was quite grieved at this view"),
        ("ile no blank line\nis there\nat all", "is there"),
        ("\n\n  Title\nand more", "Title"),
        ("one line", "one line"),
    ],
)
def test_a_prompt_is_part_of_one_line(text: str, words: str) -> None:
    assert first_words(text) == words


# --------------------------------------------------------------------------------- before it begins
def test_what_takes_hours_on_a_cpu_is_said_with_the_recipe_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, said in (
        (["experiment=shakespeare_char"], r"takes about [\d,]+ hours on this CPU .* experiment=shakespeare_(cpu|hour)"),
        (["model=gpt2", "data=oz"], r"takes about [\d,]+ (hours|days) on this CPU .* experiment=oz_"),
        (["experiment=gpt2_124m"], r"takes about [\d,]+ days on this CPU .*or model=tiny with fewer trainer.max_steps"),
        (["experiment=shakespeare_cpu"], None),
        (["experiment=shakespeare_hour"], None),
        (["experiment=oz_10min"], None),
        ([], None),
    ):
        monkeypatch.setattr(warnings, "cores", lambda: 2)
        monkeypatch.setattr("torch.get_num_threads", lambda: 2)
        lines = advice(words)
        assert len(lines) == (said is not None), (words, lines)
        assert all(re.search(str(said), line) for line in lines), lines


@functools.cache
def recipes() -> Mapping[str, Config]:
    """Those of train.py, composed once for all cases."""
    from llm_from_scratch.commands import train

    return train.recipes()


def advice(words: list[str]) -> list[str]:
    import hydra

    from llm_from_scratch.check import check
    from llm_from_scratch.front.compose import compose
    from llm_from_scratch.front.inherit import final_config
    from llm_from_scratch.places import config_dir

    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        words = [*words, "trainer=cpu"]
        return list(warnings.too_much(check(final_config(compose("train", words), words), Config), recipes))


def test_more_processes_or_threads_than_cores_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "cores", lambda: 2)
    for settings, said in (
        ({"devices": 4}, "trainer.devices=4: so many processes take turns on the 2 cores of this machine"),
        ({"threads": 64}, "trainer.threads=64: this machine has 2 cores"),
        ({"devices": 2}, None),
        ({"threads": 2}, None),
    ):
        config = Config(trainer=TrainerConfig(accelerator="cpu", max_steps=1, **settings))
        lines = list(warnings.too_much(config, dict))
        assert [line[: len(said)] for line in lines if said] == [said] * (said is not None), lines
        assert len(lines) == (said is not None)


def test_a_start_warns_in_two_lines_at_most() -> None:
    oz = TextSize(60_000, 7_000, 180_000, 1024, False)
    settings = {"model": ModelConfig(), "trainer": TrainerConfig(accelerator="cpu", max_steps=600)}
    (line,) = estimate.warnings_at_start(Config(**settings), oz)
    assert "41 passes, it will overfit" in line
    hundred = TrainerConfig(accelerator="cpu", max_steps=300)
    many = Config(model=ModelConfig(), optim=OptimConfig(warmup_steps=200), trainer=hundred)
    assert len(estimate.warnings_at_start(many, TextSize(60_000, 70, 180_000, 50_257, False, 2_000))) == 2
    # A recipe against learning by heart is not told to use one.
    settings["optim"] = OptimConfig(weight_decay=2.0)
    settings["model"] = ModelConfig(dropout=0.2)
    assert estimate.warnings_at_start(Config(**settings), oz) == []
    # Shorter than its warm-up: a trial
    settings["trainer"] = TrainerConfig(accelerator="cpu", max_steps=60)
    assert estimate.warnings_at_start(Config(**settings), oz) == []


@needs_pty
def test_within_two_seconds_something_is_on_the_screen_and_a_mistake_is_one_line(tmp_path: Path) -> None:
    main, other = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "TERM": "xterm"}
    words = [sys.executable, str(REPO / "train.py"), "data=text", "data.path=nowhere.txt"]
    started = time.monotonic()
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=other, env=environment)
    os.close(other)
    seen, first = b"", None
    while select.select([main], [], [], 60)[0]:
        try:
            part = os.read(main, 1000)
        except OSError:  # the terminal's other side is closed
            break
        first = first or time.monotonic() - started
        seen += part
    assert process.wait() == 2
    assert first is not None
    assert seen.startswith(b"starting: torch and Lightning are being loaded\r\n\x1b[1A\x1b[2K\rerror: ")
    assert seen.count(b"\n") == 2
    assert first < 2 or os.getloadavg()[0] > 2, first
