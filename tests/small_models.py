"""Models and states of some kilobytes, for the tests of run folders."""

from pathlib import Path
from typing import Any

import torch

from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import save_model

STATE = {
    "global_step": 7,
    "optimizer_states": [
        {
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.arange(6.0).view(2, 3)}},
            "param_groups": [{"betas": (0.9, 0.95)}],
        }
    ],
    "nothing": None,
    "text": "é\n",
}


def small_model(run: Path, step: int, loss: float = 1.5, **settings: Any) -> GPT:
    """Saves a model of two layers and 16 channels as a run's, and returns it."""
    tokenizer = CharTokenizer("abc")
    model = GPT(GPTConfig(vocab_size=4, **({"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8} | settings)))
    run.mkdir(exist_ok=True)
    save_model(dict(model.named_parameters()), model.config, tokenizer, run, step=step, loss=loss)
    return model
