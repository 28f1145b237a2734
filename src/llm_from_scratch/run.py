"""Run folders: finding one by path or as the last one; its settings, rows, checkpoints, model.

    config.yaml                  the settings of the run
    metrics.jsonl timing.jsonl   rows; the checksums of their lines are in .metrics.jsonl.crc32, …
    checkpoints/                 states to resume from (`checkpoint.py`)
    reference.safetensors        of loss=dpo: log-probabilities under the initial weights
    model/                       weights of the best validation, with the tokenizer (`weights.py`)

Every reader verifies checksums; rows of version 0.1 have none and are read unverified.
"""

import json
import logging
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_from_scratch.check import check
from llm_from_scratch.checkpoint import MALFORMED, MANIFEST, checkpoints, read_json
from llm_from_scratch.config import Config
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular, refuse_links, write_file
from llm_from_scratch.places import MODEL, user_path
from llm_from_scratch.saved_config import read_run
from llm_from_scratch.terminal import note
from llm_from_scratch.weights import model_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
WATCHED = "val/"  # and the name of a watched text: the split of its rows in metrics.jsonl
# The temporary names of a run's files, with and without the random part that keeps them apart.
LEFTOVER = re.compile(
    r"\.(building|old)-(config\.yaml|\.?(metrics|timing)\.jsonl(\.crc32)?|samples\.md|curves\.png|reference\.safetensors|model|step_\d{8,})(-[0-9a-f]{8})?"
)


@dataclass(frozen=True)
class RunFolder:
    """Folder of a run; each method reads one part of it from the disk and verifies it."""

    path: Path

    def config(self) -> Config:
        """Reads the settings of config.yaml; settings added after the run have their defaults.

        Raises:
            UserError: when the file is missing or damaged, or a setting is unknown to this version.
        """
        return check(read_run(self.path), Config)

    def rows(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """Reads the intact rows of metrics.jsonl or timing.jsonl."""
        return read_rows(self.path / name)

    def best(self) -> dict[str, Any] | None:
        """Returns the validation row of lowest loss, the first of equal ones; None without any."""
        validations = [row for row in self.rows() if row.get("split") == "val"]
        return min(validations, key=lambda row: row["loss"], default=None)


# ------------------------------------------------------------------------------------ finding a run
def find_run(name: str, holding: str = "config.yaml", key: str = "run") -> Path:
    """Resolves a path or `last` to a run folder; prints the folder of `last` to standard error.

    Args:
        name: a path, which need not exist, or `last`.
        holding: the file that the last run must have; newer runs without it are skipped.
        key: the setting or argument whose value is `name`, for the message.

    Raises:
        UserError: when `name` is `last` and no run below outputs/ has that file.
    """
    if name != "last":
        return user_path(name)
    run, newest = last_run(holding=holding), last_run()
    note(f"{key}=last: {run}" + (f" ({newest} is newer and has no model yet)" if newest != run else ""))
    return run


def last_run(root: Path = Path("outputs"), holding: str = "config.yaml") -> Path:
    """Returns the most recently started run below `root` that has the file `holding`.

    Raises:
        UserError: when there is none.
    """
    found = [run for run in _runs(root) if _holds(run, holding)]
    if not found:
        missing = " with a model" if holding == MODEL and _runs(root) else ""
        raise UserError(
            f"there is no run{missing} below {root}/: train one with train.py, or name its folder (run=PATH)"
        )
    return found[-1]


def started_last(run: Path, root: Path = Path("outputs")) -> None:
    """Makes `run`, whose config.yaml is new, the last run even where the clock was set back.

    Its config.yaml gets a later modification time than every other run's.
    """
    path = run / "config.yaml"
    times = [other.stat().st_mtime_ns for one in _runs(root) if not (other := one / "config.yaml").samefile(path)]
    if times and max(times) >= path.stat().st_mtime_ns:
        os.utime(path, ns=(max(times) + 10**6,) * 2)  # file systems round times


def _runs(root: Path) -> list[Path]:
    """Lists the runs below `root` in the order of their last start or resumption."""
    # A run is outputs/TASK/RUN, a job of a sweep outputs/TASK/SWEEP/JOB; a .hydra folder is no run.
    found = [
        path for stars in ("*/*", "*/*/*") for path in root.glob(f"{stars}/config.yaml") if ".hydra" not in path.parts
    ]
    return [path.parent for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path))]


