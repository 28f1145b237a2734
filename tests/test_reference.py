"""The reference of the settings, in the terminal and as a page, and their completion in a shell."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from llm_from_scratch.cli import main
from llm_from_scratch.config import Config, GenerateConfig, keys


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["settings", *arguments])
    return capsys.readouterr().out


def test_every_setting_has_a_meaning_and_the_default_of_the_bare_command(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "--json"))
    assert [(row["program"], row["key"]) for row in rows if not row["meaning"]] == []
    groups = {name for name in keys(Config) if any(other.startswith(f"{name}.") for other in keys(Config))}
    assert sorted(row["key"] for row in rows if row["program"] == "train.py") == sorted(set(keys(Config)) - groups)
    assert sorted(row["key"] for row in rows if row["program"] == "generate.py") == sorted(keys(GenerateConfig))
    found = {row["key"]: row for row in rows if row["program"] == "train.py"}
    # The schema has 0.0 and 1e-3; the files of the groups decide.
    assert found["model.dropout"]["default"] == "0.2"
    assert found["data.url"]["default"].startswith("https://www.gutenberg.org/")
    assert found["logger"]["default"].startswith("{'tensorboard':")
    assert found["data.keep_text"]["default"] == "null"


def test_a_range_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["key"]: row for row in json.loads(printed(capsys, "--json"))}
    assert (rows["optim.schedule"]["range"], rows["trainer.compile"]["range"], rows["data.dedup"]["range"]) == ("",) * 3
    assert rows["optim.lr"]["range"] == "above 0"
    assert rows["data.val_fraction"]["range"] == "above 0 and below 1"


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPO / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == printed(capsys, "--markdown"), "python -m llm_from_scratch settings --markdown > docs/settings.md"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_tables_fit_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(capsys).splitlines()
    assert columns - 10 < max(len(line.rstrip()) for line in lines) <= columns
    assert [line for line in lines if line.startswith(("train.py", "generate.py"))] == [
        "train.py",
        *(
            f"train.py: {group}"
            for group in ("model", "tokenizer", "data", "prepare", "optim", "loss", "finetune", "trainer", "sample")
        ),
        "generate.py",
    ]
    few = printed(capsys, "warm-up").split()
    assert "optim.warmup_steps" in few
    assert "model.n_layer" not in few


def test_a_word_that_no_setting_has_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["settings", "xyzzy"])
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (2, "")
    assert captured.err.startswith("error: xyzzy: no setting is named or described so")


# What bash does at Tab: it calls the installed function with the line so far, and shows COMPREPLY.
COMPLETION = """
eval "$({start} -sc install=bash)"
COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; COMP_CWORD=$(set -- $COMP_LINE; echo $(($# - 1)))
hydra_bash_completion
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("start", "line", "choices"),
    [
        ("python train.py", "python train.py data=oz model=ti", "model=tiny"),
        ("python train.py", "python train.py -m optim.be", "optim.beta1= optim.beta2="),
        ("python generate.py", "python generate.py run=last temp", "temperature="),
        # Hydra's grammar cannot read it: nothing is said in mid-line
        ("python generate.py", "python generate.py prompt='Once upon zq", ""),
        ("llm-from-scratch", "llm-from-scratch pre", "prepare"),
        ("llm-from-scratch train", "llm-from-scratch train data=oz model=ti", "model=tiny"),
        ("llm-from-scratch", "llm-from-scratch plan model=ti", "model=tiny"),
        ("llm-from-scratch", "llm-from-scratch generate run=last temp", "temperature="),
        ("llm-from-scratch", "llm-from-scratch doctor model=ti", ""),
    ],
)
def test_bash_completes_settings(start: str, line: str, choices: str) -> None:
    if shutil.which(start.split()[0]) is None:
        pytest.skip("needs the installed program")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPO / "src"),
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETION.format(start=start, line=line)],
        cwd=REPO,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, choices, "")


@pytest.mark.parametrize("words", [["-sc"], ["-sc", "install"], ["--shell-completion", "install=tcsh"]])
def test_a_shell_without_completion_costs_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_from_scratch.commands import generate

    monkeypatch.setattr("sys.argv", ["generate.py", *words])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (2, "")
    assert captured.err.startswith("error: -sc")
    assert captured.err.count("\n") == 1
    assert 'eval "$(python generate.py -sc install=bash)"' in captured.err
