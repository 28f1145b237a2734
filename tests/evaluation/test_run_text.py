"""A run is measured on the text it was trained on, known by its fingerprint."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import as_version_0_1, story
from gguf_models import random_model

from llm_from_scratch.check import check
from llm_from_scratch.checkpoint import save_state
from llm_from_scratch.cli import main
from llm_from_scratch.config import Config
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.errors import UserError, is_bug
from llm_from_scratch.evaluation import measure as measuring
from llm_from_scratch.evaluation import overlap
from llm_from_scratch.evaluation.likelihood import likelihood
from llm_from_scratch.evaluation.measure import Settings, measure
from llm_from_scratch.evaluation.results import Evaluation, as_json
from llm_from_scratch.evaluation.texts import Text
from llm_from_scratch.gguf.write import export
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.run import data_fingerprint
from llm_from_scratch.saved_config import save_config
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import LoadedModel, load_model, save_model

CPU = {"device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """story.txt, data/ and `run`, whose model of characters has not learned anything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(story(6000), encoding="utf-8")
    untrained("run", "story.txt")
    return tmp_path


def untrained(run: str, path: str) -> None:
    """Writes a run whose model of characters has not learned anything of the text at `path`."""
    values: dict[str, Any] = {
        "data": {"name": Path(path).stem, "path": path},
        "tokenizer": {"kind": "char", "vocab_size": None},
    }
    config = check(
        values | {"run_dir": run, "model": {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16}}, Config
    )
    prepared = prepare(config.data, config.tokenizer)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=prepared.tokenizer.vocab_size, **vars(config.model)))
    data = prepared.manifest["sha256"]
    save_model(dict(model.named_parameters()), model.config, prepared.tokenizer, Path(run), step=1, loss=2.0, data=data)
    save_config(config, Path(run, "config.yaml"))


def figures(**options: Any) -> dict[str, Any]:
    report = as_json(measure(["run"], Settings(**options, **CPU)))
    return {
        "bits": report["runs"][0]["bits_per_byte"],
        "text": report["text"]["sha256"],
        "left_out": report["left_out"],
    }


def chapters_in_front(folder: Path) -> None:
    """The tokenizer of characters stays the same; the split moves, so that what was trained on is
    held out.
    """
    text = (folder / "story.txt").read_text(encoding="utf-8")
    (folder / "story.txt").write_text(text[:3000] + text, encoding="utf-8")


