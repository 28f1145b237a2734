"""Texts, names and settings on their way to a terminal or into a shell: shown or taken as they are,
never obeyed.
"""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import REPO, run
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.table import Table

from llm_from_scratch.cli import main
from llm_from_scratch.doctor import examination
from llm_from_scratch.doctor.findings import warning
from llm_from_scratch.errors import UserError, stop
from llm_from_scratch.front.words import literal
from llm_from_scratch.terminal import (
    Formatter,
    argument,
    console,
    end_echo,
    for_stream,
    note,
    passing,
    printable,
    shell,
    use_utf8,
)
from llm_from_scratch.training.metrics import Metrics
from llm_from_scratch.training.progress import ProgressBar
from llm_from_scratch.training.results import print_results, print_sweep

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil\r\x08\0\udcff"
WORDS = [
    "plain",
    "a b",
    "$(touch pwned)",
    "`touch pwned`",
    "it's",
    'say "no"',
    "back\\slash",
    "!history",
    "*",
    "~",
    "#x",
    "a;b&c|d>e",
    "two\nlines",
    "\x1b[31m1",
    "",
    "é“x”",
]


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b31m\x7f\r\0", r"\x9b31m\x7f\r\x00"),
        ("a\u202eb\u2066\u2028", r"a\u202eb\u2066\u2028"),
        ("n\udcff\ud800", r"n\xff\ud800"),
        ("früher “so” 木 👩‍👩‍👧", "früher “so” 木 👩‍👩‍👧"),
    ],
)
def test_controls_are_visible_and_all_else_stays(text: str, visible: str) -> None:
    assert printable(text) == visible


def test_a_line_keeps_no_line_end() -> None:
    assert printable("a\tb\nc", keep="") == r"a\tb\nc"


def test_words_come_back_from_bash_as_they_were(tmp_path: Path) -> None:
    line = shell("printf", r"%s\0", *WORDS)
    assert "\n" not in line
    assert printable(line) == line
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == WORDS
    assert not list(tmp_path.iterdir())


def test_a_path_is_no_option_and_no_home() -> None:
    assert [argument(path) for path in ("-x", Path("~/a"), "last", "outputs/a")] == [
        "./-x",
        "./~/a",
        "./last",
        "outputs/a",
    ]


