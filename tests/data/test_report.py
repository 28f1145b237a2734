"""report.md: a stranger's text in it."""

from pathlib import Path

from small_corpora import PAGE, prepared_few, put


def test_the_report_shows_a_hostile_text_as_code(tmp_path: Path) -> None:
    hostile = "![x](http://example.com/`a``b) <img src=x> "
    put(tmp_path / "own/a.txt", PAGE)
    put(tmp_path / "own/![x](y).html", "x")
    put(tmp_path / "own/b.txt", hostile)
    text = prepared_few(tmp_path, tmp_path / "own", min_chars=100)
    report = (text.folder / "report.md").read_text(encoding="utf-8")
    assert f'- ` "b.txt" `: ``` "{hostile}" ```' in report
    assert '` "![x](y).html" `' in report
