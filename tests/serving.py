"""Servers in processes of their own, on loopback, for the tests of serving."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch

from llm_from_scratch.config import Config, TrainerConfig
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.run import write_rows
from llm_from_scratch.saved_config import save_config
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.tokenizer.template import CHATML
from llm_from_scratch.weights import save_model

REPO = Path(__file__).resolve().parents[1]
NO_BODIES = [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe\x00", b'{"a":' * 100_000]  # none is an object of JSON
LETTERS = "\n !.?abcdefghijklmnopqrstuvwxyz"


def model_run(folder: Path, *, chat: bool = False, block_size: int = 512, seed: int = 0, endless: bool = False) -> Path:
    """A run folder with a small random model that knows every character, by its bytes. An endless
    one hardly ever writes the end of a text.
    """
    torch.manual_seed(seed)
    tokenizer = CharTokenizer("".join(sorted(LETTERS)), byte_fallback=True)
    sizes = {"vocab_size": tokenizer.vocab_size, "block_size": block_size, "n_layer": 2, "n_embd": 32, "n_head": 4}
    model = GPT(GPTConfig(**sizes, init_std=0.5))
    if endless:
        with torch.no_grad():
            model.token_embedding.weight[tokenizer.eot_id] = 0  # a logit of 0; others reach 8
    folder.mkdir(parents=True)
    template = CHATML if chat else None
    weights = dict(model.named_parameters())
    save_model(weights, model.config, tokenizer, folder, step=1, loss=1.0, chat_template=template)
    return folder


def two_models(folder: Path, *, endless: bool = False) -> Path:
    """A folder with the model runs `base`, and `talks` with a chat template."""
    model_run(folder / "base", endless=endless)
    model_run(folder / "talks", chat=True, seed=1, endless=endless)
    return folder


def begun_run(run: Path, every: int) -> Path:
    """A run folder as a training of 100 steps, validated at each `every`, has made it before its first row."""
    run.mkdir()
    save_config(Config(trainer=TrainerConfig(max_steps=100, val_check_interval=every)), run / "config.yaml")
    write_rows(run / "metrics.jsonl", [])
    write_rows(run / "timing.jsonl", [])
    return run


class Server:
    """`llm-from-scratch serve` with some models; `lines` is its log, an object a request."""

    command: tuple[str, ...] = ("serve", "--port", "0", "--device", "cpu")

    def __init__(self, *arguments: str, cwd: Path) -> None:
        pytest.importorskip("fastapi")
        environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llm_from_scratch", *self.command, *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.errors: list[str] = []
        assert self.process.stdout
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http"), "".join(self.errors)
        self.port = int(self.address.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.errors.append(line)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in [*self.errors] if line.startswith("{")]

    def memory(self) -> int:
        """Anonymous resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) * 1024

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(120)
        self._reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        return status

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)
