"""Where a corpus comes from: the first step of the data's way (source, clean, tokenize, shards, sample).

A source is a fixed list of named files: a named corpus (below data/, in a folder that checkouts share, or downloaded),
Python's own standard library, or the user's file, folder or glob. `readers.py` says which documents a file holds.
"""

import contextlib
import errno
import fnmatch
import functools
import http.client
import itertools
import logging
import os
import re
import ssl
import stat
import sysconfig
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llm_from_scratch.data.readers import (
    HIDDEN,
    NAMED_SUFFIXES,
    OTHER_NAME,
    OTHER_SUFFIXES,
    PLAIN_FORMAT,
    TEXT_SUFFIXES,
    Document,
    Format,
    is_plain,
    read_documents,
    read_file,
)
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import BUILDING
from llm_from_scratch.files import sha256 as sha256_of
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import console, one_line

log = logging.getLogger(__name__)
TIMEOUT = 10.0  # seconds without an answer or a byte
NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
# Tests, demonstrations and generated tables of numbers are no prose of programmers; the rest is not Python's own.
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}


FOLDER = "a folder: /**/* behind its name reads the files below it"
NAMED = 10  # files in a message, then their count


@dataclass(frozen=True)
class Source:
    """A corpus: the stable name and the place of each file, in a fixed order, and how the files are read."""

    name: str
    paths: list[tuple[str, Path]]
    form: Format = PLAIN_FORMAT
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file or folder, why it is not read)

    @property
    def plain(self) -> bool:
        """Whether each file is one document as it stands: no table, no archive, nothing compressed."""
        return all(is_plain(name) for name, _ in self.paths)

    def documents(self) -> Iterator[Document]:
        """The documents, one in memory at a time. UserError: a file cannot be read (`readers.read_documents`)."""
        for name, path in self.paths:
            yield from read_documents(path, name, self.form)

    def has(self, count: int) -> bool:
        """Whether there are at least `count` documents; archives and tables are read as far as it takes.

        Those that are no text count, for they are found out later; a file that cannot be read has none.
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
        """Says on standard error which files are not read, once in a process."""
        if self.skipped:
            _warn_once(f"{self.name}: files or folders not read, {len(self.skipped):,} in all: {listed(self.skipped)}")


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def listed(named: Sequence[tuple[str, str]], count: int | None = None) -> str:
    """The first few of (name, why) in one line, those of one reason together, and how many more there are."""
    reasons: dict[str, list[str]] = {}
    for name, why in named[:NAMED]:
        reasons.setdefault(why, []).append(ascii(name)[1:-1] if not name.isprintable() else name)
    parts = [", ".join(names) + (f" ({why})" if why else "") for why, names in reasons.items()]
    more = (len(named) if count is None else count) - min(NAMED, len(named))
    return "; ".join(parts) + (f"; and {more:,} more" if more else "")


@dataclass(frozen=True)
class Download:
    """One way in which a corpus is published: `files` below data/, `part{00..20}.tar` for many, in each of the folders `mirrors`."""

    files: str
    mirrors: Sequence[str]
    sha256: str | None = None  # of a single file

    def names(self) -> list[str]:
        """The files, their range of numbers written out. UserError: one would lie elsewhere."""
        span = re.search(r"\{(\d+)\.\.(\d+)\}", self.files)
        names = [self.files]
        if span:
            numbers = range(int(span[1]), int(span[2]) + 1)
            names = [self.files.replace(span[0], f"{number:0{len(span[1])}}") for number in numbers]
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names) or not names:
            raise UserError(f"data.downloads: {self.files!r} must be files below data.dir")
        return names


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
    downloads: Mapping[str, Download] | None = None,
    connections: int = 4,
    data_dir: Path,
    fetch: bool = True,
) -> Source:
    """The corpus `name`: `path` where one is given, else Python's library for "stdlib", else the named corpus's `file`.

    A corpus that is published as many files, in several ways, has `layouts`: globs below the folders named next. The first
    one that finds files there is read as it lies; where none does, `published` says what to put there. With `download`, one of
    `downloads`, exactly its files are read: where they lie, and those that are missing are brought by so many `connections`.

    That file is looked for below `data_dir`, then in the folder that the environment variable LLM_CORPORA names or else
    in ../shared/corpora, and then downloaded from `url` into `data_dir`. Wherever it lies, it must have that `sha256`
    and contain the text `must_contain`. `form` is how the files are read. What cannot be read of the user's own folder is an
    error, or skipped with on_error=skip. Without `fetch` nothing is downloaded: an address that stands in a run folder may be a
    stranger's.
    UserError: nothing to read, the wrong file, or no network.
    """
    if path is not None:
        found, skipped = _own_files(path, on_error)
        return Source(name, found, form, skipped)
    if name == "stdlib":
        return Source(name, _standard_library(), form)
    if download is not None:
        if download not in (downloads or {}):
            raise UserError(
                f"data.download={download}: data={name} is published as {', '.join(downloads or {}) or 'nothing'}"
            )
        return Source(name, _bring_all(name, (downloads or {})[download], data_dir, connections, fetch), form)
    for glob, root in itertools.product(layouts or [], roots(data_dir)):
        tree = _Tree(root)
        found, skipped = tree.regular(tree.matching("", tuple(glob.split("/")))) if root.is_dir() else ([], [])
        if found:
            tree.refuse_faults(f"data={name}", on_error)
            return Source(name, found, form, skipped + tree.faults)
    if layouts and url is None:
        places = ", ".join(str(data_dir / glob) for glob in layouts)
        raise UserError(
            f"data={name}: there is none of {places}: put {published or 'the published files'} there, or give data.path"
        )
    if file is None:
        raise UserError(f"data={name} needs data.path=FILE, FOLDER or GLOB")
    return Source(name, [(file, _corpus_file(name, file, url, sha256, must_contain, data_dir, fetch))], form)


def _own_files(path: str, on_error: str | None) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """A file, all texts, tables and archives below a folder, or what a glob finds; named relative to the folder that holds them.

    Returns:
        The files, and (name, why) of what is not read.
    """
    try:
        given = user_path(path)
        if not given.exists():
            given = user_path(path.replace("\\", "/"))  # a glob of Windows
        is_folder, exists = given.is_dir(), given.exists()
        fixed, pattern = (given, ()) if exists else _fixed_part(given)
        missing = not exists and not (pattern and fixed.is_dir())
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"data.path={path}: {error.strerror if isinstance(error, OSError) else error}") from None
    if exists and not is_folder:
        if not given.is_file():
            raise UserError(f"data.path={path}: it is no regular file: copy what it gives into one")
        _refuse_empty(path, [given])
        return [(given.name, given)], []
    if missing:
        where = "" if given.is_absolute() else f" in {Path.cwd()}"  # a run is often evaluated from another folder
        raise UserError(f"data.path={path}: there is no such file or folder{where}")
    tree = _Tree(fixed)
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


def _fixed_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a glob begins with, and the rest: names that exist are names, whatever signs they hold."""
    folder = Path(path.anchor)
    parts = path.relative_to(folder).parts
    for i, part in enumerate(parts):
        if set(part) & set("*?[") and not (folder / part).exists():
            return folder, parts[i:]
        folder /= part
    return folder, ()


