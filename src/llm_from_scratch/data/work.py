"""The settings of a corpus -> what is to be prepared, and where: the folder is named after all that its bytes depend on."""

import codecs
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data.clean import CLEANING_VERSION
from llm_from_scratch.data.prepared import FILES, TEXT_FILES, manifest_sha256
from llm_from_scratch.data.quality import chosen
from llm_from_scratch.data.shards import open_shard
from llm_from_scratch.data.sources import Download, Source, listed, open_source, roots
from llm_from_scratch.data.tasks import SPLITS, Recipe, Task
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import publish as publish_folder
from llm_from_scratch.files import sha256, write_file
from llm_from_scratch.tokenizer import CharTokenizer, Tokenizer, load_tokenizer, open_gpt2

log = logging.getLogger(__name__)
FORMAT = 1
CHECKSUMS = "checksums.json"  # beside the prepared folders: of the files of a large corpus, computed once
KEEP_TEXT_BELOW = 100_000_000  # bytes of files: the cleaned text of more is not written beside its tokens
# From so many documents on, whole ones go to the validation split; of fewer, the last part of each does.
MANY_DOCUMENTS = 20


@dataclass(frozen=True)
class Work:
    """What is to be prepared, and where; `facts` name the folder."""

    folder: Path
    source: Source
    facts: dict[str, Any]
    recipe: Recipe
    max_docs: int | None
    tasks: list[Task]
    tokenizer: TokenizerConfig
    reuse: Tokenizer | None
    expected: int | None = None  # documents, where all of a published corpus is read

    @property
    def keep_text(self) -> bool:
        return bool(self.facts.get("keep_text", True))

    @property
    def chooses(self) -> bool:
        """Whether some documents are to be left out."""
        read = replace(self.recipe, column="", val_fraction=0, encoding="utf-8", separator=None)
        return self.max_docs is not None or replace(read, on_error=None) != Recipe("", 0) or read.on_error == "skip"

    @property
    def building(self) -> Path:
        return self.folder.with_name(f".building-{self.folder.name}")


def plan_work(
    data: DataConfig, tokenizer: TokenizerConfig, reuse: Tokenizer | None, fetch: bool = True, write: bool = True
) -> Work:
    """What `prepare` has to do; nothing is downloaded without `fetch`, nothing written without `write`.

    Raises:
        UserError: the corpus is not there, is another one, or cannot be prepared so.
    """
    data_dir = Path(data.dir)
    reuse = reuse or _given(tokenizer, data_dir, fetch)
    recipe = selection(data)
    source = open_corpus(data, fetch)
    if write:
        (data_dir / data.name).mkdir(parents=True, exist_ok=True)
    keep_text = keeps_text(data, source)
    cache = None if keep_text else data_dir / data.name / CHECKSUMS
    checksums, unreadable = _checksums(source, cache, data.on_error, write)
    readable = [(name, path) for name, path in source.paths if name in checksums]
    source = replace(source, paths=readable, skipped=source.skipped + unreadable)
    fingerprint = hashlib.sha256(json.dumps(list(checksums.items())).encode()).hexdigest()
    if keep_text:
        digest = hashlib.sha256()
        for item in checksums.items():
            digest.update(json.dumps(item).encode())
        fingerprint = digest.hexdigest()
    facts: dict[str, Any] = {
        "format": FORMAT,
        "cleaning": CLEANING_VERSION,
        "source": fingerprint,
        "val_fraction": data.val_fraction,
        "tokenizer": reuse.fingerprint if reuse else [tokenizer.kind, tokenizer.vocab_size],
        "stream": data.stream,
    }
    if not source.plain:  # nothing else has columns, and what was prepared from plain texts keeps its name
        facts["column"] = data.column
    # So does what was prepared before there was a choice.
    facts |= {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(recipe).items()
        if key not in ("column", "val_fraction") and value != getattr(Recipe, key)
    }
    if data.max_docs is not None:
        facts["max_docs"] = data.max_docs
    if not keep_text:
        facts |= {"keep_text": False, "shard_bytes": data.shard_bytes}
    folder = data_dir / data.name / f"prepared-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"
    tasks = _tasks(source, checksums, None if keep_text else data.shard_bytes)
    expected = data.documents if data.download and data.max_docs is None else None
    return Work(folder, source, facts, recipe, data.max_docs, tasks, tokenizer, reuse, expected)


def selection(data: DataConfig) -> Recipe:
    """The documents that the settings ask for, and how they are read."""
    return Recipe(
        column=data.column,
        val_fraction=data.val_fraction,
        fraction=data.fraction,
        subset_seed=data.subset_seed if data.fraction < 1 else 0,
        min_chars=data.min_chars,
        quality=chosen(data.quality),
        dedup=data.dedup,
        language=data.language,
        on_error=data.on_error,
        encoding=codecs.lookup(data.encoding).name,
        separator=data.separator,
    )


def open_corpus(data: DataConfig, fetch: bool) -> Source:
    """The files of the corpus that the settings name.

    Raises:
        UserError: as `open_source`.
    """
    return open_source(
        name=data.name,
        path=data.path,
        file=data.file,
        url=data.url,
        sha256=data.sha256,
        must_contain=data.must_contain,
        form=selection(data).form,
        on_error=data.on_error,
        layouts=data.layouts,
        published=data.published,
        download=data.download,
        downloads={key: Download(one.files, one.mirrors, one.sha256) for key, one in data.downloads.items()},
        connections=data.connections,
        data_dir=Path(data.dir),
        fetch=fetch,
    )


