"""A corpus: the files and the settings of one preparation.

The folder of the prepared text is named after a hash of everything that its bytes depend on.
"""

import codecs
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_from_scratch.check import check
from llm_from_scratch.config import DataConfig, TokenizerConfig
from llm_from_scratch.data.clean import CLEANING_VERSION
from llm_from_scratch.data.documents import File, Selection, Tally
from llm_from_scratch.data.downloads import roots
from llm_from_scratch.data.folders import listed
from llm_from_scratch.data.quality import chosen
from llm_from_scratch.data.shards import id_dtype
from llm_from_scratch.data.sources import Source, open_source
from llm_from_scratch.data.streams import stamp
from llm_from_scratch.data.tasks import Task
from llm_from_scratch.data.told import HELD_OUT, told_files
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import BUILDING, sha256, write_file
from llm_from_scratch.tokenizer import Tokenizer, open_gpt2

log = logging.getLogger(__name__)
FORMAT = 1
# a file beside the prepared folders that caches the checksums of a large corpus's files
CHECKSUMS = "checksums.json"
# total bytes of a corpus's files: a larger corpus keeps no clean text beside its tokens, unless a
# setting or a small number of documents needs it
KEEP_TEXT_BELOW = 100_000_000
# A corpus of at least so many documents has whole documents in its validation split; a smaller one
# has the last part of each document there.
MANY_DOCUMENTS = 20


@dataclass(frozen=True)
class Corpus:
    """Files of one text, with the settings and tasks of their preparation.

    `metadata` determines the name of the prepared `folder` and is the beginning of its manifest.
    """

    folder: Path
    source: Source
    metadata: dict[str, Any]
    selection: Selection
    max_docs: int | None
    tasks: list[Task]
    tokenizer_config: TokenizerConfig
    tokenizer: Tokenizer | None  # None: it is learned from the text
    # the published number of documents; None unless a whole published corpus is read
    expected: int | None = None

    @property
    def keep_text(self) -> bool:
        """Returns whether the clean text is kept beside the tokens, as in every small corpus."""
        return bool(self.metadata.get("keep_text", True))

    @property
    def removes(self) -> bool:
        """Returns whether a setting may remove documents, such as max_docs, quality or dedup."""
        read = replace(self.selection, column="", val_fraction=0, encoding="utf-8", separator=None, held_out=None)
        return self.max_docs is not None or replace(read, on_error=None) != Selection("", 0) or read.on_error == "skip"

    @cached_property
    def splits_whole_documents(self) -> bool:
        """Returns whether each document lies in one split; otherwise each is cut in two."""
        return not self.keep_text or self.source.has(MANY_DOCUMENTS)

    @property
    def building(self) -> Path:
        """Returns the folder of the unfinished preparation; it survives a killed process."""
        return unfinished_folder(self.folder)


