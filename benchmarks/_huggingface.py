"""Hugging Face's GPT2LMHeadModel as a peer: the same shape, in a plain training loop.

As a program, `python _huggingface.py SETTINGS`, it trains on SETTINGS["ids"] (nanoGPT's format) and
prints one JSON object.
"""

import json
import sys
import time
from typing import Any


def gpt2(*, vocab_size: int, block_size: int, n_layer: int, n_head: int, n_embd: int) -> Any:
    """Builds a GPT2LMHeadModel of that shape with new weights, the exact GELU as in nanoGPT, no
    dropout and no end-of-text token.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    no_end = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=block_size, activation_function="gelu", **shape, **no_dropout, **no_end
    )
    return GPT2LMHeadModel(config)


def main(settings: dict[str, Any]) -> None:
    """Trains and prints the seconds per step after the warm-up, with the peak GPU memory (MB).

    Random chunks, AdamW, gradient clipping at 1, bfloat16 autocast on a GPU.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F

    device, T, B = settings["device"], settings["model"]["block_size"], settings["batch_size"]
    on_gpu = device == "cuda"
    torch.set_float32_matmul_precision("high")
    ids, rng = np.memmap(settings["ids"], np.uint16, "r"), np.random.default_rng(0)
    model = gpt2(**settings["model"]).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=on_gpu)
    since = 0.0
    for step in range(settings["steps"]):
        if step == settings["warmup"]:
            if on_gpu:
                torch.cuda.synchronize()
            since = time.perf_counter()
        places = rng.integers(len(ids) - T, size=B)[:, None] + np.arange(T + 1)
        chunks = torch.from_numpy(ids[places].astype(np.int64)).to(device)  # (B, T+1)
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            logits = model(chunks[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), chunks[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - since) / (settings["steps"] - settings["warmup"])
    print(json.dumps({"seconds": seconds, "cuda_mb": torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
