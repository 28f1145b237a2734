"""Settings of the text: tokenizer, corpus, selection, storage, batches, preparation."""

from dataclasses import dataclass, field
from typing import Any

from llm_from_scratch import ranges
from llm_from_scratch.ranges import LEVELS, NOT_NEGATIVE, PART, PART_OR_ALL, POSITIVE, SHARE, choice, ranged

# Kinds of tokenizer that come with a model trained elsewhere; its folder holds them
FOREIGN_KINDS = ("bytes", "sentencepiece")


@dataclass(kw_only=True)
class TokenizerConfig:
    # char | bpe | gpt2; of a model that init_from names also bytes | sentencepiece, which nothing here learns
    kind: str = ranged("bpe", choice("char", "bpe", "gpt2", *FOREIGN_KINDS))
    # pieces, the 256 bytes among them; null where the text (char), the files (gpt2) or a model (init_from) decide
    vocab_size: int | None = ranged(1024, POSITIVE)
    path: str | None = None  # gpt2: the folder with vocab.json and merges.txt; null: data/gpt2, else tiktoken's own


@dataclass(kw_only=True)
class DownloadConfig:
    files: str = ""  # below data/; many by a range of numbers: part{00..20}.tar
    mirrors: list[str] = field(default_factory=list)  # addresses of the folders that hold them, tried in turn
    sha256: str | None = None  # of a single file


@dataclass(kw_only=True)
class CorpusConfig:
    """The source of a text, and the format of its files."""

    name: str = ranged("oz", ranges.NAME)  # names the folder of the prepared data, and of the runs
    path: str | None = None  # data=text: a file, a folder or a glob; texts, tables and archives of them
    file: str | None = ranged(None, ranges.BELOW_DATA)  # a named corpus: its place below data/ or the folder of corpora
    url: str | None = None  # where it is downloaded from when no copy is at hand
    sha256: str | None = None  # of the file, where it is published and stable
    must_contain: str | None = None  # a line by which the file is known, where no checksum is
    column: str = "text"  # the text of a row: the key in a .jsonl file, the column in a .parquet file
    encoding: str = ranged("utf-8", ranges.ENCODING)  # of texts and of tables that are texts
    # between the documents of one text file, such as <|endoftext|>; null: it is one document
    separator: str | None = None
    # stop | skip, of what is no text; null: stop, or skip documents of a corpus above 100 MB
    on_error: str | None = ranged(None, choice("stop", "skip"))
    # a named corpus of many files: globs below data/; the first that finds any is read
    layouts: list[str] | None = ranged(None, ranges.GLOBS_BELOW_DATA)
    published: str | None = None  # where they are published, for the message when none are found
    download: str | None = None  # one of `downloads`: read its files, and bring those that are not at hand
    downloads: dict[str, DownloadConfig] = field(default_factory=dict)  # the ways in which it is published
    connections: int = ranged(4, POSITIVE)  # files downloaded at the same time
    documents: int | None = None  # that the whole corpus has; another count in a download is said
    level: int | None = ranged(None, LEVELS)  # data=tales: of the stories that are told (docs/tales.md), 1 to 4
    stories: int = ranged(
        20_000, POSITIVE
    )  # data=tales: to train on; of data.stream=fresh the tokenizer learns from them
    val_stories: int = ranged(500, POSITIVE)  # data=tales: to validate on
    # data=mix: corpora and their weights; 0 leaves one out
    mix: dict[str, float] | None = ranged(None, ranges.WEIGHTS)
    # data=mix: the settings of each, as of this group
    corpora: dict[str, Any] = field(default_factory=dict, metadata={ranges.KEY: ranges.CORPORA})


