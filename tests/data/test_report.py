"""report.md: a stranger's text in it."""

from pathlib import Path

from containers import CHARS

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.prepare import Prepared, prepare

NOVEL = "Dorothy lived in the midst of the great Kansas prairies. " * 5


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prepared(folder: Path, path: object, **settings: object) -> Prepared:
    settings = {"val_fraction": 0.3, **settings}
    return prepare(DataConfig(name="text", path=str(path), dir=str(folder / "data"), **settings), CHARS)  # type: ignore[arg-type]


def test_the_report_shows_a_hostile_text_as_code(tmp_path: Path) -> None:
    hostile = "![x](http://example.com/`a``b) <img src=x> "
    put(tmp_path / "own/a.txt", NOVEL)
    put(tmp_path / "own/![x](y).html", "x")
    put(tmp_path / "own/b.txt", hostile)
    text = prepared(tmp_path, tmp_path / "own", min_chars=100)
    report = (text.folder / "report.md").read_text(encoding="utf-8")
    assert f'- ` "b.txt" `: ``` "{hostile}" ```' in report
    assert '` "![x](y).html" `' in report
