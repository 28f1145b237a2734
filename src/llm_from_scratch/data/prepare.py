"""Source -> clean -> split -> tokenizer -> shards: everything that happens to a text once, before the first training on it.

data/oz/prepared-1f0c8a35be21/     named after the text, the cleaning, the split and the tokenizer: any change prepares anew
    manifest.json                  counts, the cleaning's report, checksums; written last
    train.txt  val.txt             the cleaned text of each split, documents one behind the other
    train.ends val.ends            the byte at which each document ends (little-endian uint64)
    tokenizer/                     learned from train.txt alone
    train_00000.bin/.idx  val_…    token shards (no train shards with data.stream=text)

A large corpus (KEEP_TEXT_BELOW, or data.keep_text=false) has the manifest, the tokenizer, and for each task of `tasks.py`, whose
text is nowhere written:

    train_00000.bin/.idx  val_00000.bin/.idx  task_00000.json     ids and index of both splits, and the record of the task
    report.md                      what was kept and what was removed, with examples; also of a small corpus that is chosen from

It is built in .building-prepared-…/, where everything that is finished stays when the preparation is killed:

    plan.json  repeated_….bin      how many documents of each task, and which of them are duplicates
    tokenizer/                     learned from the beginning of every task
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from llm_from_scratch.config import DataConfig, PrepareConfig, TokenizerConfig
from llm_from_scratch.data import duplicates
from llm_from_scratch.data.clean import CLEANING_VERSION
from llm_from_scratch.data.engines import cores, run_tasks
from llm_from_scratch.data.quality import RULES, chosen
from llm_from_scratch.data.shards import VERIFY_BELOW, Shard, open_shard, write_shard
from llm_from_scratch.data.sources import Source, open_source
from llm_from_scratch.data.tasks import (
    SPLITS,
    Recipe,
    Tally,
    Task,
    documents,
    is_validation,
    locks_of,
    make_shards,
    repeats,
    scan,
    scanned,
    sound_record,
    task_key,
    unique,
    write_whole,
)
from llm_from_scratch.tokenizer import SAMPLE_BYTES, Tokenizer, load_tokenizer, train_tokenizer

__all__ = [
    "SPLITS",
    "Prepared",
    "has_company",
    "is_first_rank",
    "is_validation",
    "open_prepared",
    "prepare",
    "prepare_task",
]
log = logging.getLogger(__name__)
FORMAT = 1
KEEP_TEXT_BELOW = 100_000_000  # bytes of files: the cleaned text of more is not written beside its tokens
SAMPLE_TASKS = 1000  # that the tokenizer learns from at most, spread evenly
EXAMPLES = 3  # in the report, of what was removed for one reason
# From so many documents on, whole ones go to the validation split; of fewer, the last part of each does.
MANY_DOCUMENTS = 20


@dataclass(frozen=True)
class Prepared:
    """A prepared text: `manifest["splits"][split]` holds documents, characters, text_bytes and tokens."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer

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
            yield from _read_documents(self.folder / f"{split}.txt")
            return
        for shard in self.shards(split):
            start = 0
            for end in shard.document_ends.tolist():
                yield self.tokenizer.decode(shard.tokens[start:end].tolist())
                start = end

    @property
    def has_text(self) -> bool:
        """Whether the cleaned text lies beside the tokens."""
        return bool(self.manifest.get("keep_text", True))


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    *,
    reuse: Tokenizer | None = None,
    wait: bool = False,
    how: PrepareConfig | None = None,
) -> Prepared:
    """Prepares a corpus, or opens what an earlier run prepared from the same text with the same settings.

    Args:
        data: which text, what is kept of it, and how it is split.
        tokenizer: what is learned from its training split.
        reuse: a tokenizer to use instead of learning one, for a model that speaks it already.
        wait: wait for another process that is preparing the same (the other ranks of one run) rather than stop.
        how: who does the work. The bytes do not depend on it.

    Raises:
        ValueError: in one line, for a text that is missing, broken or too short, a disk that is full or will be, a worker that was
            killed, and while another process prepares the same.
    """
    how = how or PrepareConfig()
    if how.task is not None:
        raise ValueError("prepare.task is for `python -m llm_from_scratch prepare`: here, leave it out")
    work = _plan_work(data, tokenizer, reuse)
    try:
        with FileLock(f"{work.folder}.lock", timeout=-1 if wait else 0):
            if not work.folder.exists():
                if work.keep_text:
                    _build(work)
                else:
                    _refuse_if_tasks_run(work)
                    _build_shards(work, how)
            return open_prepared(work.folder)
    except Timeout:
        raise _busy(work.folder) from None


