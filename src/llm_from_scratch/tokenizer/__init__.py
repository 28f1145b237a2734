"""Tokenizers, text <-> ids: the third step of the data (source, clean, tokenize, shards, sample)
and the last of generation.

Five tokenizers share one protocol, `base.Tokenizer`: single characters (`char.py`), byte-pair
encoding by SentencePiece and another's such model (`bpe.py`), the byte-level BPE of GPT-2 and of
others (`bytes.py`). `huggingface.py` and `gguf.py` write and read them as others' files.
`template.py` makes ids of a conversation. `plain.py` learns and applies merges from their
definition.
"""

from llm_from_scratch.tokenizer.base import END_OF_TEXT, Tokenizer, begin_ids, first_id
from llm_from_scratch.tokenizer.bpe import SAMPLE_BYTES, BPETokenizer, SentencePieceTokenizer
from llm_from_scratch.tokenizer.bytes import BytesTokenizer, GPT2Tokenizer, open_gpt2
from llm_from_scratch.tokenizer.char import CharTokenizer
from llm_from_scratch.tokenizer.load import load_tokenizer, train_tokenizer

__all__ = [
    "END_OF_TEXT",
    "SAMPLE_BYTES",
    "BPETokenizer",
    "BytesTokenizer",
    "CharTokenizer",
    "GPT2Tokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "begin_ids",
    "first_id",
    "load_tokenizer",
    "open_gpt2",
    "train_tokenizer",
]
