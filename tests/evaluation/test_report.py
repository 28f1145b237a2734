"""The report: its figures against plain loops, its pages against hostile text, and what is said
where something is missing.
"""

import copy
import io
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Process, as_version_0_1, story
from rich.console import Console

from llm_from_scratch.check import check
from llm_from_scratch.cli import main
from llm_from_scratch.config import Config
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.evaluation import baselines
from llm_from_scratch.evaluation.continuations import Comparison, generation_metrics, passages
from llm_from_scratch.evaluation.figures import _passages as draw_passages
from llm_from_scratch.evaluation.figures import heat
from llm_from_scratch.evaluation.intervals import bootstrap_ratio
from llm_from_scratch.evaluation.likelihood import encode, likelihood, sentence_nats
from llm_from_scratch.evaluation.measure import RunWithData, Settings, measure, open_with_data
from llm_from_scratch.evaluation.ngram import character_ids, kneser_ney, nats
from llm_from_scratch.evaluation.overlap import SearchableText
from llm_from_scratch.evaluation.pairs import BIAS_LIMITS, GRAMMAR_LIMITS
from llm_from_scratch.evaluation.references import bertscore, causal_model, entailment
from llm_from_scratch.evaluation.report import print_summary, print_tables, write_report
from llm_from_scratch.evaluation.results import Evaluation, Extremes, Figures, ScoredPassage, as_json
from llm_from_scratch.evaluation.scoring import mean_probability
from llm_from_scratch.evaluation.texts import Text, UnitNats, count_words, token_starts
from llm_from_scratch.saved_config import read_config
from llm_from_scratch.weights import load_model

CPU = {"device": "cpu"}


def measured(names: list[str], settings: Settings) -> dict[str, Any]:
    """The object that `--json` writes."""
    return as_json(measure(names, settings))  # type: ignore[no-any-return]


