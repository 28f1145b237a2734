"""The last step of a preparation: writes manifest.json and report.md, then renames the folder."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_from_scratch.data.corpus import Corpus, unfinished_folder
from llm_from_scratch.data.documents import SPLITS, Tally
from llm_from_scratch.data.prepared import FILES, TEXT_FILES, Prepared, manifest_sha256
from llm_from_scratch.data.report import removes_any, summed, warn, write_report
from llm_from_scratch.data.shards import open_shard
from llm_from_scratch.data.tasks import clear, locks_of
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import BUILDING, publish, sha256
from llm_from_scratch.tokenizer import CharTokenizer, Tokenizer

log = logging.getLogger(__name__)


def finish(corpus: Corpus, tokenizer: Tokenizer, records: Mapping[str, dict[str, Any]]) -> None:
    """Writes the manifest and the report, then publishes the corpus by renaming its build folder.

    `records` maps a task's number, in five digits, to its record: the counts of its shards and the
    tally of its documents.

    Raises:
        UserError: when a split has no documents.
    """
    tallies = [Tally(**record["tally"]) for record in records.values()]
    splits = _summed_splits(corpus, records)
    removed = summed(tally.removed for tally in tallies)
    read = sum(tally.read for tally in tallies)
    if corpus.expected not in (None, read):
        log.warning(
            "%s: %d documents were read and %d published: some file is not what it should be",
            *(corpus.source.name, read, corpus.expected),
        )
    for split in SPLITS:
        if not splits[split]["documents"]:
            raise empty_split(corpus, split, removed)
    cleaned = summed(tally.cleaned for tally in tallies)
    manifest = corpus.metadata | {
        "name": corpus.source.name,
        "fingerprint": tokenizer.fingerprint,
        "cleaned": cleaned,
    }
    # Keys are in the order of version 0.1, so that the same text gives the same manifest.
    if corpus.keep_text:
        manifest |= {"splits": splits} | ({"removed": removed} if corpus.removes else {})
    else:
        manifest |= {"removed": removed, "splits": splits}
    if not corpus.keep_text or removes_any(corpus, tallies):
        write_report(corpus, tallies, splits)
    warn(corpus, tallies)
    clear(corpus.building, "repeated_*.bin", "scan_*.bin", "plan.json", "*.tmp", f"{BUILDING}*")
    _count_unknown(corpus, splits, tokenizer)
    texts = [path for path in sorted(corpus.building.glob("*.*")) if path.name in TEXT_FILES]
    publish_prepared(corpus.folder, manifest | {FILES: {path.name: sha256(path) for path in texts}})
    shutil.rmtree(locks_of(corpus.building), ignore_errors=True)
    changed = ", ".join(f"{step} {count:,}" for step, count in (cleaned | manifest.get("removed", {})).items() if count)
    log.info(
        "prepared %s: %s bytes of text to train on, %s to validate; %s pieces; cleaning removed or changed: %s",
        corpus.folder,
        *(f"{splits[split]['text_bytes']:,}" for split in SPLITS),
        f"{tokenizer.vocab_size:,}",
        changed or "nothing",
    )


def _summed_splits(corpus: Corpus, records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the counts of both splits, summed over all tasks, and their shards' checksums."""
    splits: dict[str, Any] = {}
    for split in SPLITS:
        parts = {f"{split}_{stem}": record["shards"][split] for stem, record in records.items()}
        sums = {
            key: sum(part[key] for part in parts.values())
            for key in ("documents", "text_bytes", "tokens")
            # the training split has no tokens with data.stream=text
            if all(key in part for part in parts.values())
        }
        splits[split] = sums | {"shards": {n: part["index_sha256"] for n, part in parts.items() if "tokens" in part}}
        if corpus.keep_text and "tokens" in sums:  # in the order of version 0.1
            splits[split]["tokens"] = splits[split].pop("tokens")
    return splits


def _count_unknown(corpus: Corpus, splits: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Counts the characters outside a character tokenizer's vocabulary, and warns of them.

    They are encoded as UTF-8 bytes. `splits` gets the counts.
    """
    if not (isinstance(tokenizer, CharTokenizer) and tokenizer.byte_fallback):
        return
    for split, counts in splits.items():
        shards = [open_shard(corpus.building / name, verify=False).tokens for name in counts["shards"]]
        count = sum(
            # in slices, so that memory does not grow with the shard
            tokenizer.unknown_characters(ids[start : start + 2**24])
            for ids in shards
            for start in range(0, len(ids), 2**24)
        )
        if count:
            counts["unknown_characters"] = count
            log.warning(
                "%s, %s split: characters that are none of the tokenizer's %s: %s; each is written, and scored, as its UTF-8 bytes",
                *(corpus.source.name, split, f"{len(tokenizer.characters):,}", f"{count:,}"),
            )


def publish_prepared(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json in the build folder of `folder`, then renames that to `folder`.

    `manifest["sha256"]`, the prepared text's fingerprint, leaves out the checksums of the text
    files: it stays that of version 0.1.
    """
    building = unfinished_folder(folder)
    manifest["sha256"] = manifest_sha256(manifest)
    (building / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    publish(building, folder)


def empty_split(corpus: Corpus, split: str, removed: Mapping[str, int]) -> UserError:
    """Returns the error for a split without documents.

    `removed` maps each reason to the number of documents that were removed for it.
    """
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in removed.items())
    aside = f" (documents left out: {reasons})" if reasons else ""
    fraction = corpus.selection.val_fraction
    return UserError(
        f"{corpus.source.name}: the {split} split is empty{aside}; use a longer text or change data.val_fraction={fraction}"
    )


def mixed_manifest(parts: Mapping[str, Prepared], weights: Mapping[str, float]) -> dict[str, Any]:
    """Returns the manifest entries of a mixture.

    They are the counts, summed over its corpora, and each corpus's folder, checksum and weight.
    """
    splits: dict[str, Any] = {}
    for split in SPLITS:
        of_parts = [part.manifest["splits"][split] for part in parts.values()]
        counts = ["documents", "text_bytes", *(["tokens"] if all("tokens" in one for one in of_parts) else [])]
        if any("unknown_characters" in one for one in of_parts):
            counts.append("unknown_characters")
        splits[split] = {name: sum(one.get(name, 0) for one in of_parts) for name in counts} | {"shards": {}}
    found = {
        name: {
            "folder": f"{part.folder.parent.name}/{part.folder.name}",
            "sha256": part.manifest["sha256"],
            "weight": weights[name],
        }
        for name, part in parts.items()
    }
    return {"keep_text": False, "corpora": found, "splits": splits, "cleaned": {}}
