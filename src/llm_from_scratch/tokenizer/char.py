"""Character tokenizer: one id a character, bytes for characters that the training text lacks."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer.base import Tokenizer, utf8, write_description


class CharTokenizer(Tokenizer):
    """Character tokenizer: id 0 is end-of-text, then `characters` (sorted, distinct) from id 1.

    With `byte_fallback` 256 ids of bytes follow, which encode every other character in UTF-8. Every
    text can then be encoded, and bits per byte count an unknown character in full.
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
        """Learns the characters of `texts`; adds the bytes if `held_out` has another character.

        Characters that occur only in `held_out` get no id of their own.

        Raises:
            UserError: when `texts` have no character, or hold a lone surrogate.
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
        """Counts the characters of an encoded text, ids (N,), that are written as bytes."""
        data = ids[ids >= self._first_byte] - self._first_byte
        return int((data & 0xC0 != 0x80).sum())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes_of[i] for i in ids])

    def save(self, folder: Path) -> None:
        more: dict[str, object] = {"characters": self.characters}
        if self.byte_fallback:  # files without bytes keep their earlier format
            more["byte_fallback"] = True
        write_description(folder, self, **more)