@pytest.fixture
def here(finished: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy: what is scored is prepared beside the run's own text, which other tests expect to
    find alone.
    """
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("report") / "here")
    monkeypatch.chdir(folder)
    return folder


def plain_nats(logits: Any, ids: list[int], eot: int, size: int) -> list[float]:
    """-ln p of each id, one forward pass each, in windows that do not overlap."""
    found = []
    for i, target in enumerate(ids):
        context = torch.tensor([[eot, *ids][i // size * size : i + 1]])
        with torch.inference_mode():
            found.append(-logits(context)[0, -1].float().log_softmax(-1)[target].item())
    return found


# ------------------------------------------------------------------------------------------ figures
def test_figures_by_hand() -> None:
    # 20 documents "ab é": 5 bytes, 4 characters, 2 words; an id a character and an end, a bit each:
    # 5 bits of 5 bytes.
    text = Text("made", ("ab é",) * 20, whole=True)
    lengths = np.array([1, 1, 1, 2, 0] * 20)
    assert token_starts(lengths)[:6].tolist() == [0, 1, 2, 3, 4, 5]
    units = UnitNats(text)
    for part in (slice(0, 7), slice(7, 100)):  # a batch at a time
        units.add(np.full(100, math.log(2))[part], lengths[part])
    figures = units.figures()
    assert figures.pop("unit_bits") == pytest.approx([5.0] * 20)
    assert figures == pytest.approx(
        {
            "loss": math.log(2),
            "perplexity": 2.0,
            "perplexity_word": 2 ** (100 / len(("ab é" * 20).split())),
            "bits_per_byte": 1.0,
            "bits_per_byte_low": 1.0,  # every document costs the same
            "bits_per_byte_high": 1.0,
            "bits_per_character": 100 / 80,
            "tokens": 100,
        }
    )


def test_rows_are_compared_unit_by_unit() -> None:
    # Two blocks of 500 bytes: the second row needs 50 and 100 bits more, so that a draw of two says
    # 0.1, 0.15 (half of them) or 0.2.
    text = Text("made", ("a" * 1000,), whole=False)
    bits = (np.array([100.0, 900.0]), None, np.array([150.0, 1000.0]))
    rows = [Figures(perplexity_word=1, bits_per_byte=1, bits_per_character=1, unit_bits=own) for own in bits]
    text.compare(rows)
    assert rows[0].more is rows[1].more is None
    assert (rows[2].more, rows[2].more_low, rows[2].more_high) == pytest.approx((0.15, 0.1, 0.2))
    # By itself the first row lies anywhere from 0.2 to 1.8.
    assert bootstrap_ratio(np.array([100.0, 900.0]), text.sizes)[1:] == pytest.approx((0.2, 1.8))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_words_are_those_of_the_whole_text_whatever_its_pieces(size: int) -> None:
    text = " Toto  ran\n\u2003away .\t"
    assert count_words(text[i : i + size] for i in range(0, len(text), size)) == len(text.split()) == 4


def test_blocks_stand_for_documents_where_these_are_few() -> None:
    assert Text("made", ("a" * 1700,), whole=False).ends.tolist() == [500, 1000, 1700]
    assert Text("made", ("a" * 30,), whole=False).ends.tolist() == [30]


def test_the_two_answers_of_a_pair_are_one_unit() -> None:
    pairs = Text("made", ("abc", "de", "", "f") * 10, whole=True, pairs=True)
    assert pairs.ends.tolist() == [end for start in range(0, 60, 6) for end in (start + 5, start + 6)]
    assert pairs.info().units == "20 pairs"
    few = Text("made", ("a" * 300, "b" * 300) * 19, whole=True, pairs=True)
    assert few.info().units == "22 blocks of 500 bytes"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_likelihood_equals_a_plain_loop_whatever_the_batch(here: Path, batch_size: int) -> None:
    run = open_with_data("run", "cpu").run
    document = story(1200, seed=5)
    text = Text("made", (document,), whole=False)
    ids = run.tokenizer.encode(document)
    total = sum(plain_nats(run.model, ids, run.tokenizer.eot_id, run.model.config.block_size))
    found = likelihood(run, text, batch_size=batch_size)
    figures = found.figures
    size = len(document.encode())
    assert figures["tokens"] == len(ids)
    assert figures["loss"] == pytest.approx(total / len(ids), rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-5)
    assert figures["bits_per_character"] == pytest.approx(total / math.log(2) / len(document), rel=1e-5)
    assert figures["perplexity_word"] == pytest.approx(math.exp(total / len(document.split())), rel=1e-4)
    assert figures["bits_per_byte_low"] <= figures["bits_per_byte"] <= figures["bits_per_byte_high"]
    counts = [row.last - row.first + 1 for row in found.positions]
    assert counts == [1, 1, 2, 4, 8, 16]  # of a context of 32
    worst, best = found.passages.worst[0], found.passages.best[0]
    assert worst.bits_per_byte >= figures["bits_per_byte"] >= best.bits_per_byte
    for row in (worst, best):
        passage = "".join(piece for piece, _ in row.pieces)
        assert passage in document
        bits = sum(bits for _, bits in row.pieces)
        assert row.bits_per_byte == pytest.approx(bits / len(passage.encode()), rel=1e-3)


def test_loss_by_place_is_the_plain_loops(here: Path) -> None:
    run = open_with_data("run", "cpu").run
    document = story(600, seed=6)
    ids = run.tokenizer.encode(document)
    plain = plain_nats(run.model, ids, run.tokenizer.eot_id, 32)
    for overlap in (0.0, 0.5):  # places are always those of windows that do not overlap
        rows = likelihood(run, Text("made", (document,), False), overlap=overlap).positions
        expected = np.mean([value for i, value in enumerate(plain) if 2 <= i % 32 <= 3])
        assert [row.loss for row in rows if row.first == 3] == pytest.approx([expected], rel=1e-4)


def test_a_text_shorter_than_the_context_is_scored_and_what_it_is_too_short_for_is_said(
    here: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("Toto ran.", encoding="utf-8")
    report = measured(["run"], Settings(data=str(tmp_path / "short.txt"), generate=2, **CPU))
    run = open_with_data("run", "cpu").run
    total = sum(plain_nats(run.model, run.tokenizer.encode("Toto ran."), run.tokenizer.eot_id, 32))
    assert report["runs"][0]["bits_per_byte"] == pytest.approx(total / math.log(2) / 9, rel=1e-5)
    assert report["left_out"] == ["generated text needs held-out text of at least 700 characters, here are 9"]


def test_a_sentence_longer_than_the_context_goes_on_in_a_new_one(here: Path) -> None:
    run = open_with_data("run", "cpu").run
    for sentence in ("Toto ran.", story(300, seed=7)):
        ids = run.tokenizer.encode(sentence)
        total = sum(
            sum(plain_nats(run.model, ids[i : i + 32], ids[i - 1] if i else run.tokenizer.eot_id, 32))
            for i in range(0, len(ids), 32)
        )
        assert sentence_nats(run)(sentence) == pytest.approx(total, rel=1e-5)


def test_baselines_are_counted_in_the_bytes_of_the_text() -> None:
    train, document = story(4000, seed=1), story(1500, seed=2) + "é"
    text = Text("made", (document,), whole=False)
    rows = {row.name: row for row in baselines.characters(text, train) + baselines.compressors(text, train)}
    before, after, V = character_ids(train, document)
    size = len(document.encode())
    assert rows["uniform, characters"].bits_per_byte == pytest.approx(math.log2(V) * len(document) / size)
    order_4 = nats(kneser_ney(before, 4, V), after).sum() / math.log(2) / size
    assert rows["Kneser-Ney 4, characters"].bits_per_byte == pytest.approx(order_4)
    assert set(rows) >= {"unigram, characters", "Kneser-Ney 6, characters", "zlib", "lzma", "bz2", "PPM 5"}
    assert rows["PPM 5"].bits_per_byte < rows["unigram, characters"].bits_per_byte


def test_a_shuffled_text_costs_more_than_the_real_one(here: Path, tmp_path: Path) -> None:
    words = story(3000, seed=3).split()
    (tmp_path / "real.txt").write_text(" ".join(words), encoding="utf-8")
    np.random.default_rng(0).shuffle(words)
    (tmp_path / "shuffled.txt").write_text(" ".join(words), encoding="utf-8")
    real, shuffled = (
        measured(["run"], Settings(data=str(tmp_path / f"{name}.txt"), **CPU))["runs"][0]
        for name in ("real", "shuffled")
    )
    # The model is weak: it has learned for a second
    assert real["bits_per_byte"] < shuffled["bits_per_byte_low"]


def test_a_causal_model_of_transformers_on_the_same_bytes(here: Path, tmp_path: Path) -> None:
    folder, document = tiny_gpt2(tmp_path), "Dorothy met the Lion at the café.\n\n“Oh!” " * 8
    (tmp_path / "text.txt").write_text(document, encoding="utf-8")
    report = measured(["run"], Settings(data=str(tmp_path / "text.txt"), gpt2=[folder], **CPU))
    (row,) = report["baselines"]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(document)["input_ids"]
    total = sum(plain_nats(lambda x: model(x).logits, ids, tokenizer.eos_token_id, 16))
    assert report["text"]["bytes"] == len(document.encode())
    assert row["bits_per_byte"] == pytest.approx(total / math.log(2) / report["text"]["bytes"], rel=1e-4)
    assert row["tokens"] == len(ids)


def test_a_model_of_transformers_that_fails_costs_its_own_row(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_gpt2(tmp_path)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr("transformers.GPT2LMHeadModel.forward", broken)
    report = measured(["run"], Settings(data="story.txt", gpt2=[folder], **CPU))
    assert report["runs"][0]["bits_per_byte"] > 0
    assert report["left_out"] == [f"--gpt2 {folder}: cannot be used (no kernel)"]


def tiny_gpt2(folder: Path) -> Path:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([story(3000)], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    return folder / "gpt2"


def test_passages_are_held_out_text_in_two_that_do_not_overlap() -> None:
    text = story(9000, seed=4)
    chosen = passages(text, 5, seed=1)
    assert len(chosen) == 5
    assert chosen == passages(text, 5, seed=1) != passages(text, 5, seed=2)
    ends = [0]
    for passage in chosen:
        start = text.index(passage.prompt + passage.continuation)
        assert start >= ends[-1]
        ends.append(start + len(passage.prompt + passage.continuation))
        assert 150 <= len(passage.prompt) <= 250
        assert len(passage.continuation) == 400
    assert len(passages(text, 1000, seed=1)) == 9000 // 700


def test_a_copying_model_and_another_author_are_told_from_the_text_itself() -> None:
    words = [f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}a" for i in range(400)]
    rng = np.random.default_rng(0)
    train, held_out = (" ".join(rng.choice(words, 4000)) + "." for _ in range(2))
    other = " ".join(rng.choice([word[::-1] for word in words], 4000)) + "."
    chosen = passages(held_out, 4, seed=0)

    def figures(text: str) -> dict[str, Any]:
        texts = [text[i * 500 : i * 500 + 400] for i in range(4)]
        return as_json(
            generation_metrics(texts, chosen, Comparison(train=SearchableText(train), against=("other", other)), [])
        )  # type: ignore[no-any-return]

    copied, honest, foreign = figures(train), figures(held_out), figures(other)
    assert copied["memorised"]["200"] == 1.0
    assert copied["memorised_longest"] in train
    assert honest["memorised"]["50"] == foreign["memorised"]["50"] == 0.0
    assert honest["delta"]["training text"] < honest["delta"]["other"]
    assert foreign["delta"]["training text"] > foreign["delta"]["other"]


def test_a_causal_model_ends_documents_as_our_own_does(here: Path, tmp_path: Path) -> None:
    folder, documents = tiny_gpt2(tmp_path), tuple(story(60, seed=i) for i in range(25))

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    run, eos, size = open_with_data("run", "cpu").run, tokenizer.eos_token_id, len("".join(documents).encode())
    for whole in (True, False):  # documents that the split has cut have no end
        text = Text("made", documents, whole=whole)
        row = causal_model(folder, text, 0.0, 32, torch.device("cpu"))
        ids = [i for document in documents for i in tokenizer(document)["input_ids"] + [eos] * whole]
        total = sum(plain_nats(lambda x: model(x).logits, ids, eos, 16))
        assert row.tokens == len(ids)
        assert row.bits_per_byte == pytest.approx(total / math.log(2) / size, rel=1e-4)
        own = encode(run.tokenizer, documents, whole)
        assert (own == run.tokenizer.eot_id).sum() == ids.count(eos) == 25 * whole
        figures = likelihood(run, text).figures
        assert figures["tokens"] == len(own)
        total = sum(plain_nats(run.model, own.tolist(), run.tokenizer.eot_id, 32))
        assert figures["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-5)


LINES = [" \n", " = Toto = \n", " \n", " Toto was a dog @-@ like <unk> . \n"]


@pytest.mark.parametrize("form", ["raw", "tokens", "parquet", "file"])
def test_a_word_of_wikitext_is_what_its_published_perplexities_count(here: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    text, lines = "".join(LINES), 4
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").table({"text": [line if line.strip() else "" for line in LINES]})
        parquet.write_table(table, folder / "test-00000-of-00001.parquet")
        parquet.write_table(table.slice(1), folder / "train-00000-of-00001.parquet")
    elif form == "file":
        text, lines = LINES[3], 1
        (folder / "wiki.valid.raw").write_text(text, encoding="utf-8", newline="")
    else:
        (folder / f"wiki.test.{form}").write_text(text, encoding="utf-8", newline="")
        (folder / f"wiki.train.{form}").write_text("not this", encoding="utf-8")
    data = folder / "wiki.valid.raw" if form == "file" else folder
    report = measured(["run"], Settings(data=str(data), **CPU))
    words = len(text.split()) + lines  # 11 and 4 ends of lines, 8 and 1
    assert report["text"]["bytes"] == len(text.encode())
    assert report["text"]["words"] == words == (9 if form == "file" else 15)
    run = open_with_data("run", "cpu").run
    total = sum(plain_nats(run.model, run.tokenizer.encode(text), run.tokenizer.eot_id, 32))
    assert report["runs"][0]["perplexity_word"] == pytest.approx(math.exp(total / words), rel=1e-4)


def tiny_bert(folder: Path, kind: str, **settings: Any) -> tuple[Any, Any]:
    """A tokenizer and a model with random weights, saved in the folder."""
    transformers = pytest.importorskip("transformers")
    words = sorted(set(re.findall(r"[a-z]+", story(3000).lower())))
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8"
    )
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        **settings,
    )
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, model


def test_entailment_is_the_likeliest_label_of_each_sentence(here: Path, tmp_path: Path) -> None:
    labels = {0: "ENTAILMENT", 1: "neutral", 2: "contradiction"}
    tokenizer, model = tiny_bert(tmp_path, "BertForSequenceClassification", id2label=labels, initializer_range=2.0)
    prompts = [story(200, seed=i) for i in range(6)]
    texts = [[f"{word} was Toto." for word in story(300, seed=i).split()[:4]] for i in range(6)]
    found = []
    for prompt, own in zip(prompts, texts, strict=True):
        for sentence in own:
            pair = ["[CLS]", *tokenizer.tokenize(prompt), "[SEP]", *tokenizer.tokenize(sentence), "[SEP]"]
            ids = torch.tensor([tokenizer.convert_tokens_to_ids(pair)])
            second = torch.tensor([[0] * (pair.index("[SEP]") + 1) + [1] * (len(pair) - pair.index("[SEP]") - 1)])
            with torch.inference_mode():
                found.append(labels[int(model(input_ids=ids, token_type_ids=second).logits.argmax())])
    assert len(set(found)) > 1
    assert entailment(prompts, texts, tmp_path) == {
        "entailed": found.count("ENTAILMENT") / 24,
        "contradicted": found.count("contradiction") / 24,
    }
    model.classifier.bias.data = torch.tensor([0.0, 0.0, 1e6])
    model.save_pretrained(tmp_path)
    report = measured(["run"], Settings(generate=2, entailment=tmp_path, **CPU))
    for column in (report["runs"][0]["generated"], report["truth"]):
        assert (column["entailed"], column["contradicted"]) == (0.0, 1.0)
    model.config.id2label = {0: "good", 1: "bad", 2: "ugly"}
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="^--entailment .*: its labels are good, bad, ugly: name a model that tells"):
        entailment(prompts, texts, tmp_path)
    with pytest.raises(ValueError, match=r"^--entailment .*absent: cannot be read as a model \(.+\)$"):
        entailment(prompts, texts, tmp_path / "absent")


def test_bertscore_of_a_local_model(tmp_path: Path) -> None:
    tiny_bert(tmp_path, "BertModel")
    texts = ["Dorothy went to the castle.", "the Lion looked at Toto"]
    assert bertscore(texts, texts, tmp_path) == pytest.approx(1.0, abs=1e-5)
    assert bertscore(texts, texts[::-1], tmp_path) < 0.99
    with pytest.raises(ValueError, match=r"^--bertscore .*absent: cannot be used \(.+\)$"):
        bertscore(texts, texts, tmp_path / "absent")


# -------------------------------------------------------------------------------------------- pages
@pytest.fixture(scope="module")
def both(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Two runs side by side, everything measured; the second one's weights are the first one's, its
    name is not.
    """
    patch = pytest.MonkeyPatch()
    patch.chdir(finished)
    shutil.copytree(finished / "run", finished / "<img src=x>", dirs_exist_ok=True)
    other = tmp_path_factory.mktemp("other") / "other.txt"
    other.write_text("The ship sailed over a cold sea, and nobody said a word. " * 40, encoding="utf-8")
    try:
        settings = Settings(baselines=True, generate=3, pairs=True, against=str(other), **CPU)
        return measure(["run", "<img src=x>"], settings)
    finally:
        patch.undo()


def test_several_runs_side_by_side(both: Evaluation) -> None:
    written = as_json(both)
    first, second = written["runs"]
    assert (first["run"], second["run"]) == ("run", "<img src=x>")
    # The same weights and the same seed: the same figures, what was generated included.
    same = {"run": "", "more": 0.0, "more_low": 0.0, "more_high": 0.0}
    assert first | same == second | {"run": ""}
    assert set(first) >= {"generated", "bias", "grammar", "samples", "positions", "passages", "bits_per_byte"}
    assert set(first["generated"]) >= {
        "bleu",
        "chrf",
        "rougeL",
        "distinct_2",
        "self_bleu",
        "memorised",
        "style",
        "delta",
    }
    assert set(written["truth"]) >= {"distinct_2", "memorised", "delta"}
    assert not {"bleu", "faithfulness"} & set(written["truth"])
    # Once for both runs
    assert len([row for row in written["baselines"] if row["kind"] == "tokens"]) == 7
    assert [row["kind"] for row in first["bias"]][:2] == ["occupation, he expected", "occupation, she expected"]
    assert json.loads(json.dumps(written)) == written


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_the_pages_show_hostile_text_as_text(both: Evaluation, tmp_path: Path) -> None:
    hostile = '</style><script src="https://evil.example/a.js">|`$x$` [a](http://evil.example) \x1b[31m & \0'
    report = copy.deepcopy(both)
    first = report.runs[0]
    assert first.samples
    assert first.bias
    first.run = first.samples[0].written = hostile
    first.passages.worst[0].pieces[0] = (hostile, 1.0)
    first.bias[0] = replace(first.bias[0], kind=hostile)
    report.text.name = report.command = hostile
    report.left_out = [hostile]
    write_report(report, tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert "script" not in page.tags
    harmless = "html|head|meta|title|style|body|h1|h2|h3|h4|p|div|table|tr|th|td|figure|img|figcaption|span|b"
    assert all(re.fullmatch(harmless, tag) for tag in page.tags)
    assert all(value.startswith("data:image/png;base64,") for name, value in page.attributes if name in ("src", "href"))
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.shown.count('<script src="https://evil.example/a.js">') >= 5
    assert not [c for c in source if not c.isprintable() and c != "\n"]
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<" not in markdown
    assert "http://" not in markdown
    assert "https://" not in markdown
    rows = [line for line in markdown.split("\n") if line.startswith("|") and ("a word" in line or "; bpe" in line)]
    cells = {line.replace("\\|", "").count("|") for line in rows}
    assert len(rows) == 3
    assert len(cells) == 1  # a bar in a name is no column


def test_the_pages_hold_the_figures_and_open_alone(both: Evaluation, tmp_path: Path) -> None:
    write_report(both, tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page, markdown = Page(source), (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "http://" not in source
    assert "https://" not in source
    for text in (page.shown, markdown):
        assert f"{both.runs[0].bits_per_byte:.4f}" in text
        for row in both.baselines or []:
            assert f"{row.bits_per_byte:.4f}" in text
        for said in ("42.70", "300.00", "16.30", "24.5", BIAS_LIMITS[:60], GRAMMAR_LIMITS[:60]):
            assert said in text
        for line in both.left_out:
            assert line.split(":")[0] in text
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == [
        "bias.png",
        "bits_per_byte.png",
        "grammar.png",
        "memorised.png",
        "passages.png",
        "positions.png",
    ]
    assert all(f"]({name})" in markdown for name in pictures)
    assert (
        source.count("data:image/png;base64,") == len(pictures) - 1
    )  # where there is colour, the passages have it themselves
    assert all((tmp_path / name).stat().st_size < 100_000 for name in pictures)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(both, tmp_path)
    # Made again, the same
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_one_page_for_a_documentation_has_its_pictures_in_a_folder_of_its_name(
    both: Evaluation, tmp_path: Path
) -> None:
    write_report(both, tmp_path / "results.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "results.md"]
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (tmp_path / "results.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"results/{path.name}" for path in (tmp_path / "results").iterdir())
    assert len(shown) == 6


def test_the_surprise_of_a_token_is_its_colour(both: Evaluation) -> None:
    assert [heat(bits) for bits in (-1.0, 0.0, 6.0, 12.0, 30.0)] == [0.0, 0.0, 0.3, 0.6, 0.6]
    report = copy.deepcopy(both)
    report.runs = report.runs[:1]
    passage = ScoredPassage(bits_per_byte=1.0, pieces=[("ab\n", 6.0), ("$c$ " * 30, 0.0)])
    report.runs[0].passages = Extremes(worst=[passage], best=[passage])
    (axes,) = draw_passages(report).axes
    assert [(patch.get_x(), patch.get_alpha()) for patch in axes.patches] == [(0, 0.3), (1, 0.3)] * 2
    letters = [text for text in axes.texts if text.get_family() == ["monospace"]]
    assert "".join(text.get_text() for text in letters) == ("ab" + "$c$ " * 30) * 2
    assert max(text.get_position()[0] for text in letters) < 80


# ---------------------------------------------------------------------------------- what is missing
def test_without_an_extra_the_rest_is_made(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sacrebleu", "rouge_score", "rouge_score.rouge_scorer", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    report = measured(["run"], Settings(generate=2, gpt2=[here], bertscore=here, entailment=here, **CPU))
    metrics = "pip install -e '.[metrics]'"
    assert f"BLEU and chrF need: {metrics}" in report["left_out"]
    assert f"ROUGE needs: {metrics}" in report["left_out"]
    assert f"BERTScore needs: {metrics}" in report["left_out"]
    assert f"entailment needs: {metrics}" in report["left_out"]
    assert f"--gpt2 {here} needs: {metrics}" in report["left_out"]
    generated = report["runs"][0]["generated"]
    assert "distinct_2" in generated
    assert not {"bleu", "chrf", "rouge1", "self_bleu", "bertscore"} & set(generated)


def test_the_command_writes_pages_and_one_json_object(
    here: Path, command: Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = command("evaluate", "run", "--report", str(tmp_path / "r"), "--generate", "2", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    main(["evaluate", "run", "--json", "--device", "cpu"])
    plain = json.loads(capsys.readouterr().out)
    assert set(plain) == {"run", "step", "split", "overlap", "loss", "bits_per_byte", "perplexity", "tokens", "bytes"}
    assert report["runs"][0]["bits_per_byte"] == pytest.approx(plain["bits_per_byte"], rel=1e-5)
    assert report["runs"][0]["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert report["text"]["bytes"] == plain["bytes"]
    assert {"runs", "baselines", "article", "truth", "left_out", "settings"} <= set(report)
    assert {path.name for path in (tmp_path / "r").iterdir()} >= {"report.md", "report.html", "bits_per_byte.png"}
    assert json.loads((tmp_path / "r" / "report.json").read_text(encoding="utf-8")) == report
    assert "left out: GPT-2" in done.stderr
    assert done.stderr.splitlines()[-1] == f"report: {tmp_path / 'r' / 'report.html'}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run", "nowhere"), "nowhere is no run folder"),
        (("run", "--gpt2", "absent"), "--gpt2 absent: there is no such folder"),
        (("run", "--generate", "2", "--bertscore", "absent"), "--bertscore absent: there is no such folder"),
        (("run", "--generate", "2", "--entailment", "absent"), "--entailment absent: there is no such folder"),
        (("run", "--data", "absent.txt"), "--data absent.txt: there is no such file"),
        (("run", "--generate", "2", "--against", "absent.txt"), "--against absent.txt: there is no such file"),
        (("run", "--crows", "story.txt"), "story.txt has no column sent_more"),
        (("run", "--report", "story.txt"), "--report story.txt cannot be made"),
        (("run", "--split", "train", "--baselines"), "--split train: baselines and generated text"),
        (("run", "--generate", "2", "--seed", "-1"), "--generate, --stories and --seed must be 0 or more"),
        (("run", "--pairs", "--overlap", "1"), "--overlap 1.0: must be at least 0"),
        (("run", "--pairs", "--faithfulness"), "--faithfulness is of generated text: add --generate N"),
        (("run", "--ensemble"), "--ensemble: name several runs that have one tokenizer"),
    ],
)
def test_mistakes_cost_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], line: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments, "--device", "cpu"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_an_ensemble_gives_each_token_the_mean_of_the_probabilities(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [-np.log([0.5, 0.001]), -np.log([0.25, 0.003])]
    np.testing.assert_allclose(mean_probability(given), -np.log([0.375, 0.002]))

    def another(name: str, device: str, text: str = "required") -> RunWithData:
        one = open_with_data("run", device)
        with torch.no_grad():
            for weight in one.run.model.parameters():
                weight.mul_(0.5 if name == "other" else 1)
        return one

    monkeypatch.setattr("llm_from_scratch.evaluation.measure.open_with_data", another)
    report = measured(["run", "other"], Settings(ensemble=True, **CPU))
    opened = [another(name, "cpu") for name in ("run", "other")]
    text = Text("held out", tuple(opened[0].prepared.documents("val")), whole=False)
    each = [likelihood(one.run, text, keep_nats=True).nats for one in opened]
    assert each[0] is not None
    assert each[1] is not None
    bits = -np.log2((np.exp(-each[0]) + np.exp(-each[1])) / 2).sum(dtype=float) / len(text.joined.encode())
    (row,), first = report["baselines"], report["runs"][0]
    assert (row["name"], row["bits_per_byte"]) == ("2 runs together", pytest.approx(bits))
    assert row["more"] == pytest.approx(bits - first["bits_per_byte"])
    assert bits < np.mean([run["bits_per_byte"] for run in report["runs"]])


def test_runs_that_hold_out_different_texts_need_one_text(here: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(here / "run", other)
    config = as_version_0_1(other / "config.yaml")
    assert config.count("val_fraction: 0.1\n") == config.count("init_from: null\n") == 1
    # A fine-tuned run keeps the tokenizer of the one it began with.
    config = config.replace("val_fraction: 0.1\n", "val_fraction: 0.2\n").replace("init_from: null", "init_from: run")
    (other / "config.yaml").write_text(config, encoding="utf-8")
    settings = check(read_config(other / "config.yaml"), Config)
    prepared = prepare(settings.data, settings.tokenizer, tokenizer=load_model(other).tokenizer)
    facts = json.loads((other / "model/config.json").read_text(encoding="utf-8"))
    facts["data"] = prepared.manifest["sha256"]  # as a training on that text says it
    del facts["config_sha256"]
    (other / "model/config.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(
        ValueError, match="^.*other holds out another text than run: name one text for all with --data$"
    ):
        measured(["run", str(other)], Settings(**CPU))
    both = measured(["run", str(other)], Settings(data="story.txt", **CPU))["runs"]
    assert both[0]["bits_per_byte"] == both[1]["bits_per_byte"]


def test_copies_are_shown_where_the_first_run_has_no_training_text(both: Evaluation, tmp_path: Path) -> None:
    report = copy.deepcopy(both)
    assert report.runs[0].generated
    report.runs[0].generated.memorised = None
    write_report(report, tmp_path / "results.md")
    rows = (tmp_path / "results.md").read_text(encoding="utf-8").splitlines()
    (row,) = (row for row in rows if row.startswith("| copied, 20 characters or more "))
    first, second, true = [cell.strip() for cell in row.strip("|").split("|")][1:]
    assert first == ""
    assert second.endswith("%")
    assert true.endswith("%")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_summary_and_the_tables_fit_the_terminal(both: Evaluation, columns: int) -> None:
    report = copy.deepcopy(both)
    report.runs[1].run = "a run with a name that is longer than any column has room for"
    report.runs += [replace(report.runs[1], run=f"run {number}") for number in range(9)]
    report.left_out = ["BLEU and chrF need something " * 9] * 3
    # The last line is the page's path
    for printing, most in ((print_summary, 19), (print_tables, 999)):
        written = io.StringIO()
        printing(report, Console(width=columns, file=written))
        lines = written.getvalue().splitlines()
        assert len(lines) <= most
        assert max(map(len, lines)) <= columns
        assert any(f"{report.runs[0].bits_per_byte:.4f}" in line for line in lines)
    summary = io.StringIO()
    print_summary(report, Console(width=columns, file=summary))
    assert "why 3 figures are left out" in " ".join(summary.getvalue().split())
    assert ("too narrow here for:" in written.getvalue()) == (columns < 200)


def test_a_report_ends_with_the_path_of_its_page(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for given, page in (("pages", "pages/report.html"), ("one.md", "one.md")):
        main(["evaluate", "run", "--report", given, "--generate", "1", "--device", "cpu"])
        out, _ = capfd.readouterr()
        lines = out.splitlines()
        assert lines[-1] == f"report: {page}"
        assert Path(page).is_file()
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 80
        assert len([line for line in lines if line.startswith("Kneser-Ney")]) >= 2


def test_the_tables_in_the_terminal_show_names_as_they_are(both: Evaluation) -> None:
    both = copy.deepcopy(both)
    both.runs[0].run = "a[red]b\x1b[31m"
    console = Console(width=200, record=True, file=io.StringIO())
    print_tables(both, console)
    shown = console.export_text()
    assert "a[red]b [31m" in shown
    assert "\x1b" not in shown
    for said in (
        f"{both.runs[0].bits_per_byte:.4f}",
        "Kneser-Ney 4, characters",
        "42.70",
        "occupation, he expected",
    ):
        assert said in shown
    assert BIAS_LIMITS[:60] in " ".join(shown.split())
