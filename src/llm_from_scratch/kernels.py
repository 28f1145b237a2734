"""Fast parts of the model: dropout, attention with dropout and within documents, the chunked loss.

The tests compare them with `F.cross_entropy` and `scaled_dot_product_attention`.

Shapes: B batch, T time (positions), C channels, H query heads, G key/value heads, D head size, V
vocabulary, N tokens.
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

IGNORE = -1  # targets of this value are left out of the loss


def document_mask(documents: Tensor) -> Tensor:
    """Builds the causal mask within documents: document numbers (B, T) -> (B, 1, T, T).

    Entry (t, s) is True where s <= t and both lie in the same document.
    """
    return (documents[:, None, :, None] == documents[:, None, None, :]).tril()


def document_blocks(documents: Tensor) -> BlockMask:
    """Builds `document_mask` for `attention_within`: document numbers (B, T) -> blocks of (T, T).

    A block of 128 x 128 pairs that are all forbidden is neither stored nor computed.
    """
    batch, time = documents.shape

    def allowed(row: Tensor, _head: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (t >= s) & (documents[row, t] == documents[row, s])

    return create_block_mask(allowed, batch, None, time, time, device=documents.device)


def blocks_fit(documents: Tensor, head_size: int, dropout: float) -> bool:
    """Returns whether `attention_within` can train on document numbers (B, T): on a GPU alone.

    Its kernel drops nothing, and takes heads of 16 channels or more.
    """
    return documents.device.type == "cuda" and head_size >= 16 and not dropout


def attention_within(q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask) -> Tensor:
    """Computes attention within documents: q (B, H, T, D), k and v (B, G, T, D) -> (B, H, T, D).

    FlexAttention (Dong et al. 2024) writes a kernel for the mask when it is compiled; torch has its
    backward pass for GPUs alone.
    """
    kernel: Any = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    # Autocast casts the arguments of `scaled_dot_product_attention`, and not of this kernel.
    y: Tensor = kernel(q.to(v.dtype), k.to(v.dtype), v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])
    return y


@functools.cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def documents_of(ids: Tensor, eot_id: int) -> Tensor:
    """Numbers the documents of a text: ids (B, T) -> document numbers (B, T).

    An end-of-text token is the first token of the document after it, as in generation from an
    empty prompt.
    """
    return (ids == eot_id).cumsum(1)


def document_positions(documents: Tensor) -> Tensor:
    """Returns the position of each token within its document: document numbers (B, T) -> (B, T).

    The tokens of a document are neighbours.
    """
    column = torch.arange(documents.shape[1], device=documents.device)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return column - (column * begins).cummax(1).values


# ------------------------------------------------------------------------------------------ dropout
# Constants of splitmix64 (Steele et al. 2014) as signed int64, which torch multiplies modulo 2^64.
_STREAM, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def splitmix(keys: Tensor | int, places: Tensor) -> Tensor:
    """Returns 64 random bits (int64) for each key and place, which broadcast.

    They are entry `place` of the splitmix64 stream of `key`, a pure function: a sequence has the
    same dropout in any batch, in a compiled graph, and in a recomputed block.
    """
    # The factor comes last: inductor compiles `places` to 32-bit indices on a GPU.
    x = (keys + places) * _STREAM
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        # torch's shift is arithmetic: the mask clears the copies of the sign bit.
        x.bitwise_xor_((x >> shift).bitwise_and_(2 ** (64 - shift) - 1)).mul_(factor)
    return x.bitwise_xor_((x >> 31).bitwise_and_(2**33 - 1))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """Draws 16 random bits (int16) for each of `count` elements: keys (B,) -> (B, count)."""
    places = torch.arange(-(-count // 4), device=keys.device)
    return splitmix(keys[:, None], places).view(torch.int16)[:, :count]


def dropout_bound(p: float) -> int:
    """Returns the int16 below which random bits drop an element; p is rounded to 1/65,536."""
    return round(p * 2**16) - 2**15


def dropout_mask(x: Tensor, p: float, keys: Tensor) -> Tensor:
    """Draws a dropout mask of x's shape: 0 with probability p, else 1 / (1 - p).

    keys (B,) int64 key the B sequences of x, of equal size. A few sequences are
    drawn at a time, so that they fit the CPU's caches. Srivastava et al. 2014.
    """
    if torch.compiler.is_compiling():
        return _dropout_mask_in_graph(x.detach(), p, keys)
    count, bound = x.numel() // len(keys), dropout_bound(p)
    mask = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    some = max(1, 2**18 // count)  # sequences
    for part, part_keys in zip(mask.view(len(keys), count).split(some), keys.split(some), strict=True):
        torch.ge(random_bits(part_keys, count), bound, out=part).mul_(2**16 / (2**15 - bound))
    return mask


@torch.library.custom_op("llm_from_scratch::dropout_mask", mutates_args=())
def _dropout_mask_in_graph(x: Tensor, p: float, keys: Tensor) -> Tensor:
    """Wraps `dropout_mask` as one graph node; inductor's own code is no faster (docs/log.md)."""
    return dropout_mask(x, p, keys)


