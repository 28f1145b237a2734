"""`rate`: a study from runs to codes, in the terminal, to its end; mistakes in one line."""

import io
import sys
from pathlib import Path

import pytest

from llm_from_scratch.cli import main
from llm_from_scratch.rating.store import Study


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Runs `rate` with some words: the exit status, standard output and standard error."""
    capsys.readouterr()
    status = 0
    try:
        main(["rate", *words])
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, *capsys.readouterr()


def test_a_study_is_made_rated_and_closed(
    finished_here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("study.yaml").write_text(
        "design: pairs\nratings_per_item: 1\nraters: 1\nprompts: [Dorothy went to, The Lion]\n"
        "sampling: {max_new_tokens: 20}\ntraining: 0\nchecks: 1\nrepeats: 0\n",
        encoding="utf-8",
    )
    status, out, err = said(capsys, "new", "one=run", "two=run", "--study", "study.yaml", "--device", "cpu")
    assert (status, out) == (0, "study: study\n"), err
    assert "2 pairs, 1 ratings of each; codes for 1 raters" in err
    status, out, _ = said(capsys, "invite", "study", "0", "--list")
    (code, begun) = out.split("  ")
    assert (status, len(code), begun) == (0, 24, "not begun\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\na\nb\nt\n\n"))
    status, out, err = said(capsys, "cli", "study")
    assert (status, err) == (0, "")
    assert "All is answered" in out
    with Study.open(Path("study")) as study:
        assert len(study.preferences()) == 2
        assert len(study.checks()) == 1
    status, out, _ = said(capsys, "invite", "study", "2")
    assert len(out.split()) == 2
    assert said(capsys, "close", "study")[0] == 0
    assert said(capsys, "invite", "study") == (2, "", "error: this study is closed: it takes no more answers\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["new"], "name the runs whose texts are to be rated"),
        (["new", "run", "x/run"], "x/run: there is a run already"),
        (["new", "last", "--design", "pairs", "--prompt", "Once"], "pairs need two systems"),
        (["new", "a=x", "--study", "no.yaml"], "no.yaml: No such file"),
        (["new", "a=x", "--study", "s.yaml", "--prompt", "Once"], "--prompt: is said in s.yaml"),
        (["new", "a=nowhere", "--prompt", "Once"], "nowhere"),
        (["new", "a=nowhere", "--out", "."], "is there already"),
        (["cli", "."], "is no study"),
        (["invite", ".", "-3"], "-3: must be from 0"),
        (["close", "nowhere"], "is no study"),
        (["jugde", "x"], "invalid choice"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = said(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