def prepare_task(data: DataConfig, tokenizer: TokenizerConfig, how: PrepareConfig) -> Prepared | None:
    """One task of an array: makes the shards of part `how.task` alone; whoever finds all parts there makes the last step.

    What all tasks need, the first one makes while the others wait: the plan, the duplicates and the tokenizer.

    Returns:
        The prepared text, or None while other parts are missing.

    Raises:
        ValueError: as `prepare`; there is no such part.
    """
    assert how.task is not None
    work = _plan_work(data, tokenizer, None)
    if work.keep_text:
        raise ValueError("prepare.task: this corpus is prepared as a whole; leave it out, or set data.keep_text=false")
    if how.task >= len(work.tasks):
        raise ValueError(f"prepare.task={how.task}: the corpus has {len(work.tasks)} parts, 0 to {len(work.tasks) - 1}")
    if work.folder.exists():
        return open_prepared(work.folder)
    try:
        with FileLock(f"{work.folder}.lock", timeout=5):  # the other tasks do no more than look in here
            pass
        locks_of(work.building).mkdir(parents=True, exist_ok=True)
        with FileLock(locks_of(work.building) / "common.lock"):
            tasks, speaks = _common(work, how)
        job = next((job for job in _jobs(work, tasks, speaks) if job[0].number == how.task), None)
        if job is not None:  # else data.max_docs ends before it
            _check_space(work, [job[0]], speaks)
            list(run_tasks(make_shards, [job], engine="local", workers=1, size=job[0].bytes(), what="shards"))
        if not all((work.building / f"task_{task.stem}.json").exists() for task in tasks):
            return None
        with FileLock(f"{work.folder}.lock", timeout=60):
            if not work.folder.exists():
                _finish(work, tasks, speaks)
        return open_prepared(work.folder)
    except Timeout:
        raise _busy(work.folder) from None


def _busy(folder: Path) -> ValueError:
    return ValueError(f"{folder} is being prepared by another process; start again when it is done")


@dataclass(frozen=True)
class _Work:
    """What is to be prepared, and where; `facts` name the folder."""

    folder: Path
    source: Source
    facts: dict[str, Any]
    recipe: Recipe
    max_docs: int | None
    tasks: list[Task]
    tokenizer: TokenizerConfig
    reuse: Tokenizer | None

    @property
    def keep_text(self) -> bool:
        return bool(self.facts.get("keep_text", True))

    @property
    def chooses(self) -> bool:
        """Whether some documents are to be left out."""
        return self.max_docs is not None or replace(self.recipe, column="", val_fraction=0) != Recipe("", 0)

    @property
    def building(self) -> Path:
        return self.folder.with_name(f".building-{self.folder.name}")


def _plan_work(data: DataConfig, tokenizer: TokenizerConfig, reuse: Tokenizer | None) -> _Work:
    data_dir = Path(data.dir)
    source = open_source(
        name=data.name,
        path=data.path,
        file=data.file,
        url=data.url,
        sha256=data.sha256,
        must_contain=data.must_contain,
        column=data.column,
        layouts=data.layouts,
        published=data.published,
        data_dir=data_dir,
    )
    recipe = Recipe(
        column=data.column,
        val_fraction=data.val_fraction,
        fraction=data.fraction,
        subset_seed=data.subset_seed if data.fraction < 1 else 0,
        min_chars=data.min_chars,
        quality=chosen(data.quality),
        dedup=data.dedup,
    )
    (data_dir / data.name).mkdir(parents=True, exist_ok=True)
    keep_text = _keeps_text(data, source)
    if keep_text:
        fingerprint, checksums = _fingerprint(source), {}
    else:
        checksums = _checksums(source, data_dir / data.name / "checksums.json")
        fingerprint = hashlib.sha256(json.dumps(list(checksums.items())).encode()).hexdigest()
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
    return _Work(folder, source, facts, recipe, data.max_docs, tasks, tokenizer, reuse)


def _keeps_text(data: DataConfig, source: Source) -> bool:
    if data.stream == "text" or data.keep_text:
        if data.keep_text is False:
            raise ValueError("data.keep_text=false: data.stream=text reads that text; use data.stream=tokens")
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


def _checksums(source: Source, cache: Path) -> dict[str, str]:
    """The sha256 of every file, computed once for its size and time: a large corpus is not read at every start."""
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    found, keys, new = {}, {}, 0
    for name, path in source.paths:
        stat = path.stat()
        keys[name] = key = f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}"
        if not isinstance(known.get(key), str):
            if not new and stat.st_size > 10**8:
                log.info("reading the files of %s once for their checksums", source.name)
            with path.open("rb") as opened:
                known[key] = hashlib.file_digest(opened, "sha256").hexdigest()
            new += 1
        found[name] = known[key]
    if new:
        content = json.dumps(known, indent=1).encode()
        part = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")  # several tasks of an array may write it
        part.write_bytes(content)
        part.replace(cache)
    return found


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


