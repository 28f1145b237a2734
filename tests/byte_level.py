"""A small byte-level BPE, trained by the library tokenizers."""

import json
from pathlib import Path

import pytest
from conftest import story

EOT = "<|endoftext|>"
TEXT = story(20_000) + "don't  we'll\n\n    indent 123 4567 naïve 日本語 ==== x=1;\t\n" * 50


def learn(folder: Path, size: int = 700, special: str = EOT) -> Path:
    """vocab.json and merges.txt with end-of-text as the last id, as GPT-2 has it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT], vocab_size=size - 1, show_progress=False)
    bpe.add_special_tokens([special])
    bpe.save_model(str(folder))
    vocab = bpe.get_vocab()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return folder
