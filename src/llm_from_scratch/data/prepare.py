"""Preparation, once, before the first training: source -> clean -> split -> tokenizer -> shards.

data/oz/prepared-1f0c8a35be21/     named after the text, the cleaning, the split and the tokenizer: any change prepares anew
    manifest.json                  counts, the cleaning's report, checksums; written last
    train.txt  val.txt             the cleaned text of each split, documents one behind the other
    train.ends val.ends            the byte at which each document ends (little-endian uint64)
    tokenizer/                     learned from train.txt alone; characters get bytes where val.txt has a new one
    train_00000.bin/.idx  val_…    token shards (no train shards with data.stream=text or fresh)

A small corpus is one task, whose cleaned text is kept, as above. A large one (KEEP_TEXT_BELOW bytes
or more, or data.keep_text=false) is many tasks, whose cleaned text is not written. Its folder holds
the manifest, the tokenizer, and for each task of `tasks.py`:

    train_00000.bin/.idx  val_00000.bin/.idx  task_00000.json     ids and index of both splits, and the record of the task
    report.md report.png           counts and examples of the documents that were kept and removed; also of a small corpus
                                   from which some are removed

A mixture (data=mix) is several corpora, each in its own folder, with one tokenizer for all:

    data/mix/prepared-…/           manifest.json names the corpora's folders and weights; tokenizer/

Each is built in .building-prepared-…/. When the preparation of a large corpus is killed, its
finished files stay there for the next start:

    plan.json  repeated_….bin      documents to take from each task; the numbers of its duplicates
    tokenizer/                     learned from the beginning of every task
    train_…  val_…  task_….json    shards, and the records of the tasks that are done

"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_from_scratch.config import DataConfig, PrepareConfig, TokenizerConfig
from llm_from_scratch.data import duplicates
from llm_from_scratch.data.chats import build_chats, plan_chats, rows_fingerprint, sources_of
from llm_from_scratch.data.corpus import (
    FORMAT,
    MANY_DOCUMENTS,
    Corpus,
    check_space,
    check_text,
    document_limits,
    is_mixture,
    limited,
    mixed_corpora,
    plan_corpus,
    prepared_folder,
    tokenizer_of_files,
    unfinished_folder,
)
from llm_from_scratch.data.documents import SPLITS, is_validation, split_document
from llm_from_scratch.data.learning import learn, mixed_text, text_of_splits, text_of_tasks
from llm_from_scratch.data.locks import busy, forgets_changed, is_first_rank, open_or_build, refuses_in_one_line
from llm_from_scratch.data.manifest import empty_split, finish, mixed_manifest, publish_prepared
from llm_from_scratch.data.prepared import Prepared, open_prepared
from llm_from_scratch.data.tasks import (
    Task,
    clear,
    locks_of,
    make_shards,
    make_shards_of_text,
    scan,
    scanned,
    shared_tokenizer,
    verified_record,
    write_text,
)
from llm_from_scratch.data.workers import run_tasks
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import write_file
from llm_from_scratch.machine import cores
from llm_from_scratch.tokenizer import Tokenizer

__all__ = [
    "MANY_DOCUMENTS",
    "SPLITS",
    "Prepared",
    "check_text",
    "is_first_rank",
    "is_validation",
    "open_prepared",
    "prepare",
    "prepare_task",
    "source_fingerprint",
    "source_now",
    "split_document",
]

log = logging.getLogger(__name__)


def prepare(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    *,
    tokenizer: Tokenizer | None = None,
    template: str | None = None,
    wait: bool = False,
    settings: PrepareConfig | None = None,
    fetch: bool = True,
    write: bool = True,
) -> Prepared:
    """Prepares a corpus, or opens it where the same text was prepared with the same settings.

    Args:
        data: the text, the documents that are kept of it, and how they are split.
        tokenizer_config: the kind and size of the tokenizer to learn from the training split.
        tokenizer: a tokenizer to use as it is, for a model that has one; None learns or loads one,
            as `tokenizer_config` says.
        template: the chat template of that model, for conversations; None: ChatML.
        wait: whether to wait for another process that prepares the same text (other ranks of one
            run); if not, UserError is raised.
        settings: the engine and its workers, which do not change the bytes; None for the defaults.
        fetch: whether missing files may be downloaded; False for the config of a run folder, which
            may be a stranger's.
        write: whether a text may be prepared in data.dir; False where only a run folder names
            data.dir. The text must then be prepared already.

    Raises:
        UserError: when the text is missing, damaged or too short, the disk is full or too small, a
            worker is killed, another process prepares the same text, or `settings.task` is set.
    """
    settings = settings or PrepareConfig()
    if settings.task is not None:
        raise UserError("prepare.task is for `python -m llm_from_scratch prepare`: here, leave it out")
    with refuses_in_one_line(data):
        if is_mixture(data):
            return _prepare_mixture(data, tokenizer_config, tokenizer, wait, settings, fetch, write)
        if data.format != "text":
            chats = plan_chats(data, tokenizer_config, tokenizer, template, fetch, write)
            return open_or_build(chats.folder, lambda: build_chats(chats), data, wait, write)
        corpus = plan_corpus(data, tokenizer_config, tokenizer, fetch, write)
        if is_first_rank():
            corpus.source.warn_of_skipped()
        with forgets_changed(corpus):
            return open_or_build(corpus.folder, lambda: _build(corpus, settings), data, wait, write)


def prepare_task(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    settings: PrepareConfig,
    *,
    tokenizer: Tokenizer | None = None,
) -> Prepared | None:
    """Makes the shards of one task, number `settings.task` of a job array.

    The first process makes what all tasks need: the plan, the duplicates and the tokenizer. The
    others wait for it. The process that finds all tasks done publishes the corpus.

    Returns:
        The prepared text, or None while other tasks are unfinished.

    Raises:
        UserError: as `prepare`; when there is no such task, or the corpus is a mixture or keeps its
            text.
    """
    assert settings.task is not None
    if is_mixture(data) or data.format != "text":
        raise UserError("prepare.task: prepare each corpus of a mixture, and conversations, as a whole; leave it out")
    with refuses_in_one_line(data):
        corpus = plan_corpus(data, tokenizer_config, tokenizer)
        with forgets_changed(corpus):
            return _prepare_task(corpus, data, settings)


def _prepare_task(corpus: Corpus, data: DataConfig, settings: PrepareConfig) -> Prepared | None:
    assert settings.task is not None
    if corpus.keep_text:
        raise UserError("prepare.task: this corpus is prepared as a whole; leave it out, or set data.keep_text=false")
    if settings.task >= len(corpus.tasks):
        raise UserError(
            f"prepare.task={settings.task}: the corpus has {len(corpus.tasks)} tasks, 0 to {len(corpus.tasks) - 1}"
        )
    if corpus.folder.exists():
        return open_prepared(corpus.folder)
    try:
        # times out while the whole corpus is prepared; tasks hold this lock for a moment only
        with FileLock(f"{corpus.folder}.lock", timeout=5):
            pass
        locks_of(corpus.building).mkdir(parents=True, exist_ok=True)
        with FileLock(locks_of(corpus.building) / "common.lock"):
            tasks, tokenizer = shared_inputs(corpus, settings)
        task = next((task for task in tasks if task.number == settings.task), None)
        if task is not None:  # None: data.max_docs is reached before it
            check_space(corpus, [task], tokenizer)
            list(run_tasks(make_shards, [task], engine="local", workers=1, size=task.bytes(), what="shards"))
        if not all(task.path("task", "json").exists() for task in tasks):
            return None
    except Timeout:
        raise busy(corpus.folder) from None
    return open_or_build(corpus.folder, lambda: _build(corpus, settings), data, wait=True, write=True)


def source_fingerprint(prepared: Prepared) -> str:
    """Returns the fingerprint of the source files that a text was prepared from."""
    parts = prepared.manifest.get("parts", {prepared.manifest["name"]: prepared.manifest})
    return _fingerprint({name: metadata["source"] for name, metadata in parts.items()})


def source_now(data: DataConfig) -> str:
    """Returns the fingerprint of the source files that the config names now.

    Nothing is downloaded or written.

    Raises:
        UserError: when a file is missing or cannot be read.
    """
    if data.format != "text":
        return _fingerprint({data.name: rows_fingerprint(sources_of(data, fetch=False, write=False))[0]})
    chosen = mixed_corpora(data) if is_mixture(data) else {data.name: data}
    config = TokenizerConfig()  # the fingerprint of the files does not depend on it
    corpora = {name: plan_corpus(one, config, None, fetch=False, write=False) for name, one in chosen.items()}
    return _fingerprint({name: corpus.metadata["source"] for name, corpus in corpora.items()})


def _fingerprint(sources: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


# --------------------------------------------------------------------------------------- one corpus
def _build(corpus: Corpus, settings: PrepareConfig) -> None:
    """Builds and publishes a corpus; a large one goes on from what an earlier build finished."""
    if corpus.keep_text:
        if settings != PrepareConfig():
            log.info(
                "%s: one process prepares a text that is kept beside its tokens (data.keep_text); prepare.engine and"
                " prepare.workers change nothing",
                corpus.source.name,
            )
        _build_with_text(corpus)
        return
    _refuse_if_tasks_run(corpus)
    tasks, tokenizer = shared_inputs(corpus, settings)
    finish(corpus, tokenizer, _records(corpus, tasks, tokenizer, settings))


def _build_with_text(corpus: Corpus) -> None:
    """Builds and publishes a small corpus from the start: one task, in this process.

    The tokenizer is learned from the cleaned text, which is kept.
    """
    shutil.rmtree(corpus.building, ignore_errors=True)  # safe: this process holds the lock
    try:
        (task,) = _plan(corpus, PrepareConfig(workers=1))
        tally = write_text(task, corpus.splits_whole_documents)
        for split in SPLITS:
            if not (task.folder / f"{split}.ends").stat().st_size:
                raise empty_split(corpus, split, tally.removed)
        texts = text_of_splits(task.folder, corpus.tokenizer_config.kind)
        tokenizer = learn(task.folder, corpus.tokenizer_config, corpus.tokenizer, texts)
        tokenized = SPLITS[1:] if corpus.metadata["stream"] != "tokens" else SPLITS
        shards = make_shards_of_text(task, tokenizer, corpus.splits_whole_documents, tokenized, corpus.source.name)
        finish(corpus, tokenizer, {task.stem: {"shards": shards, "tally": asdict(tally)}})
    except ValueError:  # the text cannot be prepared: the files built so far are of no use
        shutil.rmtree(corpus.building)
        raise
    finally:
        shutil.rmtree(locks_of(corpus.building), ignore_errors=True)


def _refuse_if_tasks_run(corpus: Corpus) -> None:
    """Raises Timeout while another process makes a task of this corpus."""
    for path in locks_of(corpus.building).glob("*.lock"):
        with FileLock(path, timeout=2):
            pass


def shared_inputs(corpus: Corpus, settings: PrepareConfig) -> tuple[list[Task], Tokenizer]:
    """Returns the tasks and the tokenizer of a large corpus.

    The first call makes what all tasks share: their plan, the duplicates and the tokenizer.
    """
    tasks = _plan(corpus, settings)
    if not (corpus.building / "tokenizer").exists():
        log.info("%s: learning the tokenizer", corpus.source.name)
        texts = text_of_tasks(tasks, corpus.tokenizer_config.kind)
        learn(corpus.building, corpus.tokenizer_config, corpus.tokenizer, texts)
    return tasks, shared_tokenizer(corpus.building)


def _plan(corpus: Corpus, settings: PrepareConfig) -> list[Task]:
    """Returns the tasks to make.

    The first call writes their document limits (plan.json) and their duplicates to the build
    folder.
    """
    building, plan = corpus.building, corpus.building / "plan.json"
    building.mkdir(exist_ok=True)
    if not plan.exists():
        limits = document_limits(corpus)
        _find_repeated(limited(corpus.tasks, limits), settings)
        write_file(plan, json.dumps(limits))
        clear(building, "scan_*.bin")
    limits = {int(number): limit for number, limit in json.loads(plan.read_text(encoding="utf-8")).items()}
    return limited(corpus.tasks, limits)


def _find_repeated(tasks: list[Task], settings: PrepareConfig) -> None:
    """Writes the numbers of each task's duplicate documents, for `Task.repeated` to read."""
    if not tasks or tasks[0].selection.dedup == "none":
        return
    dedup = tasks[0].selection.dedup
    duplicates.signer(dedup)  # raises here, before any work, where its library is missing
    clear(tasks[0].folder, "*.tmp")
    for _ in _run(scan, tasks, settings, "duplicates"):
        pass
    found = duplicates.repeated(dedup, [scanned(task) for task in tasks])
    for task, numbers in zip(tasks, found, strict=True):
        write_file(task.path("repeated", "bin"), numbers.astype("<i8").tobytes())