class Stream(io.TextIOWrapper):
    """A standard stream of another encoding; a terminal where asked."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def read_back(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode("utf-8", errors="surrogateescape")  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_both_streams_are_utf8_and_never_raise(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Stream(encoding), Stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    use_utf8()
    for stream in (out, err):
        print("木 █ n\udcff\ud800", file=stream)
    table = Table(title="█")
    table.add_row("木", "\ud800")
    console().print(table)
    assert out.read_back().startswith("木 █ n\udcff\\ud800\n")  # the byte of a name as it is
    assert "│ 木" in out.read_back()
    assert err.read_back() == "木 █ n\\udcff\\ud800\n"


def test_the_console_takes_every_string_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Stream("utf-8", terminal=True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    table = Table(title="T[/b] :smile:")
    table.add_column("head[red]")
    table.add_row("cell[/x] " + ESCAPES)
    shown = console(width=200)
    shown.print(table)
    shown.print("line[/y] :smile: " + ESCAPES, soft_wrap=True)
    text = out.read_back()
    for said in (
        "T[/b] :smile:",
        "head[red]",
        "cell[/x]",
        "line[/y] :smile:",
        r"\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil",
    ):
        assert said in text
    # A terminal's own colours may be in it; nothing of the text's.
    assert not [c for c in ("\x1b]", "\x1b[2J", "\x07", "\x08", "\x9b", "\u202e", "\0") if c in text]


def test_data_is_raw_in_a_pipe_and_visible_in_a_terminal() -> None:
    assert for_stream(ESCAPES, Stream("utf-8")) == ESCAPES
    assert for_stream("a\x1b[2J\n", Stream("utf-8", terminal=True)) == "a\\x1b[2J\n"


# --------------------------------------------------------------------------------- where it is used
def test_error_lines_and_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stop(UserError("run_dir=a\x1b[2J\u202e: no"), "train")
    record = logging.LogRecord("x", logging.INFO, "f", 1, "prepared %s", ("\x1b]0;t\x07",), None)
    assert capsys.readouterr().err == "error: run_dir=a\\x1b[2J\\u202e: no\n"
    assert Formatter("%(message)s").format(record) == r"prepared \x1b]0;t\x07"
    for name in ("train", "generate"):
        settings = yaml.safe_load((REPO / f"configs/{name}.yaml").read_text(encoding="utf-8"))["hydra"]
        for kind in ("job_logging", "hydra_logging"):
            assert settings[kind]["formatters"]["simple"]["class"] == "llm_from_scratch.terminal.Formatter"
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--no\x1b[2J"])
    assert capsys.readouterr().err.startswith("error: unrecognized arguments: --no\\x1b[2J; see ")


def test_the_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "examine", lambda run, model: iter([warning("run\x1b[2J", "delete\nit")]))
    main(["doctor"])
    assert capsys.readouterr().out == "warning  run\\x1b[2J -> delete\\nit\n"


def rows(folder: Path) -> None:
    """The rows of a run that has ended."""
    folder.mkdir(parents=True)
    row = {"step": 1, "split": "val", "loss": 1.0, "bits_per_byte": 1.0, "perplexity": 2.7}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    "prompt", ["$(touch pwned) `touch pwned`", "it's [/b] {a: 1}, x=y", 'a "b"\nc \\ \x1b[2J', "null"]
)
def test_the_next_commands_can_be_pasted(
    prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("a b[/b] $(touch pwned)")
    rows(folder)
    print_results(folder, 7, prompt, board=True)
    err = capsys.readouterr().err
    assert f"Results of {folder}" in " ".join(err.split())
    commands = err.partition("Next:\n")[2].splitlines()
    assert len(commands) == 3
    seen = [
        subprocess.run(
            ["bash", "-c", f'python() {{ printf \'%s\\0\' "$@"; }}; tensorboard() {{ python "$@"; }};{line}'],
            capture_output=True,
            check=True,
        )
        for line in commands
    ]
    generate, evaluate, board = (done.stdout.decode().split("\0")[:-1] for done in seen)
    for word, text in zip(generate[1:], (str(folder), prompt), strict=True):
        key = word.partition("=")[0]
        value = OverridesParser.create().parse_override(literal(word)).value()
        assert OmegaConf.create({key: value})[key] == text
    assert evaluate[2:] == ["evaluate", str(folder)]
    assert board == ["--logdir", str(folder.parent)]
    assert not (tmp_path / "pwned").exists()


def test_a_tables_title_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("a", "b", title="a title that is wider than the table", title_justify="left")
    console().print(table)
    assert capsys.readouterr().out.splitlines()[0] == "a title that is wider than the table"


def test_a_sweeps_table_keeps_brackets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 1):
        folder = tmp_path / "s[red]" / str(number)
        rows(folder)
        (folder / ".hydra").mkdir()
        words = [f"data.batch_schedule=[[{number},4]]", "sample.prompt='[/b]'"]
        (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(words), encoding="utf-8")
    print_sweep(tmp_path / "s[red]")
    err = capsys.readouterr().err
    assert "data.batch_schedule=[[0,4]]" in err
    assert "[red]" in err.replace("\n", "")


OTHER = [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii:strict"}, {"PYTHONIOENCODING": "", "LC_ALL": "C"}]


@pytest.mark.slow
@pytest.mark.parametrize("variables", OTHER, ids=["cp1252", "ascii", "C"])
def test_every_command_in_another_encoding(finished: Path, variables: dict[str, str], tmp_path: Path) -> None:
    settings = ["data=text", "data.path=story.txt", "tokenizer.vocab_size=320", "trainer=cpu"]
    small = ["model.n_layer=1", "model.n_embd=32", "model.n_head=2", "model.block_size=32", "trainer.max_steps=2"]
    command = ["-m", "llm_from_scratch"]
    for words in (
        [*command, "inspect", *settings, "model.block_size=32"],
        [*command, "evaluate", "run"],
        [*command, "evaluate", "run", "--data", "story.txt"],
        [*command, "plan", "--no-measuring", *settings, *small],
        [*command, "doctor", "run"],
        [str(REPO / "generate.py"), "run=run", "prompt=“Dorothy", "max_new_tokens=20"],
        [str(REPO / "train.py"), *settings, *small, f"run_dir={tmp_path / 'früh'}", "sample.prompt=“früh"],
    ):
        done = run(words, finished, variables)
        assert done.returncode == 0, (words, done.stderr)
        assert "Traceback" not in done.stderr


def test_a_table_in_another_encoding(finished: Path) -> None:
    words = ["inspect", "data=text", "data.path=story.txt", "tokenizer.vocab_size=320", "--chunks=12"]
    done = run(["-m", "llm_from_scratch", *words], finished, OTHER[1])
    assert done.returncode == 0, done.stderr
    assert "“" in done.stdout


class Screen(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self) -> bool:
        return True


def test_a_message_stands_above_the_bar_rather_than_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(screen)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    line = ProgressBar(Metrics(Path("run"), 1, {}, []), show_bar=True)
    trainer = SimpleNamespace(
        is_global_zero=True, max_steps=9, global_step=0, val_check_interval=9, accumulate_grad_batches=1
    )
    line.on_train_start(trainer, SimpleNamespace(batches=float))  # type: ignore[arg-type]
    try:
        assert handler.stream is sys.stderr is not screen
        end_echo()  # the bar clears its own line
        logging.getLogger("llm_from_scratch").warning("stopping: this step")
    finally:
        line.teardown(trainer, None, "fit")  # type: ignore[arg-type]
    assert handler.stream is sys.stderr is screen
    assert "stopping: this step\n" in screen.getvalue()
    before = screen.getvalue().split("stopping: this step")[0]
    # The bar's line is cleared first, the echo of Ctrl-C with it
    assert before.endswith("\x1b[2K"), before


def test_a_note_stands_above_a_passing_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Screen())
    monkeypatch.setenv("TERM", "xterm")
    note.cache_clear()
    with passing("starting"):
        note("resume=last: outputs/a")
    note("after it")
    up = "\x1b[1A\x1b[2K\r"
    assert screen.getvalue() == f"starting\n{up}resume=last: outputs/a\nstarting\n{up}after it\n"


def test_without_a_bar_a_message_does_not_follow_the_echo_of_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", screen := Screen())
    end_echo()
    assert screen.getvalue() == "\n"
    monkeypatch.setattr("sys.stderr", pipe := io.StringIO())
    end_echo()
    assert pipe.getvalue() == ""
