"""The fast parts of the model: masks of dropout, the loss in chunks, attention with dropout. `model.py` reads without them.

Each has a plain twin in its test: `F.cross_entropy` for the loss, `scaled_dot_product_attention` for attention.

Shapes: B batch, T time (positions), C channels, H query heads, G key/value heads, D head size, V vocabulary, N tokens.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -1  # a target with this value is not counted in the loss


def document_mask(ids: Tensor, eot_id: int) -> Tensor:
    """Who may attend to whom where attention stays inside a document: ids (B, T) -> (B, 1, T, T), true where s <= t are of one.

    The end-of-text piece begins the document behind it, as it does where a text is generated from nothing: so no document's logits
    depend on another's tokens, its first token's included.
    """
    document = (ids == eot_id).cumsum(1)  # (B, T)
    return (document[:, None, :, None] == document[:, None, None, :]).tril()


# ------------------------------------------------------------------------------------------------------ dropout
# The constants of splitmix64 (Steele et al. 2014) as signed numbers: torch multiplies int64 modulo 2^64.
_STREAM, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def splitmix(keys: Tensor | int, places: Tensor) -> Tensor:
    """64 random bits, int64, for each (key, place): number `place` of the splitmix64 stream that begins at _STREAM * `key`.

    They depend on their arguments alone. So the dropout of a sequence is the same however its batch is cut, in a
    compiled graph, and when it is drawn again in the backward pass.
    """
    x = (keys + places) * _STREAM  # multiplied last: in a graph for a GPU, inductor takes `places` for 32-bit indices
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x.bitwise_xor_((x >> shift).bitwise_and_(2 ** (64 - shift) - 1)).mul_(factor)  # torch's shift keeps the sign
    return x.bitwise_xor_((x >> 31).bitwise_and_(2**33 - 1))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """16 random bits, int16, for each of `count` numbers of a sequence: keys (B,) -> (B, count)."""
    places = torch.arange(-(-count // 4), device=keys.device)
    return splitmix(keys[:, None], places).view(torch.int16)[:, :count]


def dropout_bound(p: float) -> int:
    """A number is dropped whose random bits are below it; so p is one of 65,536ths."""
    return round(p * 2**16) - 2**15


def dropout_mask(x: Tensor, p: float, keys: Tensor) -> Tensor:
    """A dropout mask of x's shape (Srivastava et al. 2014): 0 with probability p, else 1 / (1 - p).

    x is B sequences one behind the other, and keys (B,) int64. Drawn a few sequences at a time, which the caches hold.
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
    """`dropout_mask` as one call of a compiled graph: code that inductor makes of it is no faster (docs/log.md)."""
    return dropout_mask(x, p, keys)


@_dropout_mask_in_graph.register_fake
def _(x: Tensor, p: float, keys: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def dropout(x: Tensor, p: float, keys: Tensor) -> Tensor:
    """x times `dropout_mask`: x (B, T, C), keys (B,) -> (B, T, C)."""
    if x.device.type == "cpu":
        return x * dropout_mask(x, p, keys)
    bound = dropout_bound(p)
    # The backward pass keeps this mask, a byte a number.
    dropped = random_bits(keys, x[0].numel()).reshape(x.shape) < bound
    return (x * (2**16 / (2**15 - bound))).masked_fill(dropped, 0.0)


def attention_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, p: float, keys: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Causal attention whose weights are dropped: q (B, H, T, D), k and v (B, G, T, D) -> (B, H, T, D).

    `keys` (B,) as of `dropout_mask`, `mask` (B, 1, T, T). It is `scaled_dot_product_attention` with `dropout_p`, which has
    no fast kernel on a CPU and no mask by sequences anywhere.
    """
    batch, heads, time, size = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1).reshape(batch * heads, time, size) for x in (k, v))
    future = torch.full((time, time), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future, q.reshape(batch * heads, time, size), k.transpose(1, 2), alpha=size**-0.5)
    if mask is not None:
        scores = scores.view(batch, heads, time, time).masked_fill(~mask, -math.inf).view(-1, time, time)
    weights = scores.softmax(dim=-1)  # (BH, T, T)
    return (weights * dropout_mask(weights, p, keys) @ v).view(batch, heads, time, size)


# --------------------------------------------------------------------------------------------------------- loss
class ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of `F.cross_entropy(hidden @ head.T, targets)` in nats, a chunk of tokens at a time.

    The gradients are made beside the loss, while a chunk's probabilities are there: p - 1 at the target, p elsewhere. So no
    logits wait for the backward pass (Wijmans et al. 2024, Hsu et al. 2024). `head` may have more rows than the vocabulary.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, vocab_size: int, rows: int) -> Tensor:
        """hidden (N, C), head (V or more, C), targets (N,), rows of a chunk -> scalar."""
        needed = any(ctx.needs_input_grad)
        total = torch.zeros((), device=hidden.device)
        grad_hidden, grad_head = (torch.empty_like(hidden), torch.zeros_like(head)) if needed else (hidden, head)
        for x, y, slot in zip(hidden.split(rows), targets.split(rows), grad_hidden.split(rows), strict=True):
            logits = F.linear(x, head).float()  # (rows, V or more)
            logits[:, vocab_size:] = -math.inf
            log_p = logits.log_softmax(dim=-1)
            total += F.nll_loss(log_p, y, ignore_index=IGNORE, reduction="sum")
            if needed:
                counted = (y != IGNORE)[:, None]
                error = log_p.exp_().scatter_add_(1, y.clamp(min=0)[:, None], -counted.to(log_p.dtype)).mul_(counted)
                slot.copy_(error @ head)
                grad_head += error.T @ x
        ctx.save_for_backward(grad_hidden, grad_head)
        return total

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients that forward has made, scaled."""
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * gradient[0], grad_head * gradient[0], None, None, None
