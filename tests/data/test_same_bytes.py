"""Prepared folders have the names and the bytes that version 0.1 gave them.

`same_bytes.json` holds the checksum of every file, made with the code of version 0.1. A change of
these bytes prepares every text of every user anew: raise `CLEANING_VERSION` or `FORMAT`, say so in
the changelog, and only then write the file again: `python tests/data/test_same_bytes.py`.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import story
from containers import CHARS, jsonl, tar

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.prepare import prepare

EXPECTED = Path(__file__).with_name("same_bytes.json")
MANY = {
    **{f"{i:02}.txt": story(300 + 10 * i, seed=i % 13) for i in range(25)},
    "empty.txt": "",
    "short.txt": "hi",
    "odd.txt": "\ufeffa\r\nb e\u0301 " + "line\n" * 30,
}
TEXTS: dict[str, dict[str, str | bytes]] = {
    "one": {"a.txt": story(6000)},
    "unknown": {"a.txt": story(6000) + "猫犬"},
    "three": {f"{i}.txt": story(3000, seed=i) for i in range(3)},
    "many": MANY,
    "rows": {"a.jsonl": jsonl([story(300, seed=i) for i in range(30)]) + b'{"text": null}\nno\n'},
    "parted": {"a.txt": "<|endoftext|>\n".join(story(300, seed=i) for i in range(25))},
    "latin": {"a.txt": "caf\xe9 and more words. ".encode("latin-1") * 200},
    "tars": {f"{part}.tar": tar({name: text.encode() for name, text in MANY.items()}) for part in range(2)},
}
LARGE: dict[str, Any] = {"keep_text": False, "shard_bytes": 4000, "val_fraction": 0.2}
# A case: the texts, and the settings beside the defaults.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one document": ("one", {}),
    "few documents": ("three", {"val_fraction": 0.3}),
    "many documents": ("many", {"val_fraction": 0.2}),
    "read as text": ("many", {"val_fraction": 0.2, "stream": "text"}),
    "an unknown character": ("unknown", {}),
    "selected": ("many", {"val_fraction": 0.3, "dedup": "exact", "min_chars": 5, "fraction": 0.9, "max_docs": 22}),
    "rows": ("rows", {"val_fraction": 0.3, "on_error": "skip"}),
    "a separator": ("parted", {"val_fraction": 0.3, "separator": "<|endoftext|>"}),
    "an encoding": ("latin", {"encoding": "latin-1"}),
    "large": ("many", LARGE),
    "large and selected": ("tars", LARGE | {"dedup": "exact", "max_docs": 40}),
    "a mixture": (
        "",
        {
            "name": "mix",
            "mix": {"one": 0.5, "many": 0.25, "tars": 1.0},
            "corpora": {"one": {"path": "one"}, "many": {"path": "many"}, "tars": {"path": "tars", **LARGE}},
        },
    ),
}


def files_of(case: str, folder: Path) -> dict[str, str]:
    """The checksums of all files that a case gives below `folder`, the current one; no picture,
    whose bytes are Matplotlib's.
    """
    for name, texts in TEXTS.items():
        (folder / name).mkdir()
        for file, text in texts.items():
            (folder / name / file).write_bytes(text.encode() if isinstance(text, str) else text)
    path, settings = CASES[case]
    prepare(DataConfig(**({"name": "text", "path": path or None, "dir": "data"} | settings)), CHARS)
    found = (file for file in (folder / "data").rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(found)
        if file.suffix not in (".png", ".lock") and file.name != "checksums.json"
    }


@pytest.mark.parametrize("case", CASES)
def test_a_prepared_folder_has_the_bytes_of_version_0_1(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert files_of(case, tmp_path) == json.loads(EXPECTED.read_text(encoding="utf-8"))[case]


if __name__ == "__main__":
    import os

    written = {}
    for one in CASES:
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            written[one] = files_of(one, Path(place))
    EXPECTED.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