def plan_corpus(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer: Tokenizer | None,
    fetch: bool = True,
    write: bool = True,
) -> Corpus:
    """Returns the corpus that the settings name.

    Args:
        data: the settings of the corpus.
        tokenizer_config: the settings of the tokenizer.
        tokenizer: the tokenizer to use; None: it is read from GPT-2's files or learned.
        fetch: whether missing files may be downloaded.
        write: whether the corpus's folder and its cache of checksums may be written.

    Raises:
        UserError: when a file is missing, unreadable or not the expected one, or when a setting
            does not fit the corpus.
    """
    data_dir = Path(data.dir)
    tokenizer = tokenizer or tokenizer_of_files(tokenizer_config, data_dir, fetch)
    selection = selection_of(data)
    source = source_of(data, fetch, write)
    if write:
        (data_dir / data.name).mkdir(parents=True, exist_ok=True)
    keep_text = keeps_text(data, source)
    cache = None if keep_text else data_dir / data.name / CHECKSUMS
    checksums, unreadable = _checksums(source, cache, data.on_error, write)
    readable = [(name, path) for name, path in source.paths if name in checksums]
    source = replace(source, paths=readable, skipped=source.skipped + unreadable)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "cleaning": CLEANING_VERSION,
        "source": _fingerprint(checksums, keep_text),
        "val_fraction": data.val_fraction,
        "tokenizer": tokenizer.fingerprint if tokenizer else [tokenizer_config.kind, tokenizer_config.vocab_size],
        "stream": data.stream,
    }
    # Plain texts have no columns: the names of their folders do not depend on data.column.
    if not source.plain:
        metadata["column"] = data.column
    # A setting at its default is left out: folders from before the setting existed keep their name.
    metadata |= {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(selection).items()
        if key not in ("column", "val_fraction") and value != getattr(Selection, key)
    }
    metadata |= {key: value for key in ("max_docs", "level") if (value := getattr(data, key)) is not None}
    if not keep_text:
        metadata |= {"keep_text": False, "shard_bytes": data.shard_bytes}
    folder = prepared_folder(data, metadata)
    groups = _groups(source, checksums, None if keep_text else data.shard_bytes)
    tasks = [
        Task(number, tuple(files), selection, unfinished_folder(folder), strict=keep_text)
        for number, files in enumerate(groups)
    ]
    expected = data.documents if data.download and data.max_docs is None else None
    return Corpus(folder, source, metadata, selection, data.max_docs, tasks, tokenizer_config, tokenizer, expected)


def prepared_folder(data: DataConfig, metadata: dict[str, Any]) -> Path:
    """Returns the path of a prepared text, whose name ends with a hash of `metadata`."""
    return Path(data.dir) / data.name / f"prepared-{hashlib.sha256(json.dumps(metadata).encode()).hexdigest()[:12]}"


def unfinished_folder(folder: Path) -> Path:
    """Returns the path of the unfinished preparation, beside the finished `folder`."""
    return folder.with_name(f"{BUILDING}{folder.name}")


def _fingerprint(checksums: dict[str, str], keep_text: bool) -> str:
    """Returns one sha256 over the names and checksums of all files.

    Small and large corpora are hashed differently, as in version 0.1: the names of prepared folders
    depend on it.
    """
    if not keep_text:
        return hashlib.sha256(json.dumps(list(checksums.items())).encode()).hexdigest()
    digest = hashlib.sha256()
    for item in checksums.items():
        digest.update(json.dumps(item).encode())
    return digest.hexdigest()


def selection_of(data: DataConfig) -> Selection:
    """Returns the settings by which documents are read, kept and split."""
    return Selection(
        column=data.column,
        val_fraction=data.val_fraction,
        fraction=data.fraction,
        subset_seed=data.subset_seed if data.fraction < 1 else 0,
        min_chars=data.min_chars,
        quality=chosen(data.quality),
        dedup=data.dedup,
        language=data.language,
        on_error=data.on_error,
        encoding=codecs.lookup(data.encoding).name,
        separator=data.separator,
        held_out=None if data.level is None else HELD_OUT,
    )


def source_of(data: DataConfig, fetch: bool, write: bool = False) -> Source:
    """Returns the files of the corpus that the settings name.

    Missing ones are downloaded only with `fetch`, told (data=tales) only with `write`.

    Raises:
        UserError: as `open_source` and `told_files`.
    """
    if data.level is not None:
        folder = Path(data.dir) / data.name / "told"
        return Source(data.name, told_files(data.level, data.stories, data.val_stories, folder, write))
    return open_source(
        name=data.name,
        path=data.path,
        file=data.file,
        url=data.url,
        sha256=data.sha256,
        must_contain=data.must_contain,
        form=selection_of(data).form,
        on_error=data.on_error,
        layouts=data.layouts,
        published=data.published,
        download=data.download,
        downloads=data.downloads,
        connections=data.connections,
        data_dir=Path(data.dir),
        fetch=fetch,
    )


