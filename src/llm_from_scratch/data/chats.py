"""A corpus of conversations: from the files that the settings name to the prepared folder.

    data/chat/prepared-1f0c8a35be21/   named after the rows, the tokenizer and the chat template
        manifest.json                  counts, the template, checksums; written last
        tokenizer/                     a model's own, or learned from the training rows
        train_00000.bin/.idx  val_…    token shards, a document a conversation
        train_00000.mask      val_…    a byte for each id: 1 where it is learned

Each row of a file is a conversation (`conversations.py`). Its text is taken as it is: nothing is
cleaned. A conversation lies in one split: by a hash of its file and row, or as data.val_path says.
"""

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data.conversations import (
    COLUMNS,
    MARKERS,
    PREFERENCES,
    ChatStyle,
    MissingTemplateError,
    Rendered,
    template_of,
)
from llm_from_scratch.data.corpus import FORMAT, prepared_folder, source_of, tokenizer_of_files, unfinished_folder
from llm_from_scratch.data.documents import SPLITS, Faults, Tally, hash_in_unit_interval, is_validation
from llm_from_scratch.data.learning import learn
from llm_from_scratch.data.made import made_files
from llm_from_scratch.data.manifest import publish_prepared
from llm_from_scratch.data.prepared import FILES, MASK
from llm_from_scratch.data.readers import read_rows
from llm_from_scratch.data.shards import write_shard
from llm_from_scratch.data.sources import Source
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import sha256
from llm_from_scratch.tokenizer import Tokenizer
from llm_from_scratch.tokenizer.template import CHATML

log = logging.getLogger(__name__)
RENDERING = 1  # increased when the same rows give other ids or another mask
STEM = "00000"  # of the only shard of a split
Row = tuple[str, dict[str, Any]]  # FILE:ROW, and its values


@dataclass(frozen=True)
class ChatCorpus:
    """Files of conversations, with the settings of their preparation.

    `metadata` determines the name of the prepared `folder` and is the beginning of its manifest.
    """

    folder: Path
    data: DataConfig
    sources: dict[str, Source]  # by split; without a file of held-out rows, train alone
    checksums: dict[str, str]  # by path
    metadata: dict[str, Any]
    tokenizer_config: TokenizerConfig
    tokenizer: Tokenizer | None  # None: it is learned
    template: str | None  # None: ChatML

    def rows(self, split: str, tally: Tally) -> Iterator[Row]:
        """Yields the rows of a split, as `chosen_rows` chooses them.

        Raises:
            UserError: when rows are no objects and `data.on_error` is not skip.
        """
        faults = Faults(self.data.on_error or "stop", True, tally)
        for where, row in self._chosen(split if split in self.sources else "train", faults):
            if len(self.sources) > 1 or self._split_of(where) == split:
                yield where, row
        faults.report()

    def _chosen(self, split: str, faults: Faults) -> Iterator[Row]:
        columns = COLUMNS[self.data.format]
        return chosen_rows(self.sources[split], self.data, split, columns, faults, self.checksums)

    def _split_of(self, where: str) -> str:
        """Returns the split of a row where no file of held-out rows is given."""
        return "val" if where == self._always_held_out or is_validation(where, self.data.val_fraction) else "train"

    @cached_property
    def _always_held_out(self) -> str:
        """The row with the smallest hash, held out whatever data.val_fraction is."""
        names = (where for where, _ in self._chosen("train", Faults("skip", True, Tally())))
        return min(names, key=hash_in_unit_interval, default="")


def sources_of(data: DataConfig, fetch: bool, write: bool = True) -> dict[str, Source]:
    """Returns the files of each split; of `train` alone where data.val_fraction parts them.

    Args:
        data: the settings.
        fetch: whether missing files may be downloaded.
        write: whether the files of data.generator may be written.

    Raises:
        UserError: when a file is missing, or of no kind that holds rows.
    """
    if data.generator is not None:
        paths = made_files(data.generator, Path(data.dir) / data.name, write)
        return {split: Source(data.name, [(path.name, path)]) for split, path in zip(SPLITS, paths, strict=True)}
    found = {"train": source_of(data, fetch)}
    if data.val_path is not None:
        try:
            found["val"] = source_of(replace(data, path=data.val_path), fetch)
        except UserError as error:
            raise UserError(str(error).replace("data.path", "data.val_path", 1)) from None
    return found


