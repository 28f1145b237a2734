"""Models of the hub, by a fake of huggingface_hub: no test uses the network."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.hub import download, is_hub_name


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The calls of a huggingface_hub whose every model is in one folder."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(name: str, **arguments: Any) -> str:
        calls.append({"name": name, **arguments})
        if name == "owner/offline":
            raise ConnectionError("cannot reach\nhuggingface.co")
        return str(tmp_path)

    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_settings_safetensors_and_tokenizers_alone_are_downloaded(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    assert download("hub:HuggingFaceTB/SmolLM2-135M") == tmp_path
    assert download("hub:owner/a.b-c@refs/pr/1") == tmp_path
    assert [(call["name"], call["revision"]) for call in hub] == [
        ("HuggingFaceTB/SmolLM2-135M", None),
        ("owner/a.b-c", "refs/pr/1"),
    ]
    from fnmatch import fnmatch

    def wanted(file: str) -> bool:
        return any(fnmatch(file, pattern) for pattern in hub[0]["allow_patterns"])

    for file in ("config.json", "model-00001-of-00002.safetensors", "merges.txt", "chat_template.jinja"):
        assert wanted(file), file
    for file in ("pytorch_model.bin", "modeling_x.py", "model.safetensors.py", "tf_model.h5", "training_args.bin"):
        assert not wanted(file), file


@pytest.mark.parametrize("name", ["hub:", "hub:gpt2", "hub:a/b/c", "hub:a/b@", "hub:../x@y z", "hub:a/b@x\n"])
def test_a_malformed_name_is_refused_before_any_request(name: str, hub: list[dict[str, Any]]) -> None:
    assert is_hub_name(name)
    with pytest.raises(UserError, match=r"must be hub:OWNER/NAME or hub:OWNER/NAME@REVISION$") as caught:
        download(name)
    assert "\n" not in str(caught.value)
    assert hub == []


def test_a_failed_download_says_where_to_put_the_folder_by_hand(hub: list[dict[str, Any]]) -> None:
    with pytest.raises(
        UserError, match=r"^hub:owner/offline: not downloaded \(ConnectionError: cannot reach hugg"
    ) as caught:
        download("hub:owner/offline")
    assert str(caught.value).endswith("into a folder by hand, and name that folder")
    assert "\n" not in str(caught.value)


def test_an_absent_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"^hub:owner/name needs huggingface_hub: pip install .*\[hf\]"):
        download("hub:owner/name")
    assert not is_hub_name("outputs/hub")
