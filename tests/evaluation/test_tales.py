"""A run on told stories beside the process that tells them."""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import InProcess

from llm_from_scratch import cli, tales
from llm_from_scratch.config import Config, DataConfig, ModelConfig, TokenizerConfig
from llm_from_scratch.data.fresh import fresh_stories
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.data.prepared import Stories
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation import baselines
from llm_from_scratch.evaluation import tales as measured
from llm_from_scratch.evaluation.likelihood import encode, run_scorer, token_bytes
from llm_from_scratch.evaluation.options import option_bits
from llm_from_scratch.evaluation.scoring import document_windows, score, text_nats
from llm_from_scratch.evaluation.tales import TalesRunData, divergence, ending, tales_result, training_stories
from llm_from_scratch.evaluation.texts import TRAIN_CHARACTERS, Text, first_characters
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.weights import LoadedModel

LEVEL = 2


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Stories:
    data = DataConfig(name="tales", dir=str(tmp_path_factory.mktemp("data")), level=LEVEL, stories=60, val_stories=25)
    prepared = prepare(data, TokenizerConfig(vocab_size=1024))
    assert isinstance(prepared, Stories)
    return prepared


def model(stories: Stories, block_size: int = 420) -> LoadedModel:
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": block_size}
    gpt = GPT(GPTConfig(vocab_size=stories.tokenizer.vocab_size, **shape)).eval()  # type: ignore[arg-type]
    return SimpleNamespace(model=gpt, tokenizer=stories.tokenizer, step=3, end_ids=())  # type: ignore[return-value]


def of(stories: Stories, run: LoadedModel, **data: Any) -> TalesRunData:
    settings = DataConfig(name="tales", level=LEVEL, stories=60, val_stories=25, **data)
    return TalesRunData("run", run, stories, Config(data=settings, model=ModelConfig(block_size=420)))


def uniform(stories: Stories) -> LoadedModel:
    run = model(stories)
    with torch.no_grad():
        run.model.token_embedding.weight.zero_()
    return run


# ------------------------------------------------------------------------------------------ scoring
def test_documents_are_scored_each_from_its_beginning(stories: Stories) -> None:
    run = model(stories)
    documents = [np.append(stories.tokenizer.encode_array(text), stories.tokenizer.eot_id) for text in ("a b", "Once.")]
    found = np.concatenate(
        [nats for nats, _ in score(run_scorer(run), document_windows(documents, run_scorer(run), 2))]
    )
    expected = [text_nats(run_scorer(run), ids.tolist()) for ids in documents]
    assert [part.sum() for part in np.split(found, [len(documents[0])])] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_an_option_has_the_probability_of_its_tokens(stories: Stories, number: int) -> None:
    run, story = model(stories), tales.tell(5, number, LEVEL)
    scorer, encode = run_scorer(run), stories.tokenizer.encode
    checked = 0
    for one, bits in option_bits(run, story, LEVEL):
        texts = [text for told in one.texts.values() for text in told]
        assert set(texts) <= bits.keys()
        assert one.choice.taken in one.probabilities
        if checked % 7 == 0 and len(texts) < 12:
            prefix = f" {story}"[: one.choice.start]
            whole = {text: text_nats(scorer, encode((prefix + text.rstrip())[1:])) for text in texts}
            first = texts[0]
            for text in texts:
                difference = (whole[text] - whole[first]) / np.log(2)
                assert bits[text] - bits[first] == pytest.approx(difference, abs=1e-3), (one.choice, text)
        checked += 1
    assert checked == len(tales.choices(story, LEVEL))


def test_the_divergence_of_a_model_that_knows_nothing(stories: Stories) -> None:
    """Every token has log2 V bits: the divergence follows from the lengths alone."""
    run, story = uniform(stories), tales.tell(5, 3, LEVEL)
    found = divergence(run, [story], LEVEL)
    assert found["all"].choices == sum(len(one.probabilities) > 1 for one in tales.options(story, LEVEL))
    per_token = np.log2(stories.tokenizer.vocab_size)
    (one, bits) = next(iter(option_bits(run, story, LEVEL)))
    assert {round(value / per_token, 6) % 1 for value in bits.values()} == {0}
    (mean,) = {round(value, 9) for value in one.probabilities.values()}
    assert mean == round(1 / len(one.probabilities), 9)
    assert found["all"].low <= found["all"].bits <= found["all"].high
    assert {"name", "phrase", "plot", "place"} <= found.keys()


