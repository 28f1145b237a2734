"""A Lightning callback that times some steps of a run; `_processes.train_py` adds it to `train.py`."""

import json
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback


class StepClock(Callback):
    """Callback that writes the seconds from the end of optimizer step `first` to the end of `last`,
    and the peak GPU memory (MB), to `path` as JSON.
    """

    def __init__(self, path: str, first: int, last: int) -> None:
        self.path, self.first, self.last = Path(path), first, last

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the time at steps `first` and `last`, the only ones at which it waits for the GPU."""
        if trainer.global_step not in (self.first, self.last) or not trainer.is_global_zero:
            return
        on_gpu = pl_module.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if trainer.global_step == self.first:
            self.since = now
            return
        memory = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None
        self.path.write_text(json.dumps({"seconds": now - self.since, "cuda_mb": memory}), encoding="utf-8")
