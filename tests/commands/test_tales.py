"""`llm-from-scratch tales`: tells, scores, judges."""

import io
import json
from functools import partial
from pathlib import Path

import pytest

from llm_from_scratch import cli, tales


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    cli.main(["tales", *words])
    return capsys.readouterr().out


def test_it_tells_stories_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "--level", "2", "--count", "4", "--seed", "3", "--start", "10", "--split", "val")
    assert told.splitlines() == list(tales.stories(3, 10, 4, 2, "val"))
    first = json.loads(run(capsys, "--count", "1", "--json"))
    assert first == {"text": tales.tell(0, 0, 1)}


def test_it_scores_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = [tales.tell(0, number, 3) for number in range(2)]
    (tmp_path / "told.txt").write_text(f"{told[0]}\n\nNo story.\n{told[1]}\n", encoding="utf-8")
    lines = run(capsys, "--score", str(tmp_path / "told.txt")).splitlines()
    bits = [-tales.log2_probability(text) for text in told]
    size = len(told[0])
    assert lines[0] == f"1: {bits[0]:.3f} bits, {size} bytes, {bits[0] / size:.4f} bits per byte"
    assert lines[1].startswith("3: this is not a story: at character 0, 'No story.'")
    assert lines[3].startswith(f"all 2: {sum(bits):.3f} bits")
    assert lines[4] == "1 cannot be told by the process: their probability is 0"
    rows = [json.loads(line) for line in run(capsys, "--score", str(tmp_path / "told.txt"), "--json").splitlines()]
    assert [row["line"] for row in rows] == [1, 3, 4]
    assert rows[1]["bits"] is None
    assert sum(rows[0]["by_kind"].values()) == pytest.approx(bits[0])


def test_it_judges_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = tales.tell(0, 0, 2)
    cut = told[: told.rindex(". ") + 1]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{told}\n{cut}\n"))
    lines = run(capsys, "--check", "-").splitlines()
    assert lines[0].startswith(f"-:2:{len(cut) + 1}: ending: ''")
    assert lines[1] == "1 of 2 without a fault (50.0%)"
    assert lines[2] == f"1 with ending: {tales.FAULTS['ending']}"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{cut}\n"))
    row = json.loads(run(capsys, "--check", "-", "--json"))
    assert row["level"] == 2
    assert [fault["kind"] for fault in row["faults"]] == ["ending"]


def test_it_shows_the_entropy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tales, "entropy", partial(tales.entropy, stories=100))  # 10,000 take two seconds
    found = json.loads(run(capsys, "--entropy", "--level", "1", "--json"))
    assert found["bits"] == pytest.approx(tales.entropy(1).bits)
    shown = run(capsys, "--entropy", "--level", "1")
    assert f"{found['bits']:.3f}" in shown
    assert f"{found['bits_per_byte']['value']:.5f}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--level", "7"], "error: --level 7: there are the levels 1 to 4"),
        (["--count", "-1"], "error: -1 stories by 1 workers"),
        (["--score", "nowhere.txt"], "error: nowhere.txt: cannot be read as a text"),
    ],
)
def test_mistakes_take_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["tales", *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1