def test_a_model_that_tells_as_the_process_does_diverges_by_nothing(
    stories: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(run: object, story: str, level: int) -> Any:
        event: dict[str, float] = {}
        for one in tales.options(story, level):
            bits = {}
            for name, told in one.texts.items():
                for text in told:
                    own = -np.log2(one.probabilities[name] / len(told))
                    # The sentences of an event: as a reader of the text sees them
                    bits[text] = event.get(text, own)
            event = bits if one.choice.kind == "plot" else {}
            yield one, bits

    monkeypatch.setattr(measured, "option_bits", exact)
    found = divergence(model(stories), [tales.tell(5, number, LEVEL) for number in range(8)], LEVEL)
    assert {kind: pytest.approx(0, abs=1e-9) for kind in found} == {kind: one.bits for kind, one in found.items()}


def test_parts_add_up_to_the_whole(stories: Stories) -> None:
    run = uniform(stories)
    result = tales_result([of(stories, run)], generate=0)
    (one,) = result.runs
    held_out = list(stories.documents("val"))
    size = sum(len(story.encode()) for story in held_out)
    tokens = sum(len(stories.tokenizer.encode(story)) + 1 for story in held_out)
    assert one.whole.model == pytest.approx(tokens * np.log2(stories.tokenizer.vocab_size) / size)
    assert one.whole.process == pytest.approx(-sum(tales.log2_probability(story) for story in held_out) / size)
    for parts in (list(one.by_kind.values()), one.by_place):
        for key in ("model", "process", "excess"):
            assert sum(getattr(part, key) for part in parts) == pytest.approx(getattr(one.whole, key))
    assert one.whole.low < one.whole.excess < one.whole.high
    assert one.by_kind["what follows"].process == 0
    bits: defaultdict[str, float] = defaultdict(float)
    for story in held_out:
        for choice in tales.choices(story, LEVEL):
            bits["phrase" if choice.kind == "plot" else choice.kind] += choice.bits
    for kind, total in bits.items():
        assert one.by_kind[kind].process == pytest.approx(total / size)
    assert result.entropy_low < result.entropy < result.entropy_high
    assert one.told is None


def test_a_choice_ends_with_the_character_that_tells_its_option_from_all_others() -> None:
    story = tales.tell(5, 3, LEVEL)
    decisions = measured._Decisions(story, LEVEL)
    own = [one for one in tales.options(story, LEVEL) if one.choice.kind != "plot"]
    assert list(decisions.kinds) == [one.choice.kind for one in own]
    assert sum(decisions.bits) == pytest.approx(-tales.log2_probability(story))
    for one, start, stop in zip(own, decisions.starts, decisions.stops, strict=True):
        assert start == max(one.choice.start - 1, 0)
        told = story[start:stop]
        assert f" {one.choice.taken}".lstrip().startswith(told.lstrip())
        if one.choice.kind == "name":
            same = [text for text in one.probabilities if text.startswith(told)]
            assert same == [one.choice.taken]
            shorter = [text for text in one.probabilities if text.startswith(told[:-1])]
            assert len(shorter) > 1 or stop - start == 1


# ------------------------------------------------------------------------------------ what it writes
def test_what_is_told_is_judged_and_compared_with_the_training_text() -> None:
    true = [tales.tell(5, number, LEVEL) for number in range(4)]
    broken = true[3].replace(" the ", " teh ", 1)
    known = measured._Known([true[0], true[1]])
    told = measured._told([*true[:3], broken], LEVEL, known)
    assert (told.stories, told.faultless.count, told.faultless.share) == (4, 3, 0.75)
    assert told.faults["spelling"].count == 1
    assert told.copied is not None
    assert told.copied.count == 2
    assert told.new_ending is not None
    assert told.new_ending.count == sum(ending(story) not in map(ending, true[:2]) for story in [*true[:3], broken])
    assert told.samples[0].faults == []
    assert ending("A b. C d. E f!") == "C d. E f!"


def test_the_stories_that_a_run_has_read(stories: Stories) -> None:
    run = model(stories)
    assert list(training_stories(of(stories, run))) == list(stories.documents("train"))
    fresh = of(stories, run, stream="fresh", batch_size=4, batch_schedule=[[1, 2]])
    assert set(training_stories(fresh)) >= set(fresh_stories(LEVEL, 1337, [2, 4, 4], 1))


def test_it_writes_to_the_end_of_a_story_or_of_the_context(stories: Stories) -> None:
    run = model(stories, block_size=24)
    written = measured.write_stories(run, 3, seed=1)
    assert written == measured.write_stories(run, 3, seed=1)
    assert written != measured.write_stories(run, 3, seed=2)
    assert all(len(stories.tokenizer.encode(text)) <= 40 for text in written)
    with pytest.raises(UserError, match=r"a story has \d+ tokens and model.block_size=24"):
        tales_result([of(stories, run)], generate=0)


# ---------------------------------------------------------------------------------------- a real run
@pytest.mark.slow
def test_evaluate_shows_it(
    tmp_path: Path, train_here: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = train_here(
        *("data=tales", "data.level=1", "data.stream=fresh", "data.stories=60", "data.val_stories=25"),
        *("data.batch_size=2", "model.block_size=320", "model.n_layer=1", "model.n_embd=32", "model.n_head=2"),
        *("trainer=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2", "logger=none"),
        *("run_dir=run", "sample.max_new_tokens=0"),
    )
    assert status == 0, said
    validated = json.loads(Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    capsys.readouterr()
    cli.main(["evaluate", "run", "--json", "--stories", "3"])
    row = json.loads(capsys.readouterr().out)
    assert row["bits_per_byte"] == pytest.approx(validated["bits_per_byte"], rel=1e-5)
    (one,) = row["tales"]["runs"]
    assert one["whole"]["model"] == pytest.approx(row["bits_per_byte"], rel=1e-5)
    assert (row["tales"]["level"], row["tales"]["stories"], one["told"]["stories"]) == (1, 25, 3)
    assert row["tales"]["truth"]["faultless"]["share"] == 1
    cli.main(["evaluate", "run", "--stories", "0"])
    out = capsys.readouterr().out
    assert "excess over the process" in out
    assert "stories written" not in out
    cli.main(["evaluate", "run", "--report", "report", "--generate", "0", "--stories", "2"])
    page = Path("report/report.md").read_text(encoding="utf-8")
    report = json.loads(Path("report/report.json").read_text(encoding="utf-8"))
    assert "## Told stories" in page
    assert "2 stories written" in page
    assert report["runs"][0]["bits_per_byte"] == pytest.approx(row["bits_per_byte"], rel=1e-5)
    entropy = report["tales"]["entropy"]
    assert min(one["bits_per_byte"] for one in report["baselines"]) > entropy
    for words, said in ((["--stories", "-1"], "--stories -1: must be 0 or more"),):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", "run", *words])
        assert said in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- baselines
@pytest.mark.slow
@pytest.mark.parametrize("level", tales.LEVELS)
def test_no_compressor_and_no_ngram_comes_below_the_entropy(stories: Stories, level: int) -> None:
    """On 1 MB of held-out stories, with 5 MB to learn from, as `evaluate --report` has them."""
    train = "".join(tales.stories(0, 0, 8000, level, "train"))[:TRAIN_CHARACTERS]
    held_out = first_characters(tales.stories(0, 0, 1800, level, "val"), 1_000_000)
    text = Text("held-out stories", tuple(held_out), whole=True)
    before, after = (encode(stories.tokenizer, part, True) for part in ([train], text.documents))
    lengths = token_bytes(stories.tokenizer)[after]
    rows = [
        *baselines.characters(text, train),
        *baselines.counting(text, before, after, lengths, stories.tokenizer.vocab_size, "tokens"),
        *baselines.compressors(text, train),
    ]
    bound = tales.entropy(level).bits_per_byte.high
    found = {row.name: row.bits_per_byte for row in rows}
    print(level, bound, dict(sorted(found.items(), key=lambda row: row[1])))
    assert len(found) > 10
    assert min(found.values()) > bound, found