def _build(work: _Work) -> None:
    """A small corpus, in one go: the cleaned text and one shard a split."""
    building, source, facts = work.building, work.source, work.facts
    if building.exists():
        shutil.rmtree(building)  # what a killed preparation left; the lock says that nobody works on it
    building.mkdir()
    tally = Tally()
    try:
        whole = source.has(MANY_DOCUMENTS)
        (task,) = work.tasks
        if work.max_docs is not None:
            task = replace(task, limit=work.max_docs)
        _find_repeated(building, [task], work.recipe, PrepareConfig(workers=1), strict=True)
        texts = documents(task, work.recipe, tally, strict=True)
        texts = unique(texts, repeats(building, task), f"{work.recipe.dedup}_duplicate", tally)
        _write_splits(building, source, texts, facts["val_fraction"], whole)
        report = tally.cleaned
    except ValueError:  # a document that cannot be read: what came before it is of no use
        shutil.rmtree(building)
        raise
    finally:
        shutil.rmtree(locks_of(building), ignore_errors=True)

    learned = _read_documents(building / "train.txt")
    tokenizer = work.reuse or train_tokenizer(work.tokenizer.kind, learned, work.tokenizer.vocab_size)
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
    if work.chooses:
        manifest["removed"] = tally.removed
        _clear(building, "repeated_*.bin", "scan_*.bin")
        (building / "report.md").write_text(_report(work, [tally], splits), encoding="utf-8")
    _publish(work, manifest)


