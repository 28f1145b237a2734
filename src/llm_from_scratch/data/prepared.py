"""Prepared texts on disk, as `prepare` writes them: opened, verified and read."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.conversations import PREFERENCES
from llm_from_scratch.data.corpus import MANY_DOCUMENTS
from llm_from_scratch.data.documents import SPLITS
from llm_from_scratch.data.fresh import FreshSampler
from llm_from_scratch.data.packing import ConversationSampler, Learned, PackedRows
from llm_from_scratch.data.preferences import Pairs, PreferenceSampler
from llm_from_scratch.data.sampler import (
    MixedSampler,
    RandomChunkSampler,
    RandomTextSampler,
    Sampler,
    ValidationWindows,
)
from llm_from_scratch.data.shards import VERIFY_BELOW, Shard, id_dtype, open_shard
from llm_from_scratch.data.tasks import documents_in_pieces
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import read_bounded, refuse_links, sha256
from llm_from_scratch.tales import LEVELS
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer

MASK = ".mask"  # of conversations, beside each shard: a byte for each id, 1 where it is learned
FILES = "files"  # the manifest's key of the cleaned text's checksums; version 0.1 has none
TEXT_FILES = tuple(f"{split}.{kind}" for split in SPLITS for kind in ("txt", "ends"))
MAX_MANIFEST = 1_000_000_000  # bytes; a manifest takes about 100 bytes a shard


@dataclass(frozen=True)
class Prepared:
    """A prepared text on disk, with its manifest and its tokenizer.

    `manifest["splits"][split]` holds the counts documents, text_bytes (UTF-8) and tokens.
    """

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    parts: tuple["Prepared", ...] = ()  # the corpora of a mixture; () for others

    def shards(self, split: str) -> list[Shard]:
        """Returns the token shards of a split, in order, with verified indexes.

        Their ids are verified too where the split has less than VERIFY_BELOW bytes of ids.
        """
        facts = self.manifest["splits"][split]
        small = facts.get("tokens", 0) * id_dtype(self.tokenizer.vocab_size).itemsize < VERIFY_BELOW
        return [
            open_shard(self.folder / name, tokenizer=self.tokenizer.fingerprint, verify=small, index_sha256=checksum)
            for name, checksum in facts["shards"].items()
        ]

    def text_bytes(self, split: str) -> int:
        """Returns the size of a split's text in UTF-8 bytes."""
        return int(self.manifest["splits"][split]["text_bytes"])

    def documents(self, split: str) -> Iterator[str]:
        """Yields the cleaned documents of a split, in order.

        Where no cleaned text is kept, they are decoded from the tokens.
        """
        if self.has_text:
            self.verify_text(split)
            for _, pieces in documents_in_pieces(self.folder / f"{split}.txt"):
                yield "".join(pieces)
            return
        for shard in self.shards(split):
            start = 0
            for end in shard.document_ends.tolist():
                yield self.tokenizer.decode(shard.tokens[start:end].tolist())
                start = end

    def validation(self, data: DataConfig, block_size: int) -> ValidationWindows | PackedRows | Pairs:
        """Returns the windows of T tokens (`block_size`) that a validation reads.

        Raises:
            UserError: when the split is too short.
        """
        tokens = [shard.tokens for shard in self.shards("val")]
        return ValidationWindows(tokens, block_size=block_size, eot_id=self.tokenizer.eot_id)

    def scored_bytes(self, data: DataConfig, block_size: int) -> int:
        """Returns the UTF-8 bytes of the text whose tokens a validation predicts."""
        return self.text_bytes("val")

    def sequences(self, data: DataConfig, block_size: int, tokens: int) -> float:
        """Returns the training sequences of an epoch; `tokens` are those of the training split."""
        return tokens / block_size

    def sampler(self, data: DataConfig, **place: int) -> Sampler:
        """Returns the sampler of the training batches that the settings describe.

        Args:
            data: the group `data` of a run.
            place: block_size (tokens) and seed of the run; of one of its processes also rank and
                world_size.
        """
        shared: dict[str, Any] = {"batch_size": data.batch_size, "batch_schedule": data.batch_schedule, **place}
        if data.stream == "text":
            self.verify_text("train")
            ends = np.fromfile(self.folder / "train.ends", dtype="<u8")
            path = self.folder / "train.txt"
            return RandomTextSampler(path, ends, self.tokenizer, subword_dropout=data.subword_dropout, **shared)
        return RandomChunkSampler([shard.tokens for shard in self.shards("train")], **shared)

    def verify_text(self, split: str) -> None:
        """Verifies the checksums of a split's cleaned text and of its document ends.

        A text of version 0.1 has no checksums: its size and its document ends are verified.

        Raises:
            UserError: when a file is missing or changed; the message names it.
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
        """Returns whether the cleaned text lies beside the tokens."""
        return bool(self.manifest.get("keep_text", True))


@dataclass(frozen=True)
class Stories(Prepared):
    """Told stories, whose level is `manifest["level"]`.

    Validation reads each story from its beginning, within its own context, so that the loss can be
    compared with the entropy; where a story is longer than the context, as any other text.
    """

    @property
    def level(self) -> int:
        """Returns the level of the stories."""
        return int(self.manifest["level"])

    def stories(self, split: str) -> list[np.ndarray]:
        """Returns the ids of each story of a split, (n,), the last of them end-of-text."""
        return [one for shard in self.shards(split) for one in np.split(shard.tokens, shard.document_ends)[:-1]]

    def validation(self, data: DataConfig, block_size: int) -> ValidationWindows | PackedRows:
        stories = self.stories("val")
        if max(map(len, stories)) > block_size:
            return ValidationWindows(stories, block_size=block_size, eot_id=self.tokenizer.eot_id)
        ids = np.concatenate([np.append(self.tokenizer.eot_id, one) for one in stories])
        ends = np.cumsum([len(one) + 1 for one in stories])
        learned = Learned(ids, ends, np.ones(len(ids), bool))
        return PackedRows(learned, block_size=block_size, too_long="cut", eot_id=self.tokenizer.eot_id)

    def sequences(self, data: DataConfig, block_size: int, tokens: int) -> float:
        return np.inf if data.stream == "fresh" else super().sequences(data, block_size, tokens)

    def sampler(self, data: DataConfig, **place: int) -> Sampler:
        if data.stream != "fresh":
            return super().sampler(data, **place)
        shared = {"batch_size": data.batch_size, "batch_schedule": data.batch_schedule}
        return FreshSampler(self.level, self.tokenizer, **shared, **{"rank": 0, "world_size": 1} | place)


@dataclass(frozen=True)
class Mixture(Prepared):
    """Several prepared corpora as one text, each with a weight.

    `manifest["corpora"]` holds their folders, checksums and weights; `manifest["splits"]` the sums
    of their counts.
    """

    def shards(self, split: str) -> list[Shard]:
        return [shard for part in self.parts for shard in part.shards(split)]

    def documents(self, split: str) -> Iterator[str]:
        for part in self.parts:
            yield from part.documents(split)

    def sampler(self, data: DataConfig, **place: int) -> Sampler:
        corpora = self.manifest["corpora"]
        samplers = {name: part.sampler(data, **place) for name, part in zip(corpora, self.parts, strict=True)}
        return MixedSampler(samplers, {name: one["weight"] for name, one in corpora.items()})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Conversations(Prepared):
    """Prepared conversations: beside the ids of each document, which of them are learned.

    `manifest["template"]` is the chat template by which they were rendered, None where no row has
    messages; `manifest["splits"][split]` has the counts of the learned text (text_bytes), of all
    tokens and of those learned. Of preferences, document 2 i is the chosen one and 2 i + 1 the
    rejected one of pair i.
    """

    packings: dict[tuple[str, int, str], PackedRows] = field(default_factory=dict, compare=False, repr=False)

    def learned(self, split: str) -> Learned:
        """Returns the documents of a split with the mask of what is learned, verified.

        Raises:
            UserError: when a file is missing or damaged.
        """
        (shard,) = self.shards(split)
        path = shard.info.path.with_suffix(MASK)
        if not path.is_file() or path.stat().st_size != len(shard.tokens):
            raise _damaged(path, f"is missing, or has not {len(shard.tokens)} bytes")
        if sha256(path) != self.manifest["splits"][split]["mask"]:
            raise _damaged(path, "has other bytes than were written")
        mask = np.memmap(path, np.uint8, "r") if len(shard.tokens) else np.empty(0, np.uint8)
        return Learned(shard.tokens, shard.document_ends, mask.view(bool))

    def packed(self, split: str, data: DataConfig, block_size: int) -> PackedRows:
        """Returns a split in rows of `block_size` tokens, packed at the first call.

        Raises:
            UserError: when no conversation is left in the split.
        """
        key = (split, block_size, data.too_long)
        if key not in self.packings:
            rows = PackedRows(
                self.learned(split), block_size=block_size, too_long=data.too_long, eot_id=self.tokenizer.eot_id
            )
            if not len(rows):
                raise UserError(
                    f"data.too_long={data.too_long}: all {rows.skipped:,} conversations of the {split} split are left out,"
                    f" as they are longer or have no answer within {block_size + 1} tokens: use a larger model.block_size"
                )
            self.packings[key] = rows
        return self.packings[key]

    def validation(self, data: DataConfig, block_size: int) -> PackedRows | Pairs:
        return self.packed("val", data, block_size)

    def scored_bytes(self, data: DataConfig, block_size: int) -> int:
        special = [*self.tokenizer.special.values()]
        ids = self.packed("val", data, block_size).learned_ids
        return len(self.tokenizer.decode_bytes(ids[~np.isin(ids, special)].tolist()))

    def sequences(self, data: DataConfig, block_size: int, tokens: int) -> float:
        return len(self.packed("train", data, block_size))

    def sampler(self, data: DataConfig, **place: int) -> ConversationSampler | PreferenceSampler:
        packed = self.packed("train", data, place.pop("block_size"))
        return ConversationSampler(packed, batch_size=data.batch_size, batch_schedule=data.batch_schedule, **place)

    def prompts(self, split: str) -> Iterator[tuple[list[int], list[int]]]:
        """Yields for each document the ids before its last answer, and those of that answer."""
        documents = self.learned(split)
        for number in range(len(documents.ends)):
            ids, mask = documents.document(number)
            begin = int(np.flatnonzero(~mask)[-1]) + 1 if not mask.all() else 0
            yield ids[:begin].tolist(), ids[begin:].tolist()


@dataclass(frozen=True)
class Preferences(Conversations):
    """Prepared pairs of answers: of pair i document 2i is the chosen one, 2i + 1 the rejected."""

    pairings: dict[tuple[str, int, str], Pairs] = field(default_factory=dict, compare=False, repr=False)

    def pairs(self, split: str, data: DataConfig, block_size: int) -> Pairs:
        """Returns the pairs of a split; every call returns the same object.

        Raises:
            UserError: when none fits into `block_size` tokens.
        """
        key = (split, block_size, data.too_long)
        if key not in self.pairings:
            self.pairings[key] = Pairs(
                self.learned(split),
                block_size=block_size,
                too_long=data.too_long,
                eot_id=self.tokenizer.eot_id,
                split=split,
            )
        return self.pairings[key]

    def validation(self, data: DataConfig, block_size: int) -> Pairs:
        return self.pairs("val", data, block_size)

    def sequences(self, data: DataConfig, block_size: int, tokens: int) -> float:
        return len(self.pairs("train", data, block_size))

    def sampler(self, data: DataConfig, **place: int) -> PreferenceSampler:
        pairs = self.pairs("train", data, place["block_size"])
        return PreferenceSampler(pairs, batch_size=data.batch_size, batch_schedule=data.batch_schedule, **place)


def open_prepared(folder: Path) -> Prepared:
    """Opens the prepared text in `folder`; of a mixture, its corpora too.

    Raises:
        UserError: when the manifest or the tokenizer is missing or damaged, or a mixture's corpus
            is another text than it was.
    """
    path = folder / "manifest.json"
    refuse_links(folder, folder)
    try:
        manifest = json.loads(read_bounded(path, MAX_MANIFEST))
        if manifest["sha256"] != manifest_sha256(manifest):
            raise UserError("checksum")
        for split in SPLITS:  # a crafted manifest can have a valid checksum
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
        if manifest.get("level", LEVELS[0]) not in LEVELS:
            raise UserError("level")
        chats = manifest.get("rows") is not None
        if chats and not all(isinstance(manifest["splits"][split]["mask"], str) for split in SPLITS):
            raise UserError("mask")
        if chats and not isinstance(manifest["template"], str | None):
            raise UserError("template")
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
    if chats:
        kind = Preferences if manifest["rows"] == PREFERENCES else Conversations
        return kind(folder, manifest, tokenizer)
    if "level" in manifest:
        return Stories(folder, manifest, tokenizer)
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
    """Returns the prepared text whose manifest has the checksum `sha256`; None without one.

    It is looked for below `corpus`, the folder data.dir/data.name. Its source files may have
    changed since.

    Raises:
        UserError: when that text is damaged.
    """
    for folder in sorted(corpus.glob("prepared-*")):
        try:
            same = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"] == sha256
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # not readable: not the text that is looked for
        if same:
            return open_prepared(folder)
    return None


def manifest_sha256(manifest: dict[str, Any]) -> str:
    """Computes `manifest["sha256"]`, the sha256 of the other entries.

    The checksums of the cleaned text are left out: those of the shards cover its tokens.
    """
    covered = {key: manifest[key] for key in sorted(manifest) if key not in ("sha256", FILES)}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}: delete {path.parent} and it is prepared anew")


def document_start(prepared: Prepared) -> int:
    """Returns the id that separates documents, for data.doc_mask.

    Raises:
        UserError: when documents follow each other without that id: fewer than MANY_DOCUMENTS are
            each cut in two and have no end.
    """
    several = [shard for shard in prepared.shards("val") if len(shard.document_ends) > 1]
    if any(shard.tokens[shard.document_ends[0] - 1] != prepared.tokenizer.eot_id for shard in several):
        raise UserError(
            f"data.doc_mask=true: each of fewer than {MANY_DOCUMENTS} documents is cut in two, with no end that could part them:"
            " use more documents, or leave it out"
        )
    return prepared.tokenizer.eot_id


def check_doc_mask(prepared: Prepared) -> None:
    """Raises UserError for data.doc_mask=true with a text in which it changes nothing.

    Such a text is one document, read as tokens. With data.stream=text the training text is a ring:
    its beginning follows its end, and the mask separates them.
    """
    splits = prepared.manifest["splits"]
    single = all(splits[split]["documents"] == 1 for split in SPLITS)
    if single and "tokens" in splits["train"] and not prepared.parts:
        raise UserError(
            "data.doc_mask=true: the text is one document, with no end within it that could part anything: leave it out"
        )
