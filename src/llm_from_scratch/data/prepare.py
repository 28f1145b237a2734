"""Source -> clean -> split -> tokenizer -> shards: everything that happens to a text once, before the first training on it.

data/oz/prepared-1f0c8a35be21/     named after the text, the cleaning, the split and the tokenizer: any change prepares anew
    manifest.json                  counts, the cleaning's report, checksums; written last
    train.txt  val.txt             the cleaned text of each split, documents one behind the other
    train.ends val.ends            the byte at which each document ends (little-endian uint64)
    tokenizer/                     learned from train.txt alone
    train_00000.bin/.idx  val_…    token shards (no train shards with data.stream=text)
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data.clean import CLEANING_VERSION, clean
from llm_from_scratch.data.shards import Shard, open_shard, write_shard
from llm_from_scratch.data.sources import Source, open_source
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

log = logging.getLogger(__name__)
FORMAT = 1
SPLITS = ("train", "val")
# From so many documents on, whole ones go to the validation split; of fewer, the last part of each does.
MANY_DOCUMENTS = 20


@dataclass(frozen=True)
class Prepared:
    """A prepared text: `manifest["splits"][split]` holds documents, characters, text_bytes and tokens."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer

    def shards(self, split: str) -> list[Shard]:
        """The token shards of a split, verified."""
        return [
            open_shard(self.folder / name, tokenizer=self.tokenizer.fingerprint, index_sha256=checksum)
            for name, checksum in self.manifest["splits"][split]["shards"].items()
        ]

    def text_bytes(self, split: str) -> int:
        """UTF-8 bytes of a split's text."""
        return int(self.manifest["splits"][split]["text_bytes"])

    def documents(self, split: str) -> Iterator[str]:
        """The cleaned documents of a split, in order."""
        return _read_documents(self.folder / f"{split}.txt")


def prepare(
    data: DataConfig, tokenizer: TokenizerConfig, *, reuse: Tokenizer | None = None, wait: bool = False
) -> Prepared:
    """Prepares a corpus, or opens what an earlier run prepared from the same text with the same settings.

    Args:
        data: which text, and how it is split.
        tokenizer: what is learned from its training split.
        reuse: a tokenizer to use instead of learning one, for a model that speaks it already.
        wait: wait for another process that is preparing the same (the other ranks of one run) rather than stop.

    Raises:
        ValueError: in one line, for a text that is missing, broken or too short, and while another process prepares the same.
    """
    data_dir = Path(data.dir)
    source = open_source(
        name=data.name,
        path=data.path,
        file=data.file,
        url=data.url,
        sha256=data.sha256,
        must_contain=data.must_contain,
        column=data.column,
        data_dir=data_dir,
    )
    facts: dict[str, Any] = {
        "format": FORMAT,
        "cleaning": CLEANING_VERSION,
        "source": _fingerprint(source),
        "val_fraction": data.val_fraction,
        "tokenizer": reuse.fingerprint if reuse else [tokenizer.kind, tokenizer.vocab_size],
        "stream": data.stream,
    }
    if not source.plain:  # nothing else has columns, and what was prepared from plain texts keeps its name
        facts["column"] = data.column
    folder = data_dir / data.name / f"prepared-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=-1 if wait else 0):
            if not folder.exists():
                _build(folder, source, facts, tokenizer, reuse)
            return open_prepared(folder)
    except Timeout:
        raise ValueError(f"{folder} is being prepared by another process; start again when it is done") from None


def _fingerprint(source: Source) -> str:
    """Changes with any document's name or bytes; for a file above 1 GB its size and time stand for the bytes."""
    digest = hashlib.sha256()
    for document, path in source.paths:
        stat = path.stat()
        if stat.st_size > 10**9:
            content = f"{stat.st_size} {stat.st_mtime_ns}"
        else:
            with path.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(json.dumps([document, content]).encode())
    return digest.hexdigest()


def split_document(text: str, val_fraction: float) -> tuple[str, str]:
    """The first part of a document for training, the last `val_fraction` of its characters for validation."""
    cut = int(len(text) * (1 - val_fraction))
    return text[:cut], text[cut:]


