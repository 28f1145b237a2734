"""The model card of a run, README.md of its export: data, recipe, figures, limits, versions.

    config.yaml, metrics.jsonl, environment.json, model/, a report of `evaluate` -> one page

A card is published, so no path of this machine is in it. A figure that nobody measured is named
with the command that measures it.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from llm_from_scratch import environment
from llm_from_scratch.checkpoint import MALFORMED, read_json, reason
from llm_from_scratch.config import Config
from llm_from_scratch.data.prepared import find_prepared
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import refuse_links
from llm_from_scratch.huggingface.families import Family, family_of
from llm_from_scratch.pages import Block, Heading, Paragraph, Table, markdown
from llm_from_scratch.run import RunFolder, data_fingerprint, loss_unit
from llm_from_scratch.weights import LoadedModel

# The rights in the texts that have a name here. Those in a model's weights are for whoever
# publishes it to decide.
RIGHTS = {
    "oz": "public domain: L. Frank Baum, 1900 (Project Gutenberg eBook 55)",
    "shakespeare": "public domain: William Shakespeare",
    "tales": "made by this program (data=tales)",
    "stdlib": "Python Software Foundation License",
    "openwebtext": "pages of many authors, who keep their rights",
}
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")  # an identifier, as the Hugging Face hub lists them
REPORT = "report.json"
EXAMPLE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
{prompt}
print(tokenizer.decode(model.generate(**ids, max_new_tokens=100, do_sample=True)[0]))
```
"""
OF_A_TEXT = 'ids = tokenizer("PROMPT", return_tensors="pt")'
OF_A_CHAT = """messages = [{"role": "user", "content": "MESSAGE"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""


def model_card(trained: LoadedModel, run: Path, *, name: str | None = None, licence: str | None = None) -> str:
    """Returns the text of README.md for the model of a run.

    Args:
        trained: the model, from `load_model`.
        run: its run folder.
        name: the heading; None: the task of the run.
        licence: of the weights, an identifier such as apache-2.0; None: unknown.

    Raises:
        UserError: when no class of transformers computes the model, a file of the run is damaged,
            or the licence is no identifier.
    """
    assert trained.step is not None, "a card is made from a run"
    if licence is not None and not LICENCE.fullmatch(licence):
        raise UserError(f"licence={licence!r:.60} must be an identifier, such as mit, apache-2.0 or cc-by-4.0")
    family = family_of(trained.model.config)
    config = RunFolder(run).config()
    measured = _measured(run, trained.step)
    front = {
        "license": licence or "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llm-from-scratch", family.model_type],
    }
    start: list[Block] = [Heading(1, name or config.task), Paragraph(_what(trained, config, family))]
    more: list[Block] = [*_data(run, config), *_recipe(trained, config), *_figures(trained, run, measured)]
    more += [*_purpose(trained, config), *_bias(measured), *_memorisation(measured), *_versions(run)]
    example = EXAMPLE.format(prompt=OF_A_TEXT if trained.chat_template is None else OF_A_CHAT)
    if licence is None:
        more.append(Paragraph("The licence of the weights is not stated: whoever publishes them has to state one."))
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{markdown(start)}\n{example}\n{markdown(more)}"


def _what(trained: LoadedModel, config: Config, family: Family) -> str:
    model = trained.model
    begin = "the weights of another model" if config.init_from else "random weights"
    return (
        f"A language model of {model.num_parameters():,} parameters ({family.architecture}: {model.config.n_layer} layers, "
        f"width {model.config.n_embd:,}, context {model.config.block_size:,} tokens), trained by LLMfromScratch from {begin}."
    )


# ---------------------------------------------------------------------------------- data and recipe
def _data(run: Path, config: Config) -> list[Block]:
    """Returns the table of corpora, with the counts of the prepared text where it is at hand."""
    known = data_fingerprint(run)
    prepared = find_prepared(Path(config.data.dir) / config.data.name, known) if known else None
    if config.data.mix:
        weights = {name: f"{weight:g}" for name, weight in config.data.mix.items() if weight}
        texts = dict(zip(prepared.manifest["corpora"], prepared.parts, strict=True)) if prepared else {}
    else:
        weights = {config.data.name: ""}
        texts = {config.data.name: prepared} if prepared else {}
    rows = []
    for name, weight in weights.items():
        splits = texts[name].manifest["splits"].values() if name in texts else ()
        counts = [f"{sum(split[key] for split in splits):,}" if splits else "" for key in ("documents", "text_bytes")]
        rows.append([name, weight, *counts, RIGHTS.get(name, "not known to this card")])
    header = ["corpus", "weight", "documents", "bytes of text", "rights"]
    parts: list[Block] = [Heading(2, "Data"), Table("What it was trained and validated on", header, rows)]
    if known:
        parts.append(Paragraph(f"Fingerprint of the prepared text: {known}"))
    return parts


def _recipe(trained: LoadedModel, config: Config) -> list[Block]:
    """Returns the table of the settings that decide a training."""
    optim, data, model = config.optim, config.data, trained.model.config
    kind = " pairs" if config.loss.name == "dpo" else ""
    sequences = f"{data.batch_size}{kind} of {config.model.block_size} tokens"
    rows = [
        ["trained of the model it started from", _fine_tuned(config)],
        ["loss", f"of pairs of answers (DPO), beta {config.loss.beta:g}" if config.loss.name == "dpo" else ""],
        ["optimizer", optim.name],
        ["learning rate", f"{optim.lr:g}, {optim.schedule}, {optim.warmup_steps} steps of warm-up"],
        ["weight decay", f"{optim.weight_decay:g}"],
        ["sequences a step", sequences + (" at most, by data.batch_schedule" if data.batch_schedule else "")],
        ["steps", f"{config.trainer.max_steps:,}, of which the best validation was after {trained.step:,}"],
        ["dropout", f"{config.model.dropout:g}"],
        ["average of the weights", "" if optim.ema_decay is None else f"decay {optim.ema_decay:g}"],
        ["precision", config.trainer.precision],
        ["seed", str(config.seed)],
        ["tokenizer", f"{trained.tokenizer.kind}, {trained.tokenizer.vocab_size:,} tokens"],
        ["positions", model.position + (f", base {model.rope_base:g}" if model.position == "rotary" else "")],
    ]
    return [Heading(2, "Training"), Table("The recipe", ["setting", "value"], [row for row in rows if row[1]])]


def _fine_tuned(config: Config) -> str:
    """Returns which weights were trained; "" for a model that began with random ones."""
    finetune = config.finetune
    if config.init_from is None:
        return ""
    if finetune.method == "lora":
        return f"adapters of rank {finetune.rank}, alpha {finetune.alpha:g} (LoRA), merged into its weights"
    if finetune.method == "head":
        return "the matrix before the logits"
    return "all weights" + (f" but those of {', '.join(finetune.freeze)}" if finetune.freeze else "")


# ------------------------------------------------------------------------------------------ figures
def _measured(run: Path, step: int) -> dict[str, Any] | None:
    """Returns the newest report of `evaluate` in the run folder about the model of that step.

    It has the keys of `results.Evaluation`, and the run's own figures under `own`.

    Raises:
        UserError: when a report is damaged.
    """
    found = [path for pattern in (REPORT, f"*/{REPORT}") for path in run.glob(pattern)]
    for path in sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path)):
        refuse_links(path, run)
        try:
            report = read_json(path)
            own = next((one for one in report["runs"] if one["step"] == step), None)
            if own is not None:
                text = str(report["text"]["name"])
                return {
                    "text": f"{Path(text).name}, {report['text'].get('split') or 'all of it'}",
                    "figures": [
                        ["bits per byte", f"{own['bits_per_byte']:.4f}"],
                        ["perplexity a word", f"{own['perplexity_word']:.2f}"],
                    ],
                    "bias": [_preference(one) for one in own.get("bias") or []],
                    "limits": str(report.get("bias_limits", "")),
                    "copies": _copies(own.get("generated") or {}),
                }
        except MALFORMED as error:
            raise UserError(f"{path}: damaged ({reason(error)}): delete it, or evaluate anew") from None
    return None


def _preference(one: dict[str, Any]) -> list[str]:
    share, low, high = (f"{one[key]:.1%}" for key in ("share", "low", "high"))
    return [str(one["kind"]).replace("_", " "), f"{one['pairs']:,}", share, f"{low} – {high}"]


def _copies(generated: dict[str, Any]) -> list[list[str]]:
    rows = [
        [f"characters in copies of {int(length)} characters and more", f"{share:.1%}"]
        for length, share in (generated.get("memorised") or {}).items()
    ]
    longest = generated.get("memorised_longest_characters")
    return rows + ([] if longest is None else [["longest copy", f"{longest:,} characters"]])


# Measures of a validation row, by their names on the card; a run has those of its loss.
FIGURES = {
    "bits per byte": "bits_per_byte",
    "perplexity a token": "perplexity",
    "pairs of answers right": "accuracy",
    "margin of the rewards": "margin",
}


def _figures(trained: LoadedModel, run: Path, measured: dict[str, Any] | None) -> list[Block]:
    """Returns the figures of the best validation, and those of a report."""
    best = RunFolder(run).best()
    rows = [[f"loss ({loss_unit(best or {})})", f"{trained.loss:.4f}", "validation split"]]
    if best is not None and best["step"] == trained.step:
        rows += [
            [name, f"{best[key]:.4f}", "validation split"]
            for name, key in FIGURES.items()
            if isinstance(best.get(key), int | float)
        ]
    if measured is not None:
        rows += [[name, value, f"evaluate: {measured['text']}"] for name, value in measured["figures"]]
    return [Heading(2, "Figures"), Table(f"After {trained.step:,} steps", ["figure", "value", "text"], rows)]


# ------------------------------------------------------------------------------------------- limits
def _purpose(trained: LoadedModel, config: Config) -> list[Block]:
    name = "these corpora" if config.data.mix else config.data.name
    use = (
        f"continuing text of the kind of {name}. It completes text: it was not taught to follow instructions unless the"
    )
    use += " recipe says so."
    if trained.chat_template is not None:
        use = "answering messages in the form of its chat template."
    return [
        Heading(2, "What it is for"),
        Paragraph(f"Learning how language models work, and {use}"),
        Paragraph(
            "It is not for facts, advice, decisions about people or anything that others rely on: it writes what is likely after"
            " its training text, true or not, and can repeat that text and its prejudices."
        ),
    ]


def _bias(measured: dict[str, Any] | None) -> list[Block]:
    parts: list[Block] = [Heading(2, "Bias")]
    if measured is None or not measured["bias"]:
        return [*parts, Paragraph(f"Not measured: {_command('--pairs')}.")]
    header = ["kind", "pairs", "prefers the stereotype", "95 %"]
    parts.append(
        Table("Minimal pairs: the share of which the likelier sentence fits a stereotype", header, measured["bias"])
    )
    return [*parts, *([Paragraph(measured["limits"])] if measured["limits"] else [])]


def _memorisation(measured: dict[str, Any] | None) -> list[Block]:
    parts: list[Block] = [Heading(2, "Memorisation")]
    if measured is None or not measured["copies"]:
        return [*parts, Paragraph(f"Not measured: {_command('--generate 20')}.")]
    return [*parts, Table("Copies of the training text in what it writes", ["figure", "value"], measured["copies"])]


def _command(option: str) -> str:
    return f"evaluate RUN {option} --report RUN/report measures it"


def _versions(run: Path) -> list[Block]:
    parts: list[Block] = [Heading(2, "Versions")]
    entries = environment.read_environment(run)
    if not entries:
        return [*parts, Paragraph("The run folder does not record them.")]
    return parts + [Paragraph(f"From step {entry['step']}: {environment.summary(entry)}") for entry in entries]
