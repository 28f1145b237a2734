"""The checks of this machine."""

import http.server
import importlib.metadata
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO

from llm_from_scratch.doctor import machine
from llm_from_scratch.doctor.findings import Finding


@pytest.fixture
def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the project declares it: an environment may hold an older installation, or none.
    declared = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    monkeypatch.setattr(
        importlib.metadata,
        "metadata",
        lambda name: {declared["name"]: {"Requires-Python": declared["requires-python"]}}[name],
    )
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: {declared["name"]: declared["dependencies"]}[name])
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "torch" else version(name))
    (found,) = (f for f in machine.versions() if f.mark == "fault")
    assert found.what.startswith("torch 1.0 is outside >=2.")
    assert found.advice.startswith("pip install")
    monkeypatch.setattr("platform.python_version", lambda: "3.14.1")
    assert any(f.what.startswith("Python 3.14.1 is outside") for f in machine.versions())


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert [finding.mark for finding in machine.compiler()] == ["warning"]


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404 if "gone" in self.path else 200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_CORPORA", str(tmp_path / "shared"))
    monkeypatch.setenv("no_proxy", "*")
    for name, url in (("here", f"{server}/x"), ("wrong", ""), ("far", f"{server}/y"), ("gone", f"{server}/gone")):
        (tmp_path / "configs/data").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"configs/data/{name}.yaml").write_text(
            f"name: {name}\nfile: {name}/text.txt\nurl: {url}\nmust_contain: Oz\n"
        )
    for folder, content in (("shared/here", "Oz"), ("data/wrong", "Kansas")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "text.txt").write_text(content)
    found = {
        finding.what.partition(":")[0]: finding
        for finding in machine.corpora(tmp_path / "configs/data")
        if finding.mark != "fault"
    }
    assert found["data=here"] == Finding("ok", f"data=here: {tmp_path / 'shared/here/text.txt'}")
    assert found["data=far"] == Finding("ok", f"data=far: not here yet; {server}/y can be reached")
    assert found["data=gone"].mark == "warning"
    assert "404" in found["data=gone"].what
    assert found["data=gone"].advice.startswith("put the file by hand at data/gone/text.txt")
    (wrong,) = (finding for finding in machine.corpora(tmp_path / "configs/data") if finding.mark == "fault")
    assert "data=wrong" in wrong.what
    assert not (tmp_path / "data/far").exists()  # nothing is downloaded by the doctor


def test_a_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/data").mkdir()
    (tmp_path / "configs/data/far.yaml").write_text("name: far\nfile: far.txt\nurl: http://far/\n")
    monkeypatch.setattr(machine, "NETWORK_SECONDS", 0.1)
    monkeypatch.setattr(machine, "_reach", lambda *_: threading.Event().wait(20))
    (found,) = machine.corpora(tmp_path / "configs/data")
    assert "cannot be reached (no answer)" in found.what


def test_bfloat16_is_said_as_auto_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_from_scratch.config import TrainerConfig
    from llm_from_scratch.training.trainer import precision

    names = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    for cuda in (False, True):
        for has in (False, True):
            monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
            monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, has=has: has)
            monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda has=has: has)
            monkeypatch.setattr("llm_from_scratch.machine.bfloat16_pays", lambda has=has: has)
            monkeypatch.setattr("llm_from_scratch.training.trainer.bfloat16_pays", lambda has=has: has)
            (finding,) = machine.bfloat16()
            used = names[precision(TrainerConfig(), 256)]
            assert f"trainer.precision=auto computes in {used}" in finding.what
            assert finding.what.startswith(f"{'a GPU' if cuda else 'this CPU'} has {'' if has else 'no '}instructions")
