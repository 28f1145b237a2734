"""The GPT: ids of tokens -> logits of the next token.

One `GPT` of one kind of `Block`, whose parts the configuration chooses, covers the article's single
post-norm head, GPT-2, and the modern family (RMSNorm, rotary positions, SwiGLU, grouped queries).
Each family computes the logits of a class of transformers: OpenAI's GPT, GPT-2, Qwen2, Qwen3,
Llama.

Shapes: B batch, T time (positions), S positions attended to, C channels (n_embd), H query heads,
G key/value heads, D head size, I inner width of the feed-forward, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from llm_from_scratch.config import ModelConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.kernels import (
    IGNORE,
    ChunkedCrossEntropy,
    attention_with_dropout,
    attention_within,
    blocks_fit,
    document_blocks,
    document_mask,
    document_positions,
    documents_of,
    dropout,
    splitmix,
)


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    """Architecture of a GPT: `GPTConfig(vocab_size=tokenizer.vocab_size, **model_settings)`."""

    vocab_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.vocab_size, int) and self.vocab_size >= 1):
            raise UserError(f"vocab_size={self.vocab_size} must be a whole number of 1 or more")


# ---------------------------------------------------------------------------------------- attention
def self_attention(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Computes one causal head: softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, equation 1).

    x (B, T, C) and three matrices (C, D) -> (B, T, D). The plain twin of `Attention`.
    """
    q, k, v = x @ w_q, x @ w_k, x @ w_v  # (B, T, D) each
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, T, T): position t attends to s
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v


