"""One process prepares a text: the others wait for it, or are refused in one line."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.corpus import CHECKSUMS, Corpus, is_mixture, mixed_corpora
from llm_from_scratch.data.prepared import Prepared, open_prepared
from llm_from_scratch.data.streams import ChangedFileError
from llm_from_scratch.data.tasks import clear
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import leaves_no_empty_folders

log = logging.getLogger(__name__)


def open_or_build(folder: Path, build: Callable[[], None], data: DataConfig, wait: bool, write: bool) -> Prepared:
    """Opens the prepared text in `folder`; where it is missing, calls `build` first.

    One process builds; the others wait, or raise UserError without `wait`. Without `write` a
    missing text is a UserError.
    """
    # no lock is needed: the folder gets its name when it is complete
    if folder.exists():
        return open_prepared(folder)
    if not write:
        raise _not_there(folder, data)
    try:
        with _only_one(folder, wait):
            if not folder.exists():
                build()
            return open_prepared(folder)
    except Timeout:
        raise busy(folder) from None


@contextmanager
def forgets_changed(*corpora: Corpus) -> Iterator[None]:
    """Where a file was changed, removes what the next start would take for right.

    These are the cached checksums, for a file of the same size and time can have other bytes, and
    what all tasks share, for it may come from the beginning of a file alone, whose checksum was not
    compared.
    """
    try:
        yield
    except ChangedFileError:
        for corpus in corpora:
            corpus.folder.with_name(CHECKSUMS).unlink(missing_ok=True)
            clear(corpus.building, "plan.json")
            shutil.rmtree(corpus.building / "tokenizer", ignore_errors=True)
        raise


@contextmanager
def refuses_in_one_line(data: DataConfig) -> Iterator[None]:
    """Leaves no new, empty folder of a corpus where its preparation fails.

    Raises:
        UserError: when the disk is full, or data.dir cannot be written.
    """
    root = Path(data.dir)
    names = [data.name, *(one.name for one in mixed_corpora(data).values())] if is_mixture(data) else [data.name]
    try:
        with leaves_no_empty_folders(*(root / name for name in names)):
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full ({error.strerror}): free some space, or set data.dir=FOLDER on another disk, and "
                "start again: finished shards of a large corpus are kept"
            ) from None
        if _is_unwritable(root, error):
            raise UserError(
                f"data.dir={root}: {error.filename} cannot be written ({error.strerror}): choose another"
            ) from None
        raise


def _is_unwritable(root: Path, error: OSError) -> bool:
    """Returns whether an error is about a right to write in the folder `root`, or to make it."""
    if not isinstance(error.filename, str):
        return False
    path, root = Path(error.filename).absolute(), root.absolute()
    if not (path.is_relative_to(root) or root.is_relative_to(path)):
        return False
    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return denied or (error.errno in (errno.ENOTDIR, errno.ENOENT) and not path.parent.is_dir())


@contextmanager
def _only_one(folder: Path, wait: bool) -> Iterator[None]:
    """Holds the lock of `folder`, so that no other process prepares it.

    Raises:
        Timeout: when another process holds the lock and `wait` is false.
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
        # the other process may have raised UserError and deleted this lock's file: lock a new one
        lock.release()
        lock.acquire()
    try:
        yield
    except UserError:
        # a process that waits for this lock will raise the same error
        Path(lock.lock_file).unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _not_there(folder: Path, data: DataConfig) -> UserError:
    return UserError(
        f"{folder}: the text is not prepared, and nothing is written to a folder that a run alone names: give data.dir={data.dir}"
        f" again, or prepare it first (python -m llm_from_scratch prepare data={data.name} data.dir={data.dir} …)"
    )


def busy(folder: Path) -> UserError:
    """Returns the error for a text that another process prepares."""
    return UserError(f"{folder} is being prepared by another process; start again when it is done")


def is_first_rank() -> bool:
    """Returns whether this process is rank 0 of those that a launcher started together.

    Launchers are Lightning, torchrun and SLURM; without one, it is True.
    """
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
