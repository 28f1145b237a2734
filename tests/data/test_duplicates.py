"""Duplicates among documents."""

import numpy as np
import pytest
from conftest import story

from llm_from_scratch.data import duplicates


def test_near_duplicates_are_found_whatever_the_files_are_cut_into() -> None:
    pytest.importorskip("rensa")
    text = story(3000, seed=7)
    texts = [text, story(3000, seed=8), text.replace("Dorothy", "Ozma", 1), story(3000, seed=9), text]
    sign = duplicates.signer("near")
    rows = np.stack([sign(one) for one in texts])
    assert [found.tolist() for found in duplicates.repeated("near", [rows])] == [[2, 4]]
    assert [found.tolist() for found in duplicates.repeated("near", [rows[:2], rows[2:]])] == [[], [0, 2]]


def test_exact_duplicates_keep_the_first_in_any_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sign = duplicates.signer("exact")
    rows = np.stack([sign(one) for one in "abcabda"])
    for part in (2**22, 3):
        monkeypatch.setattr(duplicates, "PART", part)
        assert [found.tolist() for found in duplicates.repeated("exact", [rows[:4], rows[:0], rows[4:]])] == [
            [3],
            [],
            [0, 2],
        ]
