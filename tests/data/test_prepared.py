"""A prepared text on the disk."""

from pathlib import Path

import pytest
from containers import (
    CHARS,
)

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.prepare import prepare


def corpus(folder: Path, texts: dict[str, str], **settings: object) -> DataConfig:
    for name, text in texts.items():
        (folder / "texts").mkdir(exist_ok=True)
        (folder / "texts" / name).write_text(text, encoding="utf-8")
    return DataConfig(name="text", path=str(folder / "texts"), dir=str(folder / "data"), **settings)  # type: ignore[arg-type]


def test_a_damaged_manifest_says_what_to_do(tmp_path: Path) -> None:
    settings = corpus(tmp_path, {"a.txt": "some text " * 50})
    path = prepare(settings, CHARS).folder / "manifest.json"
    path.write_text(path.read_text().replace('"documents": 1', '"documents": 2', 1))
    with pytest.raises(ValueError, match=r"manifest\.json: missing or damaged; delete"):
        prepare(settings, CHARS)
