"""The fast parts of the model: masks of dropout, the loss in chunks, attention with dropout.

Their plain twins stand in the tests: `F.cross_entropy` and `scaled_dot_product_attention`.

Shapes: B batch, T time (positions), C channels, H query heads, G key/value heads, D head size, V
vocabulary, N tokens.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -1  # a target with this value is not counted in the loss


def document_mask(ids: Tensor, eot_id: int) -> Tensor:
    """Causal mask within documents: ids (B, T) -> (B, 1, T, T), True where s <= t in one document.

    An end-of-text token begins the document behind it, as in generation from an empty prompt.
    """
    document = (ids == eot_id).cumsum(1)  # (B, T)
    return (document[:, None, :, None] == document[:, None, None, :]).tril()


# ------------------------------------------------------------------------------------------ dropout
# The constants of splitmix64 (Steele et al. 2014), signed: torch multiplies int64 modulo 2^64.
_STREAM, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def splitmix(keys: Tensor | int, places: Tensor) -> Tensor:
    """64 random bits (int64) a (key, place): entry `place` of the splitmix64 stream of `key`.

    A pure function: a sequence has the same dropout in any batch, in a compiled graph, and when the
    backward pass draws it again.
    """
    # Multiplied last: in a graph for a GPU, inductor takes `places` for 32-bit indices.
    x = (keys + places) * _STREAM
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        # torch's shift keeps the sign.
        x.bitwise_xor_((x >> shift).bitwise_and_(2 ** (64 - shift) - 1)).mul_(factor)
    return x.bitwise_xor_((x >> 31).bitwise_and_(2**33 - 1))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """16 random bits, int16, for each of `count` numbers of a sequence: keys (B,) -> (B, count)."""
    places = torch.arange(-(-count // 4), device=keys.device)
    return splitmix(keys[:, None], places).view(torch.int16)[:, :count]


def dropout_bound(p: float) -> int:
    """The bound below which 16 random bits drop a number: p is rounded to 65,536ths."""
    return round(p * 2**16) - 2**15


def dropout_mask(x: Tensor, p: float, keys: Tensor) -> Tensor:
    """A dropout mask of x's shape (Srivastava et al. 2014): 0 with probability p, else 1 / (1 - p).

    x holds B sequences, keys (B,) int64. A few sequences are drawn at a time, to stay in the
    caches.
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
    """`dropout_mask` as one call of a graph; inductor's code is no faster (docs/log.md)."""
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
    """Causal attention with dropped weights: q (B, H, T, D), k and v (B, G, T, D) -> (B, H, T, D).

    `keys` (B,) as in `dropout_mask`, `mask` (B, 1, T, T). torch's `scaled_dot_product_attention`
    with `dropout_p` has no fast kernel on a CPU and no keys.
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
    """The sum of `F.cross_entropy(hidden @ head.T, targets)` in nats, a chunk of tokens at a time.

    Forward computes the gradients from each chunk's probabilities: p - 1 at the target, p
    elsewhere. No logits wait for the backward pass (Wijmans et al. 2024, Hsu et al. 2024). `head`
    may have more rows than the vocabulary.
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
        """The gradients of forward, scaled."""
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * gradient[0], grad_head * gradient[0], None, None, None