def test_a_changed_text_is_not_the_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = figures()
    assert before["left_out"] == []
    chapters_in_front(folder)
    assert figures() == before  # the text that the run saw lies there prepared
    main(["evaluate", "run", "--json", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] == pytest.approx(before["bits"])
    shutil.rmtree("data")
    for options in ({}, {"generate": 1}):
        with pytest.raises(UserError, match=r"^run: the text has changed since the run: .*: put the text back"):
            figures(**options)
    for words in (["evaluate", "run"], ["inspect", "resume=run"], ["prepare", "resume=run"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert "error: run: the text has changed since the run" in capsys.readouterr().err
    assert figures(data="story.txt")["text"] != before["text"]  # which needs none of it
    (line, _) = figures(data="story.txt", baselines=True)["left_out"]
    assert line.startswith("n-grams and compressors: they learn from a run's training text. run: the text has changed")


def test_two_runs_together_are_each_held_against_their_text(folder: Path) -> None:
    shutil.copytree("run", "other")
    together = measure(["run", "other"], Settings(ensemble=True, **CPU))
    assert together.baselines
    assert together.baselines[0].bits_per_byte == pytest.approx(together.runs[0].bits_per_byte)
    facts = json.loads(Path("other/model/config.json").read_text(encoding="utf-8"))
    del facts["config_sha256"]  # as version 0.1 wrote it
    Path("other/model/config.json").write_text(json.dumps(facts | {"data": "0" * 64}), encoding="utf-8")
    with pytest.raises(UserError, match=r"^other: the text has changed"):
        measure(["run", "other"], Settings(ensemble=True, **CPU))


def test_a_run_that_does_not_say_its_text(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = json.loads(Path("run/model/config.json").read_text(encoding="utf-8"))
    del facts["config_sha256"]  # as version 0.1 wrote it
    known = facts.pop("data")
    assert data_fingerprint(Path("run")) == load_model(Path("run")).data == known
    Path("run/model/config.json").write_text(json.dumps(facts), encoding="utf-8")
    assert data_fingerprint(Path("run")) is None
    assert figures()["left_out"] == [f"run: {measuring.UNKNOWN_TEXT}"]
    assert "run: it does not say which text it was trained on" in caplog.text
    # A run of version 0.1 says it in its checkpoints.
    save_state({}, Path("run/checkpoints/step_00000001"), {"tokenizer": "x", "data": known})
    assert data_fingerprint(Path("run")) == known
    assert figures()["left_out"] == []


def test_evaluating_fetches_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = check(
        {
            "data": {"name": "far", "file": "far.txt", "url": "http://evil.example/far.txt"},
            "tokenizer": {"kind": "char", "vocab_size": None},
        },
        Config,
    )
    config.model = replace(config.model, n_layer=1, n_embd=16, n_head=2, block_size=16)
    save_config(config, Path("run/config.yaml"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **settings: pytest.fail("an address was asked"))
    with pytest.raises(UserError, match="data=far: there is no data/far.txt"):
        figures()


def test_a_baseline_that_cannot_be_measured_costs_its_own_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder / "story.txt").read_text(encoding="utf-8").replace("z", "s")
    (folder / "plain.txt").write_text(text.replace("é", "e"), encoding="utf-8")
    untrained("plain", "plain.txt")
    (folder / "scored.txt").write_text("Toto was afraid of the castle. " * 9, encoding="utf-8")
    settings = Settings(data="scored.txt", baselines=True, **CPU)

    together = measure(["run", "plain"], settings)  # the first one's training text has an é
    kinds = [row.kind for row in together.baselines or []]
    assert {kind: kinds.count(kind) for kind in kinds} == {"characters": 7, "tokens": 7, "compressor": 4}
    (line,) = (line for line in together.left_out if line.startswith("plain: n-grams of tokens: "))
    assert "the character 'é'" in line

    monkeypatch.setattr(measuring, "training_text", lambda opened: ["Tot"])
    short = measure(["run"], settings)
    assert {row.kind for row in short.baselines or []} == {"compressor"}
    few = "3 tokens of training text are too few for order 6: give more text"
    assert [f"n-grams of characters: {few}", f"run: n-grams of tokens: {few}"] == short.left_out[:2]


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("evaluation.texts.source_of", {"data": "story.txt"}),
        ("evaluation.continuations.passages", {"generate": 1}),
        ("evaluation.continuations.distinct_n", {"data": "story.txt", "generate": 1}),
        ("evaluation.continuations.bleu", {"data": "story.txt", "generate": 1}),
        ("evaluation.references.causal_model", {"gpt2": [Path()]}),
        ("evaluation.baselines.compressors", {"baselines": True}),
        ("weights.load_tokenizer", {}),
        ("tokenizer.load.CharTokenizer", {}),
    ],
)
def test_a_bug_is_no_figure_that_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, options: dict[str, Any]
) -> None:
    def planted(*_: object, **__: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(f"llm_from_scratch.{place}", planted)
    with pytest.raises(ValueError, match=r"^planted$") as raised:
        figures(**options)
    assert is_bug(raised.value)


def scored(names: list[str], **options: Any) -> Evaluation:
    """An evaluation on a text of its own, of other figures than its likelihood."""
    (Path("other.txt")).write_text(story(3000, seed=1), encoding="utf-8")
    options = {"data": "other.txt", "baselines": True, "generate": 2, "against": "other.txt"} | options
    return measure(names, Settings(**options, **CPU))


def test_a_run_whose_text_is_gone_is_measured_without_it(folder: Path) -> None:
    shutil.copytree("run", "gone")
    config = as_version_0_1(Path("gone/config.yaml"))
    Path("gone/config.yaml").write_text(config.replace("name: story", "name: lost"), encoding="utf-8")
    Path("story.txt").rename("moved.txt")

    gone, whole = scored(["gone"], faithfulness=True), scored(["run"])
    assert gone.runs[0].bits_per_byte == whole.runs[0].bits_per_byte
    assert (gone.baselines, gone.article is not None) == (None, True)
    assert gone.runs[0].generated
    assert gone.truth
    for metrics in (gone.runs[0].generated, gone.truth):
        assert metrics.memorised is metrics.delta is metrics.faithfulness is None
        assert metrics.style
    assert gone.runs[0].generated.bleu is not None
    why = "data.path=story.txt: there is no such file"
    assert any(line.startswith("n-grams and compressors: ") and why in line for line in gone.left_out)
    assert any(line.startswith("gone: copies of its training text") and why in line for line in gone.left_out)
    with pytest.raises(UserError, match=r"^data\.path=story\.txt: there is no such file"):
        figures_of("gone")

    both = scored(["gone", "run"])  # what learns from a training text takes the first one at hand
    assert [row.bits_per_byte for row in both.baselines or []] == [row.bits_per_byte for row in whole.baselines or []]
    assert both.runs[0].generated
    assert both.runs[1].generated
    assert both.runs[0].generated.memorised is None
    assert both.runs[1].generated.memorised is not None


def figures_of(name: str) -> Evaluation:
    return measure([name], Settings(**CPU))


def test_a_model_that_was_trained_elsewhere_has_no_training_text(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model("llama", 4)
    export(model, CharTokenizer("abc"), folder / "model.gguf", dtype="f32")
    (folder / "abc.txt").write_text("abcab" * 300, encoding="utf-8")
    evaluation = measure(["model.gguf"], Settings(data="abc.txt", baselines=True, generate=1, **CPU))
    (result,) = evaluation.runs
    assert (result.run, result.step, evaluation.baselines) == ("model.gguf", None, None)
    text = Text("made", ("abcab" * 300,), whole=False)
    own = LoadedModel(model.eval(), CharTokenizer("abc"), step=None, loss=None)
    assert result.bits_per_byte == pytest.approx(likelihood(own, text).figures["bits_per_byte"], rel=1e-5)
    why = "model.gguf: no training text is known of this model: name a text to score with --data"
    assert f"n-grams and compressors: they learn from a run's training text. {why}" in evaluation.left_out
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "model.gguf", "--device", "cpu"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {why}\n"


def test_a_model_that_was_trained_elsewhere_is_scored_on_what_the_first_run_holds_out(folder: Path) -> None:
    main(["export", "run", "elsewhere", "--to", "hf"])
    elsewhere, run = measure(["elsewhere", "run"], Settings(**CPU)).runs
    assert (elsewhere.step, run.step is None) == (None, False)
    assert elsewhere.bits_per_byte == pytest.approx(run.bits_per_byte, rel=1e-6)
    assert run.bits_per_byte == figures_of("run").runs[0].bits_per_byte
    with pytest.raises(UserError, match=r"^elsewhere: no training text is known of this model: name a text to score"):
        measure(["elsewhere", "elsewhere"], Settings(**CPU))


def test_runs_of_one_text_read_it_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("run", "other")
    calls: Counter[str] = Counter()
    for module, name in ((measuring, "training_text"), (overlap, "_suffix_array")):
        original = getattr(module, name)

        def counted(*arguments: Any, original: Any = original, name: str = name) -> Any:
            calls[name] += 1
            return original(*arguments)

        monkeypatch.setattr(module, name, counted)
    scored(["run", "other"])
    assert calls == {"training_text": 1, "_suffix_array": 1}
