"""config.json of transformers: written from a GPTConfig, read as a stranger's."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_from_scratch.config import ROPE_SCALING, check_rope_scaling
from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.families import FAMILIES, Key, family_of, shown
from llm_from_scratch.model import GPTConfig

MAX_LAYERS = 1024  # published models have about a tenth
ROPE_BASE = 10_000.0  # where config.json names none


def to_settings(config: GPTConfig, *, bos_id: int | None = None, end_ids: Sequence[int] = ()) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
        config: the architecture.
        bos_id: the id that begins a text; None: none.
        end_ids: the ids that end a text.

    Raises:
        UserError: when no class of transformers computes the model.
    """
    family = family_of(config)
    resolved = {"n_kv_head": config.kv_heads, "head_size": config.head_dim, "n_inner": config.inner_size}
    names = {ours: theirs for theirs, ours in reversed(list(family.activations.items()))}
    settings: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.model_type}
    settings |= {key.name: resolved.get(ours, getattr(config, ours)) for ours, key in family.keys.items()}
    settings |= {family.activation: names[config.activation], **family.fixed}
    settings |= dict.fromkeys(family.biases, config.bias) | dict.fromkeys(family.dropouts, config.dropout)
    if config.position == "rotary":
        # Versions before 5 read rope_theta and rope_scaling, later ones rope_parameters.
        settings["rope_theta"] = config.rope_base
        scaling = dict(config.rope_scaling or {"rope_type": "default"})
        settings["rope_parameters"] = {**scaling, "rope_theta": config.rope_base}
        if config.rope_scaling is not None:
            settings["rope_scaling"] = scaling
    settings |= {"bos_token_id": bos_id, "eos_token_id": one_or_list(end_ids)}
    return settings | {"dtype": "float32", "torch_dtype": "float32"}


def one_or_list(ids: Sequence[int]) -> int | list[int] | None:
    """Returns ids as eos_token_id holds them: a number, a list of several, null for none."""
    return (ids[0] if len(ids) == 1 else list(ids)) if ids else None


def from_settings(settings: Any) -> dict[str, Any]:
    """Returns the arguments of GPTConfig for the content of a stranger's config.json.

    Entries that the class of transformers does not read have no effect here either. Dropout is
    that of a new training, so it is left out.

    Raises:
        UserError: when this GPT does not compute the model, or an entry is out of range.
    """
    if not isinstance(settings, dict):
        raise UserError("no JSON object")
    model_type = settings.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise UserError(f"model_type={model_type!r:.60} is not supported (supported: {', '.join(FAMILIES)})")
    if settings.get("quantization_config") is not None:
        raise UserError("quantization_config: quantized weights are not read: take the model before its quantization")
    for name, fixed in family.fixed.items():
        _demand(settings, name, fixed, default=fixed)
    values = {ours: key.read(settings) for ours, key in family.keys.items()}
    if values["n_layer"] > MAX_LAYERS:
        raise UserError(
            f"{family.keys['n_layer'].name}={values['n_layer']}: more than {MAX_LAYERS} layers are not read"
        )
    values |= {name: choices[0] for name, choices in family.settings.items()}
    activation = settings.get(family.activation, family.default_activation)
    if not isinstance(activation, str) or activation not in family.activations:
        known = ", ".join(family.activations)
        raise UserError(f"{family.activation}={activation!r:.60} is not supported (supported: {known})")
    values["activation"] = family.activations[activation]
    if family.biases:
        values["bias"] = Key(family.biases[0], bool, False).read(settings)
        beside = f" beside {family.biases[0]}={shown(values['bias'])}"
        for name in family.biases[1:]:
            _demand(settings, name, values["bias"], default=False, beside=beside)
    if values["position"] == "rotary":
        _refuse_windows(settings, values["n_layer"])
        values["rope_base"], values["rope_scaling"] = _rope(settings, values["block_size"])
    return values


def _demand(settings: Mapping[str, Any], name: str, value: bool, default: bool, beside: str = "") -> None:
    """Raises UserError where an entry of config.json is not `value`."""
    found = Key(name, bool, default).read(settings)
    if found is not value:
        raise UserError(f"{name}={shown(found)} is not supported{beside} (supported: {shown(value)})")


def _refuse_windows(settings: Mapping[str, Any], layers: int) -> None:
    """Raises UserError where a layer attends to a sliding window of positions."""
    kinds = settings.get("layer_types")
    if kinds is None:
        first = settings.get("max_window_layers", 28)  # the layers before it attend to all positions
        window = settings.get("use_sliding_window", False) and settings.get("sliding_window", 4096) is not None
        sliding = bool(window) and not (type(first) is int and first >= layers)
    else:
        sliding = not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    if sliding:
        raise UserError("sliding windows of attention are not supported: every layer has to attend to all positions")


def _rope(settings: Mapping[str, Any], positions: int) -> tuple[float, dict[str, Any] | None]:
    """Returns `rope_base` and `rope_scaling` of config.json, as any version of transformers reads
    them.
    """
    scaling = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise UserError(f"rope_scaling={scaling!r:.60} must be an object or null")
    theta = Key("rope_theta", float)
    bases = {float(theta.read(one)) for one in (settings, scaling) if one.get("rope_theta") is not None}
    if len(bases) > 1:
        raise UserError(f"rope_theta has two values, {min(bases)} and {max(bases)}: leave one of them out")
    for one in (settings, scaling):
        if one.get("partial_rotary_factor") not in (None, 1):
            raise UserError("partial_rotary_factor: positions that turn a part of the channels are not supported")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    base = bases.pop() if bases else ROPE_BASE
    if kind == "default":
        return base, None
    if not isinstance(kind, str) or kind not in ROPE_SCALING:
        raise UserError(f"rope_type={kind!r:.60} is not supported (supported: default, {', '.join(ROPE_SCALING)})")
    known = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
    found = {"rope_type": kind} | {key: value for key, value in scaling.items() if key not in known}
    if kind == "llama3":
        found.setdefault("original_max_position_embeddings", positions)
    check_rope_scaling(found)
    return base, found
