"""The files of a corpus: the user's own, a named corpus's, or Python's library.

A source is a fixed list of named files: a named corpus (below data/, in a folder that checkouts
share, or downloaded), Python's own standard library, or the user's file, folder or glob.
`readers.py` defines the documents of a file.
"""

import contextlib
import functools
import itertools
import logging
import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_from_scratch.config import DownloadConfig
from llm_from_scratch.data.downloads import bring_all, corpus_file, roots
from llm_from_scratch.data.folders import Tree, fixed_part, listed
from llm_from_scratch.data.formats import (
    NAMED_SUFFIXES,
    OTHER_NAME,
    OTHER_SUFFIXES,
    PLAIN_FORMAT,
    TEXT_SUFFIXES,
    Document,
    Format,
    is_plain,
)
from llm_from_scratch.data.readers import read_documents
from llm_from_scratch.errors import UserError
from llm_from_scratch.places import user_path

log = logging.getLogger(__name__)
# Folders of the library that are not read: tests, demonstrations and generated tables, which are no
# typical code, and packages that are not Python's own.
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}


@dataclass(frozen=True)
class Source:
    """The files of a corpus in a fixed order, each with a stable name and its path."""

    name: str
    paths: list[tuple[str, Path]]
    form: Format = PLAIN_FORMAT
    # (file or folder, reason why it is not read)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        """Returns whether every file is plain text: not compressed, no table and no archive."""
        return all(is_plain(name) for name, _ in self.paths)

    def documents(self) -> Iterator[Document]:
        """Yields the documents, one in memory at a time.

        Raises:
            UserError: when a file cannot be read (`readers.read_documents`).
        """
        for name, path in self.paths:
            yield from read_documents(path, name, self.form)

    def has(self, count: int) -> bool:
        """Returns whether there are at least `count` documents.

        Archives and tables are read only as far as needed.

        Documents that are not valid text count, for they are found out later; a file that cannot be
        read counts up to its fault.
        """
        if self.plain and (len(self.paths) >= count or self.form.separator is None):
            return len(self.paths) >= count
        found = 0

        def on_fault(name: str, problem: str) -> None:
            nonlocal found
            found += 1

        for name, path in self.paths:
            with contextlib.suppress(UserError):
                for _ in read_documents(path, name, self.form, on_fault=on_fault):
                    found += 1
                    if found >= count:
                        return True
        return found >= count

    def warn_of_skipped(self) -> None:
        """Logs a warning that names the files not read, once in a process."""
        if self.skipped:
            _warn_once(f"{self.name}: files or folders not read, {len(self.skipped):,} in all: {listed(self.skipped)}")


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def open_source(
    *,
    name: str,
    path: str | None = None,
    file: str | None = None,
    url: str | None = None,
    sha256: str | None = None,
    must_contain: str | None = None,
    form: Format = PLAIN_FORMAT,
    on_error: str | None = None,
    layouts: list[str] | None = None,
    published: str | None = None,
    download: str | None = None,
    downloads: Mapping[str, DownloadConfig] | None = None,
    connections: int = 4,
    data_dir: Path,
    fetch: bool = True,
) -> Source:
    """Finds the files of the corpus `name`, or downloads them.

    The first of these is read: `path`; Python's library where `name` is "stdlib"; `download`;
    `layouts`; `file`.

    Args:
        name: the corpus, as data.name.
        path: the user's own file, folder or glob.
        file: the one file of a named corpus, looked for in `roots(data_dir)`, else downloaded.
        url: the address that `file` is downloaded from.
        sha256: the checksum that `file` must have; None accepts any.
        must_contain: a text that `file` must contain.
        form: how the files are read.
        on_error: "skip" leaves out what cannot be read in a folder, else it is an error.
        layouts: globs below the roots; the first that finds files is read as it lies.
        published: the files that the error for a missing corpus tells the user to put there.
        download: a key of `downloads`; exactly its files are read, and missing ones downloaded.
        connections: parallel connections of a download.
        fetch: whether files may be downloaded; False for the address of a stranger's run folder.

    Raises:
        UserError: when there is nothing to read, a file is another one, or a download fails.
    """
    if path is not None:
        found, skipped = _own_files(path, on_error)
        return Source(name, found, form, skipped)
    if name == "stdlib":
        return Source(name, _standard_library(), form)
    if download is not None:
        chosen = _published_as(name, download, downloads or {})
        return Source(name, bring_all(name, chosen, data_dir, connections, fetch), form)
    found, skipped = _laid_out(name, layouts or [], data_dir, on_error)
    if found:
        return Source(name, found, form, skipped)
    if layouts and url is None:
        places = ", ".join(str(data_dir / glob) for glob in layouts)
        raise UserError(
            f"data={name}: there is none of {places}: put {published or 'the published files'} there, or give data.path"
        )
    if file is None:
        raise UserError(f"data={name} needs data.path=FILE, FOLDER or GLOB")
    return Source(name, [(file, corpus_file(name, file, url, sha256, must_contain, data_dir, fetch))], form)


