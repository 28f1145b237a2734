"""Checks of plain values against the schema; settings without an effect are refused, too."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from llm_from_scratch import mistakes
from llm_from_scratch.config import BatchConfig, Config, DataConfig, keys, leaves, walk
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.places import PATHS, expanded
from llm_from_scratch.ranges import Range, range_of

T = TypeVar("T")


def unknown(key: str, known: list[str]) -> str:
    """Returns the message for the unknown setting `key`.

    It names the equivalent of another program's setting (`mistakes`), or the nearest of `known`.
    """
    known_elsewhere = mistakes.answer(key, "train" if "trainer" in known else "generate")
    if known_elsewhere and key.split(".")[-1] not in {name.split(".")[-1] for name in known}:
        return f"{key}: there is no such setting here: {known_elsewhere}"
    # The last part decides: `optim.learning_rate` and `model.lr` both mean `optim.lr`.
    by_last_part = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    nearest = by_last_part or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"{key}: there is no such setting" + (f"; did you mean {nearest[0]}?" if nearest else "; see --help")


def plain(config: DictConfig) -> dict[str, Any]:
    """Returns a composed configuration as plain values, with its interpolations resolved.

    Raises:
        UserError: for a value that is missing (`???`), or an interpolation that finds none.
    """
    try:
        for key in sorted(OmegaConf.missing_keys(config)):
            raise UserError(f"{key}=???: is OmegaConf's mark of a missing value: give another one")
        values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, UserError):  # a resolver's own
            reason = reason.__context__
        if reason is not None:
            raise UserError(f"{error.full_key}: {reason}") from None
        raise UserError(f"{error.full_key}: {first_line(error, 300)}; ${{NAME}} stands for another setting") from None
    return values


def check(values: Mapping[str, Any] | DictConfig, schema: type[T]) -> T:
    """Returns plain values as an instance of the dataclass `schema`, types and ranges checked.

    Raises:
        UserError: for an unknown key, a wrong type or a value out of range, in one line.
    """
    if isinstance(values, DictConfig):
        values = plain(values)
    typed = OmegaConf.structured(schema)
    for item in fields(schema):  # type: ignore[arg-type]
        if is_dataclass(item.type):
            # A frozen dataclass would refuse the merge
            OmegaConf.set_readonly(typed[item.name], False)
    try:
        merged = OmegaConf.merge(typed, as_config(values))
        for key in PATHS:
            if isinstance(path := OmegaConf.select(merged, key), str) and path.startswith("~"):
                OmegaConf.update(merged, key, escape(expanded(path)))
        config: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except ConfigKeyError as error:
        raise UserError(unknown(error.full_key or str(error.key), keys(schema))) from None
    except (
        OmegaConfBaseException,
        TypeError,
    ) as error:  # TypeError: OmegaConf hashes the value of a setting of several types
        # For an item of a list OmegaConf names only its index.
        key = getattr(error, "full_key", None) or _refused(typed, values)
        where = f"{key}: " if key else ""
        raise UserError(
            where + re.sub(r" for field of type| of type '\w+' ", " ", str(error).splitlines()[0])[:300]
        ) from None
    for key, item, value in walk(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value}: must be a finite number")
        if isinstance(value, str) and not value.strip() and key != "prompt":
            raise UserError(
                f"{key}: the value is empty; leave the setting out to keep its default, or write {key}=null for none"
            )
        meant = mistakes.meant(key, str(value))
        if meant:
            raise UserError(f"{key}={value!s:.200}: write {key}={meant}")
        _check_range(key, value, range_of(item))
    return config


def _check_range(key: str, value: Any, allowed: Range | None) -> None:
    try:
        right = allowed is None or value is None or allowed.holds(value)
    except (TypeError, AttributeError):  # the items of a list or a mapping may have any type
        right = False
    if allowed and not right:
        raise UserError(f"{key}={value!s:.200}: must be {allowed.words}")


def _refused(typed: DictConfig, values: Mapping[str, Any]) -> str:
    """Returns the first setting whose type refuses its value, each merged alone, or ""."""
    for group, value in values.items():
        alone = (
            {f"{group}.{name}": {name: one} for name, one in value.items()}
            if isinstance(value, Mapping)
            else {group: value}
        )
        for key, one in alone.items():
            try:
                OmegaConf.merge(typed, as_config({group: one}))
            except (OmegaConfBaseException, TypeError):
                return key
    return ""


def as_config(values: Any) -> DictConfig:
    """Returns plain values as an OmegaConf config; a `${` in a text is escaped and stays text."""
    return OmegaConf.create(_escaped(values))


def _escaped(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _escaped(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_escaped(value) for value in values]
    return escape(values) if isinstance(values, str) else values


def escape(text: str) -> str:
    """Escapes each `${` for OmegaConf: doubles the backslashes before it, and adds one."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