@dataclass(kw_only=True)
class SelectionConfig:
    """Filters that select the documents of a text."""

    # documents: the first that pass what stands below, duplicates among them; null: all
    max_docs: int | None = ranged(None, POSITIVE)
    fraction: float = ranged(1.0, PART_OR_ALL)  # of the documents, by a hash of their names: 0.1 holds all of 0.01
    subset_seed: int = 0  # another one makes `fraction` choose other documents
    min_chars: int = ranged(0, NOT_NEGATIVE)  # characters of a document
    # de | en | es | fr | it | nl | pt, by its frequent short words; null: any
    language: str | None = ranged(None, choice("de", "en", "es", "fr", "it", "nl", "pt"))
    quality: list[str] = field(default_factory=list)  # rules of data/quality.py, or gopher, c4 for all of a paper
    # none | exact | near: of documents that are alike, the first is kept
    dedup: str = ranged("none", choice("none", "exact", "near"))


@dataclass(kw_only=True)
class StorageConfig:
    """The splits of a prepared text, and the storage of its shards."""

    dir: str = "data"  # holds prepared shards; a named corpus is looked for here first
    val_fraction: float = ranged(0.1, PART)  # of the characters of one document, or of many documents
    keep_text: bool | None = None  # beside the tokens, the cleaned text; null: of a corpus below 100 MB
    # bytes of files: smaller files of a large corpus go together into a shard of so much
    shard_bytes: int = ranged(64_000_000, POSITIVE)


@dataclass(kw_only=True)
class BatchConfig:
    """Batches of training sequences, drawn from a prepared text."""

    batch_size: int = ranged(32, POSITIVE)  # sequences an optimizer step, over all devices
    # so many sequences up to that optimizer step; null: batch_size always
    batch_schedule: list[list[int]] | None = ranged(None, ranges.BATCH_SCHEDULE)
    # sequences a device at a time; null: as many as fit into memory
    micro_batch_size: int | None = ranged(None, POSITIVE)
    # tokens: chunks of prepared shards; text: byte ranges tokenized as they are read; fresh: of data=tales, new stories for
    # every step
    stream: str = ranged("tokens", choice("tokens", "text", "fresh"))
    # stream=text: the probability with which a merge of tokenizer=bpe is left out, in training
    subword_dropout: float = ranged(0.0, SHARE)
    doc_mask: bool = False  # attention stays inside a document; positions go on counting
    overfit: bool = False  # every step sees the batch of step 0, to be learned by heart


@dataclass(kw_only=True)
class ConversationConfig:
    """Conversations and preferences: rows of a table that a chat template turns into tokens."""

    # text: documents; chat: rows with messages, or prompt and completion; preferences: rows with prompt, chosen, rejected
    format: str = ranged("text", choice("text", "chat", "preferences"))
    template: str | None = None  # a file with a chat template in Jinja; null: the model's own, else ChatML
    # cut | skip: what becomes of a conversation of more than model.block_size + 1 tokens
    too_long: str = ranged("cut", choice("cut", "skip"))
    # held-out conversations, all of a file, folder or glob as data.path; null: data.val_fraction of the others, by whole ones
    val_path: str | None = None
    # conversations of the package, instead of data.path: sentiment | questions | summaries | oz_chat
    generator: str | None = ranged(None, choice("sentiment", "questions", "summaries", "oz_chat"))
    # what `evaluate` scores in answers to the held-out rows of data.val_path or data.generator: label: accuracy,
    # macro-F1 | answer: exact match, token F1, contains the answer | summary: ROUGE-L
    metric: str | None = ranged(None, choice("label", "answer", "summary"))


# Dataclasses take the fields of the last base first: the corpus comes first in files and tables.
@dataclass(kw_only=True)
class DataConfig(BatchConfig, ConversationConfig, StorageConfig, SelectionConfig, CorpusConfig):
    """The group `data`, with flat keys; a function that needs one part of it takes a base class."""


@dataclass(kw_only=True)
class PrepareConfig:
    """The processes that prepare a large corpus; the prepared bytes do not depend on them."""

    # local: processes of this machine; ray: an existing cluster (the extra `cluster`)
    engine: str = ranged("local", choice("local", "ray"))
    workers: int | None = ranged(None, POSITIVE)  # processes, of less than 1 GB each; null: one a core
    task: int | None = ranged(None, NOT_NEGATIVE)  # prepare this part alone, from 0: for the tasks of a SLURM array
