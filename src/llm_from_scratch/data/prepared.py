"""A prepared text as it lies on the disk: what `prepare` writes, and everything else reads."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.data.corpus import MANY_DOCUMENTS
from llm_from_scratch.data.documents import SPLITS
from llm_from_scratch.data.sampler import MixedSampler, RandomChunkSampler, RandomTextSampler, Sampler
from llm_from_scratch.data.shards import VERIFY_BELOW, Shard, open_shard
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import read_bounded, refuse_links, sha256
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

FILES = "files"  # of a manifest: the checksums of the cleaned text; version 0.1 wrote none
TEXT_FILES = tuple(f"{split}.{kind}" for split in SPLITS for kind in ("txt", "ends"))
MAX_MANIFEST = 1_000_000_000  # bytes; of a corpus of many shards it has a hundred a shard


@dataclass(frozen=True)
class Prepared:
    """A prepared text.

    `manifest["splits"][split]` holds documents, characters, text_bytes and tokens.
    """

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    parts: tuple["Prepared", ...] = ()  # of a mixture

    def shards(self, split: str) -> list[Shard]:
        """The token shards of a split, verified; of a large split, the indexes alone."""
        facts = self.manifest["splits"][split]
        small = facts.get("tokens", 0) * (2 if self.tokenizer.vocab_size <= 65_536 else 4) < VERIFY_BELOW
        return [
            open_shard(self.folder / name, tokenizer=self.tokenizer.fingerprint, verify=small, index_sha256=checksum)
            for name, checksum in facts["shards"].items()
        ]

    def text_bytes(self, split: str) -> int:
        """UTF-8 bytes of a split's text."""
        return int(self.manifest["splits"][split]["text_bytes"])

    def documents(self, split: str) -> Iterator[str]:
        """The cleaned documents of a split, in order."""
        if self.has_text:
            self.verify_text(split)
            yield from read_documents(self.folder / f"{split}.txt")
            return
        for shard in self.shards(split):
            start = 0
            for end in shard.document_ends.tolist():
                yield self.tokenizer.decode(shard.tokens[start:end].tolist())
                start = end

    def sampler(self, stream: str, subword_dropout: float = 0.0, **settings: Any) -> Sampler:
        """Training batches.

        `settings` are those of the samplers: block_size, batch_size, batch_schedule, seed, rank,
        world_size.
        """
        if stream == "text":
            self.verify_text("train")
            ends = np.fromfile(self.folder / "train.ends", dtype="<u8")
            path = self.folder / "train.txt"
            return RandomTextSampler(path, ends, self.tokenizer, subword_dropout=subword_dropout, **settings)
        return RandomChunkSampler([shard.tokens for shard in self.shards("train")], **settings)

    def verify_text(self, split: str) -> None:
        """Checks every byte of a split's cleaned text.

        Of one that version 0.1 prepared, it checks the size and the ends of the documents.

        Raises:
            UserError: naming the file that is missing or changed.
        """
        facts, text = self.manifest["splits"][split], self.folder / f"{split}.txt"
        ends = text.with_suffix(".ends")
        for path, size in ((text, facts["text_bytes"]), (ends, 8 * facts["documents"])):
            if not path.is_file() or path.stat().st_size != size:
                raise _damaged(path, f"is missing, or has not {size} bytes")
            if FILES in self.manifest and sha256(path) != self.manifest[FILES][path.name]:
                raise _damaged(path, "has other bytes than were written")
        places = np.fromfile(ends, dtype="<u8")
        if (int(places[-1]) if len(places) else 0) != facts["text_bytes"] or np.any(places[1:] < places[:-1]):
            raise _damaged(ends, "has ends of documents that do not rise to the end of the text")

    @property
    def has_text(self) -> bool:
        """Whether the cleaned text lies beside the tokens."""
        return bool(self.manifest.get("keep_text", True))


@dataclass(frozen=True)
class Mixture(Prepared):
    """Several prepared corpora as one text.

    `manifest["corpora"]` has their weights, `manifest["splits"]` the sums of their counts.
    """

    def shards(self, split: str) -> list[Shard]:
        return [shard for part in self.parts for shard in part.shards(split)]

    def documents(self, split: str) -> Iterator[str]:
        for part in self.parts:
            yield from part.documents(split)

    def sampler(self, stream: str, subword_dropout: float = 0.0, **settings: Any) -> Sampler:
        corpora = self.manifest["corpora"]
        parts = zip(corpora, self.parts, strict=True)
        samplers = {name: part.sampler(stream, subword_dropout, **settings) for name, part in parts}
        return MixedSampler(samplers, {name: one["weight"] for name, one in corpora.items()})  # type: ignore[arg-type]


