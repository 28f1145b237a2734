"""Linear layers laid out for decoding: split between threads, or with 8-bit weights and inputs.

Decoding reads every matrix once a token, so the time of a token is that of reading them. The plain
twin of both layouts: `nn.Linear`. A model that was laid out cannot be trained or saved.

Shapes: I inputs, O outputs, P parts, N rows.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import pick_dtype
from llm_from_scratch.model import GPT

LARGEST = 127  # of an 8-bit integer
TINY = torch.finfo(torch.float32).tiny


class SplitLinear(nn.Module):
    """`nn.Linear` for few rows on a CPU: I inputs, O outputs in P parts, one part a thread.

    A matrix library computes a product with one row in one thread, bound by reading the matrix;
    threads that read a part each are faster (as Shoeybi et al. 2019 split over devices). A matrix
    with more outputs than inputs is stored by columns (outputs contiguous), any other by rows: a
    product along the longer side takes at most two thirds of the time of the other.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, parts: int) -> None:
        super().__init__()
        self.outputs, inputs = weight.shape
        padding = -self.outputs % parts
        # (P, I, O/P)
        self.weight = F.pad(weight, (0, 0, 0, padding)).view(parts, -1, inputs).transpose(1, 2)
        if self.outputs > inputs:
            self.weight = self.weight.contiguous()
        bias = weight.new_zeros(self.outputs) if bias is None else bias
        self.bias = F.pad(bias, (0, padding)).view(parts, 1, -1)  # (P, 1, O/P)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer: (…, I) -> (…, O)."""
        parts, inputs, _ = self.weight.shape
        # (P, N, O/P)
        y = torch.baddbmm(self.bias, x.reshape(-1, inputs).expand(parts, -1, -1), self.weight)
        if y.shape[1] > 1:  # the parts of a single row are contiguous already
            y = y.transpose(0, 1)
        y = y.reshape(*x.shape[:-1], -1)
        return y if y.shape[-1] == self.outputs else y[..., : self.outputs]


class Int8Linear(nn.Module):
    """`nn.Linear` with weights of 8 bits and inputs of two digits of 8 bits, on a CPU.

    Each output has a scale for its weights, each row of inputs one of its own, so that a row's
    result does not depend on the rows beside it (Dettmers et al. 2022). A few large inputs would
    leave few levels of one digit to the others; the second digit costs little, as the weights are
    read once for both. Sums are exact integers: a processor without VNNI adds two products in 16
    bits, which hold them for weights of 7 bits.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        most = LARGEST if torch.cpu._is_vnni_supported() else LARGEST // 2
        self.scale = (weight.float().abs().amax(dim=1) / most).clamp_min_(TINY)
        rounded = (weight.float() / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zero, self.bias = torch.zeros(len(weight), dtype=torch.int32), bias

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer: (…, I) -> (…, O)."""
        unit = x.abs().amax(dim=-1, keepdim=True).clamp_min_(TINY).div_(LARGEST)  # (…, 1)
        exact = x / unit
        first = exact.round()
        second = exact.sub_(first).mul_(2 * LARGEST).round_()
        digits = torch.stack((first, second)).to(torch.int8)  # (2, …, I)
        of_first, of_second = torch.ops.onednn.qlinear_pointwise(
            digits, 1.0, 0, self.weight, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        y = torch.add(of_first, of_second, alpha=1 / (2 * LARGEST)).mul_(unit)
        return y if self.bias is None else y.add_(self.bias)


@torch.no_grad()
def lay_out(model: GPT, dtype: str = "auto", *, few_rows: bool = True) -> None:
    """Casts a model and lays its linear layers out for its device, in place.

    Args:
        model: on the device where it is to decode.
        dtype: as `generate.py` takes it: auto, float32, bfloat16 or int8. `int8` keeps the
            embeddings, norms and the attention in float32.
        few_rows: whether it decodes: a CPU then splits the layers between its threads.

    Raises:
        UserError: for int8 on a GPU, or where torch has no 8-bit products.
    """
    device = model.token_embedding.weight.device
    if dtype == "int8":
        if device.type != "cpu":
            raise UserError(
                f"dtype=int8: is for a CPU, and the model is on {device.type}: use device=cpu, or dtype=bfloat16"
            )
        if not torch.backends.mkldnn.is_available():
            raise UserError("dtype=int8: this build of torch has no oneDNN: use dtype=float32")
    model.to(pick_dtype(dtype, device))
    if dtype == "int8":
        replace_linears(model, Int8Linear)
    elif few_rows and device.type == "cpu":
        replace_linears(model, functools.partial(SplitLinear, parts=torch.get_num_threads()))


def replace_linears(model: GPT, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Replaces the linear layers of a model, head included, by `make(weight, bias)` of each."""
    head = model.token_embedding if model.head is None else model.head
    model.head = make(head.weight, None)  # type: ignore[assignment]
    # A list with the linear layers in it would keep their weights beside the new ones.
    for module in [one for one in model.blocks.modules() if not isinstance(one, nn.Linear)]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, make(child.weight, child.bias))