def _holds(run: Path, holding: str) -> bool:
    return ((model_folder(run) / "config.json") if holding == MODEL else run / holding).is_file()


def data_fingerprint(run: Path) -> str | None:
    """Returns the fingerprint of a run's prepared text; None where no file records it.

    It is read from the model's config.json, else from the newest checkpoint that records it.
    """
    for path, key in [
        (model_folder(run) / "config.json", None),
        *((one / MANIFEST, "facts") for one in checkpoints(run)),
    ]:
        try:
            found = read_json(path)
            data = (found[key] if key else found)["data"]
        except MALFORMED:
            continue
        if isinstance(data, str):
            return data
    return None


def source_of_checkpoint(run: Path) -> str | None:
    """Returns the fingerprint of a run's source files, from the newest checkpoint that has one.

    None: no checkpoint records it, as in version 0.1.
    """
    for checkpoint in checkpoints(run):
        try:
            source = read_json(checkpoint / MANIFEST)["facts"]["source"]
        except MALFORMED:
            continue
        return source if isinstance(source, str) else None
    return None


def is_training(run: Path) -> bool:
    """Returns whether a training runs in a run folder now: it holds the lock of the file `.lock`.

    A shared lock is tried for an instant, so that two looks at a time do not see each other. A
    training that starts in that instant tries again (`training.claim`).
    """
    try:
        handle = os.open(run / ".lock", os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        else:
            with FileLock(run / ".lock", timeout=0):
                pass
    except (BlockingIOError, Timeout):
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)  # which gives the lock back
    return False


# --------------------------------------------------------------------------------------------- rows
def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces a .jsonl file, then the file of its line checksums, each atomically and durably."""
    lines = [json.dumps(row) for row in rows]
    write_file(path, "".join(f"{line}\n" for line in lines))
    write_file(line_checksums(path), "".join(f"{line_checksum(line.encode())}\n" for line in lines))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to a .jsonl file, after its checksum: no kill leaves a row without one."""
    line = json.dumps(row)
    for file, content in ((line_checksums(path), line_checksum(line.encode())), (path, line)):
        with file.open("a", encoding="utf-8") as opened:
            opened.write(f"{content}\n")


def line_checksums(path: Path) -> Path:
    """Returns the path of the file with the line checksums of a .jsonl file."""
    return path.with_name(f".{path.name}.crc32")


