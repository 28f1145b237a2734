"""The model card of a run, its front matter read by YAML and by the hub's own library."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import story

from llm_from_scratch.check import check
from llm_from_scratch.cli import main
from llm_from_scratch.config import Config, FinetuneConfig, LossConfig
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.environment import record_environment
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.pairs import BIAS_LIMITS, Preference
from llm_from_scratch.evaluation.results import (
    Evaluation,
    Extremes,
    GenerationMetrics,
    RunResult,
    TextInfo,
    UsedSettings,
    as_json,
)
from llm_from_scratch.huggingface.card import model_card
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.run import RunFolder, write_rows
from llm_from_scratch.saved_config import save_config
from llm_from_scratch.weights import load_model, save_model


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of ten steps that learned nothing, with its prepared text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(story(6000), encoding="utf-8")
    return untrained(tmp_path / "run", {"name": "text", "path": str(tmp_path / "story.txt")})


def untrained(run: Path, data: dict[str, Any], **values: Any) -> Path:
    values |= {"data": data, "tokenizer": {"kind": "char", "vocab_size": None}, "run_dir": "run"}
    values |= {"task": "A *task*", "model": {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16}}
    config = check(values, Config)
    prepared = prepare(config.data, config.tokenizer)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=prepared.tokenizer.vocab_size, **vars(config.model)))
    sha256 = prepared.manifest["sha256"]
    run.mkdir()
    save_model(dict(model.named_parameters()), model.config, prepared.tokenizer, run, step=10, loss=2.5, data=sha256)
    save_config(config, run / "config.yaml")
    row = {"step": 10, "split": "val", "loss": 2.5, "bits_per_byte": 3.25, "perplexity": 12.18}
    write_rows(run / "metrics.jsonl", [row])
    record_environment(run, 1, "cpu")
    return run


def report(run: Path, step: int) -> None:
    """Writes a report of `evaluate` into the run folder."""
    figures: dict[str, Any] = {"bits_per_byte": 3.3, "perplexity_word": 99.5, "bits_per_character": 3.3}
    own = RunResult(
        **figures,
        run="run",
        step=step,
        parameters=1,
        tokenizer="char",
        positions=[],
        passages=Extremes(worst=[], best=[]),
        bias=[Preference("gender_and_work", 40, 0.625, 0.47, 0.76, 0.1, -0.1, 0.3)],
        generated=GenerationMetrics(
            distinct_1=0.5,
            distinct_2=0.5,
            distinct_3=0.5,
            repetition_4=0.1,
            words=100,
            memorised={"20": 0.25, "50": 0.0},
            memorised_longest_characters=31,
        ),
    )
    text = TextInfo(
        name="/secret/place/story.txt",
        documents=1,
        bytes=600,
        characters=600,
        words=100,
        lines_count=False,
        units="10 blocks",
        sha256="",
        split="val",
    )
    made = Evaluation(
        text=text, settings=UsedSettings(overlap=0.0, seed=1), runs=[own], left_out=[], bias_limits=BIAS_LIMITS
    )
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "report.json").write_text(json.dumps(as_json(made)), encoding="utf-8")


def test_the_card_states_data_recipe_figures_and_versions(run: Path) -> None:
    trained = load_model(run)
    card = model_card(trained, run)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llm-from-scratch", "qwen3"],
    }
    assert "\n# A \\*task\\*\n" in card
    assert f"{trained.model.num_parameters():,} parameters (Qwen3ForCausalLM: 1 layers, width 16" in card
    size = len((run.parent / "story.txt").read_bytes())
    counted = re.search(r"\| text \| ([\d,]+) \| ([\d,]+) \| not known to this card \|", card)
    assert counted is not None
    assert int(counted[2].replace(",", "")) == pytest.approx(size, rel=0.01)
    assert "| bits per byte | 3.2500 | validation split |" in card
    assert "| learning rate | 0.001, cosine, 100 steps of warm-up |" in card
    assert "From step 1: version " in card
    assert "| sequences a step | 32 of 16 tokens |" in card
    assert str(run.parent) not in card  # it is to be published


def test_a_fine_tuned_model_that_answers_says_so(run: Path) -> None:
    whole = RunFolder(run).config()
    lora = {"init_from": "secret/base", "finetune": FinetuneConfig(method="lora", rank=4)}
    save_config(replace(whole, **lora), run / "config.yaml")
    answers = replace(load_model(run), chat_template="{{ messages }}")
    card = model_card(answers, run)
    assert (
        "| trained of the model it started from | adapters of rank 4, alpha 16 (LoRA), merged into its weights |"
        in card
    )
    assert "tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True" in card
    assert "and answering messages in the form of its chat template." in card
    assert "secret" not in card
    plain = model_card(load_model(run), run)
    assert 'ids = tokenizer("PROMPT", return_tensors="pt")' in plain
    assert "It completes text" in plain
    dpo = {"finetune": FinetuneConfig(freeze=["blocks.0"]), "loss": LossConfig(name="dpo")}
    data = replace(whole.data, format="preferences")
    save_config(replace(whole, init_from="secret/base", data=data, **dpo), run / "config.yaml")
    card = model_card(answers, run)
    assert "| trained of the model it started from | all weights but those of blocks.0 |" in card
    assert "| loss | of pairs of answers (DPO), beta 0.1 |" in card
    assert "| sequences a step | 32 pairs of 16 tokens |" in card


def test_what_was_not_measured_is_named_with_its_command(run: Path) -> None:
    card = model_card(load_model(run), run)
    assert "## Bias\n\nNot measured: evaluate RUN --pairs --report RUN/report measures it." in card
    assert "## Memorisation\n\nNot measured: evaluate RUN --generate 20 --report RUN/report measures it." in card
    report(run, step=9)  # of an earlier model of the run
    assert model_card(load_model(run), run) == card


def test_a_report_in_the_run_folder_gives_bias_and_memorisation(run: Path) -> None:
    report(run, step=10)
    card = model_card(load_model(run), run)
    assert "| gender and work | 40 | 62.5% | 47.0% – 76.0% |" in card
    assert BIAS_LIMITS in card
    assert "| characters in copies of 20 characters and more | 25.0% |" in card
    assert "| longest copy | 31 characters |" in card
    assert "| perplexity a word | 99.50 | evaluate: story.txt, val |" in card
    assert "secret" not in card
    (run / "report" / "report.json").write_text('{"runs": [{"step": 10}], "text": {"name": 1}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"report.json: damaged \(KeyError.*\): delete it, or evaluate anew$"):
        model_card(load_model(run), run)


def test_a_mixture_has_a_row_for_each_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / f"{name}.txt").write_text(story(6000), encoding="utf-8")
    corpora = {name: {"name": name, "path": str(tmp_path / f"{name}.txt")} for name in ("first", "second")}
    run = untrained(tmp_path / "run", {"name": "mix", "mix": {"first": 0.75, "second": 0.25}, "corpora": corpora})
    card = model_card(load_model(run), run)
    assert re.search(r"\| first \| 0.75 \| [\d,]+ \| [\d,]+ \|", card)
    assert re.search(r"\| second \| 0.25 \| [\d,]+ \| [\d,]+ \|", card)


def test_the_hubs_own_library_reads_the_front_matter(run: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(model_card(load_model(run), run, name="Oz: a model", licence="cc-by-4.0")).data
    assert (data.license, data.library_name, data.tags) == ("cc-by-4.0", "transformers", ["llm-from-scratch", "qwen3"])
    with pytest.raises(UserError, match=r"^licence='a\\nb' must be an identifier, such as mit"):
        model_card(load_model(run), run, licence="a\nb")


def test_a_run_whose_text_is_gone_has_no_counts(run: Path) -> None:
    for path in (run.parent / "data").rglob("manifest.json"):
        path.unlink()
    assert "| text | not known to this card |" in model_card(load_model(run), run)


def test_export_writes_the_card(run: Path) -> None:
    main(["export", str(run), "out", "--to", "hf"])
    assert (run.parent / "out" / "README.md").read_text(encoding="utf-8") == model_card(load_model(run), run)
