"""Checks of a model of others: its files, sizes, weights, tokenizer and chat template."""

from collections.abc import Iterator
from functools import cached_property

import torch

from llm_from_scratch.doctor.findings import Finding, fault, ok, size_of, warning
from llm_from_scratch.errors import UserError, message_of, missing_extra
from llm_from_scratch.files import sha256
from llm_from_scratch.huggingface.families import family_of
from llm_from_scratch.model import GPTConfig
from llm_from_scratch.pretrained import Source
from llm_from_scratch.registry import PUBLISHED
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.weights import LoadedModel

PROBE = "The cat's 3 mats, Über 5 € \u4f60\u597d \U0001f44b\n\n\tend."  # a text that a tokenizer has to give back
CONTEXT = 128  # tokens, of the model that is loaded: positions beyond them are no weights


class ExaminedModel:
    """A model's files, with cached results that several checks share."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.path = source.path

    @cached_property
    def settings(self) -> tuple[GPTConfig, Tokenizer] | UserError:
        """Returns the model's config and tokenizer, or the UserError that reading them raises."""
        try:
            settings, tokenizer = self.source.settings()
            return GPTConfig(**settings), tokenizer
        except UserError as error:
            return error

    @cached_property
    def loaded(self) -> LoadedModel | UserError:
        """Returns the model with its weights, or the UserError that reading them raises."""
        if isinstance(self.settings, UserError):
            return self.settings
        config = self.settings[0]
        short = None if config.position == "learned" else min(CONTEXT, config.block_size)
        try:
            return self.source.open(block_size=short)
        except UserError as error:
            return error


def files(model: ExaminedModel) -> Iterator[Finding]:
    """Reports the size of the files, and verifies the checksum of a published model's."""
    path = model.path
    paths = [path] if path.is_file() else sorted(one for one in path.glob("*") if one.is_file())
    size = sum(one.stat().st_size for one in paths)
    published = [known for known in PUBLISHED.values() if path.is_file() and known.size == size]
    known = next((known for known in published if known.sha256 == sha256(path)), None)
    if known:
        yield ok(f"{path}: {size_of(size)}, sha256 of {known.title} ({known.licence}, {known.source})")
    else:
        yield ok(f"{path}: {size_of(size)}; its authors' checksums are not known here")


def architecture(model: ExaminedModel) -> Iterator[Finding]:
    """Reads the settings, and reports the family and the sizes."""
    if isinstance(model.settings, UserError):
        yield fault(
            message_of(model.settings, 300), "take another copy, or a model of a family that docs/ecosystem.md names"
        )
        return
    config = model.settings[0]
    heads = f"{config.n_head} heads of {config.head_dim}"
    heads += f" ({config.kv_heads} of keys and values)" if config.kv_heads != config.n_head else ""
    yield ok(
        f"{model.path}: {_family(config)}, {config.n_layer} layers of width {config.n_embd}, {heads},"
        f" a context of {config.block_size:,}, {config.vocab_size:,} tokens"
    )


def _family(config: GPTConfig) -> str:
    try:
        return family_of(config).model_type
    except UserError:  # llama.cpp computes a few models that no class of transformers does
        return "a GPT"


def weights(model: ExaminedModel) -> Iterator[Finding]:
    """Loads the weights and looks for numbers that are not finite."""
    if isinstance(model.settings, UserError):
        return
    if isinstance(model.loaded, UserError):
        yield fault(message_of(model.loaded, 300), "take another copy")
        return
    gpt = model.loaded.model
    bad = [name for name, parameter in gpt.named_parameters() if not torch.isfinite(parameter).all()]
    if bad:
        yield fault(
            f"{model.path}: {bad[0]} and {len(bad) - 1} more weights hold numbers that are not finite",
            "take another copy",
        )
    else:
        yield ok(f"{model.path}: {gpt.num_parameters():,} parameters, each a finite number")


def tokenizer(model: ExaminedModel) -> Iterator[Finding]:
    """Encodes a text and compares it with what the ids decode to."""
    if isinstance(model.settings, UserError):
        return
    own = model.settings[1]
    what = f"{model.path}: tokenizer of kind {own.kind}"
    advice = "texts with such characters lose them, or are refused: compare a text of yours with `inspect`"
    try:
        ids = own.encode(PROBE)
        back = own.decode(ids)
    except UserError as error:
        yield warning(f"{what}: {message_of(error, 200)}", advice)
        return
    if back == PROBE:
        yield ok(
            f"{what}: {len(PROBE)} characters of several scripts become {len(ids)} tokens, and the same text again"
        )
    else:
        place = next((i for i, (one, other) in enumerate(zip(PROBE, back, strict=False)) if one != other), len(back))
        yield warning(f"{what}: gives back another text, from {PROBE[place : place + 1]!a} on", advice)


def template(model: ExaminedModel) -> Iterator[Finding]:
    """Renders one message by the chat template, where the model has one."""
    if isinstance(model.settings, UserError) or isinstance(model.loaded, UserError):
        return
    text = model.loaded.chat_template
    if text is None:
        yield ok(f"{model.path}: no chat template: a model that continues texts")
        return
    try:
        from llm_from_scratch.tokenizer.template import render_ids
    except ImportError:
        missing = missing_extra("its chat template needs jinja2", "hf")
        yield warning(f"{model.path}: {missing}", "everything but a chat works without")
        return
    try:
        ids = render_ids(
            text, [{"role": "user", "content": "Hello"}], model.loaded.tokenizer, add_generation_prompt=True
        )
        yield ok(f"{model.path}: its chat template makes {len(ids)} tokens of a message")
    except UserError as error:
        yield warning(f"{model.path}: its chat template: {message_of(error, 200)}", "a chat needs another template")
