"""Downloads of published corpora: complete or not at all, resumable, and verified.

All checkouts of a user share the folder that downloads go to.
"""

import http.client
import logging
import os
import re
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
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

from llm_from_scratch.config import DownloadConfig
from llm_from_scratch.data.streams import read_file
from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import leaves_no_empty_folders, new_file
from llm_from_scratch.files import sha256 as sha256_of
from llm_from_scratch.places import user_path
from llm_from_scratch.terminal import console, one_line

log = logging.getLogger(__name__)
TIMEOUT = 10.0  # seconds without a response or a byte
NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
NEIGHBOUR = Path("../shared/corpora")  # a folder of corpora beside the checkout


def corpora_folder() -> Path | None:
    """Returns the folder of corpora that all checkouts share, and that downloads go to.

    The variable LLM_CORPORA names it; by default it is in the user's cache. None: the user has no
    home.
    """
    if named := os.environ.get("LLM_CORPORA"):
        return user_path(named)
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        cache = "~/Library/Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        cache = cache if Path(cache).is_absolute() else "~/.cache"
    folder = user_path(cache) / "llm-from-scratch/corpora"
    return folder if folder.is_absolute() else None


def roots(data_dir: Path) -> list[Path]:
    """Returns the folders in which a named corpus may lie, in the order of the search."""
    shared, neighbour = corpora_folder(), None if os.environ.get("LLM_CORPORA") else NEIGHBOUR
    return [data_dir, *(folder for folder in (shared, neighbour) if folder is not None and _may_search(folder))]


def _may_search(folder: Path) -> bool:
    """Returns whether the user may look for files in a folder; it need not exist."""
    try:
        (folder / "file").exists()
    except OSError:
        return False
    return True


def _at_hand(file: str, data_dir: Path) -> Path | None:
    """Returns a file's path in the first of `roots(data_dir)` that has it; None without one."""
    return next((root / file for root in roots(data_dir) if (root / file).is_file()), None)


@contextmanager
def _folder_for(files: Sequence[str], data_dir: Path) -> Iterator[Path]:
    """Yields the folder below which `files` are downloaded: the one that all checkouts share.

    It is `data_dir` where that one cannot be written, and for a download that began there. A failed
    download leaves no empty folder.
    """
    places = [data_dir, *filter(None, [corpora_folder()])]
    with leaves_no_empty_folders(*((root / file).parent for root in places for file in files)):
        yield _writable_folder(files, data_dir)


def _writable_folder(files: Sequence[str], data_dir: Path) -> Path:
    if any((data_dir / f"{file}.part").exists() for file in files):
        return data_dir
    shared = corpora_folder()
    reason: str | None = "the user has no home"
    try:
        if shared is not None:
            shared.mkdir(parents=True, exist_ok=True)
            new_file(shared / "download").unlink()
            return shared
    except OSError as error:
        reason = error.strerror
    log.warning(
        "%s cannot be written (%s): the download goes below %s, where no other checkout finds it (LLM_CORPORA=FOLDER names a place)",
        *(shared or "the folder of corpora", reason, data_dir),
    )
    return data_dir


def names_of(files: str) -> list[str]:
    """Returns the paths that `DownloadConfig.files` stands for, its range of numbers expanded.

    Raises:
        UserError: when a path leads out of the data folder, or the range is empty.
    """
    span = re.search(r"\{(\d+)\.\.(\d+)\}", files)
    names = [files]
    if span:
        numbers = range(int(span[1]), int(span[2]) + 1)
        names = [files.replace(span[0], f"{number:0{len(span[1])}}") for number in numbers]
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names) or not names:
        raise UserError(f"data.downloads: {files!r} must be files below data.dir")
    return names


