"""Told stories (`tales`) as files: the training and validation stories of data=tales.

Stories of a split number `start` to `stop` - 1 stand in one file, {"text": …} a line. Its content
is a function of its name. A hash of a story's text says to which split it belongs, so that the
splits share none.
"""

import json
from functools import lru_cache
from pathlib import Path

from llm_from_scratch import tales
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import write_file

A_FILE = 50_000  # stories of a file, at most
SEED = 0
HELD_OUT = "val_"  # begins the names of the files of validation stories


def told_files(level: int, stories: int, val_stories: int, folder: Path, write: bool = True) -> list[tuple[str, Path]]:
    """Returns (name, path) of the files of both splits, which are written where they are missing.

    Args:
        level: of the stories.
        stories: how many to train on.
        val_stories: how many to validate on.
        folder: of the files.
        write: whether they may be written.

    Raises:
        UserError: when a file would have to be written and may not.
    """
    found = []
    for split, count in (("train", stories), (HELD_OUT.rstrip("_"), val_stories)):
        for start in range(0, count, A_FILE):
            stop = min(start + A_FILE, count)
            path = folder / f"{split}_level{level}_{start}-{stop}.jsonl"
            if not _is_told(path, _changed(path), level, split, start, stop):
                if not write:
                    raise UserError(f"{path}: is missing, or no more what this version tells: train with it again")
                folder.mkdir(parents=True, exist_ok=True)
                write_file(path, _content(level, split, start, stop))
            found.append((path.name, path))
    return found


@lru_cache(maxsize=64)
def _is_told(path: Path, changed: tuple[int, int] | None, level: int, split: str, start: int, stop: int) -> bool:
    """Returns whether a file holds the stories of its name: told again, once in a process."""
    return changed is not None and path.read_bytes() == _content(level, split, start, stop)


def _changed(path: Path) -> tuple[int, int] | None:
    """Returns size and time of a file; None where there is none."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _content(level: int, split: str, start: int, stop: int) -> bytes:
    told = tales.stories(SEED, start, stop - start, level, split)
    return "".join(f"{json.dumps({'text': text})}\n" for text in told).encode()
