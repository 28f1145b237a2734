"""`tales`: small stories whose entropy is known: told, scored, judged."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from math import fsum
from pathlib import Path

from llm_from_scratch.errors import UserError
from llm_from_scratch.terminal import console, printable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = (
        "Tells small stories by a process whose every choice has a known probability, one story a line;"
        " or reads a file of stories, one a line, and scores or judges each."
    )
    parser.add_argument("--level", type=int, default=None, metavar="1-4", help="of the stories (default: 1)")
    parser.add_argument("--count", type=int, default=3, metavar="N", help="stories to tell (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds tell other stories (default: 0)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="number of the first one (default: 0)")
    parser.add_argument("--split", choices=("train", "val"), help="stories of this split alone; they never share one")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; the bytes are the same")
    tasks = parser.add_mutually_exclusive_group()
    tasks.add_argument("--score", metavar="FILE", help="the exact bits of each story of a file (-: standard input)")
    tasks.add_argument("--check", metavar="FILE", help="the faults of each story of a file (-: standard input)")
    tasks.add_argument("--entropy", action="store_true", help="the entropy of a level (default: of all)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: argparse.Namespace) -> None:
    """Tells, scores or judges stories, or shows the entropy of the process.

    Raises:
        UserError: for a level that does not exist, a file that cannot be read, or arguments out of
            range.
    """
    from llm_from_scratch import tales

    if options.level is not None and options.level not in tales.LEVELS:
        raise UserError(f"--level {options.level}: there are the levels {tales.LEVELS[0]} to {tales.LEVELS[-1]}")
    if options.entropy:
        _show_entropy(options)
    elif options.score is not None:
        _score(options)
    elif options.check is not None:
        _check(options)
    else:
        told = tales.stories(
            options.seed, options.start, options.count, options.level or 1, options.split, options.workers
        )
        for text in told:
            print(json.dumps({"text": text}) if options.json else text)


def _lines(name: str) -> Iterator[tuple[int, str]]:
    """Yields the number and the text of every line that is not blank."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{name}: cannot be read as a text ({error}); give a file of one story a line") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _score(options: argparse.Namespace) -> None:
    from llm_from_scratch import tales

    bits, length, count, others = 0.0, 0, 0, 0
    for number, text in _lines(options.score):
        try:
            choices = tales.choices(text, options.level)
        except UserError as error:
            others += 1
            print(json.dumps({"line": number, "bits": None}) if options.json else f"{number}: {error}")
            continue
        by_kind: dict[str, float] = {}
        for choice in choices:
            by_kind[choice.kind] = by_kind.get(choice.kind, 0.0) + choice.bits
        own, size = fsum(choice.bits for choice in choices), len(text.encode())
        bits, length, count = bits + own, length + size, count + 1
        if options.json:
            print(json.dumps({"line": number, "bits": own, "bytes": size, "by_kind": by_kind}))
        else:
            print(f"{number}: {own:.3f} bits, {size} bytes, {own / size:.4f} bits per byte")
    if count and not options.json:
        print(f"all {count}: {bits:.3f} bits, {length} bytes, {bits / length:.4f} bits per byte")
    if others and not options.json:
        print(f"{others} cannot be told by the process: their probability is 0")


def _check(options: argparse.Namespace) -> None:
    from llm_from_scratch import tales

    kinds: Counter[str] = Counter()
    count = true = 0
    for number, text in _lines(options.check):
        verdict = tales.check(text, options.level)
        count, true = count + 1, true + (not verdict.faults)
        kinds.update({fault.kind for fault in verdict.faults})
        if options.json:
            faults = [vars(fault) for fault in verdict.faults]
            print(json.dumps({"line": number, "level": verdict.level, "whole": verdict.whole, "faults": faults}))
            continue
        for fault in verdict.faults:
            expected = f", expected: {fault.expected!r}" if fault.expected else ""
            line = f"{options.check}:{number}:{fault.start + 1}: {fault.kind}: {fault.found!r}{expected}"
            print(printable(line, keep=""))
    if not options.json:
        share = f" ({true / count:.1%})" if count else ""
        print(f"{true} of {count} without a fault{share}")
        for kind, number in kinds.most_common():
            print(f"{number} with {kind}: {tales.FAULTS[kind]}")


def _show_entropy(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from llm_from_scratch import tales

    levels = tales.LEVELS if options.level is None else [options.level]
    found = [tales.entropy(level, seed=options.seed) for level in levels]
    if options.json:
        for one in found:
            print(json.dumps(asdict(one)))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("", *(f"level {one.level}" for one in found)):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_row("bits a story, exact", *(f"{one.bits:.3f}" for one in found))
    for kind in dict.fromkeys(kind for one in found for kind in one.by_kind):
        table.add_row(f"  {kind}", *(f"{one.by_kind.get(kind, 0.0):.3f}" for one in found))
    table.add_row("bytes a story", *(f"{one.bytes.value:.1f}" for one in found))
    table.add_row("bits per byte", *(f"{one.bits_per_byte.value:.5f}" for one in found))
    intervals = (f"{one.bits_per_byte.low:.5f} to {one.bits_per_byte.high:.5f}" for one in found)
    table.add_row("  its interval (95 %)", *intervals)
    console(width=110).print(table)