def line_checksum(line: bytes) -> str:
    """Returns the checksum of a line, without its line end, as the file beside the rows has it."""
    return f"{zlib.crc32(line):08x}"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the intact rows of metrics.jsonl or timing.jsonl.

    A warning names damaged lines and counts missing ones. Training does not depend on the rows, so
    a damaged line costs only its own row. A last line that a kill cut off is skipped silently.
    """
    rows, bad, missing = parse_rows(path)
    if bad:
        lines = ", ".join(map(str, bad[:10])) + ", …" * (len(bad) > 10)
        log.warning("%s: damaged lines are left out, %d in all: line %s", path, len(bad), lines)
    if missing > 0:
        log.warning("%s: has been cut off: it lacks %d lines or more", path, missing)
    if missing < 0:
        log.warning("%s: damaged, so that rows of %s cannot be verified; they are kept", line_checksums(path), path)
    return rows


def loss_unit(row: dict[str, Any]) -> str:
    """Returns the unit of the loss of a validation row; rows of loss=dpo have an accuracy."""
    return "nats a pair" if "accuracy" in row else "nats a token"


def parse_rows(path: Path) -> tuple[list[dict[str, Any]], list[int], int]:
    """Reads a .jsonl file and compares each line with the file of checksums beside it.

    Where that file is absent, as in version 0.1, or lacks checksums, the lines without one are
    kept unverified.

    Returns:
        the intact rows, the 1-based numbers of damaged lines, and the count of missing lines; a
        negative count is the number of missing checksums.

    Raises:
        UserError: when `path` is a link out of its folder, or no regular file.
    """
    lines: list[bytes] = []
    if path.exists():
        refuse_links(path, path.parent)
        with open_regular(path) as file:
            # Splits also at CRLF (of an editor or git), and at a damaged line end between } and {.
            *lines, rest = re.split(rb"\r?\n|(?<=\}).(?=\{)", file.read())
        if b"}" in rest:  # a whole row without its line end
            lines.append(rest)
    sums = line_checksums(path)
    if not sums.exists():
        parsed = [parse_row(line) for line in lines]
        return [row for row in parsed if row], [number for number, row in enumerate(parsed, 1) if not row], 0
    refuse_links(sums, path.parent)
    with open_regular(sums) as file:
        written = Counter(file.read().split())
    checksums = [line_checksum(line).encode() for line in lines]
    copies = (Counter(one for one in checksums if one in written) - written).total()
    unverified = len(lines) - copies - written.total()  # above 0 where checksums are missing
    rows, bad, seen = [], [], Counter[bytes]()
    for number, (line, checksum) in enumerate(zip(lines, checksums, strict=True), 1):
        row = parse_row(line)
        seen[checksum] += 1
        # A line that occurs more often than its checksum was copied.
        if row and (seen[checksum] <= written[checksum] or (unverified > 0 and checksum not in written)):
            rows.append(row)
        else:
            bad.append(number)
    if unverified > 0:
        return rows, bad, -unverified
    unseen = sum(count for checksum, count in written.items() if checksum not in seen)
    # Minus 1: a checksum is written before its row, so a kill may leave one without a row.
    return rows, bad, max(0, unseen - (len(bad) - copies) - 1)


def parse_row(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line; None where the line is none."""
    try:
        row = json.loads(line)
        return row if isinstance(row["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


# -------------------------------------------------------------------- leftovers and misplaced files
def remove_leftovers(run: Path) -> None:
    """Removes temporary files and folders that a killed run left half written or half removed.

    Only names of LEFTOVER are removed. A model that was renamed to `.old-model` and not replaced
    gets its name back.
    """
    refuse_links(run / "checkpoints", run)
    if model_folder(run).name == ".old-model":
        model_folder(run).rename(run / "model")
    for folder in (run, run / "checkpoints"):
        for left in sorted(folder.glob(".*")):
            if not LEFTOVER.fullmatch(left.name):
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def refuse_other_kinds(run: Path) -> None:
    """Refuses to resume a run with a folder in place of a file, or a file in place of a folder.

    Raises:
        UserError: when there is one; it names the first.
    """
    names = ("metrics.jsonl", "timing.jsonl", "samples.md", "curves.png", "reference.safetensors")
    records = [run / name for name in names]
    for path in (*records, *map(line_checksums, records[:2])):
        if path.is_dir():
            raise UserError(f"{path} is a folder, where a run keeps a file: move it away")
    for path in (run / "checkpoints", run / "model", run / "tensorboard", run / "csv"):
        if path.is_file():
            raise UserError(f"{path} is a file, where a run keeps a folder: move it away")


def read_samples(path: Path) -> list[tuple[int, str]]:
    """Returns the (step, text) pairs of samples.md, each text as it stands there, indented.

    The list is empty without the file. One warning is logged for unreadable parts.
    """
    if not path.exists():
        return []
    with open_regular(path) as file:
        found, damaged = parse_samples(file.read())
    if damaged:
        log.warning("%s: damaged; what can be read of it is kept", path)
    return found


def parse_samples(content: bytes) -> tuple[list[tuple[int, str]], bool]:
    """Returns the samples of a samples.md, as `read_samples`, and whether a part is unreadable."""
    text = content.decode(errors="replace")
    found, damaged = [], text.encode() != content
    for part in text.split("\n## Step ")[1:]:
        step, _, rest = part.partition("\n")
        if step.isascii() and step.isdigit():
            found.append((int(step), rest))
        else:
            damaged = True
    return found, damaged