def open_prepared(folder: Path) -> Prepared:
    """A prepared text as it lies on the disk.

    Raises UserError in one line where its manifest or tokenizer does not hold.
    """
    path = folder / "manifest.json"
    refuse_links(folder, folder)
    try:
        manifest = json.loads(read_bounded(path, MAX_MANIFEST))
        if manifest["sha256"] != manifest_sha256(manifest):
            raise UserError("checksum")
        for split in SPLITS:  # whoever made the checksum may have made up the rest
            facts = manifest["splits"][split]
            counts = [
                facts["documents"],
                facts["text_bytes"],
                facts.get("tokens", 0) if split == "train" else facts["tokens"],
            ]
            if any(type(count) is not int or count < 0 for count in counts):
                raise UserError("counts")
            if not all(re.fullmatch(r"[\w.-]{1,100}", name) for name in facts["shards"]):
                raise UserError("names")
            if not all(isinstance(checksum, str) for checksum in facts["shards"].values()):
                raise UserError("shards")
        kept = TEXT_FILES if manifest.get("keep_text", True) and "corpora" not in manifest else ()
        if FILES in manifest and set(manifest[FILES]) != set(kept):
            raise UserError("text")
        for name, one in manifest.get("corpora", {}).items():
            if not all(re.fullmatch(r"[\w.-]{1,100}(/prepared-[\w]{1,100})?", each) for each in (name, one["folder"])):
                raise UserError("corpora")
            if not (isinstance(one["sha256"], str) and 0 < one["weight"] < float("inf")):
                raise UserError("corpora")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: missing or damaged; delete {folder} and it is prepared anew") from None
    tokenizer = load_tokenizer(folder / "tokenizer")
    if "corpora" not in manifest:
        return Prepared(folder, manifest, tokenizer)
    parts = tuple(open_prepared(folder.parents[1] / one["folder"]) for one in manifest["corpora"].values())
    for part, one in zip(parts, manifest["corpora"].values(), strict=True):
        if part.manifest["sha256"] != one["sha256"]:
            raise UserError(
                f"{path}: {part.folder} is another text than it was: delete {folder} and it is prepared anew"
            )
    return Mixture(folder, manifest, tokenizer, parts)


def find_prepared(corpus: Path, sha256: str) -> Prepared | None:
    """The prepared text of a fingerprint, below `corpus`, data.dir/data.name.

    Its source may hold another text by now. None: it is not there.

    Raises:
        UserError: it is there, and damaged.
    """
    for folder in sorted(corpus.glob("prepared-*")):
        try:
            same = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"] == sha256
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # another text, which this run does not need
        if same:
            return open_prepared(folder)
    return None


def manifest_sha256(manifest: dict[str, Any]) -> str:
    """The value of `manifest["sha256"]`.

    It is a checksum of all but the checksums of the text, whose tokens it covers.
    """
    covered = {key: manifest[key] for key in sorted(manifest) if key not in ("sha256", FILES)}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}: delete {path.parent} and it is prepared anew")


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a cleaned text, whose ends lie beside it."""
    start = 0
    with path.open("rb") as file:
        for end in np.fromfile(path.with_suffix(".ends"), dtype="<u8").tolist():
            yield file.read(end - start).decode()
            start = end


def document_start(prepared: Prepared) -> int:
    """The id that parts documents, for data.doc_mask.

    Raises:
        UserError: where several documents lie one behind the other without it: of few, each is cut
            in two and has no end.
    """
    several = [shard for shard in prepared.shards("val") if len(shard.document_ends) > 1]
    if any(shard.tokens[shard.document_ends[0] - 1] != prepared.tokenizer.eot_id for shard in several):
        raise UserError(
            f"data.doc_mask=true: each of fewer than {MANY_DOCUMENTS} documents is cut in two, with no end that could part them:"
            " use more documents, or leave it out"
        )
    return prepared.tokenizer.eot_id


def check_doc_mask(prepared: Prepared) -> None:
    """Refuses data.doc_mask=true for a text in which it changes nothing.

    Raises:
        UserError: the text is one document. Text that is read as text is a ring, in which the end
            meets the beginning.
    """
    splits = prepared.manifest["splits"]
    single = all(splits[split]["documents"] == 1 for split in SPLITS)
    if single and "tokens" in splits["train"] and not prepared.parts:
        raise UserError(
            "data.doc_mask=true: the text is one document, with no end within it that could part anything: leave it out"
        )
