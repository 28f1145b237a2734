"""Models whose answers are known: every token has one successor."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch

from llm_from_scratch.gguf.write import export
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer.bytes import BytesTokenizer
from llm_from_scratch.tokenizer.merges import written
from llm_from_scratch.weights import save_model

SPECIAL = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
END = SPECIAL["<|im_end|>"]
# ChatML, whose last token is the first character of the question: it chooses the answer
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ messages[-1].content[:1] }}{% endif %}"
)


def byte_tokenizer() -> BytesTokenizer:
    """One token a byte, and the special tokens of ChatML."""
    tokens = [*(written(bytes([byte])) for byte in range(256)), *SPECIAL]
    return BytesTokenizer(tokens, [], SPECIAL, [], "gpt2", eot_id=256, eos_id=END, bos_id=257)


def chain(answers: Mapping[str, str | bytes], block_size: int = 512) -> GPT:
    """A model that answers a question by its first character; an answer that ends with "…" begins
    again and again.

    No byte may come twice, nor be a first character. The blocks add nothing: the embedding of a
    token is a channel of its own, which the head turns into its successor.
    """
    config = GPTConfig(
        vocab_size=259, n_layer=1, n_head=1, n_embd=260, block_size=block_size, qk_norm=False, tie_weights=False
    )
    model = GPT(config).eval()
    successors = dict.fromkeys(range(259), END)
    for first, answer in answers.items():
        endless = isinstance(answer, str) and answer.endswith("…")
        text = answer if isinstance(answer, bytes) else answer.removesuffix("…").encode()
        path = [ord(first), *text, text[0] if endless else END]
        successors |= dict(pairwise(path))
    with torch.no_grad():
        for block in model.blocks.parameters():
            if block.dim() == 2:
                block.zero_()
        model.token_embedding.weight.copy_(torch.eye(259, 260))
        assert model.head is not None
        model.head.weight.zero_()
        for token, successor in successors.items():
            model.head.weight[successor, token] = 1.0
    return model


def chain_file(path: Path, answers: Mapping[str, str | bytes], block_size: int = 512, template: str = TEMPLATE) -> Path:
    """The same as a GGUF file with its template."""
    return export(
        chain(answers, block_size), byte_tokenizer(), path, dtype="f32", chat_template=template, end_ids=[END]
    )


def chain_run(folder: Path, answers: Mapping[str, str | bytes], block_size: int = 512) -> Path:
    """The same as the model of a run folder."""
    model = chain(answers, block_size)
    folder.mkdir()
    weights, chat = dict(model.named_parameters()), {"end_ids": [END], "chat_template": TEMPLATE}
    save_model(weights, model.config, byte_tokenizer(), folder, step=1, loss=1.0, **chat)  # type: ignore[arg-type]
    return folder