def is_validation(document: str, val_fraction: float) -> bool:
    """Whether a whole document validates: a hash of its name decides, so that a document never changes sides when others come."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") < val_fraction * 2**64


def _build(
    folder: Path, source: Source, facts: dict[str, Any], settings: TokenizerConfig, reuse: Tokenizer | None
) -> None:
    building = folder.with_name(f".building-{folder.name}")
    if building.exists():
        shutil.rmtree(building)  # what a killed preparation left; the lock says that nobody works on it
    building.mkdir()
    try:
        whole = source.has(MANY_DOCUMENTS)
        report = _write_splits(building, source, facts["val_fraction"], whole)
    except ValueError:  # a document that cannot be read: what came before it is of no use
        shutil.rmtree(building)
        raise

    tokenizer = reuse or train_tokenizer(settings.kind, _read_documents(building / "train.txt"), settings.vocab_size)
    tokenizer.save(building / "tokenizer")

    splits = {}
    for split in SPLITS:
        ends = np.fromfile(building / f"{split}.ends", dtype="<u8")
        splits[split] = {"documents": len(ends), "text_bytes": int(ends[-1]), "shards": {}}
        if split == "train" and facts["stream"] == "text":
            continue
        shard = f"{split}_00000"
        info = write_shard(
            building / shard,
            _encode(_read_documents(building / f"{split}.txt"), tokenizer, whole, f"{source.name}, {split} split"),
            vocab_size=tokenizer.vocab_size,
            tokenizer=tokenizer.fingerprint,
        )
        splits[split] |= {"tokens": info.tokens, "shards": {shard: info.index_sha256}}
    manifest = facts | {"name": source.name, "fingerprint": tokenizer.fingerprint, "cleaned": report, "splits": splits}
    manifest["sha256"] = _checksum(manifest)
    (building / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    building.rename(folder)

    removed = ", ".join(f"{step} {count:,}" for step, count in report.items() if count) or "nothing"
    log.info(
        "prepared %s: %s bytes of text to train on, %s to validate; %s pieces; cleaning removed or changed: %s",
        folder,
        *(f"{splits[split]['text_bytes']:,}" for split in SPLITS),
        f"{tokenizer.vocab_size:,}",
        removed,
    )


def _write_splits(building: Path, source: Source, val_fraction: float, whole: bool) -> dict[str, int]:
    """Writes the cleaned text of both splits; returns what cleaning removed, summed over the documents."""
    report: dict[str, int] = {}
    ends: dict[str, list[int]] = {split: [0] for split in SPLITS}
    with (building / "train.txt").open("wb") as train, (building / "val.txt").open("wb") as val:
        files = dict(zip(SPLITS, (train, val), strict=True))
        for document in source.documents():
            text, counts = clean(document.raw, document.name)
            for step, count in counts.items():
                report[step] = report.get(step, 0) + count
            if whole:
                parts = {"val" if is_validation(document.name, val_fraction) else "train": text}
            else:
                parts = dict(zip(SPLITS, split_document(text, val_fraction), strict=True))
            for split, part in parts.items():
                if part:
                    written = files[split].write(part.encode())
                    ends[split].append(ends[split][-1] + written)
    for split in SPLITS:
        if len(ends[split]) == 1:
            raise ValueError(
                f"{source.name}: the {split} split is empty; use a longer text or change data.val_fraction={val_fraction}"
            )
        np.array(ends[split][1:], dtype="<u8").tofile(building / f"{split}.ends")
    return report


def _read_documents(path: Path) -> Iterator[str]:
    start = 0
    with path.open("rb") as file:
        for end in np.fromfile(path.with_suffix(".ends"), dtype="<u8").tolist():
            yield file.read(end - start).decode()
            start = end


def _encode(documents: Iterator[str], tokenizer: Tokenizer, whole: bool, where: str) -> Iterator[tuple[list[int], int]]:
    for text in documents:
        try:
            ids = tokenizer.encode(text)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        # A document that the split has cut in two has no end to be learned.
        yield (ids + [tokenizer.eot_id] if whole else ids), len(text.encode())


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps({key: manifest[key] for key in sorted(manifest) if key != "sha256"}, sort_keys=True).encode()
    ).hexdigest()


def open_prepared(folder: Path) -> Prepared:
    """A prepared text as it lies there; a ValueError in one line where its manifest or tokenizer does not hold."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["sha256"] != _checksum(manifest):
            raise ValueError("checksum")
        for split in SPLITS:  # whoever made the checksum may have made up the rest
            facts = manifest["splits"][split]
            counts = [
                facts["documents"],
                facts["text_bytes"],
                facts.get("tokens", 0) if split == "train" else facts["tokens"],
            ]
            if any(type(count) is not int or count < 0 for count in counts):
                raise ValueError("counts")
            if not all(re.fullmatch(r"[\w.-]{1,100}", name) for name in facts["shards"]):
                raise ValueError("names")
            if not all(isinstance(checksum, str) for checksum in facts["shards"].values()):
                raise ValueError("shards")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path}: missing or damaged; delete {folder} and it is prepared anew") from None
    return Prepared(folder, manifest, load_tokenizer(folder / "tokenizer"))


def is_first_rank() -> bool:
    """Whether this process is the one that prepares, of those that a launcher (Lightning, torchrun, SLURM) started together."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
