"""Writes a model as an ONNX graph, which onnxruntime and others compute (extra: onnx).

The graph reads ids (B, T) of any batch and of any length up to the context, and gives logits
(B, T, V), as `GPT.forward` does without a cache.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_from_scratch.errors import missing_extra
from llm_from_scratch.model import GPT

INPUT, OUTPUT = "input_ids", "logits"
MOST_BYTES = 1_500_000_000  # of weights in one file: protobuf takes 2 GiB
TOLERANCE = 1e-3  # of a logit, between torch and onnxruntime


class _Logits(nn.Module):
    """The model as a function of the ids alone."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)


def export(model: GPT, path: Path) -> float:
    """Writes the graph of a model to `path`, in float32, and computes some logits with it.

    Weights of more than MOST_BYTES go to a second file, `path` with ".data" behind its name.

    Returns:
        The largest difference between a logit of torch and of onnxruntime.

    Raises:
        UserError: when onnx, onnxscript or onnxruntime is not installed.
    """
    runtime = _libraries()
    logits = _Logits(model.cpu().float().eval())
    time = min(5, model.config.block_size)
    shapes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if time > 1:  # a context of one token leaves nothing to vary
        # The graph of two tokens and more computes one as well.
        shapes[1] = torch.export.Dim("time", min=2, max=model.config.block_size)
    example = torch.zeros(2, time, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of libraries that no model here needs
        program = torch.onnx.export(
            logits,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None
    weights = sum(parameter.nbytes for parameter in model.parameters())
    program.save(str(path), external_data=weights > MOST_BYTES)
    return _difference(logits, runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]))


def _difference(logits: _Logits, session: Any) -> float:
    """Compares the logits of random ids of several shapes; returns the largest difference."""
    config = logits.model.config
    worst = 0.0
    for shape in ((1, 1), (3, min(7, config.block_size)), (1, min(64, config.block_size))):
        ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
        (found,) = session.run([OUTPUT], {INPUT: ids.numpy()})
        with torch.no_grad():
            worst = max(worst, float((torch.from_numpy(found) - logits(ids)).abs().max()))
    assert worst < TOLERANCE, f"onnxruntime's logits differ from torch's by {worst}"
    return worst


def _libraries() -> Any:
    """Returns the module onnxruntime; torch's exporter imports the two others itself."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra("--to onnx needs onnx, onnxscript and onnxruntime", "onnx", str(error)) from None
    return onnxruntime
