"""File search below a folder or by a glob, with the reasons why other files are not read."""

import contextlib
import errno
import fnmatch
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from llm_from_scratch.data.formats import HIDDEN
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import BUILDING

FOLDER = "a folder: /**/* behind its name reads the files below it"
NAMED = 10  # files named in a message; the others are counted


def listed(named: Sequence[tuple[str, str]], count: int | None = None) -> str:
    """Formats the first NAMED pairs of (name, reason) as one line, grouped by reason.

    The line ends with the number of the others. `count` is the total; None: `len(named)`.
    """
    reasons: dict[str, list[str]] = {}
    for name, why in named[:NAMED]:
        reasons.setdefault(why, []).append(ascii(name)[1:-1] if not name.isprintable() else name)
    parts = [", ".join(names) + (f" ({why})" if why else "") for why, names in reasons.items()]
    more = (len(named) if count is None else count) - min(NAMED, len(named))
    return "; ".join(parts) + (f"; and {more:,} more" if more else "")


def fixed_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Splits a glob into the folder before its first wildcard and its remaining parts.

    A part with `*`, `?` or `[` that exists under that very name is no wildcard.
    """
    folder = Path(path.anchor)
    parts = path.relative_to(folder).parts
    for i, part in enumerate(parts):
        if set(part) & set("*?[") and not (folder / part).exists():
            return folder, parts[i:]
        folder /= part
    return folder, ()


class Tree:
    """Folder tree below `root`, which follows links and visits each folder once.

    All names are paths relative to `root`. `skipped` maps those that are not read to the reason;
    `faults` has (name, reason) of those that could not be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: dict[str, str] = {}
        self.faults: list[tuple[str, str]] = []
        self.listed: dict[str, tuple[list[str], list[str], list[str]]] = {}

    def matching(self, folder: str, pattern: tuple[str, ...], *, enters: bool = False) -> list[str]:
        """Returns the files below a folder that match a glob.

        `pattern` has one part per level; `**` matches any number of levels. A folder that matches
        the last part is recorded in `skipped`, unless the search `enters` all folders anyway.
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
        if head in entries and head not in matched:  # an existing file `part [1]` matches its own name
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
        """Returns (name, path) of the regular files, sorted, and (name, reason) of the skipped."""
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
        """Returns the reason why a name is no regular file; None where it is one.

        It returns None, too, where `stat` fails, and records that in `faults`.
        """
        try:
            mode = (self.root / name).stat().st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return "a broken link"
            self._fault(name, error)
            return None
        return None if stat.S_ISREG(mode) else "no regular file"

    def refuse_faults(self, setting: str, on_error: str | None) -> None:
        """Raises UserError where there are `faults`, unless `on_error` is "skip"."""
        if self.faults and on_error != "skip":
            raise UserError(
                f"{setting}: cannot read {listed(self.faults)}: make it readable, or leave it out with data.on_error=skip"
            )

    def files(self, folder: str) -> list[str]:
        """Returns everything directly in a folder but its folders and hidden names."""
        return self.matching(folder, ("*",), enters=True)

    def folders(self, folder: str = "") -> list[str]:
        """Returns a folder and all folders below it, without hidden ones, each once.

        A folder that links reach, too, is listed by the name that is no link.
        """
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
            # `st_ino` is 0 on Windows' older file systems.
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
        """Returns three sorted lists of names in a folder: folders, links to folders, the rest."""
        if folder not in self.listed:
            folders: list[str] = []
            links: list[str] = []
            files: list[str] = []
            try:
                with os.scandir(self.root / folder) as scan:
                    for entry in scan:
                        # an unfinished preparation of this program is no input
                        if entry.name.startswith(BUILDING):
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
    """Returns both in lower case on Windows, where names ignore case; elsewhere unchanged."""
    return os.path.normcase(name), os.path.normcase(pattern)
