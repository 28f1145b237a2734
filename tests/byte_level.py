"""A small byte-level BPE, trained by the library tokenizers."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import story

from llm_from_scratch.tokenizer.patterns import PATTERNS

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


def stranger(pattern: str, folder: Path, special: Sequence[str] = ()) -> Path:
    """A byte-level BPE with the pre-tokenizer of `pattern`, trained by the library: special tokens
    first, and bytes that its text lacks are no tokens.
    """
    tokenizers = pytest.importorskip("tokenizers")
    empty = tokenizers.Tokenizer(tokenizers.models.BPE()).to_str()
    written = json.loads(empty) | {"pre_tokenizer": PATTERNS[pattern].written}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(written))
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, special_tokens=[EOT, "<|im_start|>", "<|im_end|>", *special], show_progress=False
    )
    tokenizer.train_from_iterator(
        [TEXT, "".join(map(chr, range(32, 127))), "\re\u0301 \u2028 \xa0 👩‍👩‍👧 ▁▅ 3½ ٣"], trainer
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    names |= {"clean_up_tokenization_spaces": False, "split_special_tokens": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return folder