def _run(function: Callable[..., Any], tasks: Sequence[Task], settings: PrepareConfig, what: str) -> Iterator[Any]:
    size = sum(task.bytes() for task in tasks)
    workers = settings.workers or cores()
    return run_tasks(function, tasks, engine=settings.engine, workers=workers, size=size, what=what)


# --------------------------------------------------------------------------------------- the shards
def _records(
    corpus: Corpus, tasks: list[Task], tokenizer: Tokenizer, settings: PrepareConfig
) -> dict[str, dict[str, Any]]:
    """Returns every task's record, by its number in five digits; makes unfinished tasks first."""
    keys = {task.key(tokenizer.fingerprint): task for task in tasks}
    records = {key: verified_record(task, key) for key, task in keys.items()}
    missing = [keys[key] for key, record in records.items() if record is None]
    if 0 < len(missing) < len(tasks):
        log.info("%d of %d tasks are done already", len(tasks) - len(missing), len(tasks))
    check_space(corpus, missing, tokenizer)
    for record in _run(make_shards, missing, settings, "shards"):
        records[record["key"]] = record
    return {keys[key].stem: record for key, record in records.items() if record is not None}


# ----------------------------------------------------------------------------------------- mixtures
def _prepare_mixture(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer: Tokenizer | None,
    wait: bool,
    settings: PrepareConfig,
    fetch: bool,
    write: bool,
) -> Prepared:
    """Prepares or opens a mixture: learns one tokenizer, then prepares each corpus with it.

    The parameters are those of `prepare`.
    """
    chosen = mixed_corpora(data)
    tokenizer = tokenizer or tokenizer_of_files(tokenizer_config, Path(data.dir), fetch)
    weights = {name: float((data.mix or {})[name]) for name in chosen}
    corpora = {name: plan_corpus(one, tokenizer_config, tokenizer, fetch, write) for name, one in chosen.items()}
    for corpus in corpora.values() if is_first_rank() else ():
        corpus.source.warn_of_skipped()
    metadata = {
        "format": FORMAT,
        "mix": weights,
        "parts": {name: corpus.metadata for name, corpus in corpora.items()},
    }
    folder = prepared_folder(data, metadata)

    def build() -> None:
        building = unfinished_folder(folder)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        texts = mixed_text(list(corpora.values()), list(weights.values()), tokenizer_config.kind)
        with forgets_changed(*corpora.values()):
            shared = learn(building, tokenizer_config, tokenizer, texts)
        parts = {
            name: prepare(one, tokenizer_config, tokenizer=shared, wait=wait, settings=settings, fetch=fetch)
            for name, one in chosen.items()
        }
        sums = mixed_manifest(parts, weights)
        publish_prepared(folder, metadata | sums | {"name": data.name, "fingerprint": shared.fingerprint})

    if write:
        folder.parent.mkdir(parents=True, exist_ok=True)
    return open_or_build(folder, build, data, wait, write)
