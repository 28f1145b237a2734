"""One id a character, and bytes for characters that the training text lacks."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer.base import Tokenizer, utf8, write_description


class CharTokenizer(Tokenizer):
    """One id a character: 0 is end-of-text, and `characters` (sorted, each once) follow it.

    With `byte_fallback` 256 ids of bytes follow, which write every other character in UTF-8. The
    encoding is then lossless, and bits per byte count an unknown character in full.
    """

    kind = "char"
    eot_id = 0

    def __init__(self, characters: str, byte_fallback: bool = False) -> None:
        if not characters or list(characters) != sorted(set(characters)):
            raise UserError("a character tokenizer needs at least one character, sorted and each once")
        self.characters, self.byte_fallback = characters, byte_fallback
        definition = utf8(characters)
        self._id_of = {character: i for i, character in enumerate(characters, start=1)}
        self._bytes_of = [b"", *(character.encode() for character in characters)]
        self._first_byte = len(self._bytes_of)
        if byte_fallback:
            definition += b"\0bytes"  # no sorted string ends so: no two mappings share a checksum
            self._bytes_of += [bytes([byte]) for byte in range(256)]
        self.vocab_size = len(self._bytes_of)
        self.fingerprint = hashlib.sha256(definition).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], held_out: Iterable[str] = ()) -> "CharTokenizer":
        """Learns the characters of `texts`, and the bytes where `held_out` has another character.

        No character of `held_out` is learned: the training text alone decides.

        Raises:
            UserError: no text, or a lone surrogate.
        """
        known: set[str] = set()
        for text in texts:  # one at a time: `union(*texts)` would hold them all
            known.update(text)
        if not known:
            raise UserError("the training text is empty: there is no character to learn")
        return cls("".join(sorted(known)), any(not known.issuperset(text) for text in held_out))

    def encode(self, text: str) -> list[int]:
        try:
            return [self._id_of[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
            utf8(text)
        if not self.byte_fallback:
            raise UserError(
                f"the character {unknown!r} (U+{ord(unknown):04X}) at index {text.index(unknown)} of the text is none "
                f"of the training text's {len(self.characters)}: leave it out, or train with tokenizer=bpe, which can "
                "write every character"
            )
        ids: list[int] = []
        for character in text:
            if (known := self._id_of.get(character)) is not None:
                ids.append(known)
            else:
                ids += [self._first_byte + byte for byte in character.encode()]
        return ids

    def unknown_characters(self, ids: np.ndarray) -> int:
        """The count of characters of an encoded text (N,) that are written as bytes."""
        data = ids[ids >= self._first_byte] - self._first_byte
        return int((data & 0xC0 != 0x80).sum())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        more: dict[str, str | bool] = {"characters": self.characters}
        if self.byte_fallback:  # a file without bytes stays what it always was
            more["byte_fallback"] = True
        write_description(folder, self, **more)