# Settings of a whole mixture; data=mix takes the other settings of the data for each corpus.
_WHOLE = {"name", "dir", "mix", "corpora", *(item.name for item in fields(BatchConfig))}
_CORPUS = [item.name for item in fields(DataConfig) if item.name not in _WHOLE]
Need = tuple[Callable[[Config], bool], str]
_MUON: Need = (lambda c: c.optim.name == "muon", "optim=muon")
_LORA: Need = (lambda c: c.finetune.method == "lora", "finetune=lora")
_OWN: Need = (lambda c: c.optim.name != "custom", "optim.name=adamw or muon")
_DPO: Need = (lambda c: c.loss.name == "dpo", "loss=dpo")
_DOWNLOAD: Need = (lambda c: c.data.download is not None and c.data.path is None, "data.download=NAME and no data.path")
_NAMED: Need = (
    lambda c: c.data.file is not None and c.data.path is None and c.data.download is None,
    "data.file=NAME, and neither data.path nor data.download",
)
_LAYOUTS: Need = (
    lambda c: bool(c.data.layouts) and c.data.path is None and c.data.download is None,
    "data.layouts, and neither data.path nor data.download",
)
_TEXTS: Need = (lambda c: c.data.format == "text", "data.format=text")
_ROWS: Need = (lambda c: c.data.format != "text", "data=chat or data=preferences")
_PARTS: Need = (_TEXTS[0], "data.format=text: one process prepares the rows of conversations and preferences")
_TALES: Need = (lambda c: c.data.level is not None, "data=tales")
_FILES: Need = (
    lambda c: c.data.format == "text" and c.data.level is None,
    "texts in files: data.format=text, not data=tales",
)
_OF_FILES = ("column", "encoding", "separator")
_OF_TEXTS = (
    "min_chars", "language", "quality", "dedup", "keep_text", "shard_bytes", "stream",
    "subword_dropout", "doc_mask",
)  # fmt: skip
# Setting -> the condition under which it has an effect, and that condition in words.
NEEDS: dict[str, Need] = {
    "model.rope_base": (lambda c: c.model.position == "rotary", "model.position=rotary"),
    "model.init_std": (lambda c: c.init_from is None, "a model of its own: init_from brings the weights"),
    "tokenizer.path": (lambda c: c.tokenizer.kind == "gpt2", "tokenizer=gpt2"),
    "data.file": _NAMED,
    "data.url": _NAMED,
    "data.sha256": _NAMED,
    "data.must_contain": _NAMED,
    "data.layouts": _LAYOUTS,
    "data.published": _LAYOUTS,
    "data.download": (lambda c: c.data.path is None, "a named corpus: leave data.path out"),
    "data.downloads": _DOWNLOAD,
    "data.connections": _DOWNLOAD,
    "data.documents": (
        lambda c: _DOWNLOAD[0](c) and c.data.max_docs is None,
        "data.download=NAME and no data.max_docs",
    ),
    "data.corpora": (lambda c: c.data.mix is not None, "data=mix and data.mix"),
    "data.subset_seed": (lambda c: c.data.fraction < 1, "data.fraction below 1"),
    "data.val_fraction": (
        lambda c: c.data.val_path is None and c.data.generator is None and c.data.level is None,
        "neither data.val_path, data.generator nor data=tales, which bring what is held out",
    ),
    **{f"data.{name}": _TEXTS for name in _OF_TEXTS},
    **{f"data.{name}": _FILES for name in _OF_FILES},
    "data.level": (
        lambda c: c.data.format == "text" and not (c.data.path or c.data.file or c.data.layouts),
        "data=tales, which has no files of its own",
    ),
    "data.stories": _TALES,
    "data.val_stories": _TALES,
    "finetune.freeze": (
        lambda c: c.init_from is not None and c.finetune.method in (None, "full"),
        "init_from=MODEL and finetune=full",
    ),
    "finetune.layer_decay": (
        lambda c: c.init_from is not None and c.finetune.method != "head",
        "init_from=MODEL, and finetune=full or lora",
    ),
    "finetune.rank": _LORA,
    "finetune.alpha": _LORA,
    "finetune.dropout": _LORA,
    "finetune.targets": _LORA,
    "data.path": (
        lambda c: c.data.generator is None and c.data.level is None,
        "no data.generator and no data.level, which bring their own text: use data=text or data=chat",
    ),
    "data.val_path": (
        lambda c: c.data.format != "text" and c.data.generator is None,
        "data=chat or data=preferences, which make no rows of their own",
    ),
    "data.metric": (
        lambda c: c.data.format == "chat" and (c.data.val_path is not None or c.data.generator is not None),
        "data.format=chat and held-out rows: data.val_path or data.generator",
    ),
    **{f"data.{name}": _ROWS for name in ("template", "too_long", "generator")},
    "optim.adamw_lr": _MUON,
    "optim.beta1": _OWN,
    "optim.beta2": _OWN,
    "optim.skip_bad_steps": _OWN,
    "optim.custom": (lambda c: c.optim.name == "custom", "optim.name=custom"),
    "optim.momentum": _MUON,
    "optim.min_lr_ratio": (lambda c: c.optim.schedule != "constant", "an optim.schedule that falls"),
    "optim.decay_fraction": (lambda c: c.optim.schedule == "wsd", "optim.schedule=wsd"),
    "optim.plateau_factor": (lambda c: c.optim.schedule == "plateau", "optim.schedule=plateau"),
    "loss.beta": _DPO,
    "loss.label_smoothing": _DPO,
    "loss.length_normalised": _DPO,
    "sample.show": (lambda c: c.sample.max_new_tokens > 0, "sample.max_new_tokens above 0"),
    "sample.temperature": (lambda c: c.sample.max_new_tokens > 0, "sample.max_new_tokens above 0"),
    "prepare.engine": _PARTS,
    "prepare.workers": _PARTS,
    "prepare.task": (lambda c: False, "`python -m llm_from_scratch prepare`, which makes one part"),
}