@_dropout_mask_in_graph.register_fake
def _(x: Tensor, p: float, keys: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def dropout(x: Tensor, p: float, keys: Tensor) -> Tensor:
    """Multiplies x by `dropout_mask`: x (B, T, C), keys (B,) -> (B, T, C)."""
    if x.device.type == "cpu":
        return x * dropout_mask(x, p, keys)
    bound = dropout_bound(p)
    # Kept for the backward pass: one byte an element.
    dropped = random_bits(keys, x[0].numel()).reshape(x.shape) < bound
    return (x * (2**16 / (2**15 - bound))).masked_fill(dropped, 0.0)


def attention_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, p: float, keys: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Computes causal attention with dropout on its weights, for CPUs.

    q (B, H, T, D), k and v (B, G, T, D) -> (B, H, T, D). `keys` (B,) as in `dropout_mask`; `mask`
    (B, 1, T, T), True where attention is allowed, or None for causal alone. torch's
    `scaled_dot_product_attention` with `dropout_p` has no fast CPU kernel and takes no keys.
    """
    batch, heads, time, size = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1).reshape(batch * heads, time, size) for x in (k, v))
    future = torch.full((time, time), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future, q.reshape(batch * heads, time, size), k.transpose(1, 2), alpha=size**-0.5)
    if mask is not None:
        scores = scores.view(batch, heads, time, time).masked_fill(~mask, -math.inf).view(-1, time, time)
    weights = scores.softmax(dim=-1)  # (BH, T, T)
    return (weights * dropout_mask(weights, p, keys) @ v).view(batch, heads, time, size)


# --------------------------------------------------------------------------------------------- loss
class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ head.T` in nats, computed a chunk of tokens at a time.

    Forward also computes the gradients, from each chunk's probabilities p: p - 1 at the target, p
    elsewhere. So no logits are kept for the backward pass (Wijmans et al. 2024, Hsu et al. 2024).
    `head` may have padding rows after the vocabulary, which get probability 0.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int, rows: int) -> Tensor:
        """Sums the loss: hidden (N, C), head (V or more, C), targets (N,) -> scalar.

        `rows` is the number of tokens in a chunk.
        """
        # A frozen head, or one that is trained alone, saves a third of the work.
        hidden_needed, head_needed = ctx.needs_input_grad[:2]
        total = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if hidden_needed else hidden
        grad_head = torch.zeros_like(head) if head_needed else head
        for x, y, slot in zip(hidden.split(rows), targets.split(rows), grad_hidden.split(rows), strict=True):
            logits = F.linear(x, head).float()  # (rows, V or more)
            logits[:, vocab_size:] = -math.inf
            log_p = logits.log_softmax(dim=-1)
            total += F.nll_loss(log_p, y, ignore_index=IGNORE, reduction="sum")
            if hidden_needed or head_needed:
                counted = (y != IGNORE)[:, None]
                error = log_p.exp_().scatter_add_(1, y.clamp(min=0)[:, None], -counted.to(log_p.dtype)).mul_(counted)
                if hidden_needed:
                    slot.copy_(error @ head)
                if head_needed:
                    grad_head += error.T @ x
        ctx.save_for_backward(grad_hidden, grad_head)
        return total

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Scales the gradients that `forward` computed by the gradient of the loss."""
        grad_hidden, grad_head = ctx.saved_tensors
        hidden_needed, head_needed = ctx.needs_input_grad[:2]
        return (
            grad_hidden * gradient[0] if hidden_needed else None,
            grad_head * gradient[0] if head_needed else None,
            *(None, None, None),
        )