def sinusoids(length: int, width: int) -> Tensor:
    """Returns the position table (length, width) of Vaswani et al. 2017.

    Even channels are sines, odd channels cosines.
    """
    # (T, C/2)
    angle = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def rotary_tables(
    length: int, head_size: int, base: float, scaling: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines for `rotate`, each (length, 1, head_size).

    The sines of the first D/2 channels are negated. `scaling` None: frequencies as `base` gives.
    """
    divisor = base ** (torch.arange(0, head_size, 2) / head_size)  # (D/2,): wavelength / 2 pi
    if scaling is not None:
        divisor = divisor / scaled_frequencies(2 * math.pi * divisor, scaling)
    angle = torch.arange(length)[:, None] / divisor  # (T, D/2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1)[:, None], torch.cat((-sin, sin), dim=-1)[:, None]


def scaled_frequencies(wavelengths: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Returns factors (D/2,) of the rotary frequencies that extend the context of pretraining.

    `linear` divides every frequency by `factor` (Chen et al. 2023, arXiv:2306.15595). `llama3`
    divides the long wavelengths, keeps the short ones and interpolates between them (Llama 3.1,
    2024).
    """
    if scaling["rope_type"] == "linear":
        return torch.full_like(wavelengths, 1 / scaling["factor"])
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    periods = scaling["original_max_position_embeddings"] / wavelengths  # in the first context
    kept = ((periods - low) / (high - low)).clamp(0, 1)
    return kept + (1 - kept) / scaling["factor"]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the channel pairs (i, i + D/2) of x (B, T, H, D), as Qwen3 does (Su et al. 2021)."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


class KVCache:
    """Keys and values of the positions read so far: two buffers (B, G, capacity, D) a layer.

    `GPT.forward` fills the buffers and advances `length`, the number of positions held. Compiled
    steps and CUDA graphs set `position`, a tensor (1,), so that no shape changes from token to
    token: the next token is written there, and attention reads the first `attended` positions
    under a mask. `position` is None in the plain loop. In `serve.slots` it is (B,), one a sample.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        capacity: int,  # positions, at most block_size
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.capacity = capacity
        shape = (batch_size, config.kv_heads, capacity, config.head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.length = 0
        self.position: Tensor | None = None
        self.attended = self.capacity

    def reset(self) -> None:
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends k and v (B, G, T, D) of a layer and returns its keys and values.

        Each is (B, G, length + T, D), or (B, G, attended, D) where `position` is set.
        """
        keys, values, time = self.keys[layer], self.values[layer], k.shape[2]
        if self.position is not None:
            keys.index_copy_(2, self.position, k)
            values.index_copy_(2, self.position, v)
            return keys.narrow(2, 0, self.attended), values.narrow(2, 0, self.attended)
        keys.narrow(2, self.length, time).copy_(k)
        values.narrow(2, self.length, time).copy_(v)
        return keys.narrow(2, 0, self.length + time), values.narrow(2, 0, self.length + time)


class Dropout(nn.Module):
    """Dropout whose mask is a pure function of each sequence's key and of the element's place."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """Drops elements of x (B, T, C) by keys (B,); `keys` None returns x."""
        return x if keys is None else dropout(x, self.p, keys)


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    """Builds a LayerNorm (Ba et al. 2016), or an RMSNorm (Zhang & Sennrich 2019)."""
    if config.norm == "rmsnorm":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm with its gain cast to the input's dtype; torch fuses only equal dtypes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal attention of H query heads over G key/value heads (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = (config.n_head, config.kv_heads, config.kv_heads)  # of q, k, v
        self.head_size, self.dropout = config.head_dim, config.dropout
        qkv_bias = config.bias or config.qkv_bias
        self.qkv = nn.Linear(config.n_embd, sum(self.heads) * self.head_size, bias=qkv_bias)
        self.out = nn.Linear(config.n_head * self.head_size, config.n_embd, bias=config.bias)
        self.q_norm = make_norm(config, self.head_size) if config.qk_norm else None
        self.k_norm = make_norm(config, self.head_size) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask: Tensor | BlockMask | None,
        cache: KVCache | None,
        layer: int,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Attends within x (B, T, C) and to the cached positions -> (B, T, C).

        `mask`: (T, S) for T positions after cached ones, (B, 1, T, T) or its blocks within
        documents, None for plain causal attention. `keys`: (B,) keys of the dropout, None without
        it. `rotary`: cosines and sines of the T positions, None for another position type.
        """
        batch, time, _ = x.shape
        # (B, T, H or G, D)
        q, k, v = self.qkv(x).view(batch, time, -1, self.head_size).split(self.heads, dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or G, T, D)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, G, S, D)
        if isinstance(mask, BlockMask):
            y = attention_within(q, k, v, mask)
        elif keys is not None and q.device.type == "cpu":
            y = attention_with_dropout(q, k, v, self.dropout, keys, mask)
        else:
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                # The kernel takes no keys: it draws from the device's generator.
                dropout_p=self.dropout if keys is not None else 0.0,
                is_causal=mask is None and bool(time > 1),  # bool: time is symbolic where a graph is exported
                enable_gqa=self.heads[0] != self.heads[1],
            )
        return self.out(y.transpose(1, 2).reshape(batch, time, -1))


# ---------------------------------------------------------------------------------- block and model
def _swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),  # Hendrycks & Gimpel 2016, GPT-2's form
    "gelu_erf": F.gelu,  # the exact form, as in nanoGPT; on a CPU a third of the time of tanh
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
    "swiglu": _swiglu,  # Shazeer 2020
}


