"""SentencePiece's BPE: lossless for every string, the same model for the same text, bounded in time
and memory.
"""

import io
import itertools
import logging
import pickle
import random
import re
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from conftest import REPO, run, story
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_corpora import PROSE_AND_CODE as TEXT
from tokenizer_strings import strings

from llm_from_scratch.tokenizer import BPETokenizer, SentencePieceTokenizer, load_tokenizer
from llm_from_scratch.tokenizer.bpe import _chunks, _sample


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train([TEXT], 400)


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("▁ ▁▁ a▁b")
@example("<|endoftext|><unk><0x41>\n<|endoftext|>")
@example("▅ \x00 \t \r\n \u2028 \ufeff \U0010ffff \x1a")
@example("  two  spaces  \n\n\n    indent ")
@example("e\u0301 é ﬁ Å")
def test_bpe_gives_back_every_text(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert bpe.decode_bytes(ids) == text.encode()
    assert bpe.eot_id not in ids


@given(st.data())
def test_bpe_decodes_generated_ids_as_sentencepiece_does(bpe, data):
    unknown = 1  # SentencePiece writes it as " ⁇ "; here, where no text encodes to it, as nothing
    ids = data.draw(st.lists(st.integers(0, bpe.vocab_size - 1).filter(lambda i: i != unknown)))
    other = sentencepiece.SentencePieceProcessor(model_proto=bpe.model)
    # A U+2581 that byte pieces spell is a space to SentencePiece; and where a character is cut off,
    # Unicode leaves open how many U+FFFD stand for it. An end-of-text is nothing here, and the
    # bytes around it may make a character; SentencePiece decodes each side by itself.
    whole = other.decode([i for i in ids if i != bpe.eot_id])
    ours, theirs = (re.sub("\ufffd+", "\ufffd", text) for text in (bpe.decode(ids), whole))
    assert ours.replace("▁", " ") == theirs.replace("▁", " ")


def test_bytes_that_are_no_utf8_decode_as_the_replacement_character(bpe):
    ids = bpe.encode("é")
    assert len(ids) == 2
    assert bpe.decode_bytes(ids[:1]) == b"\xc3"
    assert bpe.decode(ids[:1]) == "\ufffd"


def test_bpe_pieces_are_what_its_settings_promise(bpe):
    other = sentencepiece.SentencePieceProcessor(model_proto=bpe.model)
    pieces = [other.id_to_piece(i) for i in range(bpe.vocab_size)]
    assert bpe.vocab_size == 400
    assert pieces[bpe.eot_id] == "<|endoftext|>"
    assert bpe.decode([bpe.eot_id]) == ""
    assert (other.bos_id(), other.pad_id()) == (-1, -1)
    assert "▁▁▁▁" in pieces
    assert sum("\n" in piece for piece in pieces) == 1
    assert len(bpe.encode("\n\n")) == 2


def test_bpe_is_the_same_file_each_time_and_silent(bpe, capfd):
    assert BPETokenizer.train(iter([TEXT]), 400).model == bpe.model
    assert capfd.readouterr() == ("", "")


def test_text_that_looks_like_a_control_piece_is_learned_as_text():
    tokenizer = BPETokenizer.train(["<|endoftext|> <unk> <0x41> abc\n" * 50], 400)
    for text in ("<|endoftext|>", "<unk>", "<0x41>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text)) > 1


def test_a_text_too_small_for_the_size_gets_fewer_pieces_with_a_notice(caplog):
    tokenizer = BPETokenizer.train(["a tale of two cities"], 1024)
    assert 260 < tokenizer.vocab_size < 330
    assert f"{tokenizer.vocab_size} tokens: tokenizer.vocab_size=1024 is reduced" in caplog.text
    assert tokenizer.decode(tokenizer.encode("日本 cities")) == "日本 cities"


@pytest.mark.parametrize("text", ["abc", "日本語", "a b", "\x00a\x00"])
def test_the_smallest_size_named_in_the_error_fits(text):
    with pytest.raises(ValueError, match=r"vocab_size=261 leaves .* use at least 262"):
        BPETokenizer.train([text], 261)
    tokenizer = BPETokenizer.train([text], 262)
    assert tokenizer.decode(tokenizer.encode(f"{text} and ▁")) == f"{text} and ▁"


def test_rare_characters_are_bytes_where_all_would_not_fit(caplog):
    # 3,000 characters, 20 of them frequent; (290 - 260) / 2 = 15 get a piece.
    common = "".join(chr(0x4E00 + i) for i in range(20))
    tokenizer = BPETokenizer.train([common * 200 + "".join(chr(0x5000 + i) for i in range(2980))], 290)
    assert "2985 of the 3000 distinct characters" in caplog.text
    assert "tokenizer.vocab_size=6260 would" in caplog.text
    assert len(tokenizer.encode(common[0])) == 1
    assert len(tokenizer.encode(chr(0x5000))) == 3
    assert tokenizer.vocab_size == 290


@pytest.mark.parametrize("text", ["", "\n \n", "▁", "\0"])
def test_nothing_to_learn_is_one_line(text):
    with pytest.raises(ValueError, match="nothing but white space"):
        BPETokenizer.train([text], 300)


def test_no_text_is_lost_to_the_trainer(bpe):
    # Longer than SentencePiece's sentences, and with the mark for an unknown, which makes it skip a
    # sentence.
    tokenizer = BPETokenizer.train(["xyz " * 5000 + "▅" + "uvw " * 5000], 300)
    assert len(tokenizer.encode(" xyz")) == len(tokenizer.encode(" uvw")) == 1


def test_the_sample_is_spread_evenly_and_bounded():
    texts = [chr(ord("A") + i % 26) * 2**14 for i in range(260)]
    sample = _sample(texts, 100 * 2**14)
    assert sample == texts[::4]  # 260 -> 130 -> 65 blocks
    assert _sample(iter(texts), 100 * 2**14) == sample
    assert _sample(["ab", "cd"], 100) == ["ab", "cd"]
    assert sum(len(block.encode()) for block in _sample(["é" * 10**6], 10**5)) <= 10**5


@given(st.text(st.sampled_from("ab \n"), max_size=60), st.integers(1, 20))
def test_chunks_hold_the_whole_text(text, limit):
    joined = {"ab", " a", "  "}
    chunks = list(_chunks(text, joined, limit))
    assert "".join(chunks) == text
    assert all(chunks)
    assert all(before[-1] + after[0] not in joined for before, after in itertools.pairwise(chunks))
    # A chunk is longer than the limit only where it has no other place to be cut.
    assert all(
        len(chunk) <= limit or all(chunk[i - 1 : i + 1] in joined for i in range(1, len(chunk))) for chunk in chunks
    )


@pytest.mark.parametrize("change", [str, lambda text: text.replace("\n", ""), lambda text: text.replace(" ", "")])
def test_chunks_do_not_change_the_ids(bpe, change):
    text = change(TEXT * 30)
    assert len(text) > 2 * 2**14
    assert bpe.encode(text) == sentencepiece.SentencePieceProcessor(model_proto=bpe.model).encode(text)


def test_a_book_on_one_line_has_the_ids_of_sentencepiece(corpora: Path):
    text = (corpora / "oz" / "wizard_of_oz.txt").read_text(encoding="utf-8")
    tokenizer = BPETokenizer.train([text], 1024)
    line = text.replace("\n", " ")
    assert tokenizer.encode(line) == sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model).encode(line)


@given(st.text(st.sampled_from("the cat\n \u2581é🌪\0"), max_size=60), st.text(max_size=10))
def test_a_text_can_be_encoded_in_two_parts_at_its_last_cut(before, after):
    tokenizer = small_bpe()
    cut = tokenizer.last_cut(before)
    assert tokenizer.encode(before[:cut]) + tokenizer.encode(before[cut:] + after) == tokenizer.encode(before + after)


def test_a_megabyte_without_a_break(bpe):
    letters = "".join(random.Random(0).choices("etaoinshrdlu", k=10**6))
    for text in (letters, "a" * 10**6, " " * 10**6, "▁" * 10**5):
        assert bpe.decode(bpe.encode(text)) == text  # 0.3 s measured; quadratic would be hours


def test_a_text_with_room_for_all_gives_no_notice(caplog):
    caplog.set_level(logging.INFO)
    BPETokenizer.train([TEXT], 400)
    assert caplog.text == ""


def test_sampled_pieces_are_the_same_in_every_process(tmp_path: Path):
    """SentencePiece's own sampling begins elsewhere in each, whatever the seed: resumed runs saw
    other pieces.
    """
    BPETokenizer.train([story(20_000)], 400).save(tmp_path)
    code = """
import sys
from pathlib import Path
from conftest import story
from llm_from_scratch.tokenizer import load_tokenizer
print(load_tokenizer(Path(sys.argv[1])).sample(story(500), 0.2, 7))
"""
    first, second = (run(["-c", code, str(tmp_path)], REPO / "tests") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout != ""


@given(st.text(st.sampled_from("the cat sat\n  \u2581é🌪\0x"), max_size=60) | st.text(max_size=60))
def test_sampling_that_leaves_nothing_out_is_encoding(text: str):
    assert small_bpe().sample(text, 0.0, 1) == small_bpe().encode(text)


@cache
def small_bpe() -> BPETokenizer:
    return BPETokenizer.train([story(20_000) + "the cat sat on the     mat é"], 400)


def test_sampled_pieces_are_the_same_text_cut_elsewhere():
    text = story(20_000)
    tokenizer = BPETokenizer.train([text], 400)
    part = text[:2000] + " \u2581é🌪\n"
    ids = tokenizer.encode(part)
    drawn = [tokenizer.sample(part, 0.1, seed) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len(sampled) > len(ids) for sampled in drawn)
    assert all(tokenizer.decode_bytes(sampled) == part.encode() for sampled in drawn)
    assert tokenizer.encode(part) == ids  # the others are as they were
    # Of two characters there is one merge, which is left out with the probability asked for.
    pairs = (text[i : i + 2] for i in range(len(text)))
    pair = next(pair for pair in pairs if pair.isalpha() and len(tokenizer.encode(pair)) == 1)
    assert sum(len(tokenizer.sample(pair, 0.3, seed)) == 2 for seed in range(2000)) == pytest.approx(600, abs=80)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_another_ones_model_encodes_as_sentencepiece_does(kind: str, tmp_path: Path):
    """With its own normalizer and the space that it puts in front of a text."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=content,
        model_type=kind,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(content.getvalue())
    tokenizer.save(tmp_path)
    other = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
    for found in (tokenizer, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        for text in [TEXT, *strings(300, 9)]:
            ids = found.encode(text)
            assert ids == other.encode(text)
            assert found.decode(ids) == other.decode(ids)
    assert (tokenizer.eot_id, tokenizer.bos_id, tokenizer.special) == (2, 1, {"<s>": 1, "</s>": 2})
    assert tokenizer.decode(tokenizer.encode(" ﬁ  x")) == "fi x"  # not what went in
    assert tokenizer.decode_bytes(tokenizer.encode("the")) == b" the"
    with pytest.raises(ValueError, match="lone surrogate"):
        tokenizer.encode("\ud800")


def test_a_model_without_an_end_of_text_is_refused():
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=content, vocab_size=60, eos_id=-1, minloglevel=2
    )
    with pytest.raises(ValueError, match="no end-of-text token"):
        SentencePieceTokenizer(content.getvalue())