class _Tree:
    """The folders below `root`, linked ones among them, each once; `skipped` and `faults` are what is not read there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: dict[str, str] = {}
        self.faults: list[tuple[str, str]] = []
        self.listed: dict[str, tuple[list[str], list[str], list[str]]] = {}

    def matching(self, folder: str, pattern: tuple[str, ...], *, enters: bool = False) -> list[str]:
        """The files below a folder whose names match a glob, a part for each level; ** is any number of levels.

        A folder that the last part matches is skipped, unless the search `enters` each folder anyway.
        """
        head, rest = pattern[0], pattern[1:]
        if head == "**":
            if not rest:
                return []
            return [name for inner in self.folders(folder) for name in self.matching(inner, rest, enters=True)]
        folders, links, files = self.entries(folder)
        all_folders = {*folders, *links}
        entries = folders + links + ([] if rest else files)
        matched = [name for name in entries if fnmatch.fnmatchcase(*_folded(name, head))]
        if head in entries and head not in matched:  # `part [1]` is a name where there is one
            matched = [head]
        found = []
        for name in matched:
            below = f"{folder}/{name}" if folder else name
            if name.startswith(".") and not head.startswith("."):
                self.skipped[below] = HIDDEN
            elif rest:
                found += self.matching(below, rest, enters=enters)
            elif name not in all_folders:
                found.append(below)
            elif not enters:
                self.skipped[below] = FOLDER
        return found

    def regular(self, names: Sequence[str]) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
        """(name, place) of those that are files, in order, and (name, why) of the others and of all that was skipped."""
        skipped = list(self.skipped.items())
        named = []
        for name in sorted(set(names)):
            if why := self.no_file(name):
                skipped.append((name, why))
            else:
                named.append((name, self.root / name))
        failed = {name for name, _ in self.faults}
        return [one for one in named if one[0] not in failed], skipped

    def no_file(self, name: str) -> str | None:
        """Why a name is no file to read; None where it is one, or where that cannot be found out, which is a fault."""
        try:
            mode = (self.root / name).stat().st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return "a broken link"
            self._fault(name, error)
            return None
        return None if stat.S_ISREG(mode) else "no regular file"

    def refuse_faults(self, setting: str, on_error: str | None) -> None:
        """Raises UserError for what cannot be read, unless it is to be skipped."""
        if self.faults and on_error != "skip":
            raise UserError(
                f"{setting}: cannot read {listed(self.faults)}: make it readable, or leave it out with data.on_error=skip"
            )

    def files(self, folder: str) -> list[str]:
        """Everything in one folder that is no folder, without hidden names."""
        return self.matching(folder, ("*",), enters=True)

    def folders(self, folder: str = "") -> list[str]:
        """The folder and those below it, without hidden ones; a folder with several names has the one that is no link."""
        found: list[str] = []
        waiting: list[str] = [folder]
        links: list[str] = []
        seen: set[object] = set()
        while waiting or links:
            name = waiting.pop() if waiting else links.pop(0)
            try:
                place = (self.root / name).stat()
            except OSError as error:
                self._fault(name, error)
                continue
            # Windows' older file systems have no inodes.
            identity = (place.st_dev, place.st_ino) if place.st_ino else (self.root / name).resolve()
            if identity in seen:
                continue
            seen.add(identity)
            found.append(name)
            folders, linked, _ = self.entries(name)
            below = {one: f"{name}/{one}" if name else one for one in folders + linked}
            for one in below:
                if one.startswith("."):
                    self.skipped[below[one]] = HIDDEN
            waiting += [below[one] for one in reversed(folders) if not one.startswith(".")]
            links += [below[one] for one in linked if not one.startswith(".")]
        return found

    def entries(self, folder: str) -> tuple[list[str], list[str], list[str]]:
        """The names in a folder, sorted: folders, links to folders, everything else."""
        if folder not in self.listed:
            folders: list[str] = []
            links: list[str] = []
            files: list[str] = []
            try:
                with os.scandir(self.root / folder) as scan:
                    for entry in scan:
                        if entry.name.startswith(BUILDING):  # a preparation that is under way is no input
                            continue
                        is_folder = False
                        with contextlib.suppress(OSError):  # a link that cannot be followed
                            is_folder = entry.is_dir()
                        if not is_folder:
                            files.append(entry.name)
                        elif entry.is_symlink():
                            links.append(entry.name)
                        else:
                            folders.append(entry.name)
            except OSError as error:
                self._fault(folder, error)
            self.listed[folder] = (sorted(folders), sorted(links), sorted(files))
        return self.listed[folder]

    def _fault(self, name: str, error: OSError) -> None:
        self.faults.append((name or str(self.root), error.strerror or type(error).__name__))


def _folded(name: str, pattern: str) -> tuple[str, str]:
    """As the file systems of this machine compare names."""
    return os.path.normcase(name), os.path.normcase(pattern)


def _standard_library() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    named = sorted((file.relative_to(root).as_posix(), file) for file in root.rglob("*.py"))
    # _sysconfigdata… says how this one machine built Python.
    named = [
        (name, file)
        for name, file in named
        if NOT_LIBRARY.isdisjoint(name.split("/")) and not name.startswith("_sysconfigdata")
    ]
    if not named:
        raise UserError(f"data=stdlib: this Python has no library source in {root}: use data=text data.path=FILE")
    return named


def roots(data_dir: Path) -> tuple[Path, Path]:
    """Where a named corpus may lie."""
    return data_dir, user_path(os.environ.get("LLM_CORPORA") or "../shared/corpora")


def _corpus_file(
    name: str, file: str, url: str | None, sha256: str | None, must_contain: str | None, data_dir: Path, fetch: bool
) -> Path:
    target = data_dir / file
    for candidate in (root / file for root in roots(data_dir)):
        if candidate.is_file():
            _check(candidate, f"{candidate} is not what data={name} means", sha256, must_contain)
            return candidate
    by_hand = f"put the file by hand at {target}, or train with data=stdlib, which needs no download"
    if url is None:
        raise UserError(f"data={name}: there is no {target}, and no data.url to download it from: {by_hand}")
    if not fetch:
        raise _not_fetched(name, target)
    # The checksum of a Gutenberg file changes with each release; what stays are the lines around the book.
    markers = ("*** START OF", "*** END OF") if "gutenberg" in url else ()
    with _progress() as progress:
        _bring(name, target, [url], by_hand, progress, threading.Event(), sha256, must_contain, *markers)
    return target


def _not_fetched(name: str, target: Path) -> UserError:
    return UserError(
        f"data={name}: there is no {target}, and an address that stands in a run folder is not fetched: put the file there by hand,"
        f" give data={name} again where the run is resumed, or run: python -m llm_from_scratch prepare data={name}"
    )


def _bring_all(name: str, download: Download, data_dir: Path, connections: int, fetch: bool) -> list[tuple[str, Path]]:
    """The files of a download: those at hand where they lie, the others several at a time."""
    files = {
        file: next((root / file for root in roots(data_dir) if (root / file).is_file()), None)
        for file in download.names()
    }
    missing = [file for file, path in files.items() if path is None]
    if missing and not download.mirrors:
        raise UserError(
            f"data={name}: there is no {data_dir / missing[0]}, and data.downloads names no mirror to bring it from"
        )
    if missing and not fetch:
        raise _not_fetched(name, data_dir / missing[0])
    stop = threading.Event()
    with _progress() as progress, ThreadPoolExecutor(connections) as pool:

        def bring(file: str) -> None:
            target = data_dir / file
            urls = [f"{mirror.rstrip('/')}/{target.name}" for mirror in download.mirrors]
            _bring(name, target, urls, f"put the file by hand at {target}", progress, stop, download.sha256)

        try:
            for done in as_completed([pool.submit(bring, file) for file in missing]):
                done.result()
        except BaseException:  # Ctrl-C, too: nobody waits for gigabytes
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if missing:
        log.info("%s: brought %d of %d files", name, len(missing), len(files))
    return sorted((file, path or data_dir / file) for file, path in files.items())


def _bring(
    name: str,
    target: Path,
    urls: Sequence[str],
    by_hand: str,
    progress: Progress,
    stop: threading.Event,
    sha256: str | None,
    *must_contain: str | None,
) -> None:
    """Downloads `target` from the first of `urls` that gives it whole, and publishes it by rename."""
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            for i, url in enumerate(urls):
                if target.is_file():  # another process may have brought it meanwhile
                    return
                try:
                    complaint = f"{url} sent something else than data={name} ({part})"
                    resumed = _download(url, part, progress, stop)
                    try:
                        _check(part, complaint, sha256, *must_contain)
                    except ValueError:
                        if not resumed:
                            raise
                        part.unlink()  # a server that is wrong about ranges is asked for the whole
                        _download(url, part, progress, stop)
                        _check(part, complaint, sha256, *must_contain)
                    part.replace(target)
                except (*NETWORK_ERRORS, ValueError) as error:
                    if i + 1 == len(urls) or stop.is_set():
                        raise
                    log.warning("%s: %s: trying the next mirror", url, " ".join(str(error).split())[:200])
    except NETWORK_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"data={name}: cannot download {url} ({reason}): {by_hand}") from None
    except OSError as error:
        raise UserError(f"data={name}: cannot write in {target.parent}: {error.strerror}") from None


def _check(path: Path, complaint: str, sha256: str | None, *must_contain: str | None) -> None:
    if sha256 is not None:
        try:
            found = sha256_of(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if found != sha256:
            raise UserError(f"{complaint}: its sha256 is {found}, not {sha256}: remove it, or read it with data=text")
    if not any(must_contain):
        return  # a corpus can be larger than the memory
    raw = read_file(path)
    for text in must_contain:
        if text is not None and text.encode() not in raw:
            raise UserError(f"{complaint}: it lacks {text!r}: remove it, or read it with data=text")


def _progress() -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}", markup=False), *columns, console=console(stderr=True))


def _download(url: str, part: Path, progress: Progress, stop: threading.Event) -> bool:
    """Bring `url` into `part`, going on where an earlier attempt broke off, as long as each one brings more; whether one did go on."""
    task, resumed = progress.add_task(one_line(part.stem), total=None), False
    while True:
        held = part.stat().st_size if part.exists() else 0
        try:
            return _fetch(url, part, progress, task, stop) or resumed
        except NETWORK_ERRORS:
            if stop.is_set() or not part.exists() or part.stat().st_size <= held:
                progress.remove_task(task)
                raise
            resumed = True


def _fetch(url: str, part: Path, progress: Progress, task: TaskID, stop: threading.Event) -> bool:
    """One request; whether it went on with what was held."""
    # The server's name for this version of the file lies beside the part, so that two releases are never joined.
    version = part.with_name(f"{part.name}.etag")
    held = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"User-Agent": "llm-from-scratch"}
    if held:
        headers |= {"Range": f"bytes={held}-", "If-Range": version.read_text(encoding="utf-8")}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            held = 0
        elif not (response.headers["Content-Range"] or "").startswith(f"bytes {held}-"):
            if not held:
                raise ConnectionError(f"asked for the whole, got {response.headers['Content-Range']}")
            version.unlink()  # so that the whole is asked for
            return _fetch(url, part, progress, task, stop)
        with part.open("ab" if held else "wb") as out:
            tag = response.headers["ETag"] or response.headers["Last-Modified"] or "W/"
            if tag.startswith("W/"):  # a weak name, or none, does not vouch for the bytes
                version.unlink(missing_ok=True)
            else:
                version.write_text(tag, encoding="utf-8")
            length = response.headers["Content-Length"]
            total = held + int(length) if length else None
            progress.update(task, total=total, completed=held)
            while chunk := response.read1(2**16):  # unlike read, it hands over what came before a stall
                out.write(chunk)
                progress.update(task, advance=len(chunk))
                if stop.is_set():
                    raise ConnectionError("stopped")
            if total is not None and out.tell() != total:
                raise ConnectionError(f"the connection broke off after {out.tell():,} of {total:,} bytes")
    version.unlink(missing_ok=True)
    return held > 0
