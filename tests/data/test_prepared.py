"""A prepared text on the disk."""

from pathlib import Path

import pytest
from containers import CHARS
from small_corpora import corpus

from llm_from_scratch.data.prepare import prepare


def test_a_damaged_manifest_says_what_to_do(tmp_path: Path) -> None:
    settings = corpus(tmp_path, {"a.txt": "some text " * 50})
    path = prepare(settings, CHARS).folder / "manifest.json"
    path.write_text(path.read_text().replace('"documents": 1', '"documents": 2', 1))
    with pytest.raises(ValueError, match=r"manifest\.json: missing or damaged; delete"):
        prepare(settings, CHARS)