def in_effect(config: Config, key: str) -> bool:
    """Returns whether a setting has an effect beside the others of a run."""
    holds, _ = NEEDS.get(key, (None, ""))
    return holds is None or holds(config)


def check_given(config: Config, given: Iterable[str]) -> None:
    """Refuses settings of the user's that have no effect.

    Args:
        config: the whole configuration.
        given: the dotted names of the settings that the user wrote, without groups. A setting at
            its default value is accepted.

    Raises:
        UserError: for the first setting without an effect, with the setting that it needs.
    """
    values, defaults = dict(leaves(config)), dict(leaves(Config()))
    given = list(given)
    for key in given:
        name = next((name for name in values if key == name or key.startswith(f"{name}.")), None)
        if name is None or (name == key and values[key] == defaults[key]):
            continue
        shown = f"{key}={values[key]!s:.200}" if name == key else key
        group, _, inner = key.partition(".")
        if group == "data" and config.data.mix is not None and inner.split(".")[0] in _CORPUS:
            raise UserError(f"{shown}: data=mix takes it for each corpus: write data.corpora.NAME.{inner}")
        if name == "data.corpora":
            _check_corpora(config.data.corpora, key, name, "is of the whole mixture: write data.{setting}")
        if name == "watch":
            _check_corpora(config.watch, key, name, "is of training, and this text is validated alone: leave it out")
        if key == "task" and "run_dir" in given:
            raise UserError(f"{shown}: names a folder below outputs/, and run_dir names another: leave one of them out")
        holds, need = NEEDS.get(name, (None, ""))
        if holds is not None and not holds(config):
            raise UserError(f"{shown}: changes nothing without {need}; leave it out, or change that")


def _check_corpora(corpora: dict[str, Any], key: str, group: str, advice: str) -> None:
    """Raises UserError for a setting within `data.corpora` or `watch` that is not of one corpus.

    Settings of batches are among them. `key` is the setting that the user wrote, `group` the
    mapping of the corpora; `advice` may name the {setting} with its value.
    """
    asked = key.removeprefix(group).removeprefix(".").split(".")
    defaults = {item.name: item.default for item in fields(DataConfig)} | {"name": None}
    for corpus, settings in corpora.items():
        for inner, value in settings.items() if asked[0] in ("", corpus) else ():
            if inner in (*_CORPUS, "name") or value == defaults.get(inner):
                continue
            if group == "watch" and inner in ("mix", "corpora"):  # `watched_settings` refuses a mixture
                continue
            setting = f"{inner}={value!s:.200}"
            raise UserError(f"{group}.{corpus}.{setting}: {advice.format(setting=setting)}")
