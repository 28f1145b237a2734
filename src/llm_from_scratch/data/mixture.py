"""data=mix: several corpora with weights, as one text. Each is prepared in its own folder, with a tokenizer that all share.

data/mix/prepared-ID/    manifest.json names the corpora's folders and weights; tokenizer/
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llm_from_scratch.check import check
from llm_from_scratch.config import DataConfig
from llm_from_scratch.data.long import in_memory
from llm_from_scratch.data.prepared import Prepared
from llm_from_scratch.data.tasks import SPLITS, Tally, documents, is_validation, split_document
from llm_from_scratch.data.work import MANY_DOCUMENTS, Work
from llm_from_scratch.errors import UserError
from llm_from_scratch.tokenizer import SAMPLE_BYTES


def corpora(data: DataConfig) -> dict[str, DataConfig]:
    """The settings of each corpus whose weight is above 0, in the order of `data.mix`.

    Raises:
        UserError: none is named, or one has no settings or wrong ones.
    """
    chosen = {}
    for name, weight in (data.mix or {}).items():
        if name not in data.corpora:
            known = ", ".join(data.corpora)
            raise UserError(
                f"data.mix.{name}: there is no such corpus: use one of {known}, or add +data.corpora.{name}={{path: FILE}}"
            )
        if weight:
            try:
                settings = check({"name": name} | dict(data.corpora[name]), DataConfig)
            except ValueError as error:
                raise UserError(f"data.corpora.{name}: {error}") from None
            chosen[name] = replace(settings, dir=data.dir, stream=data.stream)
    if not chosen:
        raise UserError("data=mix: say what of, and how much of each: data.mix='{oz: 0.7, shakespeare: 0.3}'")
    return chosen


def training_text(works: Mapping[str, Work], weights: Mapping[str, float], limit: int | None) -> Iterator[str]:
    """What the shared tokenizer learns from: of each corpus's training part its weight's share of `limit` bytes, or all there is."""
    total = sum(weights[name] for name in works)
    for name, work in works.items():
        whole, fraction = work.source.has(MANY_DOCUMENTS), work.recipe.val_fraction
        for task in work.tasks:
            left = None if limit is None else int(limit * weights[name] / total / len(work.tasks))
            for document, content in documents(replace(task, limit=work.max_docs), work.recipe, Tally()):
                if whole and is_validation(document, fraction):
                    continue
                text = in_memory(content)
                part = text if whole else split_document(text, fraction)[0]
                if left is not None:
                    part = part.encode()[:left].decode(errors="ignore")
                    left -= len(part.encode())
                yield part
                if left is not None and left <= 0:
                    break


def validation_text(works: Mapping[str, Work]) -> Iterator[str]:
    """What no tokenizer learns from: the validation part of each corpus."""
    for work in works.values():
        whole, fraction = work.source.has(MANY_DOCUMENTS), work.recipe.val_fraction
        for task in work.tasks:
            for document, content in documents(replace(task, limit=work.max_docs), work.recipe, Tally()):
                if not whole:
                    yield split_document(in_memory(content), fraction)[1]
                elif is_validation(document, fraction):
                    yield in_memory(content)


def learns_from(kind: str) -> int | None:
    """Bytes: a character that is left out could not be read."""
    return None if kind == "char" else SAMPLE_BYTES


def manifest(parts: Mapping[str, Prepared], weights: Mapping[str, float]) -> dict[str, Any]:
    """What the mixture's manifest says: sums over the corpora, and where each lies."""
    splits: dict[str, Any] = {}
    for split in SPLITS:
        facts = [part.manifest["splits"][split] for part in parts.values()]
        counts = ["documents", "text_bytes", *(["tokens"] if all("tokens" in one for one in facts) else [])]
        if any("unknown_characters" in one for one in facts):
            counts.append("unknown_characters")
        splits[split] = {name: sum(one.get(name, 0) for one in facts) for name in counts} | {"shards": {}}
    found = {
        name: {
            "folder": f"{part.folder.parent.name}/{part.folder.name}",
            "sha256": part.manifest["sha256"],
            "weight": weights[name],
        }
        for name, part in parts.items()
    }
    return {"keep_text": False, "corpora": found, "splits": splits, "cleaned": {}}
