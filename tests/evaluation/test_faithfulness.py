"""Names, genders and relations on made cases: kept, dropped, brought in, contradicted."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_from_scratch.evaluation.faithfulness import Faithfulness, faithfulness, gender, names, relations

PROMPT = (
    "Once a girl called Dorothy lived with Toto. Everybody knew that Dorothy loved her farm. There Uncle Henry worked. "
    "Henry, Dorothy’s uncle, never laughed."
)


def test_names_are_capitals_inside_a_sentence() -> None:
    text = "Dorothy ran. The dog followed Dorothy to Kansas. Toto barked. “Come,” said the Tin Woodman."
    # Toto only begins: nothing tells it from The
    assert names(text) == ["Dorothy", "Kansas", "Tin", "Woodman"]
    assert names(text, background="She called Toto. He came then.") == ["Dorothy", "Kansas", "Toto", "Tin", "Woodman"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The End",
        "He said: “Never.” Then he left, and I did too.",
        "OK, I am on TV.",
        "Oh, Mr. No.",
        "— Where?",
        "the école",
    ],
)
def test_no_names_are_found_where_there_are_none(text: str) -> None:
    assert names(text) == []


def test_a_word_that_is_mostly_small_is_no_name() -> None:
    assert names("Did the Lion see a lion, or another lion? I asked Dorothy.") == ["Dorothy"]


def test_genders_by_title_and_by_the_only_name_of_a_sentence() -> None:
    of = ["Em", "Henry", "Dorothy", "Toto", "Glinda"]
    text = "Aunt Em slept. Henry lost his hat. Dorothy saw Toto and his tail. She called Glinda. Dorothy met him."
    assert gender(text, of) == {"Em": "she", "Henry": "he"}
    assert gender("Henry met her. Glinda took her hat.", of) == {"Glinda": "she"}
    # Told both ways
    assert gender("Henry took his hat. Then Henry said she slept.", ["Henry"]) == {}
    assert gender("Henry gave him her hat.", ["Henry"]) == {}


def test_relations_in_their_three_forms() -> None:
    text = "Dorothy’s uncle Henry sat. Toto, Dorothy's dog, ran. Em is Dorothy's aunt. Dorothy's dog was called Toto."
    assert relations(text) == [("Dorothy", "uncle", "Henry"), ("Dorothy", "dog", "Toto"), ("Dorothy", "aunt", "Em")]


def test_a_faithful_continuation() -> None:
    found = faithfulness(PROMPT, " Then Dorothy took her basket. Dorothy’s uncle Henry called Toto.")
    assert found == Faithfulness(
        kept=("Dorothy", "Toto", "Henry"),
        dropped=(),
        introduced=(),
        agreeing=("Dorothy",),
        contradicted=(),
        relations_kept=("Dorothy's uncle: Henry",),
        relations_contradicted=(),
        relations_invented=(),
    )


def test_one_that_contradicts_and_invents() -> None:
    found = faithfulness(
        PROMPT + " Em was Dorothy's mother.",
        " Then Dorothy lost his basket. The wizard met Glinda and Henry. Henry is Dorothy's brother. "
        "Glinda was Dorothy's mother. Toto is Henry's dog.",
    )
    assert found.kept == ("Dorothy", "Toto", "Henry")
    assert found.introduced == ("Glinda",)
    assert found.dropped == ()  # Em begins a sentence and is nowhere else: not known for a name
    assert (found.agreeing, found.contradicted) == ((), ("Dorothy",))
    assert found.relations_kept == ()
    assert found.relations_contradicted == (
        "Henry: Dorothy's uncle, then brother",
        "Dorothy's mother: Em, then Glinda",
    )
    assert found.relations_invented == ("Henry's dog: Toto",)


def test_a_continuation_about_others_drops_every_name() -> None:
    found = faithfulness(PROMPT, "In Rome lived Brutus, and with Brutus lived Cassius.")
    assert found.kept == ()
    assert found.dropped == ("Dorothy", "Toto", "Henry")
    assert found.introduced == ("Rome", "Brutus", "Cassius")


@given(st.text("Aa b.”\nÉß-", max_size=40), st.text("Aa b.”\nÉß-", max_size=40))
def test_every_name_of_the_prompt_is_kept_or_dropped(prompt: str, continuation: str) -> None:
    found = faithfulness(prompt, continuation)
    assert sorted(found.kept + found.dropped) == sorted(names(prompt, prompt + "\n\n" + continuation))
    assert set(found.introduced).isdisjoint(found.kept + found.dropped)


def test_oz_keeps_its_names_and_another_book_does_not(corpora: Path) -> None:
    text = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8-sig")
    other = (corpora / "shakespeare/input.txt").read_text(encoding="utf-8")[100_000:104_000]
    prompt, continuation = text[100_000:104_000], text[104_000:108_000]
    assert {"Dorothy", "Lion", "Scarecrow"} <= set(names(text[:100_000]))
    own, foreign = faithfulness(prompt, continuation), faithfulness(prompt, other)
    assert "Dorothy" in own.kept
    assert len(own.kept) >= 3 > len(foreign.kept)
    assert len(foreign.introduced) > len(own.introduced)
    assert own.contradicted == ()


def test_the_book_itself_contradicts_nothing(corpora: Path) -> None:
    text = (corpora / "oz/wizard_of_oz.txt").read_text(encoding="utf-8-sig")
    of = ["Dorothy", "Em", "Henry", "Lion", "Scarecrow", "Woodman", "Witch", "Wizard"]
    he_or_she = ["she", "she", "he", "he", "he", "he", "she", "he"]
    assert gender(text, of) == dict(zip(of, he_or_she, strict=True))
    passages = range(20_000, 190_000, 6_000)
    found = [faithfulness(text[at : at + 2_000], text[at + 2_000 : at + 3_000], text[:20_000]) for at in passages]
    assert sum(len(one.contradicted) + len(one.relations_contradicted) for one in found) == 0
    assert sum(len(one.kept) for one in found) > sum(len(one.introduced) for one in found)
    # The same passages with the pronouns of the other gender.
    swapped = text.replace(" she ", " HE ").replace(" he ", " she ").replace(" HE ", " he ").replace(" his ", " her ")
    assert gender(swapped, of)["Lion"] == "she"