def _given(tokenizer: TokenizerConfig, data_dir: Path, fetch: bool) -> Tokenizer | None:
    """A tokenizer that is not learned but comes from files."""
    if tokenizer.kind != "gpt2":
        if tokenizer.path is not None:
            raise UserError(
                f"tokenizer.path={tokenizer.path}: tokenizer={tokenizer.kind} is learned from the text; leave it out"
            )
        return None
    if tokenizer.vocab_size is not None:
        raise UserError(
            f"tokenizer.vocab_size={tokenizer.vocab_size}: with tokenizer=gpt2 its files decide it, leave it null"
        )
    return open_gpt2(tokenizer.path, [root / "gpt2" for root in roots(data_dir)], fetch)


def keeps_text(data: DataConfig, source: Source) -> bool:
    """Whether the cleaned text lies beside the tokens."""
    if data.stream == "text" or data.keep_text:
        if data.keep_text is False:
            raise UserError("data.keep_text=false: data.stream=text reads that text; use data.stream=tokens")
        return True
    if data.keep_text is None and sum(path.stat().st_size for _, path in source.paths) < KEEP_TEXT_BELOW:
        return True
    return not source.has(MANY_DOCUMENTS)  # each of so few is cut in two


def _tasks(source: Source, checksums: dict[str, str], size: int | None) -> list[Task]:
    """One for each file of `size` bytes or more; smaller ones together, in order, up to that size. None: one for all."""
    groups: list[list[tuple[str, str, str]]] = []
    room = 0
    for name, path in source.paths:
        length = path.stat().st_size
        if not groups or (size is not None and length > room):
            groups.append([])
            room = size or 0
        groups[-1].append((name, str(path), checksums.get(name, "")))
        room -= length
    return [Task(number, tuple(files)) for number, files in enumerate(groups)]


def _checksums(
    source: Source, cache: Path | None, on_error: str | None, write: bool
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The sha256 of every file that can be read, by its name; (name, why) of the others.

    Without a `cache`, "SIZE TIME" stands for the bytes of a file above 1 GB. With one, a checksum is computed once for a file's place,
    size and time: a large corpus is not read at every start.
    UserError: files that cannot be read, unless they are to be skipped.
    """
    known: dict[str, Any] = {}
    if cache:
        try:
            loaded = json.loads(cache.read_text(encoding="utf-8"))
            known = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            pass
    found: dict[str, str] = {}
    faults: list[tuple[str, str]] = []
    new = 0
    for name, path in source.paths:
        try:
            stat = path.stat()
            if not cache:
                found[name] = sha256(path) if stat.st_size <= 10**9 else f"{stat.st_size} {stat.st_mtime_ns}"
                continue
            key = f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}"
            if not isinstance(known.get(key), str):
                if not new and stat.st_size > 10**8:
                    log.info("reading the files of %s once for their checksums", source.name)
                known[key] = sha256(path)
                new += 1
            found[name] = known[key]
        except OSError as error:
            faults.append((name, error.strerror or type(error).__name__))
        except UserError:
            faults.append((name, "no regular file"))
    if faults and (on_error != "skip" or not found):
        raise UserError(
            f"{source.name}: cannot read {listed(faults)}: make it readable, or leave it out with data.on_error=skip"
        )
    if cache and new and write:
        write_file(cache, json.dumps(known, indent=1))
    return found, faults


def publish(work: Work, manifest: dict[str, Any]) -> None:
    """The manifest, then the rename that makes a preparation whole.

    The checksums of the text stand beside the manifest's own, which is the text's fingerprint and stays that of version 0.1.
    """
    tokenizer = load_tokenizer(work.building / "tokenizer")
    _count_unknown(work, manifest["splits"], tokenizer)
    manifest[FILES] = {path.name: sha256(path) for path in sorted(work.building.glob("*.*")) if path.name in TEXT_FILES}
    manifest["sha256"] = manifest_sha256(manifest)
    (work.building / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    publish_folder(work.building, work.folder)

    changed = manifest["cleaned"] | manifest.get("removed", {})
    removed = ", ".join(f"{step} {count:,}" for step, count in changed.items() if count) or "nothing"
    log.info(
        "prepared %s: %s bytes of text to train on, %s to validate; %s pieces; cleaning removed or changed: %s",
        work.folder,
        *(f"{manifest['splits'][split]['text_bytes']:,}" for split in SPLITS),
        f"{tokenizer.vocab_size:,}",
        removed,
    )


def _count_unknown(work: Work, splits: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Says and records how many characters of a split are written as bytes, because the tokenizer has not learned them."""
    if not (isinstance(tokenizer, CharTokenizer) and tokenizer.byte_fallback):
        return
    for split, facts in splits.items():
        shards = [open_shard(work.building / name, verify=False).tokens for name in facts["shards"]]
        count = sum(
            tokenizer.unknown_characters(ids[start : start + 2**24])  # a part at a time: memory does not grow with it
            for ids in shards
            for start in range(0, len(ids), 2**24)
        )
        if count:
            facts["unknown_characters"] = count
            log.warning(
                "%s, %s split: characters that are none of the tokenizer's %s: %s; each is written, and scored, as its UTF-8 bytes",
                *(work.source.name, split, f"{len(tokenizer.characters):,}", f"{count:,}"),
            )


def empty_split(source: Source, split: str, val_fraction: float, removed: Mapping[str, int]) -> UserError:
    """For a split that nothing came to; `removed` has the documents that were left out, by the reason."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in removed.items())
    aside = f" (documents left out: {reasons})" if reasons else ""
    return UserError(
        f"{source.name}: the {split} split is empty{aside}; use a longer text or change data.val_fraction={val_fraction}"
    )