def _publish(work: _Work, manifest: dict[str, Any]) -> None:
    manifest["sha256"] = _checksum(manifest)
    (work.building / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    work.building.rename(work.folder)

    changed = manifest["cleaned"] | manifest.get("removed", {})
    removed = ", ".join(f"{step} {count:,}" for step, count in changed.items() if count) or "nothing"
    log.info(
        "prepared %s: %s bytes of text to train on, %s to validate; %s pieces; cleaning removed or changed: %s",
        work.folder,
        *(f"{manifest['splits'][split]['text_bytes']:,}" for split in SPLITS),
        f"{load_tokenizer(work.folder / 'tokenizer').vocab_size:,}",
        removed,
    )


def _write_splits(
    building: Path, source: Source, texts: Iterable[tuple[str, str]], val_fraction: float, whole: bool
) -> None:
    """Writes the cleaned text of both splits."""
    ends: dict[str, list[int]] = {split: [0] for split in SPLITS}
    with (building / "train.txt").open("wb") as train, (building / "val.txt").open("wb") as val:
        files = dict(zip(SPLITS, (train, val), strict=True))
        for name, text in texts:
            if whole:
                parts = {"val" if is_validation(name, val_fraction) else "train": text}
            else:
                parts = dict(zip(SPLITS, split_document(text, val_fraction), strict=True))
            for split, part in parts.items():
                if part:
                    written = files[split].write(part.encode())
                    ends[split].append(ends[split][-1] + written)
    for split in SPLITS:
        if len(ends[split]) == 1:
            raise _empty(source, split, val_fraction)
        np.array(ends[split][1:], dtype="<u8").tofile(building / f"{split}.ends")


def _empty(source: Source, split: str, val_fraction: float) -> ValueError:
    return ValueError(
        f"{source.name}: the {split} split is empty; use a longer text or change data.val_fraction={val_fraction}"
    )


# --------------------------------------------------------------------------------------------------- a large corpus
def _refuse_if_tasks_run(work: _Work) -> None:
    for path in locks_of(work.building).glob("*.lock"):
        with FileLock(path, timeout=2):  # Timeout: a task of an array is at work
            pass


def _build_shards(work: _Work, how: PrepareConfig) -> None:
    """Every task that is not done yet, by whichever engine, then the manifest."""
    tasks, tokenizer = _common(work, how)
    jobs = [job for job in _jobs(work, tasks, tokenizer) if sound_record(work.building, job[0], job[3]) is None]
    if len(jobs) < len(tasks):
        log.info("%d of %d parts are done already", len(tasks) - len(jobs), len(tasks))
    _check_space(work, [job[0] for job in jobs], tokenizer)
    for _ in _run(make_shards, jobs, how, "shards"):
        pass
    _finish(work, tasks, tokenizer)


def _run(function: Any, jobs: Sequence[Any], how: PrepareConfig, what: str) -> Iterator[Any]:
    size = sum(job[0].bytes() for job in jobs)
    return run_tasks(function, jobs, engine=how.engine, workers=how.workers or cores(), size=size, what=what)


def _common(work: _Work, how: PrepareConfig) -> tuple[list[Task], Tokenizer]:
    """What all tasks need: how much of each is used, which documents are duplicates, and the tokenizer."""
    building, plan = work.building, work.building / "plan.json"
    building.mkdir(exist_ok=True)
    if not plan.exists():
        limits = _limits(work)
        tasks = [replace(task, limit=limits.get(task.number)) for task in work.tasks if limits.get(task.number) != 0]
        _find_repeated(building, tasks, work.recipe, how)
        write_whole(plan, json.dumps(limits).encode())
        _clear(building, "scan_*.bin")
    limits = {int(number): limit for number, limit in json.loads(plan.read_text(encoding="utf-8")).items()}
    tasks = [replace(task, limit=limits.get(task.number)) for task in work.tasks if limits.get(task.number) != 0]

    if not (building / "tokenizer").exists():
        log.info("%s: learning the tokenizer", work.source.name)
        settings = work.tokenizer
        learned = work.reuse or train_tokenizer(
            settings.kind, _sample(work, tasks, None if settings.kind == "char" else SAMPLE_BYTES), settings.vocab_size
        )
        part = building / "tokenizer.tmp"
        shutil.rmtree(part, ignore_errors=True)
        learned.save(part)
        part.rename(building / "tokenizer")
    return tasks, load_tokenizer(building / "tokenizer")


def _limits(work: _Work) -> dict[int, int]:
    """For data.max_docs: how many documents each task gives, in order; without it, {}: as many as there are."""
    if work.max_docs is None:
        return {}
    left, limits = work.max_docs, {}
    for task in work.tasks:
        if left:
            texts = documents(replace(task, limit=left), work.recipe, Tally())
            limits[task.number] = sum(1 for _ in texts)
            left -= limits[task.number]
        else:
            limits[task.number] = 0
    return limits


def _find_repeated(building: Path, tasks: list[Task], recipe: Recipe, how: PrepareConfig, strict: bool = False) -> None:
    """Writes which documents are duplicates of earlier ones, as `tasks.repeats` reads it."""
    if recipe.dedup == "none":
        return
    duplicates.signer(recipe.dedup)  # the library, before any work
    _clear(building, "*.tmp")
    jobs = [(task, recipe, str(building), strict) for task in tasks]
    for _ in _run(scan, jobs, how, "duplicates"):
        pass
    found = duplicates.repeated(recipe.dedup, [scanned(building, task, recipe.dedup) for task in tasks])
    for task, numbers in zip(tasks, found, strict=True):
        write_whole(building / f"repeated_{task.stem}.bin", numbers.astype("<i8").tobytes())


def _sample(work: _Work, tasks: list[Task], limit: int | None) -> Iterator[str]:
    """What a tokenizer learns from: training documents, from the beginning of every task until it gave its part of `limit` bytes."""
    if limit is not None:
        tasks = tasks[:: -(-len(tasks) // SAMPLE_TASKS) or 1]
    for task in tasks:
        left = limit and limit // len(tasks)
        texts = documents(task, work.recipe, Tally())
        for name, text in unique(texts, repeats(work.building, task), "", Tally()):
            if not is_validation(name, work.recipe.val_fraction):
                yield text
                if left is not None:
                    left -= len(text.encode())
                    if left <= 0:
                        break


def _jobs(work: _Work, tasks: list[Task], tokenizer: Tokenizer) -> list[tuple[Task, Recipe, str, str]]:
    return [
        (
            task,
            work.recipe,
            str(work.building),
            task_key(task, work.recipe, tokenizer.fingerprint, repeats(work.building, task)),
        )
        for task in tasks
    ]


def _check_space(work: _Work, tasks: list[Task], tokenizer: Tokenizer) -> None:
    """ValueError where the shards will not fit, by an estimate that is rather too low: text is 3 times as long as compressed."""
    if work.max_docs is not None:
        return
    expands = {".parquet": 1.5, ".tar": 3.0, ".xz": 3.0, ".gz": 2.5, ".bz2": 3.0, ".zst": 2.5}
    text = sum(
        Path(path).stat().st_size * expands.get(Path(name.lower()).suffix, 0.9)
        for task in tasks
        for name, path, _ in task.files
    )
    # Bytes of ids for a byte of text: a character is an id, or a piece of BPE has 2 to 5 bytes.
    ids = 1.8 if tokenizer.kind == "char" else 0.7 if tokenizer.vocab_size < 4096 else 0.4
    kept = 0.5 if work.recipe.quality or work.recipe.dedup != "none" else 1.0
    needed = text * ids * kept * work.recipe.fraction
    free = shutil.disk_usage(work.building).free
    if needed > free:
        raise ValueError(
            f"{work.folder.parent}: about {needed / 1e9:.3g} GB of token shards are to be written, and {free / 1e9:.3g} GB are free: "
            "free some, set data.dir=FOLDER on another disk, or take less with data.fraction"
        )


def _finish(work: _Work, tasks: list[Task], tokenizer: Tokenizer) -> None:
    """The last step: every shard verified, the manifest and the report, the rename."""
    splits: dict[str, Any] = {split: {"documents": 0, "text_bytes": 0, "tokens": 0, "shards": {}} for split in SPLITS}
    tallies = []
    for task, _, _, key in _jobs(work, tasks, tokenizer):
        record = sound_record(work.building, task, key)
        if record is None:
            raise ValueError(f"{work.building}: part {task.number} is missing or damaged: start the preparation again")
        tallies.append(Tally(**record["tally"]))
        for split, facts in record["shards"].items():
            for count in ("documents", "text_bytes", "tokens"):
                splits[split][count] += facts[count]
            splits[split]["shards"][f"{split}_{task.stem}"] = facts["index_sha256"]
    for split in SPLITS:
        if not splits[split]["documents"]:
            raise _empty(work.source, split, work.recipe.val_fraction)
    manifest = work.facts | {
        "name": work.source.name,
        "fingerprint": tokenizer.fingerprint,
        "cleaned": _sum(tally.cleaned for tally in tallies),
        "removed": _sum(tally.removed for tally in tallies),
        "splits": splits,
    }
    write_whole(work.building / "report.md", _report(work, tallies, splits).encode())
    _clear(work.building, "repeated_*.bin", "scan_*.bin", "plan.json", "*.tmp")
    _publish(work, manifest)
    shutil.rmtree(locks_of(work.building), ignore_errors=True)


def _clear(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for key, count in one.items():
            total[key] = total.get(key, 0) + count
    return total


def _report(work: _Work, tallies: list[Tally], splits: dict[str, Any]) -> str:
    """What became of the documents, in Markdown: counts, and the first examples of what was removed for each reason."""
    removed = _sum(tally.removed for tally in tallies)
    lines = [f"# What was prepared of {work.source.name}", ""]
    lines += [f"{sum(tally.read for tally in tallies):,} documents were read.", ""]
    lines += ["| split | documents | bytes of text | tokens |", "|---|---|---|---|"]
    for split in SPLITS:
        facts = splits[split]
        tokens = f"{facts['tokens']:,}" if "tokens" in facts else "–"
        lines.append(f"| {split} | {facts['documents']:,} | {facts['text_bytes']:,} | {tokens} |")
    lines += ["", "## Removed", "", "| why | documents | what is kept |", "|---|---|---|"]
    meanings = {name: (rule.__doc__ or "").splitlines()[0] for name, rule in RULES.items()} | {
        "fraction": f"the part {work.recipe.fraction} by a hash of the name (data.fraction)",
        "no_text": "what is UTF-8, without NUL",
        "empty": "at least one character",
        "min_chars": f"{work.recipe.min_chars} characters or more",
        "exact_duplicate": "the first of equal texts",
        "near_duplicate": f"the first of texts with {duplicates.THRESHOLD:.0%} of their runs of five words in common",
    }
    lines += [f"| {reason} | {count:,} | {meanings.get(reason, '')} |" for reason, count in removed.items()]
    lines += [] if removed else ["| – | 0 | everything |"]
    cleaned = _sum(tally.cleaned for tally in tallies)
    lines += ["", "## Changed by cleaning", "", "| what | characters or bytes |", "|---|---|"]
    lines += [f"| {step} | {count:,} |" for step, count in cleaned.items()]
    for reason in removed:
        examples = [example for tally in tallies for example in tally.examples.get(reason, [])][:EXAMPLES]
        if examples:
            lines += ["", f"## Examples: {reason}", ""]
        for name, text in examples:
            lines.append(f"- {json.dumps(name, ensure_ascii=False)}: {json.dumps(text, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


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


def has_company() -> bool:
    """Whether a launcher started this process together with others, any of which may come to the preparation first."""
    return not is_first_rank() or any(int(os.environ.get(name, "1")) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))
