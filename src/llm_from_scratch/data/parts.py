"""A large corpus, as tasks that any number of processes make: what all of them need, the tasks, the last step.

It is built in .building-prepared-…/, where everything that is finished stays when the preparation is killed:

    plan.json  repeated_….bin      how many documents of each task, and which of them are duplicates
    tokenizer/                     learned from the beginning of every task
    train_…  val_…  task_….json    shards, and the records of the tasks that are done (`tasks.py`)
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock

from llm_from_scratch.config import PrepareConfig
from llm_from_scratch.data import duplicates
from llm_from_scratch.data.engines import cores, run_tasks
from llm_from_scratch.data.long import pieces_of, size_of
from llm_from_scratch.data.report import summed, warn, write_report
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
from llm_from_scratch.data.work import Work, empty_split, publish
from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import SAMPLE_BYTES, Tokenizer, load_tokenizer, train_tokenizer

log = logging.getLogger(__name__)
SAMPLE_TASKS = 1000  # that the tokenizer learns from at most, spread evenly


def refuse_if_tasks_run(work: Work) -> None:
    """Raises Timeout while a task of an array is at work."""
    for path in locks_of(work.building).glob("*.lock"):
        with FileLock(path, timeout=2):
            pass


def build_shards(work: Work, how: PrepareConfig) -> None:
    """Every task that is not done yet, by whichever engine, then the manifest."""
    tasks, tokenizer = what_all_need(work, how)
    jobs = jobs_of(work, tasks, tokenizer)
    records = {job[3]: sound_record(work.building, job[0], job[3]) for job in jobs}
    jobs = [job for job in jobs if records[job[3]] is None]
    if len(jobs) < len(tasks):
        log.info("%d of %d parts are done already", len(tasks) - len(jobs), len(tasks))
    check_space(work, [job[0] for job in jobs], tokenizer)
    for record in _run(make_shards, jobs, how, "shards"):
        records[record["key"]] = record
    finish(work, tasks, tokenizer, records)


def _run(function: Any, jobs: Sequence[Any], how: PrepareConfig, what: str) -> Iterator[Any]:
    size = sum(job[0].bytes() for job in jobs)
    return run_tasks(function, jobs, engine=how.engine, workers=how.workers or cores(), size=size, what=what)


def what_all_need(work: Work, how: PrepareConfig) -> tuple[list[Task], Tokenizer]:
    """What all tasks need: how much of each is used, which documents are duplicates, and the tokenizer."""
    building, plan = work.building, work.building / "plan.json"
    building.mkdir(exist_ok=True)
    if not plan.exists():
        limits = _limits(work)
        tasks = [replace(task, limit=limits.get(task.number)) for task in work.tasks if limits.get(task.number) != 0]
        find_repeated(building, tasks, work.recipe, how)
        write_whole(plan, json.dumps(limits).encode())
        clear(building, "scan_*.bin")
    limits = {int(number): limit for number, limit in json.loads(plan.read_text(encoding="utf-8")).items()}
    tasks = [replace(task, limit=limits.get(task.number)) for task in work.tasks if limits.get(task.number) != 0]

    if not (building / "tokenizer").exists():
        log.info("%s: learning the tokenizer", work.source.name)
        settings = work.tokenizer
        texts = _sample(work, tasks, None if settings.kind == "char" else SAMPLE_BYTES)
        held_out = _sample(work, tasks, None, validation=True)
        learned = work.reuse or train_tokenizer(settings.kind, texts, settings.vocab_size, held_out)
        part = building / "tokenizer.tmp"
        shutil.rmtree(part, ignore_errors=True)
        learned.save(part)
        part.rename(building / "tokenizer")
    return tasks, load_tokenizer(building / "tokenizer")


def _limits(work: Work) -> dict[int, int]:
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


def find_repeated(building: Path, tasks: list[Task], recipe: Recipe, how: PrepareConfig, strict: bool = False) -> None:
    """Writes which documents are duplicates of earlier ones, as `tasks.repeats` reads it."""
    if recipe.dedup == "none":
        return
    duplicates.signer(recipe.dedup)  # the library, before any work
    clear(building, "*.tmp")
    jobs = [(task, recipe, str(building), strict) for task in tasks]
    for _ in _run(scan, jobs, how, "duplicates"):
        pass
    found = duplicates.repeated(recipe.dedup, [scanned(building, task, recipe.dedup) for task in tasks])
    for task, numbers in zip(tasks, found, strict=True):
        write_whole(building / f"repeated_{task.stem}.bin", numbers.astype("<i8").tobytes())


def _sample(work: Work, tasks: list[Task], limit: int | None, validation: bool = False) -> Iterator[str]:
    """What a tokenizer learns from: training documents, from the beginning of every task until it gave its part of `limit` bytes.

    With `validation`, the documents that it does not learn from.
    """
    if limit is not None:
        tasks = tasks[:: -(-len(tasks) // SAMPLE_TASKS) or 1]
    for task in tasks:
        left = limit and limit // len(tasks)
        texts = documents(task, work.recipe, Tally())
        for name, text in unique(texts, repeats(work.building, task), "", Tally()):
            if is_validation(name, work.recipe.val_fraction) == validation:
                yield from pieces_of(text)
                if left is not None:
                    left -= size_of(text)
                    if left <= 0:
                        break


def jobs_of(work: Work, tasks: list[Task], tokenizer: Tokenizer) -> list[tuple[Task, Recipe, str, str]]:
    """What `make_shards` takes, a task each."""
    return [
        (
            task,
            work.recipe,
            str(work.building),
            task_key(task, work.recipe, tokenizer.fingerprint, repeats(work.building, task)),
        )
        for task in tasks
    ]


def estimated_tokens(work: Work, tasks: list[Task], kind: str, vocab_size: int) -> int:
    """What the tasks will give, from the files' sizes alone; rather too few: text is 3 times as long as compressed."""
    expands = {".parquet": 1.5, ".tar": 3.0, ".xz": 3.0, ".gz": 2.5, ".bz2": 3.0, ".zst": 2.5}
    text = sum(
        Path(path).stat().st_size * expands.get(Path(name.lower()).suffix, 0.9)
        for task in tasks
        for name, path, _ in task.files
    )
    a_byte = 0.9 if kind == "char" else 0.35 if vocab_size < 4096 else 0.2  # a piece of BPE has 2 to 5 bytes
    kept = 0.5 if work.recipe.quality or work.recipe.dedup != "none" else 1.0
    return int(text * a_byte * kept * work.recipe.fraction)