def tokenizer_of_files(config: TokenizerConfig, data_dir: Path, fetch: bool) -> Tokenizer | None:
    """Returns GPT-2's tokenizer for `kind="gpt2"`; None for a kind that is learned from text.

    Raises:
        UserError: when `path` or `vocab_size` does not fit the kind, or GPT-2's files are missing.
    """
    if config.kind != "gpt2":
        if config.path is not None:
            raise UserError(
                f"tokenizer.path={config.path}: tokenizer={config.kind} is learned from the text; leave it out"
            )
        return None
    if config.vocab_size is not None:
        raise UserError(
            f"tokenizer.vocab_size={config.vocab_size}: with tokenizer=gpt2 its files decide it, leave it null"
        )
    return open_gpt2(config.path, [root / "gpt2" for root in roots(data_dir)], fetch)


def keeps_text(data: DataConfig, source: Source) -> bool:
    """Returns whether the clean text is to be kept beside the tokens.

    Raises:
        UserError: when data.keep_text=false and data.stream contradict each other.
    """
    if data.stream != "tokens" or data.keep_text:
        if data.keep_text is False:
            raise UserError(f"data.keep_text=false: data.stream={data.stream} reads that text; use data.stream=tokens")
        return True
    if data.keep_text is None and sum(path.stat().st_size for _, path in source.paths) < KEEP_TEXT_BELOW:
        return True
    return not source.has(MANY_DOCUMENTS)  # of so few, each document is cut in two


def _groups(source: Source, checksums: dict[str, str], size: int | None) -> list[list[File]]:
    """Groups the files, in their order, into tasks of at most `size` bytes.

    A file of `size` bytes or more is a task of its own. `size=None` makes one task of all files.
    """
    groups: list[list[File]] = []
    room = 0
    for name, path in source.paths:
        length = path.stat().st_size
        if not groups or (size is not None and length > room):
            groups.append([])
            room = size or 0
        groups[-1].append((name, str(path), checksums.get(name, "")))
        room -= length
    return groups


def document_limits(corpus: Corpus) -> dict[int, int]:
    """Returns the number of documents to take from each task, by its number, for data.max_docs.

    Duplicates are included. Without that setting it is {}: no task has a limit.
    """
    if corpus.max_docs is None:
        return {}
    if corpus.keep_text:
        return {task.number: corpus.max_docs for task in corpus.tasks}
    left, limits = corpus.max_docs, {}
    for task in corpus.tasks:
        if left:
            texts = replace(task, limit=left).documents(Tally())
            limits[task.number] = sum(1 for _ in texts)
            left -= limits[task.number]
        else:
            limits[task.number] = 0
    return limits


def limited(tasks: Sequence[Task], limits: Mapping[int, int]) -> list[Task]:
    """Returns the tasks with their document limits, without those whose limit is 0."""
    return [replace(task, limit=limits.get(task.number)) for task in tasks if limits.get(task.number) != 0]


