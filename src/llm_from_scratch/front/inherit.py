"""Settings taken from another run: all for `resume`, model shape and tokenizer for `init_from`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llm_from_scratch.errors import UserError
from llm_from_scratch.front.words import main_config_dir, parse
from llm_from_scratch.terminal import quote

# Settings that a choice of `trainer` replaces together: trainer=cpu after trainer=ddp_cpu is one
# process.
HARDWARE = {"accelerator", "devices", "num_nodes", "strategy"}
# Settings of model, data and tokenizer that a resumed run may change: neither shapes nor text
# follow them.
CHANGEABLE = ("model.dropout", "data.dir", "data.path", "data.micro_batch_size")
# Settings that a resumed run can no longer change, with the advice for each.
SETTLED = {
    "task": "its folder has its name already; leave it out",
    "init_from": "its weights are in its checkpoints; leave it out, or start a new run",
    "prepare.engine": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
    "prepare.workers": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
    "prepare.task": "its text is prepared; where that is gone, `python -m llm_from_scratch prepare` makes it again",
}
# Settings of the model that weights do not decide: a run with `init_from` may choose them.
OWN_MODEL = ("dropout", "init_std", "block_size", "rope_base", "rope_scaling")


def final_config(config: DictConfig, job: Sequence[str]) -> DictConfig:
    """The configuration of a job: composed, or for `resume=RUN` saved and then overridden.

    A group's choice, such as `trainer=gpu`, changes what its own file sets and leaves the rest as
    it was saved. With `init_from=RUN` the model's shape and the tokenizer are those of that run.

    Raises:
        UserError: in one line, where an override would change the shapes, the data or the tokenizer
            of the run.
    """
    if "trainer" in config and "logger" not in config:  # logger=[]: none of them
        OmegaConf.set_struct(config, False)
        config.logger = {}
    if not config.get("resume"):
        _take_shape(config, job)
        return config
    from llm_from_scratch.check import as_config
    from llm_from_scratch.config import Config
    from llm_from_scratch.saved_config import read_run, refuse_foreign_code

    saved = read_run(Path(config.resume))
    result = as_config(saved | {"resume": config.resume, "run_dir": config.resume})
    for override in parse(job):
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        if override.is_delete():
            raise UserError(
                f"~{key}: a resumed run has all its settings: give the value that it is to have, {key}=VALUE"
            )
        if (Path(main_config_dir()) / key).is_dir():
            value = override.value()
            choices = value if isinstance(value, list) else [value]
            names = {name for choice in choices for name in _set_by(key, choice) if name != "task"}
            if key == "trainer":
                names |= {f"trainer.{name}" for name in HARDWARE}
            if key == "logger":
                names.add("logger")  # the whole mapping: a logger that is not chosen again goes
        else:
            names = {key}
        for name in names:
            OmegaConf.update(result, name, OmegaConf.select(config, name), merge=False, force_add=True)
    defaults = asdict(Config())  # a run may be older than a setting
    run = OmegaConf.merge(as_config(defaults), as_config(saved))
    fixed = [f"{group}.{name}" for group in ("model", "data", "tokenizer") for name in defaults[group]]
    for key in (*fixed, "optim.name", "optim.custom._target_", *SETTLED):
        before, now = OmegaConf.select(run, key), OmegaConf.select(result, key, default=OmegaConf.select(run, key))
        if now != before and key not in CHANGEABLE:
            advice = f"to change it, start a new run ({quote(f'init_from={config.resume}')} takes over its weights)"
            raise UserError(f"{key}={now}: the resumed run has {before}; {SETTLED.get(key, advice)}")
    refuse_foreign_code(*(OmegaConf.to_container(each, resolve=True) for each in (result, config)))  # type: ignore[arg-type]
    return result


def _take_shape(config: DictConfig, job: Sequence[str]) -> None:
    """Sets the model's shape and the tokenizer to those of the run whose weights the new one starts
    from.

    A setting that the job gives must agree with that run. The settings of OWN_MODEL are free: the
    job's value counts if it gives one, else the other run's. A file of torch's holds weights alone,
    and decides nothing.

    Raises:
        UserError: the job asks for another shape or tokenizer, or there is no such run.
    """
    if not isinstance(config.get("init_from"), str):
        return

    from llm_from_scratch.tokenizer import load_tokenizer
    from llm_from_scratch.weights import PICKLES, model_folder, saved_settings

    if Path(config.init_from).suffix in PICKLES:
        return
    origin = Path(config.init_from)
    model = saved_settings(origin)["model"]
    tokenizer = load_tokenizer(model_folder(origin))
    brought = {f"model.{name}": value for name, value in model.items() if name in config.model}
    brought |= {
        "tokenizer.kind": tokenizer.kind,
        "tokenizer.vocab_size": tokenizer.vocab_size if tokenizer.kind == "bpe" else None,
    }
    asked: dict[str, str] = {}  # setting -> the override that sets it
    for override, word in zip(parse(job), job, strict=True):
        key, value = override.key_or_group, override.value()
        if (Path(main_config_dir()) / key).is_dir():
            choices = value if isinstance(value, list) else [value]
            asked |= {name: f"{word} sets {name}" for choice in choices for name in _set_by(key, choice)}
        else:
            asked[key] = key
    for name, value in brought.items():
        now = OmegaConf.select(config, name)
        group, _, inner = name.partition(".")
        free = inner in OWN_MODEL and not (inner == "block_size" and model["position"] == "learned")
        if group == "model" and free and (name in asked or inner in ("dropout", "init_std")):
            continue
        if name in asked and now != value:
            what = "tokenizer" if group == "tokenizer" else "model"
            raise UserError(f"{asked[name]}={now}: init_from={origin} brings its own {what}, of {value}: leave it out")
        OmegaConf.update(config, name, value)


def _set_by(group: str, choice: Any) -> Iterator[str]:
    """The settings in the file of a group's choice; for an experiment, with those of its
    defaults.
    """
    file = Path(main_config_dir()) / group / f"{choice}.yaml"
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
            yield from _set_by(str(other).removeprefix("override").strip().lstrip("/"), name)
    yield from _names(content)


def _names(content: Mapping[Any, Any]) -> Iterator[str]:
    """The settings of a file of `@package _global_`, without Hydra's own."""
    from llm_from_scratch.config import Config

    for key, value in content.items():
        if is_dataclass(getattr(Config(), str(key), None)) and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in value)
        elif key != "hydra":
            yield str(key)


def may_fetch(config: DictConfig, composed: DictConfig, job: Sequence[str]) -> bool:
    """Whether a job may download: it is a new run, or the user has given `data` again on resume."""
    given = any(override.key_or_group in ("data", "data.url", "data.download") for override in parse(job))
    same = all(
        OmegaConf.select(config, f"data.{name}") == OmegaConf.select(composed, f"data.{name}")
        for name in ("name", "file", "url", "layouts", "download", "downloads", "corpora", "dir")
    )
    return not composed.get("resume") or (given and same)
