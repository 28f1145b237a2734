"""environment.json: one entry an environment, whatever was killed between; git runs in the checkout
of the package alone.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llm_from_scratch import environment
from llm_from_scratch.environment import commit, read_environment, record_environment, summary
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import device_name


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, env=variables, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "src" / "llm_from_scratch").mkdir(parents=True)
    (folder / "src" / "llm_from_scratch" / "model.py").write_text("x = 1\n", encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "First")
    return folder


def test_the_commit_and_whether_the_code_is_as_committed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == {"commit": head, "clean": True}
    (checkout / "outputs").mkdir()
    (checkout / "outputs" / "run.txt").write_text("a run changes no code", encoding="utf-8")
    # As within a hook of another repository
    monkeypatch.setenv("GIT_DIR", str(checkout / "elsewhere"))
    assert commit(checkout) == {"commit": head, "clean": True}
    (checkout / "src" / "llm_from_scratch" / "model.py").write_text("x = 2\n", encoding="utf-8")
    assert commit(checkout) == {"commit": head, "clean": False}


def test_what_is_unknown_says_why(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tmp_path / "nowhere") == {"commit": "none: no checkout of git", "clean": None}
    (checkout / ".git" / "HEAD").write_text("broken", encoding="utf-8")
    assert commit(checkout) == {"commit": "unknown: git gives no answer", "clean": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(checkout) == {"commit": "unknown: git is not installed", "clean": None}


@pytest.fixture
def torch_version(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment, as a dictionary that a test changes."""
    now = {"version": "9", "torch": "2.0"}
    monkeypatch.setattr(environment, "environment", lambda device: {**now, "device": device})
    return now


def test_an_entry_for_each_environment(tmp_path: Path, torch_version: dict[str, str]) -> None:
    def steps() -> list[tuple[int, str]]:
        return [(entry["step"], entry["torch"]) for entry in read_environment(tmp_path)]

    assert steps() == []
    record_environment(tmp_path, 0, "cpu")
    first = (tmp_path / "environment.json").read_bytes()
    record_environment(tmp_path, 40, "cpu")  # killed and resumed
    assert (tmp_path / "environment.json").read_bytes() == first
    torch_version["torch"] = "2.1"
    record_environment(tmp_path, 60, "cpu")
    assert steps() == [(0, "2.0"), (60, "2.1")]
    torch_version["torch"] = "2.2"
    record_environment(tmp_path, 60, "cpu")  # the steps behind 60 come again
    assert steps() == [(0, "2.0"), (60, "2.2")]
    torch_version["torch"] = "2.0"
    record_environment(tmp_path, 60, "cpu")
    assert (tmp_path / "environment.json").read_bytes() == first


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"step": "x"}]', "{}x", '{"a": 1}', "[" * 100_000])
def test_a_damaged_file_is_refused_and_written_anew(
    content: str, tmp_path: Path, torch_version: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "environment.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"environment.json: damaged$"):
        read_environment(tmp_path)
    record_environment(tmp_path, 5, "cpu")
    assert [entry["step"] for entry in read_environment(tmp_path)] == [5]
    assert "written anew" in caplog.text


def test_a_line_that_cannot_steer_the_terminal() -> None:
    entry: dict[str, Any] = {"step": 0, "version": "1\x1b[2J", "commit": "a" * 40, "clean": False, "torch": "2"}
    line = summary(entry)
    assert line.startswith("version 1?[2J, commit aaaaaaaaa with changes, Python None, torch 2,")
    assert len(summary({"version": "x" * 10_000})) == 500


def test_this_package_has_versions_of_everything() -> None:
    found = environment.environment(device_name("cpu"))
    assert list(found) == ["version", "commit", "clean", "python", "torch", "lightning", "platform", "device"]
    assert json.loads(json.dumps(found)) == found
    assert found["device"]
