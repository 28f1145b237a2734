"""Muon: nearly orthogonal steps for matrices, AdamW for all other parameters (Jordan et al. 2024).

Shapes: n matrices of one shape, r rows, c columns.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from llm_from_scratch.training.sharded import own_rows

# Coefficients of a quintic that raises small singular values fast and brings all within 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def newton_schulz(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Orthogonalizes matrices by Newton-Schulz steps: (n, r, c) -> (n, r, c), r <= c.

    Each matrix with the singular value decomposition U S V^T becomes nearly U V^T.

    Args:
        x: the matrices.
        dtype: of the computation; None: bfloat16 on a CUDA GPU, else the dtype of `x`.
    """
    a, b, c = COEFFICIENTS
    x = x.to(dtype or _step_dtype(x))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT  # (n, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _step_dtype(x: Tensor) -> torch.dtype:
    return torch.bfloat16 if x.is_cuda else x.dtype


def orthogonal(updates: list[Tensor], *, shared: bool = True) -> list[Tensor]:
    """Returns each matrix (r, c) nearly orthogonalized, with AdamW's root mean square of 0.2.

    Source: Liu et al. 2025.

    Matrices of one shape, transposed or not, are one batched product. With several processes, all
    call it with the same matrices; each computes a part, and all return the whole. Where they are
    not `shared`, each process has its own.
    """
    groups = defaultdict(list)
    for number, update in enumerate(updates):
        groups[tuple(sorted(update.shape))].append(number)
    result = list(updates)
    for (r, c), numbers in groups.items():
        # (n, r, c)
        stack = torch.stack([updates[i] if updates[i].shape[0] == r else updates[i].T for i in numbers])
        done = _shared_out(stack) if shared else newton_schulz(stack)
        for i, step in zip(numbers, done * (0.2 * math.sqrt(c)), strict=True):
            result[i] = step if updates[i].shape[0] == r else step.T
    return result


