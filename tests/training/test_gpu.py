"""What only a CUDA GPU can show: a step that never makes the host wait, and losses that are the
CPU's.
"""

from pathlib import Path

import pytest
import torch
from conftest import SMALL, Process, story

from llm_from_scratch.model import GPT, Dropout, GPTConfig
from llm_from_scratch.run import read_rows
from llm_from_scratch.training.optimizers import row_keys

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

ERROR = '''
import torch
from lightning.pytorch.callbacks import Callback


class ErrorOnSync(Callback):
    """Any wait of the host for the device between the steps 3 and 9 is an error."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if 3 <= trainer.global_step < 9 else "default")
'''


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.dropout=0.1", "data.micro_batch_size=4"),
        ("trainer.compile=true",),
        ("model.dropout=0.1", "trainer.compile=true"),
    ],
)
def test_a_step_does_not_wait_for_the_device(train: Process, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    (tmp_path / "sync.py").write_text(ERROR)
    small = [word for word in SMALL if word != "trainer=cpu"]
    done = train(
        *small, "trainer=gpu", "trainer.max_steps=12", "+callbacks.sync={_target_: sync.ErrorOnSync}", *overrides
    )
    assert done.returncode == 0, done.stderr


def test_a_gpu_learns_what_a_cpu_learns(train: Process, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    small = [word for word in SMALL if word != "trainer=cpu"]
    shared = ("trainer.max_steps=20", "trainer.log_every_n_steps=1")
    for device in ("cpu", "gpu"):
        done = train(*small, f"trainer={device}", "trainer.precision=32-true", *shared, f"run_dir={device}")
        assert done.returncode == 0, done.stderr
    for a, b in zip(*(read_rows(tmp_path / name / "metrics.jsonl") for name in ("cpu", "gpu")), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=5e-3)


def test_dropout_outside_of_attention_is_the_cpus() -> None:
    keys = {device: row_keys(7, 3, 5, 6, torch.device(device)) for device in ("cpu", "cuda")}
    assert torch.equal(keys["cuda"].cpu(), keys["cpu"])
    x = torch.randn(6, 33, 63)
    for p in (0.1, 0.5):
        found = Dropout(p)(x.cuda(), keys["cuda"]).cpu()
        torch.testing.assert_close(found, Dropout(p)(x, keys["cpu"]))
        compiled = torch.compile(Dropout(p), dynamic=False)(x.cuda(), keys["cuda"]).cpu()
        torch.testing.assert_close(compiled, found)


def test_micro_batches_on_a_gpu_drop_the_same_outside_of_attention() -> None:
    """The kernel of attention draws by micro-batch, so it drops nothing here."""
    config = GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_embd=32, n_head=4, dropout=0.2)
    model = GPT(config).cuda().train()
    for block in model.blocks:
        block.attention.dropout = 0.0
    ids = torch.randint(50, (24, 17), device="cuda")
    losses = []
    for parts in (1, 2, 3, 8):
        keys = [row_keys(7, 3, i * 24 // parts, 24 // parts, ids.device) for i in range(parts)]
        cut = zip(ids.chunk(parts), keys, strict=True)
        losses.append(sum(model.loss(part[:, :-1], part[:, 1:], keys=of_part).item() for part, of_part in cut) / parts)
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_within_documents_is_the_cpus(compiled: bool, dtype: torch.dtype) -> None:
    """By blocks and by a mask: the same loss, the same gradients."""
    torch.manual_seed(5)
    config = GPTConfig(vocab_size=50, block_size=300, n_layer=2, n_embd=64, n_head=4, n_kv_head=2)
    model = GPT(config, eot_id=0).train()
    ids = torch.randint(50, (3, 301))
    found = {}
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        loss_of = torch.compile(model.loss, dynamic=False) if compiled and device == "cuda" else model.loss
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = loss_of(ids[:, :-1].to(device), ids[:, 1:].to(device))
        loss.backward()
        found[device] = loss.item(), model.blocks[0].attention.qkv.weight.grad.cpu()
    exact = dtype is torch.float32
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-4 if exact else 1e-2)
    error = (found["cuda"][1] - found["cpu"][1]).norm() / found["cpu"][1].norm()
    assert error < (1e-3 if exact else 5e-2)
