"""Settings of another model: all of a run for `resume`, shape and tokenizer for `init_from`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from llm_from_scratch.config import FOREIGN_KINDS
from llm_from_scratch.errors import UserError
from llm_from_scratch.front.words import main_config_dir, parse
from llm_from_scratch.terminal import quote

if TYPE_CHECKING:
    from llm_from_scratch.config import Config
    from llm_from_scratch.tokenizer import Tokenizer

# Settings that a choice of `trainer` replaces together: trainer=cpu after trainer=ddp_cpu is one
# process.
HARDWARE = {"accelerator", "devices", "num_nodes", "strategy"}
# Settings of model, data and tokenizer that a resumed run may change: neither shapes nor text
# depend on them.
CHANGEABLE = ("model.dropout", "data.dir", "data.path", "data.micro_batch_size", "finetune.dropout")
FIXED = ("model.", "data.", "tokenizer.", "loss.", "finetune.")
# Settings that a resumed run cannot change, with the advice for each.
SETTLED = {
    "task": "its folder has its name already; leave it out",
    "init_from": "its weights are in its checkpoints; leave it out, or start a new run",
    "prepare.engine": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
    "prepare.workers": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
    "prepare.task": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
}
# Settings of the model that the weights do not determine: a run with `init_from` may choose them.
OWN_MODEL = ("dropout", "init_std", "block_size", "rope_base", "rope_scaling")


def final_config(config: DictConfig, job: Sequence[str]) -> DictConfig:
    """Returns the config of a job: the composed one, or for `resume=RUN` the saved one, overridden.

    On resume, a group's choice such as `trainer=gpu` replaces the settings in its own file; the
    others stay as saved. `init_from=MODEL` sets the model's shape and the tokenizer to those of
    that model.

    Raises:
        UserError: when an override would change the shapes, the data or the tokenizer of the run,
            or when the run folder's settings would run foreign code.
    """
    if "trainer" in config and "logger" not in config:  # logger=[] chooses no logger
        OmegaConf.set_struct(config, False)
        config.logger = {}
    if not config.get("resume"):
        _take_shape(config, job)
        return config
    from llm_from_scratch.check import as_config, check, plain
    from llm_from_scratch.config import Config, leaves
    from llm_from_scratch.saved_config import read_run, refuse_foreign_code

    run_dir = str(config.resume)  # a file of the user's may name it by a number
    saved = read_run(Path(run_dir))
    try:
        before = dict(leaves(check(saved, Config)))
    except UserError as error:
        raise UserError(f"{run_dir}/config.yaml: {error}") from None
    before["optim.custom._target_"] = before["optim.custom"].get("_target_")
    result = as_config(saved | {"resume": run_dir, "run_dir": run_dir})
    for override in parse(job):
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        if override.is_delete():
            raise UserError(
                f"~{key}: a resumed run has all its settings: give the value that it is to have, {key}=VALUE"
            )
        if (main_config_dir() / key).is_dir():
            value = override.value()
            choices = value if isinstance(value, list) else [value]
            names = {name for choice in choices for name in _set_by(key, choice) if name != "task"}
            if key == "trainer":
                names |= {f"trainer.{name}" for name in HARDWARE}
            if key in ("logger", "watch"):
                names.add(key)  # the whole mapping: a logger or text that is not chosen again goes
        else:
            names = {key}
        for name in names:
            OmegaConf.update(result, name, OmegaConf.select(config, name), merge=False, force_add=True)
    fixed = [key for key in before if key.startswith(FIXED) and key not in CHANGEABLE]
    for key in (*fixed, "optim.name", "optim.custom._target_", *SETTLED):
        # A run may be older than a setting
        now = OmegaConf.select(result, key, default=before[key])
        if now != before[key]:
            advice = f"to change it, start a new run ({quote(f'init_from={run_dir}')} takes over its weights)"
            raise UserError(f"{key}={now!s:.200}: the resumed run has {before[key]!s:.200}; {SETTLED.get(key, advice)}")
    refuse_foreign_code(asdict(check(result, Config)), plain(config))
    return result


def _take_shape(config: DictConfig, job: Sequence[str]) -> None:
    """Sets the model's shape and the tokenizer in `config` to those of the model in `init_from`.

    A setting that the job gives must agree with that model. The settings of OWN_MODEL are free
    (`block_size` unless positions are learned): the job's value is used if it gives one, else that
    model's, but `dropout` and `init_std` are never taken over. A file of weights alone (.pt, .ckpt)
    changes nothing.

    Raises:
        UserError: when the job asks for another shape or tokenizer, or there is no such model.
    """
    own = config.get("tokenizer", {}).get("kind")
    if config.get("init_from") is None:
        if own in FOREIGN_KINDS:
            raise UserError(
                f"tokenizer.kind={own}: comes with a model of others: name it (init_from=MODEL), or use char, bpe or gpt2"
            )
        return

    from llm_from_scratch.files import open_regular
    from llm_from_scratch.pretrained import find_model
    from llm_from_scratch.weights import PICKLES

    origin = str(config.init_from)
    if Path(origin).suffix in PICKLES:
        try:
            open_regular(Path(origin)).close()
        except OSError as error:
            raise UserError(f"init_from={origin}: cannot be read ({error.strerror}): name a run, or weights") from None
        if own in FOREIGN_KINDS:
            raise UserError(f"tokenizer.kind={own}: init_from={origin} brings weights alone: name the model")
        return
    model, tokenizer = find_model(origin, "init_from").settings()
    if tokenizer.kind == "sentencepiece" and config.data.stream == "text":
        raise UserError(
            f"data.stream=text: the SentencePiece of init_from={origin} puts a space in front of each part of a text: use"
            " data.stream=tokens"
        )
    brought = {f"model.{name}": value for name, value in model.items() if name in config.model}
    brought |= {
        "tokenizer.kind": tokenizer.kind,
        "tokenizer.vocab_size": tokenizer.vocab_size if tokenizer.kind == "bpe" else None,
    }
    asked = _asked(job)
    for name, value in brought.items():
        now = OmegaConf.select(config, name)
        group, _, inner = name.partition(".")
        free = inner in OWN_MODEL and not (inner == "block_size" and model["position"] == "learned")
        if group == "model" and free and (name in asked or inner in ("dropout", "init_std")):
            continue
        if name in asked and now != value:
            what = "tokenizer" if group == "tokenizer" else "model"
            raise UserError(
                f"{asked[name]}={now!s:.200}: init_from={origin} brings its own {what}, of {value!s:.200}: leave it out"
            )
        OmegaConf.update(config, name, value, merge=False)


def _asked(job: Sequence[str]) -> dict[str, str]:
    """Returns setting -> the override that sets it, by itself or in the file of a choice."""
    asked: dict[str, str] = {}  # setting -> the override that sets it
    for override, word in zip(parse(job), job, strict=True):
        key, value = override.key_or_group, override.value()
        if (main_config_dir() / key).is_dir():
            choices = value if isinstance(value, list) else [value]
            asked |= {name: f"{word} sets {name}" for choice in choices for name in _set_by(key, choice)}
        else:
            asked[key] = key
    return asked


def tokenizer_of_origin(config: "Config") -> "Tokenizer | None":
    """Returns the tokenizer of the model that `init_from` names; None if it names none.

    It is None on `resume`, too, and for a file of weights alone (.pt, .ckpt).
    """
    from llm_from_scratch.pretrained import find_model
    from llm_from_scratch.weights import PICKLES

    if config.resume or not config.init_from or Path(config.init_from).suffix in PICKLES:
        return None
    return find_model(config.init_from, "init_from").settings()[1]


def template_of_origin(config: "Config") -> str | None:
    """Returns the chat template of the model whose tokenizer is `tokenizer_of_origin`, or None."""
    from llm_from_scratch.pretrained import find_model
    from llm_from_scratch.weights import PICKLES

    if config.resume or not config.init_from or Path(config.init_from).suffix in PICKLES:
        return None
    return find_model(config.init_from, "init_from").chat_template()


def _set_by(group: str, choice: Any) -> Iterator[str]:
    """Yields the settings in the file of a group's choice.

    For an experiment, those of its defaults list are included.
    """
    file = main_config_dir() / group / f"{choice}.yaml"
    if not file.is_file():  # null: none
        return
    text = file.read_text(encoding="utf-8")
    content = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(content, dict)
    defaults = content.pop("defaults", [])
    if "@package _global_" not in text:
        yield from (f"{group}.{name!s}" for name in content)
        return
    for entry in defaults:
        if isinstance(entry, str):
            yield from _set_by(group, entry)
        else:
            ((other, name),) = entry.items()
            other = str(other).removeprefix("override").strip().lstrip("/")
            if not other.startswith("hydra"):
                yield from _set_by(other, name)
    yield from _names(content)


def _names(content: Mapping[Any, Any]) -> Iterator[str]:
    """Yields the settings of a file of `@package _global_`, without Hydra's own."""
    from llm_from_scratch.config import Config

    for key, value in content.items():
        if is_dataclass(getattr(Config(), str(key), None)) and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in value)
        elif key != "hydra":
            yield str(key)


def may_fetch(config: DictConfig, composed: DictConfig, job: Sequence[str]) -> bool:
    """Returns whether a job may download.

    A new run may. A resumed one may if the user gives `data` again and it names the saved source:
    `config` is the job's final config, `composed` the user's own.
    """
    given = any(override.key_or_group in ("data", "data.url", "data.download") for override in parse(job))
    same = all(
        OmegaConf.select(config, f"data.{name}") == OmegaConf.select(composed, f"data.{name}")
        for name in ("name", "file", "url", "layouts", "download", "downloads", "corpora", "dir")
    )
    return not composed.get("resume") or (given and same)
