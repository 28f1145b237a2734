"""What a checkpoint costs: a state of weights and AdamW's moments, beside the plain writing of the
same bytes.

Training waits for a copy in memory alone ("blocks"); writing, reading back, checksums and fsync
happen behind it ("save"). The shares are those of one checkpoint every `val_check_interval` = 250
steps at the step time measured here: of the time that training waits, and of all the work where the
processor that trains is the one that saves.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _record import options as common_options
from _record import record

from llm_from_scratch.checkpoint import Background, save_state
from llm_from_scratch.model import GPT, GPTConfig

MODELS = {
    "tiny": (GPTConfig(vocab_size=1024), 32),
    "gpt2": (
        GPTConfig(
            vocab_size=50257, n_layer=12, n_head=12, n_embd=768, block_size=1024, norm="layernorm", position="learned",
            activation="gelu", qk_norm=False, bias=True, init_std=0.02,
        ),
        1,
    ),
}  # fmt: skip


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Returns the median seconds of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measures each model of --models and records the rows."""
    parser = common_options(__doc__, repeats=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    options = parser.parse_args()
    rows = []
    for name in options.models:
        config, batch_size = MODELS[name]
        model = GPT(config)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        ids = torch.randint(config.vocab_size, (batch_size, config.block_size))

        def step(model: GPT = model, ids: torch.Tensor = ids, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            model.loss(ids, ids).backward()
            optimizer.step()

        step()
        step_seconds = seconds(step, options.repeats)
        state = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
        with tempfile.TemporaryDirectory(dir=".") as folder:
            background = Background()
            background.submit(lambda tree: None, state)  # the first copy also allocates its memory
            background.wait()

            def hand_over(background: Background = background, state: dict = state) -> None:
                background.submit(lambda tree: None, state)

            blocks = seconds(hand_over, options.repeats)
            save = seconds(
                lambda state=state, folder=folder: save_state(state, Path(folder) / "state"), options.repeats
            )
            content = (Path(folder) / "state" / "tensors.safetensors").read_bytes()

            def write(content: bytes = content, folder: str = folder) -> None:
                with (Path(folder) / "plain").open("wb") as file:
                    file.write(content)
                    os.fsync(file.fileno())

            plain = seconds(write, options.repeats)
        rows.append(
            {
                "model": name,
                "MB": len(content) / 1e6,
                "blocks s": blocks,
                "save s": save,
                "plain write s": plain,
                "blocks / plain": blocks / plain,
                "step s": step_seconds,
                "waiting %": 100 * blocks / (blocks + 250 * step_seconds),
                "all work %": 100 * (blocks + save) / (blocks + save + 250 * step_seconds),
            }
        )
    record("checkpointing", rows, options.results)


if __name__ == "__main__":
    main()
