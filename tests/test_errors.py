"""Three kinds of error: a mistake of the user's, a failure of the machine, a bug; and a library
that is missing.
"""

import argparse
import ast
import builtins
import errno
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

from llm_from_scratch import cli, errors
from llm_from_scratch.errors import MachineError, UserError, explained


def test_the_command_installs_from_the_checkout_or_by_the_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    assert own == errors.DISTRIBUTION == "llm-from-scratch-lightning"
    assert str(errors.missing_extra("logger=wandb needs", "wandb")) == "logger=wandb needs: pip install -e '.[wandb]'"
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages/llm_from_scratch/errors.py"))
    assert str(errors.missing_extra("lm-eval needs", "harness", "no module")) == (
        "lm-eval needs: pip install 'llm-from-scratch-lightning[harness]' (no module)"
    )


def test_no_message_setting_or_page_installs_a_strangers_package() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, encoding="utf-8", check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    extras = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = set()
    for name in listed.stdout.splitlines():
        if Path(name).suffix in (".py", ".yaml", ".md", ".toml") or name in ("Makefile", "Dockerfile"):
            text = (REPO / name).read_text(encoding="utf-8")
            assert not re.search(r"install [^\n]*\bllm-from-scratch(?!-lightning)\b", text), name
            named |= set(re.findall(r"pip install (?:-c \S+ )?-e '\.\[([\w,]+)\]'", text))
            named |= set(re.findall(r'missing_extra\([^)]*"(\w+)"\)', text))
    found = {extra for names in named for extra in names.split(",")}
    assert {"wandb", "sweep", "openwebtext", "metrics"} <= found <= set(extras)


def unequal_lengths(*_: object) -> None:
    list(zip([1], [], strict=True))


def nothing_to_unpack(*_: object) -> None:
    (_only,) = []


def no_number(*_: object) -> None:
    int("x")


def shapes_that_do_not_fit(*_: object) -> None:
    np.ones(2) + np.ones(3)


def broken_assertion(*_: object) -> None:
    assert not 1


def value_error(*_: object) -> None:
    raise ValueError("a programmer's")


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def lost_run(*_: object) -> None:
    raise MachineError("run was deleted")


def mistake(*_: object) -> None:
    raise UserError("optim.lr=x: write a number")


BUGS = [unequal_lengths, nothing_to_unpack, no_number, shapes_that_do_not_fit, broken_assertion, value_error]
PLANTED = [("llm_from_scratch.commands.settings.run", "settings"), ("llm_from_scratch.check.check_given", "train")]


def start(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[object, str]:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["llm-from-scratch", command])
    with pytest.raises(SystemExit) as ended:
        cli.main([command])
    printed = capsys.readouterr()
    assert printed.out == ""
    return ended.value.code, printed.err


@pytest.mark.parametrize(("place", "command"), PLANTED)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_ends_with_a_traceback_and_status_1(
    bug: Callable[..., None],
    place: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(place, bug)
    status, said = start(command, capsys, monkeypatch)
    assert status == 1
    assert said.startswith("Traceback (most recent call last):\n")
    assert f"in {bug.__name__}\n" in said


@pytest.mark.parametrize(("place", "command"), PLANTED)
@pytest.mark.parametrize(
    ("failure", "status", "line"),
    [
        (full_disk, 1, "OSError: [Errno 28] No space left on device (HYDRA_FULL_ERROR=1 shows where)"),
        (lost_run, 1, "MachineError: run was deleted (HYDRA_FULL_ERROR=1 shows where)"),
        (mistake, 2, "optim.lr=x: write a number"),
    ],
)
def test_a_mistake_and_a_failure_of_the_machine_are_one_line(
    failure: Callable[..., None],
    status: int,
    line: str,
    place: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(place, failure)
    assert start(command, capsys, monkeypatch) == (status, f"error: {line}\n")


# Fault 26, on the processor: what an allocation of torch's and of Python's raise.
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("train", "lower data.micro_batch_size (the batch stays the same)"),
        ("plan", "lower data.micro_batch_size or the model's size, or add --no-measuring"),
        ("prepare", "lower prepare.workers"),
        ("generate", "lower num_samples or max_new_tokens, or use device=cpu"),
        ("evaluate", "lower --batch-size, or use --device cpu"),
        ("doctor", "end other programs, or use a machine with more"),
    ],
)
def test_fault_26_out_of_memory_names_a_setting_of_the_command(command: str, advice: str) -> None:
    import torch

    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60, dtype=torch.uint8)
    line, status = explained(failed.value, command)
    assert line.startswith(f"out of memory (tried to allocate 1152921504606846976 bytes): {advice}")
    assert status == 2
    assert explained(MemoryError(), command)[0].startswith(f"out of memory: {advice}")


def test_advice_on_memory_names_options_and_settings_that_the_command_has() -> None:
    from llm_from_scratch.config import Config, GenerateConfig, keys

    settings = {*keys(Config), *keys(GenerateConfig)}
    for command, advice in errors.LESS_MEMORY.items():
        module = import_module(f"llm_from_scratch.commands.{command.replace('-', '_')}")
        parser = argparse.ArgumentParser()
        if hasattr(module, "arguments"):
            module.arguments(parser)
        for option in re.findall(r"--[a-z-]+", advice):
            assert option in parser.format_help(), command
        named = set(re.findall(r"\b(?:\w+\.\w+|\w+_\w+)\b", advice))
        assert named <= (set(keys(GenerateConfig)) if command == "generate" else settings), command


def test_a_mistake_that_speaks_of_memory_stays_a_mistake() -> None:
    mistaken = UserError("out of memory.txt: there is no such file")
    assert explained(mistaken, "train") == ("out of memory.txt: there is no such file", 2)


SOURCE = REPO / "src/llm_from_scratch"
READERS = [SOURCE / f"{name}.py" for name in ("checkpoint", "weights", "run", "tokenizer/load")]
READERS += sorted(path for folder in ("evaluation", "doctor") for path in (SOURCE / folder).glob("*.py"))


def calls_of_the_package(source: str) -> list[str]:
    """The calls of the package, or of a value's method, below an `except` that names ValueError.

    Python's own functions and those of libraries raise it for what a file or a user brings; the
    package raises UserError for that, and any other ValueError of its code is a bug.
    """
    tree = ast.parse(source)
    outside = {*dir(builtins)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            outside |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("llm_from_scratch"):
            outside |= {alias.asname or alias.name for alias in node.names}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        caught = {name.id for one in node.handlers for name in ast.walk(one.type or one) if isinstance(name, ast.Name)}
        if "ValueError" not in caught:
            continue
        for call in (one for part in node.body for one in ast.walk(part) if isinstance(one, ast.Call)):
            root: ast.AST = call.func
            while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and root.id not in outside:
                found.append(ast.unparse(call.func))
    return found


def test_a_call_of_the_package_below_an_except_of_value_errors_is_seen() -> None:
    imports = "from llm_from_scratch.weights import load_model\nimport json\n"
    source = f"{imports}try:\n    {{}}\nexcept (ValueError, OSError):\n    pass"
    assert calls_of_the_package(source.format("json.loads(int('1'))")) == []
    assert calls_of_the_package(source.format("load_model(x)")) == ["load_model"]
    assert calls_of_the_package(source.format("run.tokenizer.encode('a')")) == ["run.tokenizer.encode"]


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_bug_of_the_package_is_caught_as_a_value_error(path: Path) -> None:
    assert calls_of_the_package(path.read_text(encoding="utf-8")) == []
