"""Atomic, durable writes of files and folders, and bounded reads of hostile ones.

Every write goes through a temporary name that this process alone created (`O_EXCL`, a random part):
it never follows a link or a leftover.
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

BUILDING = ".building-"  # what every temporary name begins with
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_file(path: Path, content: str | bytes) -> None:
    """Replaces a file at once and durably: a kill or a full disk leaves the old one or the new one.

    The mode follows the umask. A link or hard link at `path` is replaced, not written through.

    Raises:
        OSError: the folder cannot be written; `path` is as it was.
    """
    building = path.with_name(f"{BUILDING}{path.name}-{secrets.token_hex(4)}")
    handle = os.open(building, _CREATE, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        building.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            building.unlink()
        raise
    sync(path.parent)


def building_folder(folder: Path) -> Path:
    """A new empty folder beside `folder`, to be filled and then published in its place."""
    building = folder.with_name(f"{BUILDING}{folder.name}-{secrets.token_hex(4)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building.mkdir()
    return building


def publish(building: Path, folder: Path) -> None:
    """Moves a finished folder to its name, at once and durably, in place of a folder that was
    there.

    Its files get the mode that the umask gives, whatever mode the library that wrote them chose.

    Raises:
        OSError: the folder cannot be moved; what was at its name is there again.
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


def new_file(path: Path) -> Path:
    """A new empty file beside `path` for a library that writes by name; the caller renames it."""
    building = path.with_name(f"{BUILDING}{path.name}-{secrets.token_hex(4)}")
    os.close(os.open(building, _CREATE, 0o666))
    return building


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, survive a loss of power."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle of a folder to flush
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file to read; a pipe or a device is refused without waiting for it.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UserError: it is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path} is no regular file: copy what it gives into one")
    return os.fdopen(handle, "rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes, without a buffer of that size.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UserError: it is no regular file, or a larger one.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UserError(f"larger than {limit} bytes")
        return file.read(size)


def refuse_links(path: Path, root: Path) -> None:
    """Refuses links out of `root`, pipes and devices at or below a path of `root`.

    A run folder may be a stranger's: no link in it may make this program read, write or delete
    elsewhere, and no pipe make it wait. `root` itself may be reached by a link.

    Raises:
        UserError: naming the first one.
    """
    for name in _tree(path):
        mode = name.lstat().st_mode
        if stat.S_ISLNK(mode):
            if not _leads_into(name, root):
                raise UserError(f"{name} is a link that leads out of {root}: put what it stands for in its place")
        elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{name} is neither a file nor a folder: remove it")


def _tree(path: Path) -> Iterator[Path]:
    """A path and everything below it, without following links below it."""
    if os.path.lexists(path):
        yield path
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            yield from (Path(folder, name) for name in sorted([*folders, *names]))


def _leads_into(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return False


def sha256(path: Path) -> str:
    """The checksum of a regular file, as hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
