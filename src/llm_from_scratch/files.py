"""Atomic, durable writes of files and folders, and bounded reads of untrusted ones.

Every write goes to a new temporary file or folder (`O_EXCL`, a random part in its name), so it
never follows a link and never reuses a leftover.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from llm_from_scratch.errors import UserError

BUILDING = ".building-"  # prefix of every temporary name
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_file(path: Path, content: str | bytes) -> None:
    """Replaces a file atomically and durably: a kill or a full disk leaves the old or the new one.

    The mode follows the umask. A symbolic or hard link at `path` is replaced; its target stays.

    Raises:
        OSError: when the file cannot be written; `path` stays as it was.
    """
    building = path.with_name(f"{BUILDING}{path.name}-{secrets.token_hex(4)}")
    handle = os.open(building, _CREATE, 0o666)
    with _replacing(building, path), os.fdopen(handle, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yields a file for a library to write; it then replaces `path` as in `write_file`."""
    building = new_file(path)
    with _replacing(building, path):
        yield building
        sync(building)


@contextlib.contextmanager
def _replacing(building: Path, path: Path) -> Iterator[None]:
    """Renames `building` to `path` after the body, durably; removes it where the body fails."""
    try:
        yield
        building.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            building.unlink()
        raise
    sync(path.parent)


def building_folder(folder: Path) -> Path:
    """Creates an empty folder beside `folder`, to be filled and then published in its place."""
    building = folder.with_name(f"{BUILDING}{folder.name}-{secrets.token_hex(4)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building.mkdir()
    return building


def publish(building: Path, folder: Path) -> None:
    """Renames a finished folder to `folder`, durably, and removes the folder it replaces.

    The old folder moves to `.old-NAME` first; a kill between the two renames leaves it there. All
    files get the mode of the umask.

    Raises:
        OSError: when the folder cannot be renamed; the old one is then back in its place.
    """
    mode = building.stat().st_mode & 0o666  # `mkdir` has applied the umask
    for path in sorted(building.rglob("*")):
        if path.is_file():
            path.chmod(mode)
        sync(path)
    sync(building)
    old = folder.with_name(f".old-{folder.name}")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        building.rename(folder)
    except OSError:
        if old.is_dir():
            old.rename(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def leaves_no_empty_folders(*folders: Path) -> Iterator[None]:
    """Where the body fails, removes those of `folders` and their parents that it made, if empty."""
    made = {path for folder in folders for path in (folder, *folder.parents) if not os.path.lexists(path)}
    try:
        yield
    except BaseException:
        for path in sorted(filter(Path.is_dir, made), key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # another process has made something there since
                path.rmdir()
        raise


def new_file(path: Path) -> Path:
    """Creates an empty file beside `path`, with a name of its own."""
    building = path.with_name(f"{BUILDING}{path.name}-{secrets.token_hex(4)}")
    os.close(os.open(building, _CREATE, 0o666))
    return building


def check_new_file(option: str, path: Path | None) -> None:
    """Checks, before long work, that the file which an option names can be made; None: not named.

    Raises:
        UserError: when it is a folder, or its folder does not exist.
    """
    if path and path.is_dir():
        raise UserError(f"{option} {path}: is a folder: name a file in it")
    if path and not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}: make it first")


def existing_parent(path: Path) -> Path:
    """Returns a path that exists: `path`, or the nearest folder above it."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def sync(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk (fsync)."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot flush a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file to read; refuses a pipe or a device without blocking on it.

    Raises:
        OSError: when there is no such file, or it cannot be read.
        UserError: when it is not a regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path} is no regular file: copy what it gives into one")
    return os.fdopen(handle, "rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """Reads a regular file of at most `limit` bytes; memory grows with the file, not the limit.

    Raises:
        OSError: when there is no such file, or it cannot be read.
        UserError: when it is not a regular file, or larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UserError(f"larger than {limit} bytes")
        return file.read(size)


def refuse_links(path: Path, root: Path) -> None:
    """Refuses links out of `root`, pipes and devices, at or below `path`, which lies in `root`.

    A run folder may be untrusted: a link in it could make this program read, write or delete
    elsewhere, and a pipe could block it. `root` itself may be a link. wandb makes links to logs of
    its own, which nothing follows: they may stay.

    Raises:
        UserError: when there is one; it names the first.
    """
    for name in _tree(path):
        mode = name.lstat().st_mode
        if stat.S_ISLNK(mode):
            if not (_leads_into(name, root) or _is_log_of_wandb(name.relative_to(root))):
                raise UserError(f"{name} is a link that leads out of {root}: put what it stands for in its place")
        elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{name} is neither a file nor a folder: remove it")


def _tree(path: Path) -> Iterator[Path]:
    """Yields a path, where it exists, and all paths below it, without following links below it."""
    if os.path.lexists(path):
        yield path
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            yield from (Path(folder, name) for name in sorted([*folders, *names]))


def _is_log_of_wandb(path: Path) -> bool:
    """Returns whether a path in a run folder is wandb/RUN/logs/NAME, of a run that has ended."""
    return len(path.parts) == 4 and path.parts[0] == "wandb" and path.parts[2] == "logs"


def _leads_into(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def sha256(path: Path) -> str:
    """Returns the sha256 of a regular file, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
