"""The words of a command line: which of them Hydra's grammar never sees."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llm_from_scratch.front.words import literal, without_tuned


@given(st.text())
def test_a_prompt_reaches_the_program_as_it_was_typed(text: str) -> None:
    override = OverridesParser.create().parse_override(literal(f"prompt={text}"))
    assert OmegaConf.create({"prompt": override.value()}).prompt == text


@pytest.mark.parametrize(
    "text",
    ["Oh, it's 5 o'clock!", "1900", "null", "true", "${oops}", r"\${x}", "a=b", "(x)", "[", "  ", "a\\", "{a: 1}"],
)
def test_values_that_hydra_would_read_as_its_grammar(text: str) -> None:
    override = OverridesParser.create().parse_override(literal(f"prompt={text}"))
    assert OmegaConf.create({"prompt": override.value()}).prompt == text


def test_other_settings_keep_hydras_grammar() -> None:
    assert literal("optim.lr=1e-3,3e-3") == "optim.lr=1e-3,3e-3"
    assert literal("resume=null") == "resume=null"


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["init_from=smollm2"], ["tuned=none"]),
        (["init_from=choice(a,b)"], ["tuned=none"]),
        (["init_from=smollm2", "tuned=oz_tiny"], []),
        (["init_from=null"], []),
        (["data=oz"], []),
    ],
)
def test_what_was_found_for_a_new_model_is_not_for_a_trained_one(words: list[str], added: list[str]) -> None:
    assert without_tuned(words) == [*words, *added]