def chosen_rows(
    source: Source,
    data: DataConfig,
    split: str,
    columns: frozenset[str],
    faults: Faults,
    checksums: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Yields the rows of a source, as far as data.fraction and data.max_docs choose them.

    These choose of the rows that are trained on: a source of held-out rows alone is taken whole.

    Args:
        source: the files.
        data: the settings.
        split: what the source holds: val, or train, of which data.val_fraction may be held out.
        columns: the keys of a row that are read.
        faults: gets what is no row.
        checksums: the sha256 of each path; None: the files are not compared.
    """
    fraction, most = (data.fraction, data.max_docs) if split == "train" else (1.0, None)

    def is_chosen(where: str) -> bool:
        return faults.tally.draws(where, fraction, data.subset_seed)

    def on_fault(where: str, problem: str) -> None:
        if is_chosen(where):
            faults.document(where, f"{where}: {problem}")

    def rows() -> Iterator[Row]:
        for name, path in source.paths:
            checksum = (checksums or {}).get(str(path), "")
            for where, row in read_rows(path, name, columns, checksum=checksum, on_fault=on_fault):
                if is_chosen(where):
                    yield where, row

    return itertools.islice(rows(), most)


def rows_fingerprint(sources: dict[str, Source]) -> tuple[str, dict[str, str]]:
    """Returns the fingerprint of the files of all splits, and the sha256 of each path."""
    checksums = {str(path): sha256(path) for source in sources.values() for _, path in source.paths}
    listed = {split: [(name, checksums[str(path)]) for name, path in source.paths] for split, source in sources.items()}
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest(), checksums


def plan_chats(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer: Tokenizer | None,
    template: str | None,
    fetch: bool = True,
    write: bool = True,
) -> ChatCorpus:
    """Returns the corpus of conversations that the settings name.

    Args:
        data: the settings, of a `format` other than text.
        tokenizer_config: the settings of the tokenizer.
        tokenizer: the tokenizer to use; None: it is read from GPT-2's files or learned.
        template: the chat template of the model, in Jinja; None: it has none.
        fetch: whether missing files may be downloaded.
        write: whether the corpus's folder may be written.

    Raises:
        UserError: when a file is missing, unreadable or of another kind.
    """
    data_dir = Path(data.dir)
    tokenizer = tokenizer or tokenizer_of_files(tokenizer_config, data_dir, fetch)
    sources = sources_of(data, fetch, write)
    if write:
        (data_dir / data.name).mkdir(parents=True, exist_ok=True)
    fingerprint, checksums = rows_fingerprint(sources)
    chosen = template_of(data.template, template)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "rows": data.format,
        "rendering": RENDERING,
        "source": fingerprint,
        "tokenizer": tokenizer.fingerprint if tokenizer else [tokenizer_config.kind, tokenizer_config.vocab_size],
        "template_sha256": hashlib.sha256((chosen or CHATML).encode()).hexdigest(),
    }
    if "val" not in sources:
        metadata["val_fraction"] = data.val_fraction
    if data.fraction < 1:
        metadata |= {"fraction": data.fraction, "subset_seed": data.subset_seed}
    metadata |= {
        key: getattr(data, key) for key in ("max_docs", "on_error") if getattr(data, key) != getattr(DataConfig, key)
    }
    if "val" in sources and (data.fraction < 1 or data.max_docs is not None):
        metadata["chosen_of"] = "train"
    folder = prepared_folder(data, metadata)
    return ChatCorpus(folder, data, sources, checksums, metadata, tokenizer_config, tokenizer, chosen)


def build_chats(corpus: ChatCorpus) -> None:
    """Renders all conversations, and publishes them by renaming the build folder.

    Raises:
        UserError: when rows cannot be rendered and data.on_error is not skip, or a split is empty.
    """
    building = unfinished_folder(corpus.folder)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        texts = {split: _texts(corpus, split) for split in SPLITS}
        special = MARKERS if corpus.tokenizer_config.kind == "bpe" else ()
        tokenizer = learn(building, corpus.tokenizer_config, corpus.tokenizer, texts, special)
        renderer = _Renderer(corpus, tokenizer)
        splits = {split: renderer.write(split, building) for split in SPLITS}
    except UserError:
        shutil.rmtree(building)
        raise
    manifest = corpus.metadata | {
        "name": corpus.data.name,
        "fingerprint": tokenizer.fingerprint,
        "keep_text": False,
        "template": renderer.style.used,
        "splits": splits,
        "removed": renderer.tally.removed,
        "cleaned": {},
    }
    publish_prepared(corpus.folder, manifest | {FILES: {}})
    removed = ", ".join(f"{reason} {count:,}" for reason, count in renderer.tally.removed.items() if count)
    pairs = corpus.data.format == PREFERENCES
    train, val = (f"{splits[split]['documents'] // (1 + pairs):,}" for split in SPLITS)
    learned = (f"{splits[split]['learned']:,}" for split in SPLITS)
    log.info(
        "prepared %s: %s %s to train on, with %s tokens to learn; %s to validate, with %s; left out: %s",
        *(corpus.folder, train, "pairs" if pairs else "conversations", next(learned), val, next(learned)),
        removed or "none",
    )


class _Renderer:
    """Renders the rows of a corpus, and writes each split."""

    def __init__(self, corpus: ChatCorpus, tokenizer: Tokenizer) -> None:
        self.corpus, self.tokenizer, self.tally = corpus, tokenizer, Tally()
        self.style = ChatStyle(corpus.template, tokenizer)

    def documents(self, split: str) -> Iterator[Rendered]:
        """Yields the documents of a split.

        Raises:
            UserError: when a row cannot be rendered, unless data.on_error=skip leaves it out.
        """
        faults = Faults(self.corpus.data.on_error or "stop", True, self.tally)
        # Without held-out files the rows of both splits are read twice, and counted once.
        counts = self.tally if split == "train" or split in self.corpus.sources else Tally()
        for where, row in self.corpus.rows(split, counts):
            try:
                yield from self.style.documents(row, self.corpus.data.format)
            except MissingTemplateError:
                raise
            except UserError as error:
                faults.document(where, f"{where}: {error}")
        faults.report()

    def write(self, split: str, folder: Path) -> dict[str, Any]:
        """Writes the shard and the mask of a split; returns its entry in the manifest.

        Raises:
            UserError: when it has no documents.
        """
        path = folder / f"{split}_{STEM}"
        digest, learned = hashlib.sha256(), 0
        with path.with_suffix(MASK).open("wb") as masks:

            def pairs() -> Iterator[tuple[np.ndarray, int]]:
                nonlocal learned
                for document in self.documents(split):
                    mask = np.array(document.learned, np.uint8).tobytes()
                    digest.update(mask)
                    masks.write(mask)
                    learned += sum(document.learned)
                    yield np.array(document.ids), self.style.text_bytes(document)

            size, fingerprint = self.tokenizer.vocab_size, self.tokenizer.fingerprint
            info = write_shard(path, pairs(), vocab_size=size, tokenizer=fingerprint)
            masks.flush()
            os.fsync(masks.fileno())
        if not info.documents:
            data = self.corpus.data
            change = f", or change data.val_fraction={data.val_fraction}" if "val" not in self.corpus.sources else ""
            raise UserError(f"{data.name}: the {split} split is empty: use more rows{change}")
        return {
            **{key: getattr(info, key) for key in ("documents", "text_bytes", "tokens")},
            "learned": learned,
            "mask": digest.hexdigest(),
            "shards": {path.name: info.index_sha256},
        }


def _texts(corpus: ChatCorpus, split: str) -> Iterator[str]:
    """Yields the text of all messages, prompts and answers, to learn a tokenizer from."""
    for _, row in corpus.rows(split, Tally()):
        for key in COLUMNS[corpus.data.format]:
            value = row.get(key)
            for message in value if isinstance(value, list) else [{"content": value}]:
                content = message.get("content") if isinstance(message, dict) else None
                if isinstance(content, str) and content:
                    yield content