def corpus_file(
    name: str,
    file: str,
    url: str | None,
    sha256: str | None,
    must_contain: str | None,
    data_dir: Path,
    fetch: bool,
) -> Path:
    """Returns the path of a named corpus's file, which is downloaded where it is missing.

    The first of the folders `roots(data_dir)` that has the file is used.

    Args:
        name: the corpus, for messages.
        file: the file's path below a root.
        url: its address; None: it cannot be downloaded.
        sha256: its checksum; None: not checked.
        must_contain: a text that it must contain; None: not checked.
        data_dir: data.dir.
        fetch: whether it may be downloaded.

    Raises:
        UserError: when the file fails a check, or is missing and cannot be downloaded.
    """
    target = data_dir / file
    if found := _at_hand(file, data_dir):
        _check(found, f"{found} is not what data={name} means", sha256, must_contain)
        return found
    by_hand = f"put the file by hand at {target}, or train with data=tales, which needs no download"
    if url is None:
        raise UserError(f"data={name}: there is no {target}, and no data.url to download it from: {by_hand}")
    if not fetch:
        raise _not_fetched(name, target)
    # The checksum of a Project Gutenberg file changes with each release, the marker lines around
    # the book stay.
    markers = ("*** START OF", "*** END OF") if "gutenberg" in url else ()
    with _folder_for([file], data_dir) as folder, _progress() as progress:
        target = folder / file
        _bring(name, target, [url], by_hand, progress, threading.Event(), sha256, must_contain, *markers)
    return target


def _not_fetched(name: str, target: Path) -> UserError:
    return UserError(
        f"data={name}: there is no {target}, and an address that stands in a run folder is not fetched: put the file there by hand,"
        f" give data={name} again where the run is resumed, or run: python -m llm_from_scratch prepare data={name}"
    )


def bring_all(
    name: str, download: DownloadConfig, data_dir: Path, connections: int, fetch: bool
) -> list[tuple[str, Path]]:
    """Returns (name, path) of a download's files, sorted; downloads the missing ones in parallel.

    A file is taken from the first of the folders `roots(data_dir)` that has it, else downloaded
    over one of `connections` connections, if `fetch` allows it.

    Raises:
        UserError: when a file is missing and cannot be downloaded, or fails its check.
    """
    found = {file: _at_hand(file, data_dir) for file in names_of(download.files)}
    missing = [file for file, path in found.items() if path is None]
    files = [(file, path) for file, path in found.items() if path is not None]
    if missing:
        by_hand = data_dir / missing[0]
        if not download.mirrors:
            raise UserError(f"data={name}: there is no {by_hand}, and data.downloads names no mirror to bring it from")
        if not fetch:
            raise _not_fetched(name, by_hand)
        files += _bring_missing(name, missing, download, data_dir, connections)
        log.info("%s: brought %d of %d files", name, len(missing), len(files))
    return sorted(files)


