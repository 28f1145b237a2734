"""Merges of a byte-level BPE: tokens as GPT-2's files write them, ranks, and their definition.

Libraries merge by a list of pairs, tiktoken by the ranks of tokens. Both give the same ids where
each token is the encoding of its bytes by earlier tokens and one more merge.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping

from llm_from_scratch.errors import UserError

MAX_PIECE = 512  # bytes of a token; GPT-2's longest has 128; `derived` takes quadratic time in it
# sum over all tokens of the squared number of bytes, which bounds the time of `derived` to about
# 10 s: SmolLM2's 49,152 tokens have 3 million
MAX_WORK = 40_000_000
# GPT-2's files write each byte of a token as a visible character: 188 bytes as the character of the
# same number, the others as U+0100 and on.
_SEEN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_CHARACTER_OF = {byte: chr(byte) for byte in _SEEN}
_CHARACTER_OF |= {byte: chr(256 + i) for i, byte in enumerate(sorted(set(range(256)) - set(_SEEN)))}
_BYTE_OF = dict.fromkeys(range(256), 0xFFFF) | {ord(character): byte for byte, character in _CHARACTER_OF.items()}


def in_reach(ids: Mapping[bytes, int], merges: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the merges without those of a token that only a later merge makes.

    Where each token is merged from two earlier ones, no text reaches such a merge: the token that
    it makes has been made before.
    """
    made = {piece for piece in ids if len(piece) == 1}
    for left, right in merges:
        if (left in made and right in made) or left not in ids or right not in ids:
            made.add(left + right)
            yield left, right


def ranked(ids: Mapping[bytes, int], merges: Iterable[tuple[bytes, bytes]]) -> dict[bytes, int]:
    """Returns token -> rank: single bytes in the order of their ids, then what each merge makes.

    Raises:
        UserError: when a merge joins what is no token yet or makes what is none, or a token is made
            by no merge.
    """
    single = sorted((piece for piece in ids if len(piece) == 1), key=ids.__getitem__)
    ranks = {piece: rank for rank, piece in enumerate(single)}
    for number, (left, right) in enumerate(merges):
        if left not in ranks or right not in ranks or left + right not in ids:
            raise UserError(f"damaged: merge {number} joins or makes what is no token")
        ranks.setdefault(left + right, len(ranks))
    if len(ranks) < len(ids):
        lacking = next(piece for piece in ids if piece not in ranks)
        raise UserError(f"damaged: no merge makes the token {ascii(written(lacking))[:100]}")
    if not ranks:
        raise UserError("damaged: no tokens")
    return ranks


def pair_of(merge: str) -> tuple[bytes, bytes]:
    """Converts a line of merges.txt to the bytes of the two tokens.

    Raises:
        UserError: when it is not two tokens.
    """
    parts = merge.split(" ") if isinstance(merge, str) else []
    if len(parts) != 2:
        raise UserError(f"damaged: {ascii(merge)[:100]} is no merge of two tokens")
    return piece_of(parts[0]), piece_of(parts[1])


def piece_of(written: str) -> bytes:
    """Converts a token of GPT-2's files, a visible character a byte, to its bytes.

    Raises:
        UserError: when it is not written so, is empty or longer than MAX_PIECE.
    """
    try:
        piece = written.translate(_BYTE_OF).encode("latin-1")
    except UnicodeEncodeError:
        piece = b""
    if not 0 < len(piece) <= MAX_PIECE:
        raise UserError(
            f"damaged: {ascii(written)[:100]} are not the bytes of a token, 1 to {MAX_PIECE}, as GPT-2 writes them"
        )
    return piece


def written(piece: bytes) -> str:
    """Writes the bytes of a token as the visible characters of GPT-2's files."""
    return "".join(map(_CHARACTER_OF.__getitem__, piece))


def derived(ranks: dict[bytes, int]) -> list[tuple[bytes, ...]]:
    """Derives the list of merges from the ids: the pair of tokens behind each merged token.

    The pair is the encoding of the token's bytes by tokens of lower ids. Where each encoding has
    two tokens, merging by ids (tiktoken) and by the list of merges (other libraries) agree on every
    text: a pair that is not in the list would have been merged otherwise before.

    Raises:
        UserError: when the encoding of a token has more than two tokens.
    """
    found = []
    for piece in sorted(ranks, key=ranks.__getitem__):
        parts = [piece[i : i + 1] for i in range(len(piece))]
        while len(parts) > 2:
            best, at = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
            if best >= ranks[piece]:
                raise UserError(
                    f"the token {ascii(piece.decode(errors='replace'))[:100]} is not merged from two others"
                )
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append(tuple(parts))
    return found
