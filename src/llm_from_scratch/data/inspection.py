"""Statistics of a prepared text: size, lengths of documents, frequent tokens, sample chunks."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.documents import SPLITS
from llm_from_scratch.data.prepared import Conversations, Prepared
from llm_from_scratch.data.sampler import Sampler
from llm_from_scratch.tokenizer import Tokenizer

COUNTED = 10**8  # tokens whose frequencies are counted, from the beginnings of all shards
SHARES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


def inspect(prepared: Prepared, sampler: Sampler, *, chunks: int, pieces: int) -> dict[str, Any]:
    """Returns the statistics of a prepared text, in JSON's types.

    Args:
        prepared: the prepared text.
        sampler: the sampler of a training run on it.
        chunks: the number of chunks of optimizer step 0 to include, at most the batch size.
        pieces: the number of most frequent tokens to include.
    """
    tokenizer = prepared.tokenizer
    splits = {}
    for split in SPLITS:
        facts = prepared.manifest["splits"][split]
        row = {"documents": facts["documents"], "text_bytes": facts["text_bytes"], "tokens": facts.get("tokens")}
        if row["tokens"]:
            row["bytes_a_token"] = facts["text_bytes"] / facts["tokens"]
            shards = prepared.shards(split)
            row["lengths"] = lengths(np.concatenate([np.diff(s.document_ends, prepend=np.uint64(0)) for s in shards]))
        splits[split] = row
    # with data.stream=text or fresh the training split has no token shards
    counted = "train" if splits["train"]["tokens"] else "val"
    counts = frequencies([shard.tokens for shard in prepared.shards(counted)], tokenizer.vocab_size)
    order = np.argsort(-counts, kind="stable")[:pieces]
    ids, *_ = sampler.batch(0)
    return {
        "folder": str(prepared.folder),
        "bytes_on_disk": sum(path.stat().st_size for path in prepared.folder.rglob("*") if path.is_file()),
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
        "splits": splits,
        "pieces": {
            "split": counted,
            "tokens_counted": int(counts.sum()),
            "unused": int((counts == 0).sum()),
            "most_frequent": [
                {"id": int(i), "piece": piece(int(i), tokenizer), "count": int(counts[i]), "share": counts[i] / counts.sum()}
                for i in order
                if counts[i]
            ],
        },
        "chunks": [
            {
                "place": int(place),
                "ids": row.tolist(),
                "pieces": [piece(i, tokenizer) for i in row.tolist()],
                "documents": int((row[1:] == tokenizer.eot_id).sum()) + 1,
            }
            for place, row in zip(sampler.places(0)[:chunks], ids[:chunks], strict=True)
        ],
    }  # fmt: skip


def inspect_conversations(prepared: Conversations, data: DataConfig, block_size: int, count: int) -> dict[str, Any]:
    """Returns the statistics of prepared conversations, in JSON's types.

    Args:
        prepared: the conversations.
        data: the settings of the run: which are too long, and how they are parted from others.
        block_size: tokens of a row.
        count: the number of conversations to include, from the first of each split on.
    """
    splits: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    for split in SPLITS:
        facts, documents = prepared.manifest["splits"][split], prepared.learned(split)
        packed = prepared.packed(split, data, block_size)
        filled = sum(min(len(documents.document(n)[0]), block_size + 1) - 1 for row in packed.rows for n in row)
        splits[split] = {name: facts[name] for name in ("documents", "tokens", "learned", "text_bytes")} | {
            "lengths": lengths(np.diff(documents.ends, prepend=np.uint64(0))),
            "rows": len(packed),
            "filled": filled / (len(packed) * block_size),
            "cut": packed.cut,
            "skipped": packed.skipped,
        }
        shown[split] = [
            [
                {"text": readable(ids, prepared.tokenizer), "learned": learned}
                for ids, learned in _runs(*documents.document(number))
            ]
            for number in range(min(count, facts["documents"]))
        ]
    return {
        "folder": str(prepared.folder),
        "tokenizer": {"kind": prepared.tokenizer.kind, "vocab_size": prepared.tokenizer.vocab_size},
        "template": prepared.manifest["template"],
        "block_size": block_size,
        "splits": splits,
        "conversations": shown,
    }


def _runs(ids: np.ndarray, mask: np.ndarray) -> Iterator[tuple[list[int], bool]]:
    """Yields the ids of a document in runs that are learned, or not."""
    borders = np.flatnonzero(np.diff(mask)) + 1
    for run, marks in zip(np.split(ids, borders), np.split(mask, borders), strict=True):
        yield run.tolist(), bool(marks[0])


def show_conversations(result: Mapping[str, Any], console: Console) -> None:
    """Prints the result of `inspect_conversations`: what is learned is in bold, between » and «."""
    kind = result["tokenizer"]
    console.print(f"{result['folder']}: {kind['kind']}, {kind['vocab_size']:,} pieces", soft_wrap=True)
    table = Table(title=f"Conversations in rows of {result['block_size']:,} tokens", title_justify="left")
    for name in ("split", "conversations", "tokens", "learned", "longest", "rows", "filled", "cut", "left out"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, row in result["splits"].items():
        counts = (row["documents"], row["tokens"], row["learned"], row["lengths"]["max"], row["rows"])
        ends = (f"{row['filled']:.1%}", f"{row['cut']:,}", f"{row['skipped']:,}")
        table.add_row(split, *(f"{count:,}" for count in counts), *ends)
    console.print(table)
    for split, conversations in result["conversations"].items():
        for number, runs in enumerate(conversations, 1):
            console.print(f"\n{split} {number}:", style="dim")
            for run in runs:
                text = f"»{run['text']}«" if run["learned"] else run["text"]
                console.print(Text(text, style="bold green" if run["learned"] else ""), end="", soft_wrap=True)
            console.print()


def readable(ids: Iterable[int], tokenizer: Tokenizer) -> str:
    """Returns the text of ids in which special tokens are shown by their names."""
    names = {i: name for name, i in tokenizer.special.items()}
    parts: list[str] = []
    for special, group in itertools.groupby(ids, key=names.__contains__):
        run = list(group)
        parts += [names[i] for i in run] if special else [tokenizer.decode(run)]
    return "".join(parts)


def piece(token: int, tokenizer: Tokenizer) -> str:
    """Returns a token's text: "<eot>" for end-of-text, U+FFFD for bytes that are no UTF-8."""
    return "<eot>" if token == tokenizer.eot_id else tokenizer.decode_bytes([token]).decode("utf-8", errors="replace")


