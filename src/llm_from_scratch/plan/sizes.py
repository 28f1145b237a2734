"""Sizes of a model, of a text and of a machine: parameters, FLOPs, tokens, devices.

N is the number of parameters, D of training tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm_from_scratch.config import Config, TrainerConfig
from llm_from_scratch.data.corpus import estimated_tokens, plan_corpus
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.data.prepared import Prepared, open_prepared
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import has_mps
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import Tokenizer, open_gpt2
from llm_from_scratch.training.memory import layers_with_gradient, on_gpu

# Training tokens per parameter that give the lowest loss for given FLOPs (Hoffmann et al. 2022)
TOKENS_A_PARAMETER = 20
GPT2_VOCABULARY = 50_257  # tokens of tokenizer=gpt2, end-of-text included (Radford et al. 2019)
CHARACTERS = 256  # assumed number of distinct characters, where the text is absent


def meta_model(config: GPTConfig) -> GPT:
    """Builds the model on the meta device: its shapes, without memory for its weights."""
    with torch.device("meta"):
        return GPT(config)


def training_flops(model: GPT) -> int:
    """Returns the training FLOPs per token: 6 per weight of a matrix product, plus attention.

    Attention takes 12 x layers x heads x head size x block size, its causal mask ignored (Chowdhery
    et al. 2022, appendix B). A layer that is used several times counts each time; the lookup of an
    embedding counts as 0. A frozen weight takes 4, as it has no gradient of its own; 2, where no
    weight before it is trained, as none flows through it.
    """
    config, head = model.config, model.token_embedding if model.head is None else model.head
    attention = config.n_head * config.head_dim * config.block_size
    flops, first = 0, config.n_layer - layers_with_gradient(model)
    for layer in range(config.n_layer):
        block, flows = model.blocks[layer % config.unique_layers], layer >= first
        flops += attention * (12 if flows else 4)
        for module in block.modules():
            if isinstance(module, nn.Linear):
                flops += sum(_product_flops(weight, flows) for weight in module.parameters() if weight.dim() == 2)
    below = any(weight.requires_grad for name, weight in model.named_parameters() if name != "head.weight")
    return flops + _product_flops(head.weight, below)


def _product_flops(weight: Tensor, flows: bool) -> int:
    """Returns the FLOPs per token of a product: forward, gradient of its input, of its weight."""
    return 2 * weight.numel() * (1 + flows + weight.requires_grad)


def compute_optimal(flops: float) -> tuple[int, int]:
    """Returns the parameters N and tokens D of the lowest loss: 6 N D = `flops` and D = 20 N."""
    parameters = math.sqrt(flops / (6 * TOKENS_A_PARAMETER))
    return round(parameters), round(TOKENS_A_PARAMETER * parameters)


@dataclass(frozen=True)
class TextSize:
    """Size of a text: tokens of both splits, bytes and documents of the training split.

    `estimated` is True where tokens or bytes were not counted; `documents` is None where unknown.
    """

    train_tokens: int
    val_tokens: int
    train_bytes: int
    vocab_size: int
    estimated: bool
    documents: int | None = None


def text_size(config: Config, tokenizer: Tokenizer | None = None, template: str | None = None) -> TextSize:
    """Returns the size of a run's text: counted if prepared or small, else estimated from files.

    A small text, a mixture, told stories and conversations are prepared first, these with the
    `template` of the model in `init_from`. With `config.resume` set, nothing is downloaded or
    written: the run folder may be a stranger's.

    Raises:
        UserError: when the text cannot be read or prepared.
    """
    own = not config.resume
    if config.data.mix is not None or config.data.format != "text" or config.data.level is not None:
        return counted(
            prepare(config.data, config.tokenizer, tokenizer=tokenizer, template=template, fetch=own, write=own)
        )
    corpus = plan_corpus(config.data, config.tokenizer, tokenizer, fetch=own, write=False)
    if corpus.folder.exists():
        return counted(open_prepared(corpus.folder))
    if corpus.keep_text:
        return counted(prepare(config.data, config.tokenizer, tokenizer=tokenizer, fetch=own, write=own))
    vocab_size = corpus.tokenizer.vocab_size if corpus.tokenizer else config.tokenizer.vocab_size or 10_000
    tokens = estimated_tokens(corpus, corpus.tasks, config.tokenizer.kind, vocab_size)
    val = int(tokens * config.data.val_fraction)
    return _estimate(config, tokens - val, val, vocab_size)


def assumed_text(config: Config, train_tokens: int, tokenizer: Tokenizer | None = None) -> TextSize:
    """Returns the size of a text of which only the number of training tokens is known.

    `tokenizer` is that of the model in `init_from`; None: the settings choose one.

    Raises:
        UserError: when tokenizer=bpe has no vocab_size, or tokenizer.path holds no vocabulary.
    """
    settings = config.tokenizer
    vocab_size = tokenizer.vocab_size if tokenizer else settings.vocab_size
    if vocab_size is None and settings.kind == "gpt2":
        vocab_size = GPT2_VOCABULARY if settings.path is None else open_gpt2(settings.path).vocab_size
    elif vocab_size is None and settings.kind == "char":
        vocab_size = CHARACTERS
    elif vocab_size is None:
        raise UserError("tokenizer.vocab_size=null: tokenizer=bpe needs a number of tokens, such as 1024")
    return _estimate(config, train_tokens, int(train_tokens * config.data.val_fraction), vocab_size)


def _estimate(config: Config, train_tokens: int, val_tokens: int, vocab_size: int) -> TextSize:
    bytes_a_token = 1 if config.tokenizer.kind == "char" else 3 if vocab_size < 4096 else 4.5
    return TextSize(train_tokens, val_tokens, int(train_tokens * bytes_a_token), vocab_size, True)


def counted(prepared: Prepared) -> TextSize:
    """Returns the counts in the manifest of a prepared text.

    With data.stream=text or fresh the training tokens are estimated from the bytes, at the
    validation split's tokens per byte.
    """
    train, val = (prepared.manifest["splits"][split] for split in ("train", "val"))
    tokens = train.get("tokens") or round(train["text_bytes"] * val["tokens"] / val["text_bytes"])
    size = prepared.tokenizer.vocab_size
    return TextSize(tokens, val["tokens"], train["text_bytes"], size, "tokens" not in train, train["documents"])


def device_count(settings: TrainerConfig) -> int:
    """Returns the number of devices that a run trains on, over all nodes."""
    here = torch.cuda.device_count() if settings.devices == "auto" and on_gpu(settings) else settings.devices
    return (here if isinstance(here, int) else 1) * settings.num_nodes


def on_cpu(settings: TrainerConfig) -> bool:
    """Returns whether a run trains on this machine's CPU."""
    apple = settings.accelerator in ("auto", "mps") and has_mps()
    return not on_gpu(settings) and not apple


def nearest(parameters: int, presets: Mapping[str, int]) -> str | None:
    """Returns the preset whose number of parameters is nearest by ratio; None without presets."""
    return min(presets, key=lambda name: abs(math.log(presets[name] / max(parameters, 1))), default=None)