def _checksums(
    source: Source, cache: Path | None, on_error: str | None, write: bool
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Returns {name: sha256} of the readable files, and (name, reason) of the others.

    With a `cache` file, a checksum is computed once per path, size and modification time: a large
    corpus is not read at every start. `cache=None` computes all of them, and gives "SIZE TIME"
    instead of the sha256 for a file above 1 GB.

    Raises:
        UserError: when a file is unreadable and `on_error` is not "skip", or all are.
    """
    known: dict[str, Any] = {}
    if cache:
        try:
            loaded = json.loads(cache.read_text(encoding="utf-8"))
            known = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            pass
    found: dict[str, str] = {}
    faults: list[tuple[str, str]] = []
    new = 0
    for name, path in source.paths:
        try:
            size = path.stat().st_size
            if not cache:
                found[name] = sha256(path) if size <= 10**9 else stamp(path)
                continue
            key = f"{path.absolute()} {stamp(path)}"
            if not isinstance(known.get(key), str):
                if not new and size > 10**8:
                    log.info("reading the files of %s once for their checksums", source.name)
                known[key] = sha256(path)
                new += 1
            found[name] = known[key]
        except OSError as error:
            faults.append((name, error.strerror or type(error).__name__))
        except UserError:
            faults.append((name, "no regular file"))
    if faults and (on_error != "skip" or not found):
        raise UserError(
            f"{source.name}: cannot read {listed(faults)}: make it readable, or leave it out with data.on_error=skip"
        )
    if cache and new and write:
        write_file(cache, json.dumps(known, indent=1))
    return found, faults


# ----------------------------------------------------------------------------------------- mixtures
def is_mixture(data: DataConfig) -> bool:
    """Returns whether the settings describe a mixture of corpora with weights."""
    return data.mix is not None or bool(data.corpora)


def mixed_corpora(data: DataConfig) -> dict[str, DataConfig]:
    """Returns the settings of each corpus with a weight other than 0, in the order of `data.mix`.

    Raises:
        UserError: when no corpus is left, or when one has no settings or invalid ones.
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
            if settings.format != "text":
                raise UserError(f"data.corpora.{name}.format={settings.format}: a mixture is of texts: leave it out")
            chosen[name] = replace(settings, dir=data.dir, stream=data.stream)
    if not chosen:
        raise UserError("data=mix: say what of, and how much of each: data.mix='{oz: 0.7, shakespeare: 0.3}'")
    return chosen


def check_text(data: DataConfig, given: Iterable[str]) -> None:
    """Checks that the user's text exists and that each given setting has an effect on it.

    It runs before anything is written. A named corpus is skipped: it may have to be downloaded.

    Args:
        data: the settings.
        given: the names of the settings that the user wrote.

    Raises:
        UserError: when the text is missing, or when a given setting would have no effect.
    """
    for settings in mixed_corpora(data).values() if is_mixture(data) else (data,):
        if settings.format != "text":
            continue  # `plan_chats` opens its files
        if settings.level is not None:
            continue  # `plan_corpus` writes its files
        if settings.download is not None or (settings.file is not None and settings.path is None):
            continue
        source = source_of(settings, fetch=False)
        if settings is not data:
            continue
        if source.plain and "data.column" in given:
            raise UserError(f"data.column={data.column}: these files have no columns; leave it out")
        if not keeps_text(data, source):
            continue
        if "data.keep_text" in given and data.keep_text is False:
            raise UserError(
                f"data.keep_text=false: a corpus of fewer than {MANY_DOCUMENTS} documents keeps its text; leave it out"
            )
        for key in ("data.shard_bytes", "prepare.engine", "prepare.workers"):
            if key in given:
                raise UserError(f"{key}: is for a large corpus, and one process prepares this one; leave it out")


def check_space(corpus: Corpus, tasks: Sequence[Task], tokenizer: Tokenizer) -> None:
    """Raises UserError where the token shards will not fit on the disk, by a low estimate."""
    if corpus.max_docs is not None:
        return
    needed = id_dtype(tokenizer.vocab_size).itemsize * estimated_tokens(
        corpus, tasks, tokenizer.kind, tokenizer.vocab_size
    )
    free = shutil.disk_usage(corpus.building).free
    if needed > free:
        raise UserError(
            f"{corpus.folder.parent}: about {needed / 1e9:.3g} GB of token shards are to be written, and {free / 1e9:.3g} GB are free: "
            "free some, set data.dir=FOLDER on another disk, or take less with data.fraction"
        )


def estimated_tokens(corpus: Corpus, tasks: Sequence[Task], kind: str, vocab_size: int) -> int:
    """Estimates the number of tokens of the tasks from the sizes of their files.

    The estimate is rather too low: compressed text is assumed to expand 1.5 to 3 times.
    """
    expands = {".parquet": 1.5, ".tar": 3.0, ".xz": 3.0, ".gz": 2.5, ".bz2": 3.0, ".zst": 2.5}
    text = sum(
        Path(path).stat().st_size * expands.get(Path(name.lower()).suffix, 0.9)
        for task in tasks
        for name, path, _ in task.files
    )
    # a BPE token has 2 to 5 bytes on average
    a_byte = 0.9 if kind == "char" else 0.35 if vocab_size < 4096 else 0.2
    kept = 0.5 if corpus.selection.quality or corpus.selection.dedup != "none" else 1.0
    return int(text * a_byte * kept * corpus.selection.fraction)