def _bring_missing(
    name: str, missing: Sequence[str], download: DownloadConfig, data_dir: Path, connections: int
) -> list[tuple[str, Path]]:
    """Downloads files in parallel; returns (name, path) of each."""
    stop = threading.Event()
    with _folder_for(missing, data_dir) as folder, _progress() as progress, ThreadPoolExecutor(connections) as pool:

        def bring(file: str) -> None:
            urls = [f"{mirror.rstrip('/')}/{Path(file).name}" for mirror in download.mirrors]
            by_hand = f"put the file by hand at {data_dir / file}"
            _bring(name, folder / file, urls, by_hand, progress, stop, download.sha256)

        try:
            for done in as_completed([pool.submit(bring, file) for file in missing]):
                done.result()
        except BaseException:  # Ctrl-C, too: it must not wait for gigabytes
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [(file, folder / file) for file in missing]


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
    """Downloads `target` from the first of `urls` that serves it completely and correctly.

    The file gets its name by a rename once it is verified. `stop` aborts the download.

    Raises:
        UserError: when no URL serves it, or the folder cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            for i, url in enumerate(urls):
                if target.is_file():  # another process may have downloaded it meanwhile
                    return
                try:
                    complaint = f"{url} sent something else than data={name} ({part})"
                    resumed = _download(url, part, progress, stop)
                    try:
                        _check(part, complaint, sha256, *must_contain)
                    except ValueError:
                        if not resumed:
                            raise
                        part.unlink()  # the server may have served a wrong range: ask for the whole
                        _download(url, part, progress, stop)
                        _check(part, complaint, sha256, *must_contain)
                    part.replace(target)
                    log.info("downloaded %s: %s bytes", target, f"{target.stat().st_size:,}")
                except (*NETWORK_ERRORS, ValueError) as error:
                    if i + 1 == len(urls) or stop.is_set():
                        raise
                    log.warning("%s: %s: trying the next mirror", url, message_of(error, 200))
    except NETWORK_ERRORS as error:
        reason = message_of(error)
        raise UserError(f"data={name}: cannot download {url} ({reason}): {by_hand}") from None
    except OSError as error:
        raise UserError(
            f"data={name}: cannot write in {target.parent}: {error.strerror}: LLM_CORPORA=FOLDER names a place for downloads"
        ) from None


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Locks a file against concurrent downloads by other processes.

    A failed download removes the lock file, and the partial file where it is empty.
    """
    lock = FileLock(f"{target}.lock")
    lock.acquire()
    # the lock's file is gone: its former holder failed and deleted it, so the lock is taken anew
    while not Path(lock.lock_file).exists():
        lock.release()
        lock.acquire()
    try:
        yield
    except BaseException:
        part = target.with_name(f"{target.name}.part")
        with suppress(OSError):
            if not part.stat().st_size:
                part.unlink()
                part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
        with suppress(OSError):  # Windows deletes no open file
            Path(lock.lock_file).unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _check(path: Path, complaint: str, sha256: str | None, *must_contain: str | None) -> None:
    if sha256 is not None:
        try:
            found = sha256_of(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if found != sha256:
            raise UserError(f"{complaint}: its sha256 is {found}, not {sha256}: remove it, or read it with data=text")
    if not any(must_contain):
        return  # without reading the file, which may be larger than the memory
    raw = read_file(path)
    for text in must_contain:
        if text is not None and text.encode() not in raw:
            raise UserError(f"{complaint}: it lacks {text!r}: remove it, or read it with data=text")


def _progress() -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    out = console(stderr=True)
    # Off a terminal a progress bar would print an empty line beside the one-line error.
    disable = not out.is_terminal
    return Progress(TextColumn("{task.description}", markup=False), *columns, console=out, disable=disable)


def _download(url: str, part: Path, progress: Progress, stop: threading.Event) -> bool:
    """Downloads `url` into `part`; returns whether it resumed an earlier attempt.

    A failed attempt is retried as long as it has added bytes to `part`.

    Raises:
        NETWORK_ERRORS: when an attempt adds none, or `stop` is set.
    """
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
    """Sends one request for `url`; returns whether it resumed the bytes already in `part`."""
    # The file's ETag lies beside the part, so that the bytes of two releases are never joined.
    version = part.with_name(f"{part.name}.etag")
    held = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"User-Agent": "llm-from-scratch"}
    if held:
        headers |= {"Range": f"bytes={held}-", "If-Range": version.read_text(encoding="utf-8")}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if not held or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # nothing follows the bytes of `part`: it was complete when its download was killed
        version.unlink()
        return _fetch(url, part, progress, task, stop)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            held = 0
        elif not (response.headers["Content-Range"] or "").startswith(f"bytes {held}-"):
            if not held:
                raise ConnectionError(f"asked for the whole, got {response.headers['Content-Range']}")
            version.unlink()  # without the ETag the next request asks for the whole file
            return _fetch(url, part, progress, task, stop)
        with part.open("ab" if held else "wb") as out:
            tag = response.headers["ETag"] or response.headers["Last-Modified"] or "W/"
            if tag.startswith("W/"):  # a weak or missing ETag does not identify the bytes
                version.unlink(missing_ok=True)
            else:
                version.write_text(tag, encoding="utf-8")
            length = response.headers["Content-Length"]
            total = held + int(length) if length else None
            progress.update(task, total=total, completed=held)
            # unlike `read`, `read1` returns the bytes that came before a stall
            while chunk := response.read1(2**16):
                out.write(chunk)
                progress.update(task, advance=len(chunk))
                if stop.is_set() and out.tell() != total:
                    raise ConnectionError("stopped")
            if total is not None and out.tell() != total:
                raise ConnectionError(f"the connection broke off after {out.tell():,} of {total:,} bytes")
    version.unlink(missing_ok=True)
    return held > 0