def check_space(work: Work, tasks: list[Task], tokenizer: Tokenizer) -> None:
    """UserError where the shards will not fit, by an estimate that is rather too low."""
    if work.max_docs is not None:
        return
    size = 2 if tokenizer.vocab_size <= 65_536 else 4
    needed = size * estimated_tokens(work, tasks, tokenizer.kind, tokenizer.vocab_size)
    free = shutil.disk_usage(work.building).free
    if needed > free:
        raise UserError(
            f"{work.folder.parent}: about {needed / 1e9:.3g} GB of token shards are to be written, and {free / 1e9:.3g} GB are free: "
            "free some, set data.dir=FOLDER on another disk, or take less with data.fraction"
        )


def finish(
    work: Work,
    tasks: list[Task],
    tokenizer: Tokenizer,
    records: Mapping[str, dict[str, Any] | None] = MappingProxyType({}),
) -> None:
    """The last step: every shard verified that is not in `records` (by key), the manifest and the report, the rename."""
    splits: dict[str, Any] = {split: {"documents": 0, "text_bytes": 0, "tokens": 0, "shards": {}} for split in SPLITS}
    tallies = []
    for task, _, _, key in jobs_of(work, tasks, tokenizer):
        record = records.get(key) or sound_record(work.building, task, key)
        if record is None:
            raise UserError(f"{work.building}: part {task.number} is missing or damaged: start the preparation again")
        tallies.append(Tally(**record["tally"]))
        for split, facts in record["shards"].items():
            for count in ("documents", "text_bytes", "tokens"):
                splits[split][count] += facts[count]
            splits[split]["shards"][f"{split}_{task.stem}"] = facts["index_sha256"]
    read = sum(tally.read for tally in tallies)
    if work.expected not in (None, read):
        log.warning(
            "%s: %d documents were read and %d published: some file is not what it should be",
            work.source.name,
            read,
            work.expected,
        )
    for split in SPLITS:
        if not splits[split]["documents"]:
            removed = summed(tally.removed for tally in tallies)
            raise empty_split(work.source, split, work.recipe.val_fraction, removed)
    manifest = work.facts | {
        "name": work.source.name,
        "fingerprint": tokenizer.fingerprint,
        "cleaned": summed(tally.cleaned for tally in tallies),
        "removed": summed(tally.removed for tally in tallies),
        "splits": splits,
    }
    warn(work, tallies)
    write_report(work, tallies, splits)
    clear(work.building, "repeated_*.bin", "scan_*.bin", "plan.json", "*.tmp")
    publish(work, manifest)
    shutil.rmtree(locks_of(work.building), ignore_errors=True)


def clear(folder: Path, *patterns: str) -> None:
    """Removes the files of a folder that match."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
