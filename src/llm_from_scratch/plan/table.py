"""The plan of a training as a table in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def count(number: float, unit: str = "") -> str:
    """Formats a number with a prefix: 1234567, "B" -> "1.23 MB"; " tokens" -> "1.23 M tokens"."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit.strip()}".rstrip()


def duration(seconds: float) -> str:
    """Formats seconds in days, hours, minutes or seconds: 5400 -> "1.5 hours"."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the plan as a table, then one line for each of its warnings."""
    table = Table(title="Plan", title_justify="left", show_header=False)
    model, data, memory, compute, disk = (result[name] for name in ("model", "data", "memory", "compute", "disk"))
    about = "about " if data["estimated"] else ""
    scheduled = data["tokens_a_first_step"] != data["tokens_a_step"]
    at_first = f", {data['tokens_a_first_step']:,} at first" if scheduled else ""
    trained = "" if model["trained"] == model["parameters"] else f"{model['trained']:,} of them trained, "
    rows = [
        ("parameters", f"{model['parameters']:,}", f"{trained}{model['embeddings']:,} of them embeddings"),
        ("text", f"{about}{count(data['train_tokens'], ' tokens')}", f"{count(data['train_bytes'], 'B')} to train on"),
        ("a step", f"{data['tokens_a_step']:,} tokens{at_first}", count(compute["flops_a_step"], "FLOP")),
        ("the run", f"{count(data['tokens'], ' tokens')}", f"{about}{data['passes']:.3g} passes over the text"),
        ("", count(compute["flops"], "FLOP"), f"{compute['tokens_a_parameter']:.3g} tokens a parameter"),
    ]
    parts = (
        f"{count(memory[name], 'B')} {name}" for name in ("weights", "gradients", "optimizer", "activations", "loss")
    )
    rows.append(
        (
            "memory a device",
            count(memory["total"], "B"),
            f"{', '.join(parts)}; {count(memory['available'], 'B')} are there",
        )
    )
    rows.append(
        (
            "micro-batch",
            f"{memory['micro_batch_size']} sequences",
            f"on each of {compute['devices']} devices" if compute["devices"] > 1 else "at a time",
        )
    )
    rows.append(
        (
            "disk",
            f"{count(disk['checkpoints'] + disk['model'], 'B')} of checkpoints",
            f"{count(disk['shards'], 'B')} of shards; {count(disk['free'], 'B')} are free",
        )
    )
    rows += _of_time(result)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in result["unwise"]:
        console.print(f"unwise: {line}", soft_wrap=True)


def _of_time(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the rows of the time that a run takes, and of the best size for it."""
    rows, compute = [], result["compute"]
    if "time" in result:
        spent = result["time"]
        rate = compute["flops_a_token"] * spent["tokens_per_second"]
        how = f"{spent['measured']['device']}, {spent['measured']['precision']}{', compiled' if spent['compiled'] else ''}"
        rows.append(
            (
                "time",
                duration(spent["seconds"]),
                f"{spent['tokens_per_second']:,.0f} tokens/s, {count(rate, 'FLOP/s')} ({how})",
            )
        )
    if "optimum" in result:
        optimum = result["optimum"]
        short = f"; this text is enough for {count(optimum['parameters_for_this_text'], ' parameters')}"
        rows.append(
            (
                f"best for {duration(3600 * optimum['hours'])}",
                f"{count(optimum['parameters'], ' parameters')}",
                f"{count(optimum['tokens'], ' tokens')} (Hoffmann et al. 2022){short if optimum['text_is_short'] else ''}"
                + (f": model={optimum['model']}" if optimum["model"] else ""),
            )
        )
    return rows
