"""SentencePiece's model file against SentencePiece itself."""

import io

import pytest
import sentencepiece
from byte_level import TEXT
from hypothesis import given
from hypothesis import strategies as st

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import BPETokenizer
from llm_from_scratch.tokenizer.model_proto import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Piece,
    read_model,
    write_model,
)


def test_a_learned_model_is_read_as_sentencepiece_reads_it() -> None:
    tokenizer = BPETokenizer.train([TEXT], 400)
    model = read_model(tokenizer.model)
    other = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    size = other.get_piece_size()
    assert [piece.text for piece in model.pieces] == [other.id_to_piece(i) for i in range(size)]
    assert [piece.score for piece in model.pieces] == [other.get_score(i) for i in range(size)]
    types = [piece.type for piece in model.pieces]
    assert types[:4] == [CONTROL, UNKNOWN, USER_DEFINED, BYTE]
    assert types[3:259] == [BYTE] * 256
    assert {*types[259:]} == {NORMAL}
    assert (model.kind, model.space_prefix, model.plain) == (BPE, False, True)


@pytest.mark.parametrize("rule", ["nfkc", "identity"])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_settings_of_another_model_are_read(kind: str, rule: str) -> None:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=content,
        model_type=kind,
        vocab_size=150,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    model = read_model(content.getvalue())
    assert (model.kind == BPE, model.plain, model.space_prefix) == (kind == "bpe", rule == "identity", True)


@pytest.mark.parametrize("space_prefix", [True, False])
def test_a_written_model_is_one_of_sentencepiece(space_prefix: bool) -> None:
    pieces = [Piece("<unk>", 0, UNKNOWN), Piece("<s>", 0, CONTROL), Piece("</s>", 0, CONTROL)]
    pieces += [Piece("▁a", -1, NORMAL), Piece("a", -2.5, NORMAL), Piece("▁", -3, NORMAL)]
    pieces += [Piece(f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)]
    content = write_model(pieces, eos_id=2, bos_id=1, space_prefix=space_prefix)
    assert read_model(content).pieces == pieces
    assert read_model(content).space_prefix == space_prefix
    other = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert (other.unk_id(), other.bos_id(), other.eos_id(), other.pad_id()) == (0, 1, 2, -1)
    assert other.encode("a a") == ([3, 3] if space_prefix else [4, 3])
    assert other.encode("  a", out_type=str)[-1] == "▁a"  # runs of spaces stay


@given(st.binary(max_size=60))
def test_damaged_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        read_model(content)
    except UserError as error:
        assert str(error) == "damaged: no model of SentencePiece"  # noqa: PT017


def test_a_model_cut_off_anywhere_is_read_or_refused() -> None:
    content = BPETokenizer.train([TEXT], 300).model
    refused = 0
    for end in range(0, len(content), 7):
        try:
            read_model(content[:end])
        except UserError:
            refused += 1
    assert refused > 0.5 * len(content) / 7
