"""Source -> clean -> split -> tokenizer -> shards: everything that happens to a text once, before the first training on it.

data/oz/prepared-1f0c8a35be21/     named after the text, the cleaning, the split and the tokenizer: any change prepares anew
    manifest.json                  counts, the cleaning's report, checksums; written last
    train.txt  val.txt             the cleaned text of each split, documents one behind the other
    train.ends val.ends            the byte at which each document ends (little-endian uint64)
    tokenizer/                     learned from train.txt alone; characters get bytes where val.txt has a new one
    train_00000.bin/.idx  val_…    token shards (no train shards with data.stream=text)

A large corpus (KEEP_TEXT_BELOW, or data.keep_text=false) has the manifest, the tokenizer, and for each task of `tasks.py`, whose
text is nowhere written:

    train_00000.bin/.idx  val_00000.bin/.idx  task_00000.json     ids and index of both splits, and the record of the task
    report.md report.png           what was kept and what was removed, with examples; also of a small corpus that is chosen from

It is built in .building-prepared-…/, where everything that is finished stays when the preparation is killed:
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from llm_from_scratch.config import DataConfig, PrepareConfig, TokenizerConfig
from llm_from_scratch.data import mixture
from llm_from_scratch.data.engines import run_tasks
from llm_from_scratch.data.long import LongText, pieces_of, read_pieces
from llm_from_scratch.data.parts import (
    build_shards,
    check_space,
    clear,
    find_repeated,
    finish,
    jobs_of,
    refuse_if_tasks_run,
    what_all_need,
)
from llm_from_scratch.data.prepared import Prepared, manifest_sha256, open_prepared
from llm_from_scratch.data.readers import ChangedFileError
from llm_from_scratch.data.report import leaves_out, warn, write_report
from llm_from_scratch.data.shards import write_shard
from llm_from_scratch.data.sources import Source
from llm_from_scratch.data.tasks import (
    SPLITS,
    Tally,
    documents,
    ids_in_pieces,
    is_validation,
    locks_of,
    make_shards,
    repeats,
    split_document,
    training_characters,
    unique,
)
from llm_from_scratch.data.work import (
    CHECKSUMS,
    FORMAT,
    MANY_DOCUMENTS,
    Work,
    empty_split,
    keeps_text,
    open_corpus,
    plan_work,
    publish,
)
from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import Tokenizer, train_tokenizer

__all__ = [
    "MANY_DOCUMENTS",
    "SPLITS",
    "Prepared",
    "check_text",
    "document_start",
    "is_first_rank",
    "is_validation",
    "open_prepared",
    "prepare",
    "prepare_task",
    "source_now",
    "split_document",
]

log = logging.getLogger(__name__)


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    *,
    reuse: Tokenizer | None = None,
    wait: bool = False,
    how: PrepareConfig | None = None,
    fetch: bool = True,
    write: bool = True,
) -> Prepared:
    """Prepares a corpus, or opens what an earlier run prepared from the same text with the same settings.

    Args:
        data: which text, what is kept of it, and how it is split.
        tokenizer: what is learned from its training split.
        reuse: a tokenizer to use instead of learning one, for a model that speaks it already.
        wait: wait for another process that is preparing the same (the other ranks of one run) rather than stop.
        how: who does the work. The bytes do not depend on it.
        fetch: whether what is not at hand may be downloaded; False for the settings of a run folder, which may be a stranger's.
        write: whether a text may be prepared in data.dir; False where a run folder alone names it. Then it must be there.

    Raises:
        UserError: in one line, for a text that is missing, broken or too short, a disk that is full or will be, a worker that was
            killed, and while another process prepares the same.
    """
    how = how or PrepareConfig()
    if how.task is not None:
        raise UserError("prepare.task is for `python -m llm_from_scratch prepare`: here, leave it out")
    if data.mix is not None or data.corpora:
        return _prepare_mixture(data, tokenizer, reuse, wait, how, fetch, write)
    with _leaves_no_folders(Path(data.dir) / data.name):
        return _prepare_one(plan_work(data, tokenizer, reuse, fetch, write), data, wait, how, write)


def _prepare_one(work: Work, data: DataConfig, wait: bool, how: PrepareConfig, write: bool) -> Prepared:
    """Opens or makes what one corpus comes to."""
    if is_first_rank():
        work.source.warn_of_skipped()
    if work.folder.exists():  # whole, since it got its name last: runs that start together do not refuse each other
        return open_prepared(work.folder)
    if not write:
        raise _not_there(work.folder, data)
    try:
        with _only_one(work.folder, wait):
            if not work.folder.exists():
                if work.keep_text:
                    try:
                        _build(work)
                    except ValueError:  # a text that cannot be prepared: what came before the fault is of no use
                        shutil.rmtree(work.building)
                        raise
                else:
                    refuse_if_tasks_run(work)
                    build_shards(work, how)
            return open_prepared(work.folder)
    except Timeout:
        raise _busy(work.folder) from None
    except ChangedFileError:  # a file with the size and time of before can have other bytes: they are read again
        work.folder.with_name(CHECKSUMS).unlink(missing_ok=True)
        raise


def prepare_task(data: DataConfig, tokenizer: TokenizerConfig, how: PrepareConfig) -> Prepared | None:
    """One task of an array: makes the shards of part `how.task` alone; whoever finds all parts there makes the last step.

    What all tasks need, the first one makes while the others wait: the plan, the duplicates and the tokenizer.

    Returns:
        The prepared text, or None while other parts are missing.

    Raises:
        UserError: as `prepare`; there is no such part.
    """
    assert how.task is not None
    if data.mix is not None or data.corpora:
        raise UserError("prepare.task: prepare each corpus of a mixture as a whole, or leave it out")
    work = plan_work(data, tokenizer, None)
    if work.keep_text:
        raise UserError("prepare.task: this corpus is prepared as a whole; leave it out, or set data.keep_text=false")
    if how.task >= len(work.tasks):
        raise UserError(f"prepare.task={how.task}: the corpus has {len(work.tasks)} parts, 0 to {len(work.tasks) - 1}")
    if work.folder.exists():
        return open_prepared(work.folder)
    try:
        with FileLock(f"{work.folder}.lock", timeout=5):  # the other tasks do no more than look in here
            pass
        locks_of(work.building).mkdir(parents=True, exist_ok=True)
        with FileLock(locks_of(work.building) / "common.lock"):
            tasks, speaks = what_all_need(work, how)
        job = next((job for job in jobs_of(work, tasks, speaks) if job[0].number == how.task), None)
        if job is not None:  # else data.max_docs ends before it
            check_space(work, [job[0]], speaks)
            list(run_tasks(make_shards, [job], engine="local", workers=1, size=job[0].bytes(), what="shards"))
        if not all((work.building / f"task_{task.stem}.json").exists() for task in tasks):
            return None
        with FileLock(f"{work.folder}.lock", timeout=60):
            if not work.folder.exists():
                finish(work, tasks, speaks)
        return open_prepared(work.folder)
    except Timeout:
        raise _busy(work.folder) from None


def source_now(data: DataConfig, prepared: Prepared) -> tuple[str, str]:
    """The fingerprints of the files that a text was prepared from, and of those that its settings name now.

    Nothing is downloaded or written.

    Raises:
        UserError: they are not there, or cannot be read.
    """
    mixed = data.mix is not None or data.corpora
    corpora = mixture.corpora(data) if mixed else {data.name: data}
    kind = TokenizerConfig()  # the fingerprint of files does not depend on it
    works = {name: plan_work(one, kind, prepared.tokenizer, False, False) for name, one in corpora.items()}
    now = {name: work.facts["source"] for name, work in works.items()}
    before = {name: facts["source"] for name, facts in prepared.manifest.get("parts", {}).items()}
    if not mixed:
        before = {data.name: prepared.manifest["source"]}
    found = [hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest() for each in (before, now)]
    return found[0], found[1]


def _prepare_mixture(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    reuse: Tokenizer | None,
    wait: bool,
    how: PrepareConfig,
    fetch: bool,
    write: bool,
) -> Prepared:
    """Learns the tokenizer that all corpora share, then prepares each with it."""
    chosen = mixture.corpora(data)
    weights = {name: float((data.mix or {})[name]) for name in chosen}
    works = {name: plan_work(settings, tokenizer, reuse, fetch, write) for name, settings in chosen.items()}
    for work in works.values() if is_first_rank() else ():
        work.source.warn_of_skipped()
    facts = {"format": FORMAT, "mix": weights, "parts": {name: work.facts for name, work in works.items()}}
    identity = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    folder = Path(data.dir) / data.name / f"prepared-{identity}"
    if folder.exists():
        return open_prepared(folder)
    if not write:
        raise _not_there(folder, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _only_one(folder, wait):
            if not folder.exists():
                building = folder.with_name(f".building-{folder.name}")
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir()
                texts = mixture.training_text(works, weights, mixture.learns_from(tokenizer.kind))
                held_out = mixture.validation_text(works)
                shared = reuse or train_tokenizer(tokenizer.kind, texts, tokenizer.vocab_size, held_out)
                shared.save(building / "tokenizer")
                parts = {
                    name: prepare(settings, tokenizer, reuse=shared, wait=wait, how=how, fetch=fetch)
                    for name, settings in chosen.items()
                }
                manifest = (
                    facts | mixture.manifest(parts, weights) | {"name": data.name, "fingerprint": shared.fingerprint}
                )
                manifest["sha256"] = manifest_sha256(manifest)
                (building / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
                building.rename(folder)
            return open_prepared(folder)
    except Timeout:
        raise _busy(folder) from None


@contextmanager
def _leaves_no_folders(corpus: Path) -> Iterator[None]:
    """Takes the folders that were made for a corpus away again where its text is refused.

    Raises:
        UserError: they cannot be written.
    """
    made = [folder for folder in (corpus, *corpus.parents) if not folder.exists()]
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT) and not corpus.is_dir():
            raise UserError(
                f"data.dir={corpus.parent}: {corpus} cannot be written ({error.strerror}): choose another"
            ) from None
        raise
    except UserError:
        for folder in filter(Path.is_dir, made):
            with suppress(OSError):  # another process has made something there since
                folder.rmdir()
        raise


@contextmanager
def _only_one(folder: Path, wait: bool) -> Iterator[None]:
    """Keeps other processes from preparing `folder`.

    Raises:
        Timeout: another one does, and `wait` is false.
    """
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        if is_first_rank():
            log.info("%s is being prepared by another process: this one waits for it", folder)
        lock.acquire()
        lock.release()  # the other one may have deleted the file of this lock, because it was refused
        lock.acquire()
    try:
        yield
    except UserError:
        Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits for it comes to the same refusal
        raise
    finally:
        lock.release()


def check_text(data: DataConfig, given: Iterable[str]) -> None:
    """Refuses, before anything is written, a text that is not there and settings that would change nothing about it.

    Args:
        data: the settings.
        given: the names of those that the user wrote.

    Raises:
        UserError: in one line. A named corpus is looked for later: it may have to be downloaded.
    """
    if data.mix is not None or data.corpora:
        corpora = list(mixture.corpora(data).values())
    else:
        corpora = [data]
    for settings in corpora:
        if settings.download is not None or (settings.file is not None and settings.path is None):
            continue
        source = open_corpus(settings, fetch=False)
        if settings is not data:
            continue
        if source.plain and "data.column" in given:
            raise UserError(f"data.column={data.column}: these files have no columns; leave it out")
        if not keeps_text(data, source):
            continue
        if "data.keep_text" in given and data.keep_text is False:
            raise UserError(
                f"data.keep_text=false: a corpus of fewer than {MANY_DOCUMENTS} documents keeps its text; leave it out"
            )
        for key in ("data.shard_bytes", "prepare.engine", "prepare.workers"):
            if key in given:
                raise UserError(f"{key}: is for a large corpus, and one process prepares this one; leave it out")


def _not_there(folder: Path, data: DataConfig) -> UserError:
    return UserError(
        f"{folder}: the text is not prepared, and nothing is written to a folder that a run alone names: give data.dir={data.dir}"
        f" again, or prepare it first (python -m llm_from_scratch prepare data={data.name} data.dir={data.dir} …)"
    )


def _busy(folder: Path) -> UserError:
    return UserError(f"{folder} is being prepared by another process; start again when it is done")


def _build(work: Work) -> None:
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
        find_repeated(building, [task], work.recipe, PrepareConfig(workers=1), strict=True)
        texts = documents(task, work.recipe, tally, strict=True)
        texts = unique(texts, repeats(building, task), f"{work.recipe.dedup}_duplicate", tally)
        _write_splits(building, source, texts, facts["val_fraction"], whole, tally)
        cleaned = tally.cleaned
    finally:
        shutil.rmtree(locks_of(building), ignore_errors=True)

    learned, held_out = (_learned_from(building / f"{split}.txt", work.tokenizer.kind) for split in SPLITS)
    tokenizer = work.reuse or train_tokenizer(work.tokenizer.kind, learned, work.tokenizer.vocab_size, held_out)
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
            _encode(building / f"{split}.txt", tokenizer, whole, f"{source.name}, {split} split"),
            vocab_size=tokenizer.vocab_size,
            tokenizer=tokenizer.fingerprint,
        )
        splits[split] |= {"tokens": info.tokens, "shards": {shard: info.index_sha256}}
    manifest = facts | {"name": source.name, "fingerprint": tokenizer.fingerprint, "cleaned": cleaned, "splits": splits}
    if work.chooses:
        manifest["removed"] = tally.removed
        clear(building, "repeated_*.bin", "scan_*.bin")
    if leaves_out(work, [tally]):
        write_report(work, [tally], splits)
    warn(work, [tally])
    publish(work, manifest)


def _write_splits(
    building: Path,
    source: Source,
    texts: Iterable[tuple[str, str | LongText]],
    val_fraction: float,
    whole: bool,
    tally: Tally,
) -> None:
    """Writes the cleaned text of both splits."""
    ends: dict[str, list[int]] = {split: [0] for split in SPLITS}
    with (building / "train.txt").open("wb") as train, (building / "val.txt").open("wb") as val:
        files = dict(zip(SPLITS, (train, val), strict=True))
        for name, text in texts:
            if whole:
                in_training = 0 if is_validation(name, val_fraction) else len(text)
            else:
                in_training = training_characters(len(text), val_fraction)
            written = dict.fromkeys(SPLITS, 0)
            for piece in pieces_of(text):
                for split, part in zip(SPLITS, (piece[:in_training], piece[in_training:]), strict=True):
                    written[split] += files[split].write(part.encode())
                in_training = max(0, in_training - len(piece))
            for split, size in written.items():
                if size:
                    ends[split].append(ends[split][-1] + size)
    for split in SPLITS:
        if len(ends[split]) == 1:
            raise empty_split(source, split, val_fraction, tally.removed)
        np.array(ends[split][1:], dtype="<u8").tofile(building / f"{split}.ends")


def _learned_from(path: Path, kind: str) -> Iterator[str]:
    """The text that a tokenizer learns from, in pieces; of characters, each once in a piece is enough."""
    for _, pieces in _documents_in_pieces(path):
        for piece in pieces:
            yield piece if kind != "char" else "".join(set(piece))


def _encode(path: Path, tokenizer: Tokenizer, whole: bool, where: str) -> Iterator[tuple[Iterator[np.ndarray], int]]:
    """The ids of the documents of a cleaned text; one that the split has cut in two has no end to be learned."""
    for size, pieces in _documents_in_pieces(path):
        yield ids_in_pieces(pieces, tokenizer, whole, where), size


def _documents_in_pieces(path: Path) -> Iterator[tuple[int, Iterator[str]]]:
    """The bytes and the pieces of each document of a cleaned text, whose ends lie beside it."""
    start = 0
    with path.open("rb") as file:
        for end in np.fromfile(path.with_suffix(".ends"), dtype="<u8").tolist():
            yield end - start, read_pieces(file, end - start)
            start = end


def document_start(prepared: Prepared) -> int:
    """The id that parts documents, for data.doc_mask.

    Raises:
        UserError: where several documents lie one behind the other without it: of few, each is cut in two and has no end.
    """
    several = [shard for shard in prepared.shards("val") if len(shard.document_ends) > 1]
    if any(shard.tokens[shard.document_ends[0] - 1] != prepared.tokenizer.eot_id for shard in several):
        raise UserError(
            f"data.doc_mask=true: each of fewer than {MANY_DOCUMENTS} documents is cut in two, with no end that could part them:"
            " use more documents, or leave it out"
        )
    return prepared.tokenizer.eot_id


def is_first_rank() -> bool:
    """Whether this process is the one that prepares, of those that a launcher (Lightning, torchrun, SLURM) started together."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
