"""generate.py as its users start it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPO, Process

from llm_from_scratch.checkpoint import load_model


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
