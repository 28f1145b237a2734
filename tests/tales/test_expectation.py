"""The entropy: by hand on a process of two sentences, and against the mean over stories."""

import bz2
import lzma
import random
from math import log2

import pytest

from llm_from_scratch import tales
from llm_from_scratch.tales import process
from llm_from_scratch.tales.choices import Fork, Group
from llm_from_scratch.tales.expectation import exact, mean
from llm_from_scratch.tales.process import Process
from llm_from_scratch.tales.reading import Reading
from llm_from_scratch.tales.telling import Telling


def test_the_entropy_of_two_sentences_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Group("packed", "Packed: [tool] and [tool].")
    bare = Group("bare", "Bare.\nNothing: [bag].")
    fork = Fork("luggage", {packed: 3, bare: 1})
    again = Group("again", "More: [tool].")

    def luggage(story: Process) -> None:
        story.branch(fork)

    def more(story: Process) -> None:
        story.tell(again)

    monkeypatch.setitem(process.BEATS, 1, (luggage, more))
    found = exact(1)
    assert found["plot"] == pytest.approx(-0.75 * log2(0.75) - 0.25 * log2(0.25))
    assert found["phrase"] == pytest.approx(0.25 * 1)
    # 24 tools, 12 bags; the third tool depends on whether two are packed
    assert found["thing"] == pytest.approx(
        0.75 * (log2(24) + log2(23)) + 0.25 * 0.5 * log2(12) + 0.75 * log2(22) + 0.25 * log2(24)
    )


@pytest.mark.parametrize("level", tales.LEVELS)
def test_the_exact_entropy_agrees_with_the_mean_over_stories(level: int) -> None:
    compare(level, stories=1500, confidence=0.9999)


@pytest.mark.tales
@pytest.mark.parametrize("level", tales.LEVELS)
def test_the_exact_entropy_agrees_with_the_mean_over_many_stories(level: int) -> None:
    compare(level, stories=100_000, confidence=0.9999)


def compare(level: int, stories: int, confidence: float) -> None:
    by_kind = exact(level)
    bits: dict[str, list[float]] = {kind: [] for kind in by_kind}
    expected: dict[str, list[float]] = {kind: [] for kind in by_kind}
    for number in range(stories):
        story = Telling(level, random.Random(number))
        story.run()
        reading = Reading(level, story.text)
        reading.run()
        for kind in by_kind:
            own = [choice for choice in reading.choices if choice.kind == kind]
            bits[kind].append(sum(choice.bits for choice in own))
            expected[kind].append(sum(choice.entropy for choice in own))
    for kind, value in by_kind.items():
        for values in (bits[kind], expected[kind]):
            found = mean(values, confidence)
            assert found.low - 1e-9 <= value <= found.high + 1e-9, kind


def test_entropy_a_byte() -> None:
    found = tales.entropy(2, stories=400)
    assert found.bits == pytest.approx(sum(found.by_kind.values()))
    assert found.bits_per_byte.value == pytest.approx(found.bits / found.bytes.value)
    assert found.bits_per_byte.low < found.bits_per_byte.value < found.bits_per_byte.high
    told = [tales.tell(77, number, 2) for number in range(2000)]
    length = sum(map(len, told)) / 2000
    assert found.bytes.low - 4 < length < found.bytes.high + 4
    assert found.surprisal.low - 1 < found.bits < found.surprisal.high + 1


@pytest.mark.parametrize("level", [1, 4])
def test_no_compressor_comes_below_the_entropy(level: int) -> None:
    text = "\n".join(tales.stories(8, 0, 1100, level)).encode()
    assert len(text) > 600_000
    least = min(len(lzma.compress(text)), len(bz2.compress(text, 9))) * 8 / len(text)
    assert exact_rate(level) < least < 2.5


def exact_rate(level: int) -> float:
    return tales.entropy(level, stories=500).bits_per_byte.high


def test_a_mean_and_its_interval_by_hand() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    # variance 5/3, standard error sqrt(5/12)
    assert found.value == 2.5
    assert found.high - 2.5 == pytest.approx(1.959964 * (5 / 12) ** 0.5, abs=1e-6)
    assert found.low + found.high == pytest.approx(5)
