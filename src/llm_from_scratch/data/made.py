"""Made conversations: seeded generators of small tasks, and questions written on the Oz book.

    sentiment   a review -> positive or negative            (`reviews`)
    questions   a passage and a question -> the answer      (`passages`)
    summaries   a piece of news -> a summary of a sentence  (`news`)
    oz_chat     a question on The Wonderful Wizard of Oz -> a sentence with the answer

The first three are {"prompt", "completion"} in lines of JSON, functions of a seed. A quarter of
the words occurs in held-out examples alone (`choices`). The questions on Oz were written for this
project, on the book alone. Their lines are {"messages", "answers"}: any of the answers is right.
The held-out questions ask in other words for facts that training questions ask for as well.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from llm_from_scratch.data.choices import Choices
from llm_from_scratch.data.news import news
from llm_from_scratch.data.passages import question
from llm_from_scratch.data.reviews import LABELS, review
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import write_file

Row = dict[str, str]
TRAIN, HELD_OUT = 2000, 300  # examples of a generator
SEED = 0
FILES = ("train.jsonl", "held_out.jsonl")
OZ_CHAT = tuple(Path(__file__).with_name(f"oz_chat_{file}") for file in FILES)

# name: a function of the choices and of the example's number
GENERATORS: Mapping[str, Callable[[Choices, int], Row]] = {
    "sentiment": lambda choices, number: review(choices, LABELS[number % len(LABELS)]),
    "questions": lambda choices, number: question(choices),
    "summaries": lambda choices, number: news(choices),
}


def make(name: str, seed: int = SEED, train: int = TRAIN, held_out: int = HELD_OUT) -> tuple[list[Row], list[Row]]:
    """Makes the examples of a generator: (training examples, held-out examples), all different."""
    known: set[str] = set()
    parts = []
    for count, is_held_out in ((train, False), (held_out, True)):
        make_one = partial(GENERATORS[name], Choices(2 * seed + is_held_out, is_held_out))
        rows: list[Row] = []
        while len(rows) < count:
            row = make_one(len(rows))
            if row["prompt"] not in known:
                known.add(row["prompt"])
                rows.append(row)
        parts.append(rows)
    return parts[0], parts[1]


def made_files(name: str, folder: Path, write: bool = True) -> tuple[Path, Path]:
    """Returns the files of the training examples and of the held-out ones.

    Generated files are written into `folder` where they are missing or others.

    Args:
        name: oz_chat, or a generator.
        folder: of the corpus.
        write: whether they may be written.

    Raises:
        UserError: when there is no such name, or a file would have to be written and may not.
    """
    if name == "oz_chat":
        return OZ_CHAT[0], OZ_CHAT[1]
    if name not in GENERATORS:
        raise UserError(f"data.generator={name} is unknown: use one of {', '.join((*GENERATORS, 'oz_chat'))}")
    paths = (folder / FILES[0], folder / FILES[1])
    for path, rows in zip(paths, make(name), strict=True):
        content = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        if path.is_file() and path.read_bytes() == content:
            continue
        if not write:
            raise UserError(f"{path}: is missing, or no more what data.generator={name} makes: train with it again")
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    return paths