def _laid_out(
    name: str, layouts: list[str], data_dir: Path, on_error: str | None
) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """Returns the files that the first glob with any finds below a root, and what is skipped."""
    for glob, root in itertools.product(layouts, roots(data_dir)):
        tree = Tree(root)
        found, skipped = tree.regular(tree.matching("", tuple(glob.split("/")))) if root.is_dir() else ([], [])
        if found:
            tree.refuse_faults(f"data={name}", on_error)
            return found, skipped + tree.faults
    return [], []


def _published_as(name: str, download: str, downloads: Mapping[str, DownloadConfig]) -> DownloadConfig:
    """Returns one of the downloads of the corpus `name`.

    Raises:
        UserError: when the corpus has no download of that name.
    """
    if download not in downloads:
        raise UserError(f"data.download={download}: data={name} is published as {', '.join(downloads) or 'nothing'}")
    return downloads[download]


def _own_files(path: str, on_error: str | None) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """Finds the files of `data.path`: a file, a folder's texts, tables and archives, or a glob's.

    Returns:
        (name, path) of each file, named relative to the folder that holds them, and (name, reason)
        of each that is not read.
    """
    try:
        given = user_path(path)
        if not given.exists():
            given = user_path(path.replace("\\", "/"))  # a glob with Windows's separators
        is_folder, exists = given.is_dir(), given.exists()
        fixed, pattern = (given, ()) if exists else fixed_part(given)
        missing = not exists and not (pattern and fixed.is_dir())
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"data.path={path}: {error.strerror if isinstance(error, OSError) else error}") from None
    if exists and not is_folder:
        if not given.is_file():
            raise UserError(f"data.path={path}: it is no regular file: copy what it gives into one")
        _refuse_empty(path, [given])
        return [(given.name, given)], []
    if missing:
        # names the working folder: a run is often evaluated from another one
        where = "" if given.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"data.path={path}: there is no such file or folder{where}")
    tree = Tree(fixed)
    if is_folder:
        found = [name for folder in tree.folders() for name in tree.files(folder)]
        kept = [name for name in found if Path(name).suffix.lower() in TEXT_SUFFIXES | OTHER_SUFFIXES]
        named, skipped = tree.regular(kept)
        for name in sorted(set(found) - set(kept)):
            suffix = Path(name).suffix
            reads = f"data.path={path}/**/*{suffix} reads it" if suffix.lower() in NAMED_SUFFIXES else OTHER_NAME
            skipped.append((name, tree.no_file(name) or reads))
    else:
        named, skipped = tree.regular(tree.matching("", (*pattern, "*") if pattern[-1] == "**" else pattern))
    tree.refuse_faults(f"data.path={path}", on_error)
    skipped = sorted(skipped + tree.faults)
    if not named:
        known = sorted(TEXT_SUFFIXES) + sorted(OTHER_SUFFIXES)
        kinds = f" ({', '.join(known)}; a glob such as {path}/**/*.py finds others)" if is_folder else ""
        aside = f"; not read: {listed(skipped)}" if skipped else ""
        raise UserError(f"data.path={path}: there is no text file{kinds}{aside}")
    _refuse_empty(path, [file for _, file in named])
    return named, skipped


def _refuse_empty(path: str, files: Sequence[Path]) -> None:
    if not any(file.stat().st_size for file in files):
        raise UserError(f"data.path={path}: all files are empty")


def _standard_library() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = set(folders) - NOT_LIBRARY
        # _sysconfigdata… differs between machines: it describes how Python was built.
        names = [name for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata")]
        found += [Path(folder, name) for name in names]
    if not found:
        raise UserError(f"data=stdlib: this Python has no library source in {root}: use data=text data.path=FILE")
    return sorted((file.relative_to(root).as_posix(), file) for file in found)