def lengths(tokens: np.ndarray) -> dict[str, Any]:
    """Returns mean, quantiles and histogram of the documents' lengths, (N,) in tokens.

    A length includes the end-of-text token; the histogram's bins are powers of two.
    """
    ordered = np.sort(tokens.astype(np.int64))
    powers = np.bincount(
        np.frexp(np.maximum(ordered, 1))[1] - 1
    )  # bin k: 2^k <= length < 2^(k+1); frexp's mantissa is in [0.5, 1)
    return {
        "mean": float(ordered.mean()),
        "min": int(ordered[0]),
        **{name: int(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) for name, share in SHARES.items()},
        "max": int(ordered[-1]),
        "histogram": [
            {"from": 2**k, "below": 2 ** (k + 1), "documents": int(n)} for k, n in enumerate(powers) if n
        ],
    }  # fmt: skip


def frequencies(shards: list[np.ndarray], vocab_size: int, limit: int = COUNTED) -> np.ndarray:
    """Returns the count of each token id in the shards, (V,) int64.

    Of more than `limit` tokens in total, the same share of each shard is counted, from its start.
    """
    part = min(1.0, limit / max(1, sum(map(len, shards))))
    counts = np.zeros(vocab_size, dtype=np.int64)
    for shard in shards:
        end = int(len(shard) * part)
        for start in range(0, end, 2**24):  # bincount converts ids to int64
            counts += np.bincount(shard[start : min(start + 2**24, end)], minlength=vocab_size)
    return counts


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the result of `inspect` as tables."""
    kind = result["tokenizer"]
    console.print(
        f"{result['folder']}: {result['bytes_on_disk']:,} bytes on disk, {kind['kind']}, {kind['vocab_size']:,} pieces",
        soft_wrap=True,
    )
    table = Table(title="Splits", title_justify="left")
    for name in ("split", "documents", "bytes of text", "tokens", "bytes a token"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, row in result["splits"].items():
        tokens = (f"{row['tokens']:,}", f"{row['bytes_a_token']:.2f}") if row["tokens"] else ("–", "–")
        table.add_row(split, f"{row['documents']:,}", f"{row['text_bytes']:,}", *tokens)
    console.print(table)
    for split, row in result["splits"].items():
        if not row["tokens"] or row["documents"] < 2:
            continue
        found = row["lengths"]
        facts = ", ".join(f"{name} {found[name]:,.0f}" for name in ("min", "median", "mean", "p90", "p99", "max"))
        table = Table(title=f"Tokens of a document, {split}: {facts}", title_justify="left")
        table.add_column("tokens", justify="right")
        table.add_column("documents", justify="right")
        table.add_column("")
        most = max(bar["documents"] for bar in found["histogram"])
        for bar in found["histogram"]:
            table.add_row(
                f"{bar['from']:,} to {bar['below'] - 1:,}", f"{bar['documents']:,}", "█" * -(-40 * bar["documents"] // most)
            )  # fmt: skip
        console.print(table)
    pieces = result["pieces"]
    title = f"Most frequent of {pieces['tokens_counted']:,} tokens ({pieces['split']}); {pieces['unused']:,} pieces are unused"
    table = Table(title=title, title_justify="left")
    for name in ("id", "piece", "count", "share"):
        table.add_column(name, justify="left" if name == "piece" else "right")
    for one in pieces["most_frequent"]:
        table.add_row(str(one["id"]), repr(one["piece"]), f"{one['count']:,}", f"{one['share']:.2%}")
    if pieces["most_frequent"]:
        console.print(table)
    for chunk in result["chunks"]:
        console.print(f"\nchunk at {chunk['place']:,}, {len(chunk['ids'])} tokens:")
        console.print("|".join(chunk["pieces"]), soft_wrap=True)
