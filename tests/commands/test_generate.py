"""generate.py as its users start it."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import REPO, Process
from serving import model_run

from llm_from_scratch.commands import generate
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.program import composed
from llm_from_scratch.places import config_dir
from llm_from_scratch.weights import load_model


def test_the_same_seed_writes_the_same_text(write: Process, finished: Path) -> None:
    texts = [
        write("run=run", "prompt=Dorothy", "max_new_tokens=60", f"seed={seed}", cwd=finished).stdout
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("Dorothy")
    assert texts[0].endswith("\n")


def test_temperature_0_is_greedy_past_the_context_too(write: Process, finished: Path) -> None:
    done = write("run=run", "prompt=Dorothy", "max_new_tokens=25", "temperature=0", cwd=finished)
    run = load_model(finished / "run")
    ids = run.tokenizer.encode("Dorothy")
    for _ in range(25):
        ids.append(int(run.model(torch.tensor([ids])[:, -32:])[0, -1].argmax()))
    assert done.stdout == run.tokenizer.decode(ids) + "\n"


def test_the_prompt_is_taken_literally(write: Process, finished: Path) -> None:
    for prompt in ("Oh, it's 5 o'clock!", "1900", "null", "${x} a=b (c)", "früher\n\n“so”"):
        done = write("run=run", f"prompt={prompt}", "max_new_tokens=1", cwd=finished)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(prompt)


def test_several_samples_and_a_stop(write: Process, finished: Path) -> None:
    done = write("run=run", "prompt=Dorothy", "num_samples=3", "stop=.", "max_new_tokens=100", cwd=finished)
    samples = done.stdout.removesuffix("\n").split("\n---\n")
    assert len(samples) == len(set(samples)) == 3
    assert all(sample.startswith("Dorothy") and "." not in sample for sample in samples)


def test_a_model_to_chat_with_is_told_in_one_line(write: Process, tmp_path: Path) -> None:
    model_run(tmp_path / "talks", chat=True)
    model_run(tmp_path / "base")
    line = (
        "talks is a model to chat with: this continues the prompt as plain text; python -m llm_from_scratch chat talks"
    )
    assert write("run=talks", "prompt=hi", "max_new_tokens=2").stderr == f"{line} answers it\n"
    assert write("run=base", "prompt=hi", "max_new_tokens=2").stderr == ""


def read(monkeypatch: pytest.MonkeyPatch, *overrides: str, given: bytes = b"") -> str:
    """The prompt that generate.py continues, with bytes on standard input."""
    generate.read_prompt.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    return generate.settings(composed(config_dir(), "generate", overrides)).prompt


def test_a_prompt_from_standard_input_or_a_file_is_taken_literally_and_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "\ufeffDorothy’s cafe\u0301 ${x} a=b, 'c'\r\n\r\n“so”"
    name = "it's a=b, ${x} #1.txt"
    (tmp_path / name).write_bytes(f"{typed}\r\n".encode())
    monkeypatch.chdir(tmp_path)
    for override, given in (
        ("prompt=-", f"{typed}\n"),
        (f"prompt_file={name}", "not read"),
        ("prompt_file=-", typed),
        (f"prompt={typed}", "not read"),
    ):
        assert read(monkeypatch, override, given=given.encode()) == "Dorothy’s café ${x} a=b, 'c'\n\n“so”"


@pytest.mark.parametrize(
    ("overrides", "given", "line"),
    [
        (["prompt_file=nowhere.txt"], b"", "prompt_file=nowhere.txt: cannot be read (No such file or directory)"),
        (["prompt_file=folder"], b"", "prompt_file=folder: cannot be read (Is a directory)"),
        (["prompt_file=broken.txt"], b"", "prompt_file=broken.txt: no UTF-8 at byte 2"),
        (["prompt_file=broken.txt", "prompt=Toto"], b"", "prompt_file=broken.txt: the prompt is given as well"),
        (["prompt_file="], b"", "prompt_file: the value is empty"),
        (["prompt=-"], b"ab\xff", "standard input: no UTF-8 at byte 2"),
        (["prompt=-"], bytes(16_000_001), "standard input: longer than 16,000,000 bytes"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], given: bytes, line: str
) -> None:
    (tmp_path / "broken.txt").write_bytes(b"ab\xff")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        read(monkeypatch, *overrides, given=given)
    assert str(refused.value).startswith(line)


def test_a_sweep_over_prompt_files_is_refused_before_its_first_value(write: Process, finished: Path) -> None:
    done = write("-m", "run=run", "prompt_file=choice(story.txt,nowhere.txt)", cwd=finished)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: prompt_file=nowhere.txt: cannot be read")


def test_samples_are_named_and_the_first_comes_as_it_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def pieces() -> Iterator[list[str]]:
        yield ["a", "b", "c"]
        seen.append(capsys.readouterr())
        yield ["d", "", "e"]

    generate.show(pieces(), "> ", 3)
    rest = capsys.readouterr()
    assert (seen[0].out, seen[0].err) == ("> a", "--- sample 1 of 3\n")
    assert seen[0].out + rest.out == "> ad\n---\n> b\n---\n> ce\n"
    assert rest.err == "--- sample 2 of 3\n--- sample 3 of 3\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    generate.show(iter([["a", "b"]]), "> ", 2)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("--- sample 1 of 2\n> a\n--- sample 2 of 2\n> b\n", "")


def test_a_sweep_writes_each_value_under_its_name_and_leaves_no_file(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "outputs/oz/run")
    (tmp_path / "tmp").mkdir()
    environment = {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(REPO / "src"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(REPO / "generate.py"), "-m", "temperature=0,1", "prompt=-", "max_new_tokens=3"]
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, input=b"Oh, Toto\n", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"run=last: outputs/oz/run\n--- temperature=0\n--- temperature=1\n"
    assert done.stdout.count(b"Oh, Toto") == 2
    assert sorted(path for path in tmp_path.rglob("*") if "torch" not in path.name) == before


# Faults 18 and 19: one line each.
@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("temperature=-1",), "temperature=-1"),
        (("temperature=nan",), "temperature"),
        (("top_k=0",), "top_k=0"),
        (("top_p=0",), "top_p=0"),
        (("top_p=1.5",), "top_p=1.5"),
        (("max_new_tokns=3",), "max_new_tokns: there is no such setting; did you mean max_new_tokens?"),
        (("run=elsewhere",), "elsewhere is no run folder"),
        (("device=cuda:9",), "device=cuda:9: this machine has"),
    ],
)
def test_faults_18_and_21_cost_one_line(write: Process, finished: Path, overrides: tuple[str, ...], line: str) -> None:
    done = write(*(() if overrides[0].startswith("run=") else ("run=run",)), *overrides, cwd=finished)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_fault_19_prompts(write: Process, finished: Path) -> None:
    empty = write("run=run", "prompt=", "max_new_tokens=5", cwd=finished)
    assert empty.returncode == 0, empty.stderr
    long = write("run=run", "prompt=" + "Dorothy went to the castle. " * 30, "max_new_tokens=5", cwd=finished)
    assert long.returncode == 0
    assert "32" in long.stderr  # says how much of it the model sees


def test_no_run_at_all(write: Process) -> None:
    done = write()
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no run below outputs")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_and_a_reader_that_leaves_are_quiet(finished: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(REPO / "generate.py"), "run=run", "prompt=Dorothy", "max_new_tokens=1000000"]
    for status in (141, 130):
        with subprocess.Popen(
            command, cwd=finished, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(20).startswith(b"Dorothy")
            if status == 141:
                process.stdout.close()
            else:
                process.send_signal(signal.SIGINT)
            assert process.stderr.read() == b""
            if status == 130:
                process.stdout.read()
            assert process.wait(60) == status


@pytest.mark.parametrize("script", ["train.py", "generate.py"])
def test_a_python_without_the_packages_is_told_in_one_line(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(REPO / script)], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: llm_from_scratch is not installed for .*: source .venv/bin/activate\n", done.stderr)
