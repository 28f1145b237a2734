"""Mixtures: weights, ranks, corpora that come and go; one tokenizer; a run that is resumed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, Process
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import mix

from llm_from_scratch.config import TokenizerConfig
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.data.prepared import Mixture
from llm_from_scratch.data.sampler import MixedSampler, RandomChunkSampler
from llm_from_scratch.run import read_rows

# Ids tell of which corpus they are.
ARRAYS = {"a": np.arange(0, 500), "b": np.arange(1000, 1040), "c": np.arange(2000, 4000)}


def mixed(weights: dict[str, float], **changes: Any) -> MixedSampler:
    shared: dict[str, Any] = {"block_size": 8, "batch_size": 48, "seed": 5} | changes
    return MixedSampler({name: RandomChunkSampler([ARRAYS[name].astype("<u2")], **shared) for name in weights}, weights)


def test_weights_are_respected() -> None:
    """96,000 sequences with shares of 0.7, 0.1, 0.2: chi-square with 2 degrees of freedom is below
    13.8 in 999 cases of 1,000.
    """
    weights = {"a": 7.0, "b": 1.0, "c": 2.0}
    sampler = mixed(weights, batch_size=2000)
    found = Counter(int(x) // 1000 for step in range(48) for x in sampler.batch(step)[0][:, 0])
    counts = np.array([found[0], found[1], found[2] + found[3]])
    expected = 96_000 * np.array([0.7, 0.1, 0.2])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8


@given(st.sampled_from([1, 2, 8]), st.sampled_from([1, 2, 3]), st.integers(0, 2**32), st.integers(0, 10**9))
@settings(deadline=None)
def test_ranks_and_micro_batches_divide_one_global_batch(world_size: int, n_micro: int, seed: int, step: int) -> None:
    weights = {"a": 0.5, "b": 0.5}
    whole = mixed(weights, seed=seed).batch(step)
    parts = [
        mixed(weights, seed=seed, rank=rank, world_size=world_size).batch(step, micro, n_micro)
        for rank in range(world_size)
        for micro in range(n_micro)
    ]
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part[side] for part in parts]), whole[side])
    np.testing.assert_array_equal(whole[0] + 1, whole[1])  # chunks of one corpus, none across two


def test_a_smaller_batch_is_the_first_sequences_of_a_larger_one() -> None:
    whole, some = mixed({"a": 0.5, "b": 0.5}), mixed({"a": 0.5, "b": 0.5}, batch_schedule=[[5, 8]])
    for step in (4, 5):
        size = 8 if step < 5 else len(whole.places(step))
        np.testing.assert_array_equal(some.batch(step)[0], whole.batch(step)[0][:size])
        np.testing.assert_array_equal(some.corpora(step), whole.corpora(step)[:size])


@given(st.integers(0, 2**32), st.integers(0, 10**9), st.floats(0.01, 100))
@settings(deadline=None)
def test_a_corpus_that_is_added_takes_sequences_and_changes_no_other(seed: int, step: int, weight: float) -> None:
    before = mixed({"a": 0.7, "b": 0.3}, seed=seed).batch(step)[0]
    after = mixed({"c": weight, "a": 0.7, "b": 0.3}, seed=seed).batch(step)[0]
    of_new = after[:, 0] >= 2000
    np.testing.assert_array_equal(after[~of_new], before[~of_new])


def test_a_corpus_alone_is_sampled_as_without_a_mixture() -> None:
    alone = RandomChunkSampler([ARRAYS["a"].astype("<u2")], block_size=8, batch_size=48, seed=5)
    for side, expected in zip(mixed({"a": 3.0}).batch(11), alone.batch(11), strict=True):
        np.testing.assert_array_equal(side, expected)


def test_a_mixture_is_its_corpora(tmp_path: Path) -> None:
    tokenizer = TokenizerConfig(vocab_size=300)
    prepared = prepare(mix(tmp_path), tokenizer)
    assert isinstance(prepared, Mixture)
    for split in ("train", "val"):
        texts = ["".join(part.documents(split)) for part in prepared.parts]
        assert "".join(prepared.documents(split)) == "".join(texts)
        assert prepared.text_bytes(split) == sum(len(text.encode()) for text in texts)
        ids = [shard.tokens.tolist() for shard in prepared.shards(split)]
        assert [prepared.tokenizer.decode(one) for one in ids] == texts
        assert prepared.manifest["splits"][split]["tokens"] == sum(map(len, ids))
    assert {part.tokenizer.fingerprint for part in prepared.parts} == {prepared.tokenizer.fingerprint}
    stamp = (prepared.folder / "manifest.json").stat().st_mtime_ns
    again = prepare(mix(tmp_path), tokenizer)
    assert (again.folder, (again.folder / "manifest.json").stat().st_mtime_ns) == (prepared.folder, stamp)
    other = prepare(mix(tmp_path, mix={"one": 0.5, "two": 0.5}), tokenizer)
    assert other.folder != prepared.folder
    # A corpus of weight 0 is not there.
    alone = prepare(mix(tmp_path, mix={"one": 1.0, "two": 0}), tokenizer)
    assert isinstance(alone, Mixture)
    assert [part.manifest["name"] for part in alone.parts] == ["one"]
    # One of its folders that has become another text is seen.
    part = prepared.parts[0].folder / "manifest.json"
    part.write_text(part.read_text().replace('"documents": 1', '"documents": 2', 1))
    with pytest.raises(ValueError, match="missing or damaged"):
        prepare(mix(tmp_path), tokenizer)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mix": {"one": 1, "three": 1}}, r"data\.mix\.three: there is no such corpus: use one of one, two"),
        ({"mix": {"one": 0}}, "data=mix: say what of"),
        ({"mix": None}, "data=mix: say what of"),
        ({"corpora": {"one": {"pth": "x"}, "two": {}}}, r"data\.corpora\.one: pth: there is no such setting"),
    ],
)
def test_mistakes_cost_a_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        prepare(mix(tmp_path, **changes), TokenizerConfig(vocab_size=300))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_on_a_mixture_is_resumed_and_evaluated(train: Process, command: Process, tmp_path: Path) -> None:
    mix(tmp_path)
    small = [word for word in SMALL if not word.startswith(("data=", "data.path"))]
    corpora = [f"+data.corpora.{name}={{path: {name}.txt, name: {name}}}" for name in ("one", "two")]
    shared = [*small, "data=mix", *corpora, "data.mix={one: 0.75, two: 0.25}", "data.doc_mask=true"]
    steps = ["trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "optim.min_lr_ratio=1"]
    whole = train(*shared, *steps, "trainer.max_steps=4", "run_dir=whole")
    assert whole.returncode == 0, whole.stderr
    part = train(*shared, *steps, "trainer.max_steps=2", "run_dir=part")
    assert part.returncode == 0, part.stderr
    resumed = train("resume=part", "trainer.max_steps=4")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "part/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    refused = train("resume=part", "trainer.max_steps=6", "data.mix={one: 0.5, two: 0.5}")
    assert (refused.returncode, "the resumed run has" in refused.stderr) == (2, True), refused.stderr
    done = command("evaluate", "whole", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    best = min(
        (one for one in read_rows(tmp_path / "whole/metrics.jsonl") if one["split"] == "val"),
        key=lambda one: one["loss"],
    )
    assert row["loss"] == pytest.approx(best["loss"], rel=1e-5)  # computed as it was trained
    assert list(row["corpora"]) == ["one", "two"]
    assert sum(one["bytes"] for one in row["corpora"].values()) == row["bytes"]
    assert sum(one["tokens"] for one in row["corpora"].values()) == row["tokens"]
    checked = command("doctor", "whole")
    assert "every byte verified" in checked.stdout, checked.stdout
