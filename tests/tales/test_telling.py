"""Stories by number: the same bytes everywhere; two splits that share none."""

import hashlib
import re
from pathlib import Path

import pytest

from llm_from_scratch import tales
from llm_from_scratch.errors import UserError
from llm_from_scratch.tales.telling import BLOCK, HELD_OUT

# Of the first 200 stories of every level. A change of any word or probability changes it: then the
# version of the stories is another one, which the changelog must say.
CHECKSUM = "d353b5e195e1bfef790f94d3dd23e1cf1a904b4a6b0440c645082afbb0817741"


def test_the_stories_are_those_of_every_other_machine() -> None:
    told = "\n".join(tales.tell(0, number, level) for level in tales.LEVELS for number in range(200))
    assert hashlib.sha256(told.encode()).hexdigest() == CHECKSUM


def test_the_stories_of_the_docs_are_told() -> None:
    page = (Path(__file__).parents[2] / "docs/tales.md").read_text(encoding="utf-8")
    quoted = [" ".join(block.split("\n> ")) for block in re.findall(r"\n> ((?:.+\n> )*.+)\n", page)]
    assert quoted == [tales.tell(0, 3, level) for level in (1, 3, 4)]


def test_workers_change_no_byte() -> None:
    count = 2 * BLOCK + 7
    alone = list(tales.stories(5, 3, count, 2, "train"))
    assert alone == [tales.tell(5, number, 2, "train") for number in range(3, 3 + count)]
    assert list(tales.stories(5, 3, count, 2, "train", workers=2)) == alone


def test_train_and_validation_share_no_story() -> None:
    train = set(tales.stories(0, 0, 1000, 1, "train"))
    val = set(tales.stories(0, 0, 1000, 1, "val"))
    assert len(train) == len(val) == 1000
    assert not train & val
    assert {tales.split_of(text) for text in train} == {"train"}
    whole = list(tales.stories(0, 0, 4000, 1))
    share = sum(tales.split_of(text) == "val" for text in whole) / 4000
    assert abs(share - HELD_OUT) < 4 * (HELD_OUT * (1 - HELD_OUT) / 4000) ** 0.5
    # A story of the split that was asked for is the first one, wherever that belongs to it.
    assert sum(text in train for text in whole[:1000]) > 900


def test_seeds_levels_and_numbers_tell_different_stories() -> None:
    told = [tales.tell(seed, number, level) for seed in (0, 1) for number in range(200) for level in tales.LEVELS]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("level", tales.LEVELS)
def test_length_and_variety(level: int) -> None:
    told = [tales.tell(2, number, level) for number in range(1500)]
    counts = sorted(len(text.split()) for text in told)
    assert counts[0] >= 60
    assert counts[-1] <= 270
    assert counts[int(0.99 * len(counts))] <= 250
    assert all(text.isascii() and "\n" not in text and "  " not in text for text in told)
    assert all(re.search(r'[.!?]"?$', text) for text in told)
    assert not any(re.search(r"[{}\[\]%]|\b(?:a [aeiou]|an [^aeiouh])", text) for text in told)


def test_about_two_thousand_words() -> None:
    told = " ".join(tales.tell(2, number, level) for level in tales.LEVELS for number in range(2500))
    assert len(set(re.findall(r"[a-z']+", told.lower()))) > 2000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tales.tell(0, 0, 5), "level 5: there are the levels 1 to 4"),
        (lambda: tales.tell(-1, 0, 1), "seed -1, number 0: give numbers from 0"),
        (lambda: tales.tell(0, 2**64, 1), "give numbers from 0"),
        (lambda: tales.tell(0, 0, 1, "test"), "split 'test': give train or val"),
        (lambda: list(tales.stories(0, 0, -1, 1)), "-1 stories by 1 workers"),
        (lambda: list(tales.stories(0, 0, 1, 1, workers=0)), "1 stories by 0 workers"),
    ],
)
def test_mistakes(call: object, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        call()  # type: ignore[operator]
