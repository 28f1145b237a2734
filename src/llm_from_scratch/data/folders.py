"""The files below a folder, or those that a glob finds, and the reasons why others are not read."""

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
NAMED = 10  # files in a message, then their count


def listed(named: Sequence[tuple[str, str]], count: int | None = None) -> str:
    """The first few of (name, why) in one line, grouped by reason, and a count of the others."""
    reasons: dict[str, list[str]] = {}
    for name, why in named[:NAMED]:
        reasons.setdefault(why, []).append(ascii(name)[1:-1] if not name.isprintable() else name)
    parts = [", ".join(names) + (f" ({why})" if why else "") for why, names in reasons.items()]
    more = (len(named) if count is None else count) - min(NAMED, len(named))
    return "; ".join(parts) + (f"; and {more:,} more" if more else "")


def fixed_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a glob begins with, and the rest of it.

    A name that exists is a name, whatever signs it holds.
    """
    folder = Path(path.anchor)
    parts = path.relative_to(folder).parts
    for i, part in enumerate(parts):
        if set(part) & set("*?[") and not (folder / part).exists():
            return folder, parts[i:]
        folder /= part
    return folder, ()


class Tree:
    """The folders below `root`, linked ones among them, each once.

    `skipped` and `faults` name the files and folders that are not read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: dict[str, str] = {}
        self.faults: list[tuple[str, str]] = []
        self.listed: dict[str, tuple[list[str], list[str], list[str]]] = {}

    def matching(self, folder: str, pattern: tuple[str, ...], *, enters: bool = False) -> list[str]:
        """The files below a folder whose names match a glob.

        It has a part for each level; ** is any number of levels.

        A folder that the last part matches is skipped, unless the search `enters` each folder
        anyway.
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
        """(name, place) of the regular files, in order, and (name, why) of all others."""
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
        """The reason why a name is no file to read; None where it is one.

        It is None, too, where that cannot be found out, which is a fault.
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
        """Raises UserError for what cannot be read, unless it is to be skipped."""
        if self.faults and on_error != "skip":
            raise UserError(
                f"{setting}: cannot read {listed(self.faults)}: make it readable, or leave it out with data.on_error=skip"
            )

    def files(self, folder: str) -> list[str]:
        """Everything in one folder that is no folder, without hidden names."""
        return self.matching(folder, ("*",), enters=True)

    def folders(self, folder: str = "") -> list[str]:
        """The folder and those below it, without hidden ones.

        Of several names of one folder, the one that is no link counts.
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
                        # a preparation that is under way is no input
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
    """As the file systems of this machine compare names."""
    return os.path.normcase(name), os.path.normcase(pattern)
