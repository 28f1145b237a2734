"""The typed schema of every setting, with its unit: what Hydra composes is held against it before anything runs.

`check` turns plain values into these dataclasses, or says in one line which setting is wrong, and which was meant.
Nothing here imports torch: a mistake in a setting is answered before a second has passed.
"""

import difflib
import hashlib
import importlib.util
import io
import math
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from llm_from_scratch import mistakes
from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import open_regular, refuse_links, write_file
from llm_from_scratch.places import PATHS, expanded

T = TypeVar("T")
_MODEL_CHOICES = {
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "position": ("rotary", "learned", "sinusoidal"),
    "activation": ("relu", "gelu", "gelu_erf", "relu2", "swiglu"),
}
# Where blocks are shared, the size of the weights bounds nothing: a folder of 100 KB would run for minutes.
MAX_SHARING_LAYERS = 1024
FAILURE = "error.txt"  # in the folder of a sweep's run: why it failed, in one line
MAX_THREADS = 1024  # torch ends without a word where the system gives it no more
MAX_CONFIG = 100_000  # bytes; ours have two thousand
# The first and the last line of a run's config.yaml: a file with one of them must have both, and the checksum must hold.
HEADER = "# The settings of this run. The last line is the sha256 of the lines above it.\n"
FOOTER = "# sha256: "
# The loggers that are made here, with those of their settings that a stranger's run folder may have changed: they write
# nowhere else and run nothing. None stands for all of a logger's settings.
LOGGERS: Mapping[str, frozenset[str] | None] = {
    "tensorboard": None,
    "csv": None,
    "wandb": frozenset({"project", "entity", "name", "group", "tags", "notes", "job_type", "offline", "mode"}),
}
# What every version has written; a file without some of it has been cut off.
GROUPS = {
    *("task", "seed", "run_dir", "model", "tokenizer", "data", "prepare", "optim", "trainer", "sample", "logger"),
    "callbacks",
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture without the vocabulary, which the tokenizer brings. The defaults are the modern family.

    Raises UserError in one line for a value that cannot work, naming the key.
    """

    block_size: int = 128  # the longest context, tokens
    n_layer: int = 4  # depth: blocks that a token passes through
    n_unique_layer: int | None = None  # distinct blocks, cycled to fill the depth (Lan et al. 2019); null: n_layer
    n_head: int = 4  # query heads
    n_kv_head: int | None = None  # key/value heads, each shared by n_head / n_kv_head queries; null: n_head
    n_embd: int = 128  # width, channels
    n_inner: int | None = None  # width inside the feed-forward; null: 4C, for SwiGLU 8C/3 rounded up to 64s
    norm: str = "rmsnorm"  # layernorm | rmsnorm
    norm_position: str = "pre"  # pre: x + f(norm(x)), and a final norm | post: norm(x + f(x))
    position: str = "rotary"  # rotary | learned | sinusoidal
    activation: str = "swiglu"  # relu | gelu (tanh form) | gelu_erf (exact) | relu2 (squared ReLU) | swiglu
    qk_norm: bool = True  # normalise each head's queries and keys
    bias: bool = False  # in every linear layer but the head, and in LayerNorm
    tie_weights: bool = True  # the head shares the token embedding (Press & Wolf 2017)
    dropout: float = 0.0  # probability, after the embedding, on attention weights and on each residual branch
    rope_base: float = 10_000.0  # rotary wavelengths run from 2 pi to 2 pi rope_base positions
    norm_eps: float = 1e-6  # added to the variance (layernorm) or the mean square (rmsnorm) before the root
    init_std: float | None = None  # standard deviation of embeddings and matrices at the start; null: 1/sqrt(C)

    def __post_init__(self) -> None:
        for key in ("block_size", "n_layer", "n_unique_layer", "n_head", "n_kv_head", "n_embd", "n_inner"):
            value = getattr(self, key)
            optional = key in ("n_unique_layer", "n_kv_head", "n_inner")
            if not ((isinstance(value, int) and value >= 1) or (value is None and optional)):
                raise UserError(f"model.{key}={value} must be a whole number of 1 or more" + " or null" * optional)
        for key, choices in _MODEL_CHOICES.items():
            value = str(getattr(self, key))
            if value not in choices:
                nearest = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.0)[0]
                raise UserError(f"model.{key}={value} is unknown: use {nearest} (one of {', '.join(choices)})")
        if self.n_embd % self.n_head:
            divisors = [str(n) for n in range(1, min(self.n_embd, 1000) + 1) if self.n_embd % n == 0]
            raise UserError(
                f"model.n_head={self.n_head} does not divide model.n_embd={self.n_embd}: use one of {', '.join(divisors)}"
            )
        if self.n_head % self.kv_heads:
            divisors = [str(n) for n in range(1, min(self.n_head, 1000) + 1) if self.n_head % n == 0]
            raise UserError(
                f"model.n_kv_head={self.n_kv_head} does not divide model.n_head={self.n_head}: "
                f"use one of {', '.join(divisors)}"
            )
        if self.n_layer > max(self.unique_layers, MAX_SHARING_LAYERS):
            raise UserError(
                f"model.n_layer={self.n_layer}: more than {MAX_SHARING_LAYERS} layers that share their weights: use fewer"
            )
        if self.unique_layers > self.n_layer:
            raise UserError(
                f"model.n_unique_layer={self.n_unique_layer} exceeds model.n_layer={self.n_layer}: use at most that, or null"
            )
        if self.position == "rotary" and self.head_size % 2:
            raise UserError(
                f"model.n_embd={self.n_embd} / model.n_head={self.n_head} makes heads of odd size {self.head_size}: "
                "rotary positions need an even one, change either or use model.position=learned"
            )
        if self.position == "sinusoidal" and self.n_embd % 2:
            raise UserError(f"model.n_embd={self.n_embd} is odd: sinusoidal positions need an even width")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout} must be a probability from 0 to below 1")
        for key in ("rope_base", "norm_eps", "init_std"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"model.{key}={value} must be a finite number above 0")

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def unique_layers(self) -> int:
        return self.n_unique_layer or self.n_layer

    @property
    def inner_size(self) -> int:
        """SwiGLU has three matrices for two: at 8C/3 it costs what 4C does (Shazeer 2020), and 64s suit the hardware."""
        if self.n_inner:
            return self.n_inner
        return 64 * math.ceil(8 * self.n_embd / 3 / 64) if self.activation == "swiglu" else 4 * self.n_embd


@dataclass(kw_only=True)
class TokenizerConfig:
    kind: str = "bpe"  # char | bpe | gpt2
    vocab_size: int | None = (
        1024  # pieces, the 256 bytes among them; null where the text (char) or the files (gpt2) decide
    )
    path: str | None = None  # gpt2: the folder with vocab.json and merges.txt; null: data/gpt2, else tiktoken's own


@dataclass(kw_only=True)
class DownloadConfig:
    files: str = ""  # below data/; many by a range of numbers: part{00..20}.tar
    mirrors: list[str] = field(default_factory=list)  # addresses of the folders that hold them, tried in turn
    sha256: str | None = None  # of a single file


@dataclass(kw_only=True)
class DataConfig:
    name: str = "oz"  # names the folder of the prepared data, and of the runs
    path: str | None = None  # data=text: a file, a folder or a glob; texts, tables and archives of them
    file: str | None = None  # a named corpus: its place below data/ or the corpora folder
    url: str | None = None  # where it is downloaded from when no copy is at hand
    sha256: str | None = None  # of the file, where it is published and stable
    must_contain: str | None = None  # a line by which the file is known, where no checksum is
    column: str = "text"  # the text of a row: the key in a .jsonl file, the column in a .parquet file
    encoding: str = "utf-8"  # of texts and of tables that are texts
    separator: str | None = (
        None  # between the documents of one text file, such as <|endoftext|>; null: it is one document
    )
    on_error: str | None = (
        None  # stop | skip, of what is no text; null: stop, or skip documents of a corpus above 100 MB
    )
    dir: str = "data"  # holds downloads and prepared shards
    val_fraction: float = 0.1  # of the characters of one document, or of many documents
    batch_size: int = 32  # sequences an optimizer step, over all devices
    batch_schedule: list[list[int]] | None = (
        None  # so many sequences up to that optimizer step; null: batch_size always
    )
    micro_batch_size: int | None = None  # sequences a device at a time; null: as many as fit into memory
    stream: str = "tokens"  # tokens: chunks of prepared shards; text: byte ranges tokenized as they are read
    subword_dropout: float = (
        0.0  # stream=text: the probability with which a merge of tokenizer=bpe is left out, in training
    )
    layouts: list[str] | None = (
        None  # a named corpus of many files: globs below data/; the first that finds any is read
    )
    published: str | None = None  # where they are published, for the message when none are found
    download: str | None = None  # one of `downloads`: read its files, and bring those that are not at hand
    downloads: dict[str, DownloadConfig] = field(default_factory=dict)  # the ways in which it is published
    connections: int = 4  # files downloaded at the same time
    documents: int | None = None  # that the whole corpus has; another count in a download is said
    max_docs: int | None = None  # documents: the first that pass what stands below, duplicates among them; null: all
    fraction: float = 1.0  # of the documents, by a hash of their names: 0.1 holds all of 0.01
    subset_seed: int = 0  # another one makes `fraction` choose other documents
    min_chars: int = 0  # characters of a document
    language: str | None = None  # de | en | es | fr | it | nl | pt, by its frequent short words; null: any
    quality: list[str] = field(default_factory=list)  # rules of data/quality.py, or gopher, c4 for all of a paper
    dedup: str = "none"  # none | exact | near: of documents that are alike, the first is kept
    keep_text: bool | None = None  # beside the tokens, the cleaned text; null: of a corpus below 100 MB
    shard_bytes: int = 64_000_000  # bytes of files: smaller files of a large corpus go together into a shard of so much
    doc_mask: bool = False  # attention stays inside a document; positions go on counting
    mix: dict[str, float] | None = None  # data=mix: corpora and their weights; 0 leaves one out
    corpora: dict[str, Any] = field(default_factory=dict)  # data=mix: the settings of each, as of this group
    overfit: bool = False  # every step sees the batch of step 0, to be learned by heart


@dataclass(kw_only=True)
class PrepareConfig:
    """Who prepares a large corpus. The bytes that come out do not depend on it."""

    engine: str = "local"  # local: processes of this machine; ray: an existing cluster (the extra `cluster`)
    workers: int | None = None  # processes, of less than 1 GB each; null: one a core
    task: int | None = None  # prepare this part alone, from 0: for the tasks of a SLURM array


@dataclass(kw_only=True)
class OptimConfig:
    name: str = "adamw"  # adamw | muon: Muon for the matrices within blocks, AdamW for the rest
    lr: float = 1e-3  # the peak, after the warm-up
    adamw_lr: float | None = None  # muon: the peak of what AdamW trains; null: lr
    momentum: float = 0.95  # muon: Nesterov's, of the matrices
    schedule: str = "cosine"  # cosine | linear | wsd | constant | plateau, after the warm-up
    min_lr_ratio: float = (
        0.1  # the learning rate at the end, as a share of the peak; plateau: training stops rather than go below
    )
    warmup_steps: int = 100  # optimizer steps of linear warm-up
    decay_fraction: float = 0.2  # wsd: the part of all steps, the last one, in which the learning rate falls
    patience: int | None = (
        None  # validations in a row without a lower loss, then training stops (plateau: the learning rate falls first)
    )
    plateau_factor: float = 0.5  # plateau: what the learning rate is multiplied by
    weight_decay: float = 0.1  # on matrices alone
    beta1: float = 0.9  # AdamW: decay, a step, of the mean of the gradients
    beta2: float = 0.95  # AdamW: decay, a step, of the mean of their squares
    ema_decay: float | None = None  # of an average of the weights, a step; it is what is validated and kept; null: none
    skip_bad_steps: int = 0  # batches with a NaN or infinite loss or gradient to pass over before the run stops


@dataclass(kw_only=True)
class TrainerConfig:
    accelerator: str = "auto"  # auto | cpu | gpu | mps
    devices: int | str = 1  # devices of each machine; auto: all of them
    num_nodes: int = 1  # machines, each with `devices` devices
    strategy: str = "auto"  # auto | ddp | fsdp, or another of Lightning's names
    precision: str = (
        "auto"  # auto: bfloat16 over float32 weights on GPUs that have it, else float32; or Lightning's names
    )
    compile: bool | str = "auto"  # true | false | auto: where the time it saves in the run exceeds its own
    activation_checkpointing: bool = (
        False  # activations are computed again in the backward pass: less memory, a third more time
    )
    max_steps: int = 1000  # optimizer steps
    val_check_interval: int = 250  # optimizer steps from one validation and checkpoint to the next
    log_every_n_steps: int = 10  # optimizer steps from one point of the training curves to the next
    gradient_clip_val: float | None = 1.0  # the largest global norm of the gradients; null: no clipping
    progress: bool = True  # a bar in a terminal, plain lines elsewhere
    threads: int | None = None  # CPU threads of torch; null: torch decides
    profile: bool = False  # a profiler trace for TensorBoard
    extra: dict[str, Any] = field(default_factory=dict)  # further arguments of lightning.Trainer, by their names


@dataclass(kw_only=True)
class SampleConfig:
    prompt: str | None = None  # what the samples of a run continue; null: the first words of the validation split
    max_new_tokens: int = 100  # tokens; 0: no samples
    temperature: float = 0.8  # of the samples; 0: always the likeliest token
    show: bool | str = "auto"  # true | false | auto: on standard error as they come, where that is a terminal

    def __post_init__(self) -> None:
        self.prompt = self.prompt and clean_typed(
            self.prompt
        )  # samples.md and the last words show what the model reads


@dataclass(kw_only=True)
class Config:
    """One training run: what `config.yaml` in a run folder holds."""

    task: str = "oz"  # names the folder of the run: outputs/TASK/…
    seed: int = 1337  # of the weights, the order of the data, dropout and the samples
    run_dir: str = "outputs"  # the folder of the run; a sweep makes one for each of its runs below it
    resume: str | None = None  # a run folder to go on with
    init_from: str | None = None  # a run folder, or a .pt or .ckpt of torch's, whose weights to start from
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    logger: dict[str, Any] = field(
        default_factory=dict
    )  # tensorboard | csv | wandb -> its settings, or a name -> {_target_: a Lightning logger, its arguments}
    callbacks: dict[str, Any] = field(default_factory=dict)  # name -> {_target_: a Lightning callback, its arguments}

    def __post_init__(self) -> None:
        if self.optim.schedule == "plateau" and not (self.optim.patience and self.optim.min_lr_ratio):
            raise UserError(
                "optim.schedule=plateau needs optim.patience=N, validations, and an optim.min_lr_ratio above 0 to end at"
            )
        decides = {"char": "the text decides", "gpt2": "its files decide"}.get(self.tokenizer.kind)
        if decides and self.tokenizer.vocab_size is not None:
            raise UserError(
                f"tokenizer.vocab_size={self.tokenizer.vocab_size}: with tokenizer={self.tokenizer.kind} {decides} it, leave it null"
            )
        if self.data.subword_dropout and (self.data.stream, self.tokenizer.kind) != ("text", "bpe"):
            raise UserError("data.subword_dropout needs data.stream=text and tokenizer=bpe, whose merges it leaves out")
        largest = max((size for pair in self.data.batch_schedule or [] for size in pair[1:]), default=0)
        if largest > self.data.batch_size:
            raise UserError(
                f"data.batch_schedule has {largest} sequences, more than data.batch_size={self.data.batch_size}: change it too, or"
                " use data.batch_schedule=null"
            )
        if self.tokenizer.kind == "char" and self.tokenizer.vocab_size is not None:
            raise UserError(
                f"tokenizer.vocab_size={self.tokenizer.vocab_size}: with tokenizer=char the text decides it, leave it null"
            )
        if self.data.overfit and self.data.batch_schedule:
            raise UserError("data.overfit=true learns one batch of one size: use data.batch_schedule=null")
        for key, without in (("name=muon", self.optim.name != "muon"), ("ema_decay", self.optim.ema_decay is None)):
            if self.trainer.strategy == "fsdp" and not without:
                raise UserError(f"optim.{key} needs whole weights, which trainer=fsdp shares out: use trainer=ddp")


@dataclass(kw_only=True)
class SamplingConfig:
    """How the next token is chosen. Raises UserError in one line for a value that cannot work, naming the key."""

    max_new_tokens: int = 256  # tokens a sample, at most
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int | None = None  # tokens kept; null: all
    top_p: float | None = None  # probability kept; null: all
    min_p: float | None = None  # share of the likeliest token's probability that a token needs; null: none
    repetition_penalty: float = 1.0  # above 1, tokens written before become less likely; 1: none
    num_samples: int = 1  # texts, written side by side in one batch
    compile: bool | str = (
        "auto"  # true | false | auto: on a CUDA GPU each token's step as one captured graph, else plain
    )
    seed: int = 1337  # the same seed writes the same text (on a CPU)
    stop: list[str] = field(default_factory=list)  # a sample ends before the first of these strings

    def __post_init__(self) -> None:
        self.stop = [clean_typed(stop) for stop in self.stop]  # the model writes text as the cleaned corpus has it
        # Written as `not (right)`, so that NaN, which compares as false, is refused too.
        for key, right, need in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or a finite number above it"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more, or null to keep all tokens"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or null to keep all tokens"),
            ("min_p", self.min_p is None or 0 < self.min_p <= 1, "above 0 and at most 1, or null to keep all tokens"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "a finite number above 0 (1: no penalty)"),
            ("num_samples", self.num_samples >= 1, "1 or more"),
            ("compile", self.compile in (True, False, "auto"), "true, false or auto"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1"),
            ("stop", "" not in self.stop, "a list of strings that are not empty"),
            (
                "stop",
                not re.search("[\ud800-\udfff]", "".join(self.stop)),
                "of whole characters: a half one never comes",
            ),
        ):
            if not right:
                raise UserError(f"{key}={getattr(self, key)} must be {need}")


@dataclass(kw_only=True)
class GenerateConfig(SamplingConfig):
    """What generate.py takes: where the model is, what it continues, and how it samples."""

    run: str = "last"  # a run folder, or last: the newest one below outputs/
    prompt: str = ""  # what the text continues; empty: the start of a document; -: standard input
    prompt_file: str | None = None  # a UTF-8 file that holds the prompt, in place of prompt; -: standard input
    device: str = "auto"  # auto | cpu | cuda | mps; auto: the best one of this machine
    dtype: str = "auto"  # auto | float32 | bfloat16; auto: bfloat16 on GPUs that have it, else float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise UserError(f"dtype={self.dtype} must be auto, float32 or bfloat16")
        if self.prompt and self.prompt_file:
            raise UserError(f"prompt_file={self.prompt_file}: the prompt is given as well: leave one of them out")
        self.prompt = clean_typed(self.prompt)  # it is printed as the model reads it


def _choice(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in names, "one of " + ", ".join(names)


def _is_encoding(name: str) -> bool:
    try:
        return bool("a".encode(name).decode(name))
    except (LookupError, ValueError):
        return False


_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda value: value > 0, "above 0")
_NOT_NEGATIVE: tuple[Callable[[Any], bool], str] = (lambda value: value >= 0, "0 or more")
_SHARE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1, "at least 0 and below 1")

# What a value must be beyond its type, and how that is said.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
    "tokenizer.kind": _choice("char", "bpe", "gpt2"),
    "tokenizer.vocab_size": _POSITIVE,
    "data.name": (
        lambda value: bool(re.fullmatch(r"[\w-][\w.-]*", value)),
        "letters, digits, '_', '-' and '.', which is not the first",
    ),
    # A configuration may be a stranger's: its download must not land outside of data.dir.
    "data.file": (
        lambda value: ".." not in Path(value).parts and not Path(value).is_absolute(),
        "a path below data.dir",
    ),
    "data.encoding": (
        _is_encoding,
        "one of Python's text encodings: utf-8, cp1252, latin-1, utf-16",
    ),
    "data.on_error": _choice("stop", "skip"),
    "data.val_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "data.batch_size": _POSITIVE,
    "data.batch_schedule": (
        lambda value: all(len(pair) == 2 and min(pair) > 0 for pair in value),
        "[[step, sequences], …], all above 0",
    ),
    "data.micro_batch_size": _POSITIVE,
    "data.stream": _choice("tokens", "text"),
    "data.subword_dropout": _SHARE,
    "data.layouts": (
        lambda value: not any(".." in Path(glob).parts or Path(glob).is_absolute() for glob in value),
        "globs below data.dir",
    ),
    "data.connections": _POSITIVE,
    "data.mix": (lambda value: all(weight >= 0 for weight in value.values()), "names with weights of 0 or more"),
    "data.max_docs": _POSITIVE,
    "data.fraction": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "data.min_chars": _NOT_NEGATIVE,
    "data.language": _choice("de", "en", "es", "fr", "it", "nl", "pt"),
    "data.dedup": _choice("none", "exact", "near"),
    "data.shard_bytes": _POSITIVE,
    "prepare.engine": _choice("local", "ray"),
    "prepare.workers": _POSITIVE,
    "prepare.task": _NOT_NEGATIVE,
    "optim.name": _choice("adamw", "muon"),
    "optim.lr": _POSITIVE,
    "optim.adamw_lr": _POSITIVE,
    "optim.momentum": _SHARE,
    "optim.schedule": _choice("cosine", "linear", "wsd", "constant", "plateau"),
    "optim.decay_fraction": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "optim.patience": _POSITIVE,
    "optim.plateau_factor": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "optim.min_lr_ratio": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "optim.warmup_steps": _NOT_NEGATIVE,
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.beta1": _SHARE,
    "optim.beta2": _SHARE,
    "optim.ema_decay": _SHARE,
    "optim.skip_bad_steps": _NOT_NEGATIVE,
    "trainer.accelerator": _choice("auto", "cpu", "gpu", "mps"),
    "trainer.devices": (
        lambda value: value == "auto" or (isinstance(value, int) and value > 0),
        "a count above 0, or auto",
    ),
    "trainer.compile": (lambda value: value in (True, False, "auto"), "true, false or auto"),
    "trainer.num_nodes": _POSITIVE,
    "trainer.max_steps": _POSITIVE,
    "trainer.val_check_interval": _POSITIVE,
    "trainer.log_every_n_steps": _POSITIVE,
    "trainer.gradient_clip_val": _POSITIVE,
    "trainer.threads": (lambda value: 0 < value <= MAX_THREADS, f"above 0, at most {MAX_THREADS}"),
    "sample.max_new_tokens": _NOT_NEGATIVE,
    "sample.temperature": _NOT_NEGATIVE,
    "sample.show": (lambda value: value in (True, False, "auto"), "true, false or auto"),
    "logger": (
        lambda value: all(
            isinstance(settings, dict) and (name in LOGGERS or "_target_" in settings)
            for name, settings in value.items()
        ),
        "tensorboard, csv or wandb, each with its settings, or NAME with a _target_: a logger of Lightning's",
    ),
}


# Of the data's settings, those of a mixture as a whole; data=mix takes the others for each of `data.corpora`.
_WHOLE = {
    *("name", "dir", "mix", "corpora", "stream", "subword_dropout", "doc_mask", "overfit"),
    *("batch_size", "batch_schedule", "micro_batch_size"),
}
_CORPUS = [item.name for item in fields(DataConfig) if item.name not in _WHOLE]
Need = tuple[Callable[["Config"], bool], str]
_MUON: Need = (lambda c: c.optim.name == "muon", "optim=muon")
_DOWNLOAD: Need = (lambda c: c.data.download is not None and c.data.path is None, "data.download=NAME and no data.path")
_NAMED: Need = (
    lambda c: c.data.file is not None and c.data.path is None and c.data.download is None,
    "data.file=NAME, and neither data.path nor data.download",
)
_LAYOUTS: Need = (
    lambda c: bool(c.data.layouts) and c.data.path is None and c.data.download is None,
    "data.layouts, and neither data.path nor data.download",
)
# A setting that changes nothing without another one: when it holds, and what that other one is.
NEEDS: dict[str, Need] = {
    "model.rope_base": (lambda c: c.model.position == "rotary", "model.position=rotary"),
    "model.init_std": (lambda c: c.init_from is None, "a model of its own: init_from brings the weights"),
    "tokenizer.path": (lambda c: c.tokenizer.kind == "gpt2", "tokenizer=gpt2"),
    "data.file": _NAMED,
    "data.url": _NAMED,
    "data.sha256": _NAMED,
    "data.must_contain": _NAMED,
    "data.layouts": _LAYOUTS,
    "data.published": _LAYOUTS,
    "data.download": (lambda c: c.data.path is None, "a named corpus: leave data.path out"),
    "data.downloads": _DOWNLOAD,
    "data.connections": _DOWNLOAD,
    "data.documents": (
        lambda c: _DOWNLOAD[0](c) and c.data.max_docs is None,
        "data.download=NAME and no data.max_docs",
    ),
    "data.corpora": (lambda c: c.data.mix is not None, "data=mix and data.mix"),
    "data.subset_seed": (lambda c: c.data.fraction < 1, "data.fraction below 1"),
    "optim.adamw_lr": _MUON,
    "optim.momentum": _MUON,
    "optim.min_lr_ratio": (lambda c: c.optim.schedule != "constant", "an optim.schedule that falls"),
    "optim.decay_fraction": (lambda c: c.optim.schedule == "wsd", "optim.schedule=wsd"),
    "optim.plateau_factor": (lambda c: c.optim.schedule == "plateau", "optim.schedule=plateau"),
    "sample.show": (lambda c: c.sample.max_new_tokens > 0, "sample.max_new_tokens above 0"),
    "sample.temperature": (lambda c: c.sample.max_new_tokens > 0, "sample.max_new_tokens above 0"),
    "prepare.task": (lambda c: False, "`python -m llm_from_scratch prepare`, which makes one part"),
}


def check_given(config: "Config", given: Iterable[str]) -> None:
    """Refuses a setting that was asked for and that would change nothing.

    Args:
        config: the whole configuration.
        given: the names of the settings that the user wrote, groups left out. One at its default asks for nothing.

    Raises:
        UserError: in one line, with the setting that it needs.
    """
    values, defaults = dict(leaves(config)), dict(leaves(Config()))
    given = list(given)
    for key in given:
        name = next((name for name in values if key == name or key.startswith(f"{name}.")), None)
        if name is None or (name == key and values[key] == defaults[key]):
            continue
        shown = f"{key}={values[key]}" if name == key else key
        group, _, inner = key.partition(".")
        if group == "data" and config.data.mix is not None and inner.split(".")[0] in _CORPUS:
            raise UserError(f"{shown}: data=mix takes it for each corpus: write data.corpora.NAME.{inner}")
        if name == "data.corpora":
            _check_corpora(config.data.corpora, key)
        if key == "task" and "run_dir" in given:
            raise UserError(f"{shown}: names a folder below outputs/, and run_dir names another: leave one of them out")
        holds, need = NEEDS.get(name, (None, ""))
        if holds is not None and not holds(config):
            raise UserError(f"{shown}: changes nothing without {need}; leave it out, or change that")


def _check_corpora(corpora: dict[str, Any], key: str) -> None:
    """Refuses what `data.corpora` has no use for: how batches are made is one for the whole mixture."""
    asked = key.removeprefix("data.corpora").removeprefix(".").split(".")
    defaults = {item.name: item.default for item in fields(DataConfig)} | {"name": None}
    for corpus, settings in corpora.items():
        for inner, value in settings.items() if asked[0] in ("", corpus) else ():
            if inner in _CORPUS or inner == "name" or value == defaults.get(inner):
                continue
            raise UserError(
                f"data.corpora.{corpus}.{inner}={value}: is of the whole mixture: write data.{inner}={value}"
            )


def keys(schema: type) -> list[str]:
    """Every setting of a schema by its dotted name, groups before their members."""
    found = []
    for item in fields(schema):
        found.append(item.name)
        if isinstance(item.type, type) and is_dataclass(item.type):
            found += [f"{item.name}.{inner}" for inner in keys(item.type)]
    return found


def unknown(key: str, known: list[str]) -> str:
    """One line for a setting that does not exist, with what does its work here or the nearest one that does."""
    known_elsewhere = mistakes.answer(key, "train" if "trainer" in known else "generate")
    if known_elsewhere and key.split(".")[-1] not in {name.split(".")[-1] for name in known}:
        return f"{key}: there is no such setting here: {known_elsewhere}"
    # The last part decides: `optim.learning_rate` and `model.lr` are both about `optim.lr`, rather than about their groups.
    by_last_part = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    nearest = by_last_part or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"{key}: there is no such setting" + (f"; did you mean {nearest[0]}?" if nearest else "; see --help")


def check(values: Mapping[str, Any] | DictConfig, schema: type[T]) -> T:
    """Plain values -> an instance of `schema`.

    Raises:
        UserError: in one line, for an unknown key, a wrong type or an impossible value.
    """
    if isinstance(values, DictConfig):
        values = OmegaConf.to_container(values, resolve=True)  # type: ignore[assignment]
    typed = OmegaConf.structured(schema)
    for item in fields(schema):  # type: ignore[arg-type]
        if is_dataclass(item.type):
            OmegaConf.set_readonly(typed[item.name], False)  # a frozen dataclass would refuse the merge
    try:
        merged = OmegaConf.merge(typed, as_config(values))
        for key in PATHS:
            if isinstance(path := OmegaConf.select(merged, key), str) and path.startswith("~"):
                OmegaConf.update(merged, key, escape(expanded(path)))
        config: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except ConfigKeyError as error:
        raise UserError(unknown(error.full_key or str(error.key), keys(schema))) from None
    except (
        OmegaConfBaseException,
        TypeError,
    ) as error:  # a setting of several types makes OmegaConf hash what it is given
        # Of a list's items OmegaConf names the place in the list alone.
        key = getattr(error, "full_key", None) or _refused(typed, values)
        where = f"{key}: " if key else ""
        raise UserError(
            where + re.sub(r" for field of type| of type '\w+' ", " ", str(error).splitlines()[0])[:300]
        ) from None
    for key, value in leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value}: must be a finite number")
        if isinstance(value, str) and not value.strip() and key != "prompt":
            raise UserError(
                f"{key}: the value is empty; leave the setting out to keep its default, or write {key}=null for none"
            )
        meant = mistakes.meant(key, str(value))
        if meant:
            raise UserError(f"{key}={value}: write {key}={meant}")
        valid, words = RANGES.get(key, (None, ""))
        try:
            right = valid is None or value is None or valid(value)
        except (TypeError, AttributeError):  # what stands in a list or a mapping may be anything
            right = False
        if not right:
            raise UserError(f"{key}={value}: must be {words}")
    return config


def _refused(typed: DictConfig, values: Mapping[str, Any]) -> str:
    """The setting that its type refuses, found by trying them one by one; "" where it is none alone."""
    for group, value in values.items():
        for name, one in value.items() if isinstance(value, Mapping) else ():
            try:
                OmegaConf.merge(typed, as_config({group: {name: one}}))
            except (OmegaConfBaseException, TypeError):
                return f"{group}.{name}"
    return ""


def as_config(values: Any) -> DictConfig:
    """Plain values -> OmegaConf's, with a `${` of the user's text kept from being read as an interpolation."""
    return OmegaConf.create(_escaped(values))


def _escaped(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _escaped(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_escaped(value) for value in values]
    return escape(values) if isinstance(values, str) else values


def escape(text: str) -> str:
    """OmegaConf's own escape of `${`: each backslash before it doubled, and one more."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def leaves(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting of a checked configuration with its value, by its dotted name."""
    found: list[tuple[str, Any]] = []
    for item in fields(config):
        value = getattr(config, item.name)
        found += leaves(value, f"{prefix}{item.name}.") if is_dataclass(value) else [(prefix + item.name, value)]
    return found


def save_config(config: Config, path: Path) -> None:
    """Writes plain values as YAML, without interpolations or objects, between HEADER and the checksum."""
    content = HEADER + OmegaConf.to_yaml(OmegaConf.structured(config))
    write_file(path, f"{content}{FOOTER}{hashlib.sha256(content.encode()).hexdigest()}\n")


def read_config(path: Path) -> dict[str, Any]:
    """The plain values of a YAML file.

    Raises:
        UserError: in one line, where it cannot be read or its checksum does not hold.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_CONFIG + 1)
        if len(content) > MAX_CONFIG:
            raise UserError(f"longer than {MAX_CONFIG} bytes")
        _verify(content)
        text = content.decode()
        # `save_config` writes no aliases, and twelve lines of them can stand for terabytes; nesting takes quadratic time.
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise UserError("it holds an alias")
            if depth > 20 or (isinstance(event, yaml.ScalarEvent) and event.value.count("${") > 100):
                raise UserError("nested too deep")
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is no run folder: it has no {path.name}; name one of outputs/*/*, or last"
        ) from None
    except Exception as error:  # YAML parsers raise a whole family of errors
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings")
    return values  # type: ignore[return-value]


def _verify(content: bytes) -> None:
    """Holds a file that `save_config` wrote against its last line; version 0.1 wrote no such line.

    The ends of lines do not count: git, an archive or an editor may have made them CRLF, or left the last one out.
    """
    content = content.replace(b"\r\n", b"\n")
    head, mark, last = content.rpartition(FOOTER.encode())
    if not mark and not content.startswith(HEADER.encode()):
        return
    if last.decode("ascii", "replace").removesuffix("\n") != hashlib.sha256(head).hexdigest() or not mark:
        raise UserError(
            "its bytes have changed since they were written: restore it from a copy, and give changes as settings behind"
            " resume=RUN; or, if the change is meant, delete its first and its last line"
        )


# Lightning's callbacks that write no files of their own and call no functions that a setting names.
HARMLESS = {
    f"lightning.pytorch.callbacks.{name}"
    for name in ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelSummary", "Timer")
}


def refuse_foreign_code(config: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses what the settings of a run folder, which may be a stranger's, would run or write on resume.

    Callbacks and loggers go on where they are HARMLESS, or of a module of the user's own: no library's, and none of the
    run folder.

    Args:
        config: the settings of the resumed run.
        given: those that the user's own configuration and command line give; what is the same there is the user's.

    Raises:
        UserError: in one line, with what to give again.
    """
    objects = [
        *(("callbacks", name, settings) for name, settings in config["callbacks"].items()),
        *(("logger", name, settings) for name, settings in config["logger"].items()),
    ]
    for group, name, settings in objects:
        if settings == given[group].get(name):
            continue
        targets = list(_targets(settings))
        if group == "logger" and name in LOGGERS and not targets:
            _refuse_settings(name, settings, (given.get("logger") or {}).get(name) or {})
        elif len(targets) != 1 or not (targets[0] in HARMLESS or _users_own(targets[0], Path(str(config["run_dir"])))):
            raise UserError(
                f"{group}.{name}: a run folder may be a stranger's, and this would run {', '.join(map(str, targets))}:"
                f" if that is yours, give the whole of it again: +{group}.{name}={{_target_: …}}"
            )
    for name, value in config["trainer"]["extra"].items():
        plain = isinstance(value, bool | int | float | None) or re.fullmatch(r"[\d:]+|warn", str(value))  # a time limit
        if value != given["trainer"]["extra"].get(name) and not plain:
            raise UserError(
                f"trainer.extra.{name}: a run folder may be a stranger's: if {value!r:.100} is yours, give it again"
            )


def _refuse_settings(logger: str, settings: Any, given: Any) -> None:
    """Refuses settings of one of LOGGERS that could write elsewhere or send something away, where they are not given again."""
    harmless = LOGGERS[logger]
    for key, value in (settings or {}).items():
        if harmless is not None and key not in harmless and (key not in given or given[key] != value):
            raise UserError(
                f"logger.{logger}.{key}: a run folder may be a stranger's: if {value!r:.100} is yours, give it again:"
                f" logger={logger} +logger.{logger}.{key}=…"
            )


def _users_own(target: Any, run: Path) -> bool:
    """Whether an object is of a module that the user wrote: outside of Python's own, of the installed and of this package."""
    top = str(target).partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)  # which runs nothing
    except (ImportError, ValueError):
        return False
    if spec is None or not spec.has_location or spec.origin is None or top == "llm_from_scratch":
        return False
    places = [*map(Path, sysconfig.get_paths().values()), run]
    return not any(Path(spec.origin).resolve().is_relative_to(place.resolve()) for place in places)


def _targets(values: Any) -> Iterator[Any]:
    """The `_target_` of every object that Hydra would make of nested settings."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield values["_target_"]
        values = list(values.values())
    for value in values if isinstance(values, list) else []:
        yield from _targets(value)


def read_run(run: Path) -> dict[str, Any]:
    """The settings of a run folder, from its config.yaml.

    Raises:
        UserError: in one line, where it is missing, damaged or cut off, or leads out of the folder.
    """
    path = run / "config.yaml"
    refuse_links(path, run)
    values = read_config(path)
    missing = sorted(GROUPS - set(values))
    if missing:
        raise UserError(f"{path}: cut off, it has no {', '.join(missing)}: restore it from a copy")
    if isinstance(values["logger"], list):  # up to version 0.1: names alone
        values["logger"] = {str(name): {} for name in values["logger"]}
    return values
