"""The schema: ranges are held, also in a corpus of a mixture, and the parts of `data` are one flat
group.
"""

from dataclasses import fields

import pytest

from llm_from_scratch.check import check
from llm_from_scratch.config import (
    BatchConfig,
    Config,
    ConversationConfig,
    CorpusConfig,
    DataConfig,
    SelectionConfig,
    StorageConfig,
)
from llm_from_scratch.data.corpus import mixed_corpora
from llm_from_scratch.errors import UserError


@pytest.mark.parametrize("name", ["..", ".", ".ssh", "a/b", ""])
def test_a_name_of_a_corpus_stays_below_the_data(name: str) -> None:
    with pytest.raises(UserError, match=r"data\.name|name"):
        check({"data": {"name": name}}, Config)


@pytest.mark.parametrize(
    ("group", "key", "value", "words"),
    [
        ("optim", "lr", 0.0, "above 0"),
        ("optim", "beta2", 1.0, "at least 0 and below 1"),
        ("data", "fraction", 1.5, "above 0, at most 1"),
        ("data", "file", "../x", "a path below data.dir"),
        ("data", "batch_schedule", [[1]], "[[step, sequences], …], all above 0"),
        ("tokenizer", "kind", "bpee", "one of char, bpe, gpt2, bytes, sentencepiece"),
        ("trainer", "threads", 1025, "above 0, at most 1024"),
    ],
)
def test_a_value_out_of_its_range_is_refused(group: str, key: str, value: object, words: str) -> None:
    with pytest.raises(UserError) as error:
        check({group: {key: value}}, Config)
    assert str(error.value) == f"{group}.{key}={value}: must be {words}"


def test_a_corpus_of_a_mixture_has_the_same_ranges() -> None:
    data = DataConfig(mix={"a": 1.0}, corpora={"a": {"path": "a.txt", "fraction": 2.0}})
    with pytest.raises(UserError, match=r"^data\.corpora\.a: fraction=2\.0: must be above 0, at most 1$"):
        mixed_corpora(data)


def test_each_setting_of_the_data_is_of_one_part() -> None:
    parts = [CorpusConfig, SelectionConfig, StorageConfig, ConversationConfig, BatchConfig]
    names = [item.name for part in parts for item in fields(part)]
    assert names == [item.name for item in fields(DataConfig)]


def test_the_schema_gives_plain_typed_values() -> None:
    config = check({"model": {"n_layer": 3}, "optim": {"lr": "1e-2"}}, Config)
    assert (config.model.n_layer, config.optim.lr) == (3, 0.01)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UserError, match=r"^trainer.accelerator=a\[+: must be one of") as refused:
        check({"trainer": {"accelerator": "a" + 10_000 * "["}}, Config)
    assert len(str(refused.value)) < 500