def _shared_out(stack: Tensor) -> Tensor:
    """Returns `newton_schulz` of (n, r, c); each process computes a part of the n matrices."""
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if count == 1:
        return newton_schulz(stack)
    size = -(-len(stack) // count)
    own = stack.new_zeros(size, *stack.shape[1:])
    part = stack[dist.get_rank() * size :][:size]
    own[: len(part)] = part
    own = newton_schulz(own)
    whole = own.new_empty(count * size, *stack.shape[1:])
    dist.all_gather_into_tensor(whole, own)
    return whole[: len(stack)]


def orthogonal_rows(rows: list[Tensor], heights: list[list[int]], group: dist.ProcessGroup) -> list[Tensor]:
    """Returns this process's rows of weights whose matrices `orthogonal` has orthogonalized.

    Each weight is gathered on one process, which sends the others their rows of the result.

    Args:
        rows: the rows of each weight that this process holds, as `torch.chunk` divides them.
        heights: of the matrices stacked in each weight, as in `Muon`.
        group: the processes that share the weights.
    """
    rank, count = group.rank(), group.size()
    # Shapes of the rows on each process: [weight][rank]
    shapes = [_row_shapes(sum(stacked), own, count) for stacked, own in zip(heights, rows, strict=True)]
    held: list[list[int]] = [[] for _ in range(count)]  # weights that each process gathers
    work = [0] * count
    for i in sorted(range(len(rows)), key=lambda i: -_work(heights[i], rows[i])):
        least = work.index(min(work))
        held[least].append(i)
        work[least] += _work(heights[i], rows[i])
    empty = rows[0].new_empty(0, dtype=_step_dtype(rows[0]))

    to_gather = [[rows[i] for i in numbers] for numbers in held]
    gathered = _all_to_all(to_gather, [[shapes[i][other] for i in held[rank]] for other in range(count)], empty, group)
    weights = [torch.cat(parts) for parts in zip(*gathered, strict=True)]
    stacked = [heights[i] for i in held[rank]]
    matrices = [matrix for weight, sizes in zip(weights, stacked, strict=True) for matrix in weight.split(sizes)]
    done = iter(orthogonal(matrices, shared=False))
    steps = [torch.cat([next(done) for _ in sizes]) for sizes in stacked]
    parts = [step.split([r for r, _ in shapes[i]]) for i, step in zip(held[rank], steps, strict=True)]
    to_return = [[part[other] for part in parts] for other in range(count)]
    returned = _all_to_all(to_return, [[shapes[i][rank] for i in numbers] for numbers in held], empty, group)
    found = dict(zip(chain(*held), chain(*returned), strict=True))
    return [found[i] for i in range(len(rows))]


def _row_shapes(height: int, own: Tensor, count: int) -> list[tuple[int, int]]:
    """Returns the shapes of the rows of a weight on each of `count` processes."""
    sizes = [len(part) for part in torch.empty(height, device="meta").chunk(count)]
    return [(size, own.shape[1]) for size in (*sizes, *[0] * (count - len(sizes)))]


def _work(heights: list[int], rows: Tensor) -> int:
    """Returns the multiplications of a Newton-Schulz step, up to a factor."""
    c = rows.shape[1]
    return sum(r * c * min(r, c) for r in heights)


def _all_to_all(
    sent: list[list[Tensor]], shapes: list[list[tuple[int, int]]], empty: Tensor, group: dist.ProcessGroup
) -> list[list[Tensor]]:
    """Sends each process its list of matrices, and returns those that each has sent.

    `shapes` are those of the received ones, `empty` a tensor (0,) of their dtype and device.
    """
    flat = torch.cat([empty, *(tensor.flatten().to(empty.dtype) for tensors in sent for tensor in tensors)])
    sizes = [[r * c for r, c in of_one] for of_one in shapes]
    received = flat.new_empty(sum(map(sum, sizes)))
    given = [sum(tensor.numel() for tensor in tensors) for tensors in sent]
    dist.all_to_all_single(received, flat, list(map(sum, sizes)), given, group=group)
    parts = iter(received.split([size for of_one in sizes for size in of_one]))
    return [[next(parts).view(shape) for shape in of_one] for of_one in shapes]


class Muon(Optimizer):
    """The optimizer Muon for parameter groups of kind `muon`, AdamW for kind `adamw`.

    Both have decoupled weight decay. A group of kind `muon` holds only matrices. Its `rows` lists,
    for each, the heights of the matrices stacked in it, which are orthogonalized one by one: a
    fused layer for queries, keys and values holds three. Where `rows` is None, each is one matrix.

    `found_inf` is a tensor of one number, 1 for a NaN or infinite gradient: then weights and
    moments stay unchanged, and the host does not wait for the device. None: every step updates.

    Of sharded parameters each process updates its rows.

    Args:
        groups: `params` and `kind` of each, and the settings that differ from those below.
        lr: the learning rate of both kinds, whose steps have the same root mean square.
        weight_decay: multiplied by the learning rate at each step.
        momentum: Nesterov momentum of Muon.
        betas: decay rates of AdamW's two moments.
        fused: whether AdamW runs as one kernel.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        fused: bool = False,
    ) -> None:
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "fused": fused}
        super().__init__(groups, settings | {"kind": "muon", "rows": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter once; returns what `closure` returns, or None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (self._muon if group["kind"] == "muon" else self._adamw)(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        params, lr = own_rows(group["params"]), group["lr"]
        buffers = own_rows(self._state(p, "momentum_buffer")[0] for p in group["params"])
        grads = own_rows(p.grad for p in group["params"])
        decay: float | Tensor = 1 - lr * group["weight_decay"]
        if self.found_inf is not None:
            bad = self.found_inf.bool()
            # A gradient equal to the momentum leaves the momentum unchanged.
            grads = [torch.where(bad, buffer, grad) for buffer, grad in zip(buffers, grads, strict=True)]
            decay = torch.where(bad, 1.0, decay)
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, buffers, group["momentum"])
        rows = group["rows"] or [[len(p)] for p in group["params"]]
        first = group["params"][0]
        if isinstance(first, DTensor):
            parts = params
            steps = orthogonal_rows(list(updates), rows, first.device_mesh.get_group())
        else:
            parts = [part for p, heights in zip(params, rows, strict=True) for part in p.split(heights)]
            steps = orthogonal([part for u, heights in zip(updates, rows, strict=True) for part in u.split(heights)])
        if self.found_inf is not None:
            steps = [torch.where(bad, 0.0, step) for step in steps]
        torch._foreach_mul_(params, decay)
        for part, step in zip(parts, steps, strict=True):
            part.add_(step, alpha=-lr)

    def _adamw(self, group: dict[str, Any]) -> None:
        params = group["params"]
        moments = [own_rows(self._state(p, "exp_avg", "exp_avg_sq")) for p in params]
        for p in params:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device if group["fused"] else "cpu")
        adamw(
            own_rows(params),
            own_rows(p.grad for p in params),
            [first for first, _ in moments],
            [second for _, second in moments],
            [],
            [self.state[p]["step"] for p in params],
            fused=group["fused"],
            found_inf=self.found_inf if group["fused"] else None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _state(self, parameter: Tensor, *names: str) -> list[Tensor]:
        state = self.state[parameter]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return [state[name] for name in names]
