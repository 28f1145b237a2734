"""evaluate: options out of their range are refused before a run is opened."""

import pytest

from llm_from_scratch.cli import main


@pytest.mark.parametrize("words", [["--batch-size", "0"], ["--generate", "-1"], ["--batch-size", "-3", "--baselines"]])
def test_a_count_out_of_its_range_costs_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "nowhere", *words])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert printed.err == f"error: {words[0]} {words[1]}: must be {1 if 'batch' in words[0] else 0} or more\n"