class FeedForward(nn.Module):
    """Feed-forward network (B, T, C) -> (B, T, I) -> (B, T, C).

    One matrix computes both the gate and the value of SwiGLU.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.inner_size
        self.up = nn.Linear(config.n_embd, inner * (2 if config.activation == "swiglu" else 1), bias=config.bias)
        self.out = nn.Linear(inner, config.n_embd, bias=config.bias)
        self.activation = _ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.up(x)))


class Block(nn.Module):
    """Transformer block: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.post_norm = config.norm_position == "post"
        self.attention_norm = make_norm(config, config.n_embd)
        self.attention = Attention(config)
        self.feed_forward_norm = make_norm(config, config.n_embd)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Applies the block: x (B, T, C) -> (B, T, C).

        `keys` (3, B) key the dropout of attention weights, attention output and feed-forward
        output; None: no dropout. The other arguments are those of `Attention`.
        """
        weights, first, second = (None, None, None) if keys is None else keys
        if self.post_norm:
            x = self.attention_norm(x + self.dropout(self.attention(x, rotary, mask, cache, layer, weights), first))
            return self.feed_forward_norm(x + self.dropout(self.feed_forward(x), second))
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, mask, cache, layer, weights), first)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)), second)


class GPT(nn.Module):
    """A decoder-only language model (Radford et al. 2018): ids (B, T) -> logits (B, T, V)."""

    rotary_cos: Tensor
    rotary_sin: Tensor
    sinusoids: Tensor

    def __init__(self, config: GPTConfig, *, eot_id: int | None = None, recompute: bool = False) -> None:
        """Builds the model with fresh weights.

        Args:
            config: the architecture.
            eot_id: the id that begins each document; attention stays within documents. None:
                attention crosses documents.
            recompute: recomputes each block's activations in the backward pass, which saves
                memory (Chen et al. 2016).
        """
        super().__init__()
        self.config, self.eot_id, self.recompute = config, eot_id, recompute
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        # The configuration determines these tables, so the state dict leaves them out.
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        elif config.position == "sinusoidal":
            self.register_buffer("sinusoids", sinusoids(config.block_size, config.n_embd), persistent=False)
        else:
            cos, sin = rotary_tables(config.block_size, config.head_dim, config.rope_base, config.rope_scaling)
            self.register_buffer("rotary_cos", cos, persistent=False)
            self.register_buffer("rotary_sin", sin, persistent=False)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.unique_layers))
        self.norm = make_norm(config, config.n_embd) if config.norm_position == "pre" else nn.Identity()
        # A tied head has no parameter, so each parameter has one name in the state dict.
        self.head = None if config.tie_weights else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Draws normal weights; biases are 0 and norms 1 (Radford et al. 2019).

        Projections into the residual stream are scaled by 1/sqrt(2 n_layer), so that the stream's
        variance does not grow with depth.
        """
        std = self.config.init_std or self.config.n_embd**-0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.endswith((".attention.out", ".feed_forward.out"))
                nn.init.normal_(module.weight, std=std / math.sqrt(2 * self.config.n_layer) if residual else std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.config.position == "sinusoidal" and self.head is not None:
            # Vaswani et al. multiply embeddings by sqrt(C); here the initial std has the factor.
            nn.init.normal_(self.token_embedding.weight, std=std * math.sqrt(self.config.n_embd))

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Computes logits: ids (B, T) -> (B, T, V).

        With a cache, the ids continue the cached positions and are added to it; None: they are
        the whole text.

        Raises:
            UserError: when there are more positions than block_size.
        """
        return self.logits(self.hidden_states(ids, cache))

    def hidden_states(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        keys: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Computes the head's input: ids (B, T) -> (B, T, C).

        A prefill passes only the last position on to `logits`.

        Args:
            ids: the tokens.
            cache: as in `forward`.
            keys: (B,) int64, keys of each sequence's dropout in training; None draws random ones.
            documents: (B, T), the number of each token's document: attention stays within equal
                numbers, and positions of a table begin anew in each document (rotary ones are
                relative). None: one document a sequence, or `eot_id` parts them.

        Raises:
            UserError: when there are more positions than block_size.
        """
        start = 0 if cache is None else cache.length
        time = ids.shape[1]
        end = start + time
        places: slice | Tensor = slice(start, end)
        mask: Tensor | BlockMask | None = None  # the causal kernel and a single new position need no mask
        if cache is not None and cache.position is not None:
            places = cache.position
            mask = torch.arange(cache.attended, device=ids.device) <= places[:, None]
            mask, places = mask[:, None, None], places[:, None]  # (1 or B, 1, 1, S), (1 or B, 1)
        elif end > self.config.block_size:
            raise UserError(
                f"a sequence of {end} tokens exceeds model.block_size={self.config.block_size}: shorten it to its last block"
            )
        x = self.token_embedding(ids)  # (B, T, C)
        rotary = None
        if self.config.position == "rotary":
            rotary = self.rotary_cos[places], self.rotary_sin[places]
        else:
            table = self.position_embedding.weight if self.config.position == "learned" else self.sinusoids
            x = x + table[places if documents is None else document_positions(documents)]
        of_embedding, of_layer = self._dropout_keys(ids, keys)
        x = self.dropout(x, of_embedding)
        if start > 0 and time > 1:
            mask = torch.ones(time, end, dtype=torch.bool, device=ids.device).tril(start)
        if documents is None and self.eot_id is not None and cache is None:  # generated text is one document
            documents = documents_of(ids, self.eot_id)
        if documents is not None:
            by_blocks = self.training and blocks_fit(documents, self.config.head_dim, self.config.dropout)
            mask = document_blocks(documents) if by_blocks else document_mask(documents)
        for layer in range(self.config.n_layer):
            block = self.blocks[layer % len(self.blocks)]
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, rotary, mask, None, layer, of_layer[layer], use_reentrant=False)
            else:
                x = block(x, rotary, mask, cache, layer, of_layer[layer])
        if cache is not None and cache.position is None:
            cache.length = end
        return self.norm(x)

    def _dropout_keys(self, ids: Tensor, keys: Tensor | None) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Derives dropout keys: (B,) for the embedding, (3, B) a layer; None without dropout."""
        layers = self.config.n_layer
        if not (self.training and self.config.dropout):
            return None, [None] * layers
        if keys is None:
            keys = torch.randint(-(2**63), 2**63 - 1, ids.shape[:1], device=ids.device)
        places = splitmix(keys, torch.arange(1 + 3 * layers, device=ids.device)[:, None])  # (1 + 3 layers, B)
        return places[0], places[1:].view(layers, 3, -1).unbind()

    def logits(self, hidden: Tensor) -> Tensor:
        """Applies the head: hidden states (…, C) -> logits (…, V)."""
        if self.head is not None and not self.training:
            return self.head(hidden)
        return F.linear(hidden, self._head())[..., : self.config.vocab_size]

    def _head(self) -> Tensor:
        """Returns the head's matrix (V, C); in training on CUDA, V is padded to a multiple of 64.

        Tensor cores are faster on such sizes. The padded copy is no parameter, and `logits` and
        `loss` exclude its zero rows.
        """
        weight = self.token_embedding.weight if self.head is None else self.head.weight
        return F.pad(weight, (0, 0, 0, -len(weight) % 64)) if self.training and weight.is_cuda else weight

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        reduction: str = "mean",
        keys: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Computes cross-entropy in nats: ids, targets (B, T) -> scalar, or (B, T) for `none`.

        Targets equal to IGNORE are left out of `mean` and `sum`, and 0 in `none`. `mean` and `sum`
        of large batches are computed in chunks of logits: on a CPU as many as fit its caches,
        elsewhere 1 GiB. `keys` and `documents` as in `hidden_states`.
        """
        hidden = self.hidden_states(ids, keys=keys, documents=documents)
        rows = max(256, (2**18 if ids.device.type == "cpu" else 2**28) // self.config.vocab_size)
        if reduction == "none" or targets.numel() <= rows:
            logits = self.logits(hidden)  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction=reduction)
            return loss.view_as(targets) if reduction == "none" else loss
        total = ChunkedCrossEntropy.apply(
            hidden.flatten(0, 1), self._head(), targets.flatten(), self.config.vocab_size, rows
        )
        return total / (targets != IGNORE).sum() if reduction == "mean" else total

    def num_parameters(self) -> int:
        """Counts the distinct parameters: a tied head and a shared layer count once."""
        return sum(p.numel() for p in self.parameters())


class _WithoutDrawing(TorchFunctionMode):
    """Skips the functions of torch.nn.init that draw random numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def uninitialised(config: GPTConfig, *, eot_id: int | None = None) -> GPT:
    """Builds a GPT in evaluation mode whose matrices are memory to be filled, as from a file.

    Drawing random numbers takes longer than reading weights.
    """
    with _WithoutDrawing():
        return GPT(config, eot_id=eot_id).eval()
