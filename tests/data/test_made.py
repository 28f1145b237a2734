import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from llm_from_scratch.data.choices import Choices
from llm_from_scratch.data.made import GENERATORS, OZ_CHAT, made_files, make
from llm_from_scratch.data.passages import KINDS, PEOPLE, TOWNS
from llm_from_scratch.data.reviews import BLAME, PRAISE
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.answer_metrics import normalised

# sha256 of the 2,300 lines: another Python or machine makes the same ones.
DIGESTS = {
    "sentiment": "6ee12fc3a4810dd2936c3404033d0f89d59ca3a6aa982d93c215eb60e7bf6f85",
    "questions": "a090de74a5739581e5136fb77b4945583bcb7437ed21aab2e96d99ebb5d8f63e",
    "summaries": "6554f1f58deac3ace72c04a505021ac669d4c1ce30aad1868c5fb8635f2d80c7",
}


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z-]+", text))


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_is_a_function_of_its_seed(name: str) -> None:
    train, held_out = make(name)
    assert (len(train), len(held_out)) == (2000, 300)
    assert hashlib.sha256(json.dumps([train, held_out]).encode()).hexdigest() == DIGESTS[name]
    # A larger set begins with the smaller one; another seed makes another set.
    assert make(name, train=50, held_out=0)[0] == train[:50]
    other = make(name, seed=1, train=50, held_out=50)
    assert not {row["prompt"] for row in train[:50]} & {row["prompt"] for row in other[0] + other[1]}


@pytest.mark.parametrize("name", GENERATORS)
def test_no_prompt_occurs_twice_nor_in_both_parts(name: str) -> None:
    train, held_out = make(name)
    assert len({row["prompt"] for row in train + held_out}) == 2300
    for row in train + held_out:
        assert row.keys() == {"prompt", "completion"}
        assert re.fullmatch(r" \S.*\S", row["completion"])
        assert row["prompt"].endswith(":")
        assert "{" not in row["prompt"] + row["completion"]


@pytest.mark.parametrize(
    ("name", "listed", "prompts"),
    [("sentiment", PRAISE + BLAME, 80), ("questions", PEOPLE, 150), ("summaries", TOWNS, 100)],
)
def test_a_quarter_of_the_words_is_held_out(name: str, listed: tuple[str, ...], prompts: int) -> None:
    train, held_out = make(name)
    halves = (PRAISE, BLAME) if name == "sentiment" else (listed,)
    new = {word for half in halves for word in half[-(len(half) // 4) :]}
    assert not new & set().union(*(words(row["prompt"]) for row in train))
    assert sum(bool(new & words(row["prompt"])) for row in held_out) >= prompts


def test_reviews_are_balanced_and_their_words_do_not_tell_the_label() -> None:
    for rows in make("sentiment"):
        assert Counter(row["completion"] for row in rows) == {
            " positive": len(rows) // 2,
            " negative": len(rows) // 2,
        }
        # More words of praise than of blame: what a reader of words without their order would say.
        right = 0.0
        for row in rows:
            balance = len(words(row["prompt"]) & set(PRAISE)) - len(words(row["prompt"]) & set(BLAME))
            right += 0.5 if balance == 0 else float((balance > 0) == (row["completion"] == " positive"))
        assert 0.4 < right / len(rows) < 0.6


def test_the_answer_is_in_the_passage_beside_two_others_of_its_kind() -> None:
    train, held_out = make("questions")
    for row in train + held_out:
        passage, asked, _ = row["prompt"].split("\n")
        answer = row["completion"][1:]
        (kind,) = [kind for kind in KINDS if answer in kind.values]
        assert f"{answer}." in passage or f"{answer} " in passage
        assert sum(bool(re.search(rf"\b{re.escape(value)}\b", passage)) for value in kind.values) == 3
        # One sentence has both the person and the answer.
        (person,) = words(asked) & set(PEOPLE)
        assert any(person in sentence and answer in sentence for sentence in re.split(r"(?<=\.) ", passage))
    # Each of the three is asked for: neither the first nor the last sentence of its kind is always right.
    first = sum(row["completion"][1:] in row["prompt"].split(". ")[0] for row in train)
    assert 0.05 < first / len(train) < 0.3


def test_a_summary_selects_from_its_news() -> None:
    train, held_out = make("summaries")
    for row in train + held_out:
        told = re.split(r"(?<=[.\"]) (?=[A-Z\"])", row["prompt"].split("\n")[0].removeprefix("News: "))
        summary = row["completion"][1:]
        assert words(summary.lower()) <= words(row["prompt"].lower()) | {"in", "on"}
        assert len(told) >= 3
        assert summary not in told
    one_sentence = [row for row in train if re.search(r"On \w+day ", row["prompt"])]
    assert 0.1 < len(one_sentence) / len(train) < 0.6


def test_choices_are_uniform() -> None:
    choices = Choices(3, held_out=False)
    counts = Counter(choices.one("abcd") for _ in range(4000))
    assert all(abs(count - 1000) < 120 for count in counts.values())
    assert sorted(choices.some("abcd", 4)) == list("abcd")
    assert choices.words("abcdefgh") == "abcdef"
    assert Choices(3, held_out=True).words("abcdefgh") == "abcdefgh"


def test_files_are_written_once_and_mended(tmp_path: Path) -> None:
    train, held_out = made_files("sentiment", tmp_path / "sentiment")
    assert [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()] == make("sentiment")[0]
    assert len(held_out.read_text(encoding="utf-8").splitlines()) == 300
    times = (train.stat().st_mtime_ns, train.stat().st_ino)
    held_out.write_text("damaged")
    assert made_files("sentiment", tmp_path / "sentiment") == (train, held_out)
    assert (train.stat().st_mtime_ns, train.stat().st_ino) == times
    assert len(held_out.read_text(encoding="utf-8").splitlines()) == 300
    with pytest.raises(UserError, match="data.generator=feelings is unknown: use one of sentiment, "):
        made_files("feelings", tmp_path)


def oz_rows(part: int) -> list[dict]:
    return [json.loads(line) for line in OZ_CHAT[part].read_text(encoding="utf-8").splitlines()]


def test_the_questions_on_oz() -> None:
    train, held_out = oz_rows(0), oz_rows(1)
    assert (len(train), len(held_out)) == (280, 70)
    asked = [normalised(row["messages"][0]["content"]) for row in train + held_out]
    assert len(set(asked)) == 350
    for row in train + held_out:
        (user, assistant), short = row["messages"], row["answers"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert user["content"].endswith(("?", "."))
        assert assistant["content"].endswith((".", '."', '!"'))
        assert all(1 <= len(one.split()) <= 12 for one in short)
        assert any(f" {normalised(one)} " in f" {normalised(assistant['content'])} " for one in short)
        assert not any(f" {normalised(one)} " in f" {normalised(user['content'])} " for one in short)
    # Every held-out question asks for what a training answer says.
    told = [f" {normalised(row['messages'][1]['content'])} " for row in train]
    for row in held_out:
        assert any(f" {normalised(one)} " in answer for one in row["answers"] for answer in told), row
    # The book, not the film: the shoes are of silver.
    text = json.dumps(train + held_out).lower()
    assert "silver shoes" in text
    assert not re.search(r"ruby slippers|red shoes|technicolor|rainbow", text)
