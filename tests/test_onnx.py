"""The ONNX graph in onnxruntime computes the logits of the model, for any batch and length."""

from pathlib import Path

import pytest
import torch

from llm_from_scratch import onnx
from llm_from_scratch.model import GPT, GPTConfig

runtime = pytest.importorskip("onnxruntime")
FAMILIES: dict[str, dict[str, object]] = {
    "article": {
        "n_head": 1, "norm": "layernorm", "norm_position": "post", "position": "sinusoidal", "activation": "relu",
        "qk_norm": False, "bias": True, "tie_weights": False,
    },
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", "qk_norm": False, "bias": True},
    "modern": {"n_kv_head": 2},
    # What Hugging Face's format cannot hold, ONNX can.
    "no family": {"activation": "relu2", "n_layer": 4, "n_unique_layer": 2},
}  # fmt: skip


@pytest.mark.slow  # an export takes some seconds
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_model_for_any_batch_and_length(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}
    model = GPT(GPTConfig(**(shape | FAMILIES[family]))).eval()  # type: ignore[arg-type]
    assert onnx.export(model, tmp_path / "model.onnx") < 1e-5
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (ids,) = session.get_inputs()
    assert (ids.name, ids.shape, ids.type) == ("input_ids", ["batch", "time"], "tensor(int64)")
    for size in ((1, 1), (1, 32), (5, 2), (4, 17)):
        text = torch.randint(61, size)
        (logits,) = session.run(None, {"input_ids": text.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(text), rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.glob("*.data"))


@pytest.mark.slow
def test_large_weights_go_to_a_file_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx, "MOST_BYTES", 1000)
    model = GPT(GPTConfig(vocab_size=61, block_size=1, n_layer=1, n_head=1, n_embd=16)).eval()
    assert onnx.export(model, tmp_path / "model.onnx") < 1e-5
    assert (tmp_path / "model.onnx.data").stat().st_size >= sum(p.nbytes for p in model.parameters())
