"""The typed schema of every setting, with its unit and its range.

This module does not import torch: a mistake in a setting is reported within a second. The comment
at a field, behind it or above it, is its explanation in docs/settings.md.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from llm_from_scratch import ranges
from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.errors import UserError
from llm_from_scratch.ranges import NOT_NEGATIVE, PART, PART_OR_ALL, POSITIVE, SHARE, SWITCH, choice, ranged

T = TypeVar("T")
_MODEL_CHOICES = {
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "position": ("rotary", "learned", "sinusoidal"),
    "activation": ("relu", "gelu", "gelu_erf", "relu2", "swiglu"),
}
# Where blocks are shared, the size of the weights bounds nothing: a folder of 100 KB would run for minutes.
MAX_SHARING_LAYERS = 1024
# Kinds of tokenizer that come with a model trained elsewhere; its folder holds them
FOREIGN_KINDS = ("bytes", "sentencepiece")
FAILURE = "error.txt"  # in the folder of a sweep's run: why it failed, in one line
# The loggers that are made here, with those of their settings that a stranger's run folder may have changed: they write
# nowhere else and run nothing. None stands for all of a logger's settings.
LOGGERS: Mapping[str, frozenset[str] | None] = {
    "tensorboard": None,
    "csv": None,
    "wandb": frozenset({"project", "entity", "name", "group", "tags", "notes", "job_type", "offline", "mode"}),
}


# The keys of `model.rope_scaling` beside rope_type, named as in transformers' configurations.
ROPE_SCALING = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def check_rope_scaling(scaling: Mapping[str, Any]) -> None:
    """Checks the keys and values of `model.rope_scaling` against its rope_type.

    Raises:
        UserError: when a key is missing or unknown, or a value is out of range.
    """
    kind = scaling.get("rope_type") if isinstance(scaling, Mapping) else None
    if not isinstance(kind, str) or kind not in ROPE_SCALING:
        raise UserError(f"model.rope_scaling={scaling}: rope_type must be one of {', '.join(ROPE_SCALING)}")
    wanted = {"rope_type", *ROPE_SCALING[kind]}
    if set(scaling) != wanted:
        raise UserError(f"model.rope_scaling={scaling}: {kind} takes rope_type, {', '.join(ROPE_SCALING[kind])}")
    for key in ROPE_SCALING[kind]:
        value, least = scaling[key], 1 if key in ("factor", "original_max_position_embeddings") else 0
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and least <= value < math.inf and value > 0):
            raise UserError(
                f"model.rope_scaling.{key}={value} must be a finite number {'of 1 or more' if least else 'above 0'}"
            )
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise UserError(
            f"model.rope_scaling.low_freq_factor={scaling['low_freq_factor']} must be below high_freq_factor="
            f"{scaling['high_freq_factor']}"
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model's architecture, without the vocabulary size, which the tokenizer sets.

    The defaults are a modern GPT: RMSNorm, rotary positions, SwiGLU. Raises UserError.
    """

    block_size: int = 128  # the longest context, tokens
    n_layer: int = 4  # depth: blocks that a token passes through
    n_unique_layer: int | None = None  # distinct blocks, cycled to fill the depth (Lan et al. 2019); null: n_layer
    n_head: int = 4  # query heads
    n_kv_head: int | None = None  # key/value heads, each shared by n_head / n_kv_head queries; null: n_head
    n_embd: int = 128  # width, channels
    head_size: int | None = None  # channels of a head; null: n_embd / n_head
    n_inner: int | None = None  # width inside the feed-forward; null: 4C, for SwiGLU 8C/3 rounded up to 64s
    norm: str = "rmsnorm"  # layernorm | rmsnorm
    norm_position: str = "pre"  # pre: x + f(norm(x)), and a final norm | post: norm(x + f(x))
    position: str = "rotary"  # rotary | learned | sinusoidal
    activation: str = "swiglu"  # relu | gelu (tanh form) | gelu_erf (exact) | relu2 (squared ReLU) | swiglu
    qk_norm: bool = True  # normalise each head's queries and keys
    bias: bool = False  # in every linear layer but the head, and in LayerNorm
    qkv_bias: bool = False  # in the product that makes queries, keys and values alone (Qwen2)
    tie_weights: bool = True  # the head shares the token embedding (Press & Wolf 2017)
    dropout: float = 0.0  # probability, after the embedding, on attention weights and on each residual branch
    rope_base: float = 10_000.0  # rotary wavelengths run from 2 pi to 2 pi rope_base positions
    # As transformers writes it; llama3: {…, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings}
    rope_scaling: dict[str, Any] | None = None  # longer contexts: {rope_type: linear, factor: 4}, or llama3; null: none
    norm_eps: float = 1e-6  # added to the variance (layernorm) or the mean square (rmsnorm) before the root
    init_std: float | None = None  # standard deviation of embeddings and matrices at the start; null: 1/sqrt(C)

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_heads()
        self._check_layers()
        self._check_positions()
        if self.bias and self.qkv_bias:
            raise UserError("model.qkv_bias=true changes nothing beside model.bias=true: leave one of them out")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout} must be a probability from 0 to below 1")

    def _check_sizes(self) -> None:
        optional = ("n_unique_layer", "n_kv_head", "n_inner", "head_size")
        for key in ("block_size", "n_layer", "n_head", "n_embd", *optional):
            value = getattr(self, key)
            if not ((isinstance(value, int) and value >= 1) or (value is None and key in optional)):
                also = " or null" if key in optional else ""
                raise UserError(f"model.{key}={value} must be a whole number of 1 or more{also}")
        for key, choices in _MODEL_CHOICES.items():
            value = str(getattr(self, key))
            if value not in choices:
                nearest = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.0)[0]
                raise UserError(f"model.{key}={value} is unknown: use {nearest} (one of {', '.join(choices)})")
        for key in ("rope_base", "norm_eps", "init_std"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"model.{key}={value} must be a finite number above 0")

    def _check_heads(self) -> None:
        if self.head_size is None and self.n_embd % self.n_head:
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

    def _check_layers(self) -> None:
        if self.n_layer > max(self.unique_layers, MAX_SHARING_LAYERS):
            raise UserError(
                f"model.n_layer={self.n_layer}: more than {MAX_SHARING_LAYERS} layers that share their weights: use fewer"
            )
        if self.unique_layers > self.n_layer:
            raise UserError(
                f"model.n_unique_layer={self.n_unique_layer} exceeds model.n_layer={self.n_layer}: use at most that, or null"
            )

    def _check_positions(self) -> None:
        if self.position == "rotary" and self.head_dim % 2:
            if self.head_size is not None:
                raise UserError(
                    f"model.head_size={self.head_size} is odd: rotary positions need an even one, "
                    "change it or use model.position=learned"
                )
            raise UserError(
                f"model.n_embd={self.n_embd} / model.n_head={self.n_head} makes heads of odd size {self.head_dim}: "
                "rotary positions need an even one, change either or use model.position=learned"
            )
        if self.position == "sinusoidal" and self.n_embd % 2:
            raise UserError(f"model.n_embd={self.n_embd} is odd: sinusoidal positions need an even width")
        if self.rope_scaling is not None:
            if self.position != "rotary":
                raise UserError(
                    f"model.rope_scaling={self.rope_scaling} needs model.position=rotary: set it to null, or change that"
                )
            check_rope_scaling(self.rope_scaling)

    @property
    def head_dim(self) -> int:
        """Returns the channels of a head: `head_size`, or n_embd / n_head by default."""
        return self.head_size or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def unique_layers(self) -> int:
        return self.n_unique_layer or self.n_layer

    @property
    def inner_size(self) -> int:
        """Returns the width inside the feed-forward, in channels: `n_inner`, or its default."""
        # SwiGLU has three matrices instead of two: at 8C/3 it costs what 4C does (Shazeer 2020),
        # and multiples of 64 suit the hardware.
        if self.n_inner:
            return self.n_inner
        return 64 * math.ceil(8 * self.n_embd / 3 / 64) if self.activation == "swiglu" else 4 * self.n_embd


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
    micro_batch_size: int | None = ranged(
        None, POSITIVE
    )  # sequences a device at a time; null: as many as fit into memory
    # tokens: chunks of prepared shards; text: byte ranges tokenized as they are read
    stream: str = ranged("tokens", choice("tokens", "text"))
    # stream=text: the probability with which a merge of tokenizer=bpe is left out, in training
    subword_dropout: float = ranged(0.0, SHARE)
    doc_mask: bool = False  # attention stays inside a document; positions go on counting
    overfit: bool = False  # every step sees the batch of step 0, to be learned by heart


# Dataclasses take the fields of the last base first: the corpus comes first in files and tables.
@dataclass(kw_only=True)
class DataConfig(BatchConfig, StorageConfig, SelectionConfig, CorpusConfig):
    """The group `data`, with flat keys; a function that needs one part of it takes a base class."""


@dataclass(kw_only=True)
class PrepareConfig:
    """The processes that prepare a large corpus; the prepared bytes do not depend on them."""

    # local: processes of this machine; ray: an existing cluster (the extra `cluster`)
    engine: str = ranged("local", choice("local", "ray"))
    workers: int | None = ranged(None, POSITIVE)  # processes, of less than 1 GB each; null: one a core
    task: int | None = ranged(None, NOT_NEGATIVE)  # prepare this part alone, from 0: for the tasks of a SLURM array


@dataclass(kw_only=True)
class OptimConfig:
    # adamw | muon: Muon for the matrices within blocks, AdamW for the rest | custom: the class that optim.custom names
    name: str = ranged("adamw", choice("adamw", "muon", "custom"))
    lr: float = ranged(1e-3, POSITIVE)  # the peak, after the warm-up
    adamw_lr: float | None = ranged(None, POSITIVE)  # muon: the peak of what AdamW trains; null: lr
    momentum: float = ranged(0.95, SHARE)  # muon: Nesterov's, of the matrices
    # cosine | linear | wsd | constant | plateau, after the warm-up
    schedule: str = ranged("cosine", choice("cosine", "linear", "wsd", "constant", "plateau"))
    # the learning rate at the end, as a share of the peak; plateau: training stops rather than go below
    min_lr_ratio: float = ranged(0.1, ranges.NONE_TO_ALL)
    warmup_steps: int = ranged(100, NOT_NEGATIVE)  # optimizer steps of linear warm-up
    # wsd: the part of all steps, the last one, in which the learning rate falls
    decay_fraction: float = ranged(0.2, PART_OR_ALL)
    # validations in a row without a lower loss, then training stops (plateau: the learning rate falls first)
    patience: int | None = ranged(None, POSITIVE)
    plateau_factor: float = ranged(0.5, PART)  # plateau: what the learning rate is multiplied by
    weight_decay: float = ranged(0.1, NOT_NEGATIVE)  # on matrices alone
    beta1: float = ranged(0.9, SHARE)  # AdamW: decay, a step, of the mean of the gradients
    beta2: float = ranged(0.95, SHARE)  # AdamW: decay, a step, of the mean of their squares
    # of an average of the weights, a step; it is what is validated and kept; null: none
    ema_decay: float | None = ranged(None, SHARE)
    # batches with a NaN or infinite loss or gradient to pass over before the run stops
    skip_bad_steps: int = ranged(0, NOT_NEGATIVE)
    custom: dict[str, Any] = field(default_factory=dict)  # {_target_: an optimizer of torch's kind, its arguments}


@dataclass(kw_only=True)
class TrainerConfig:
    accelerator: str = ranged("auto", choice("auto", "cpu", "gpu", "mps"))  # auto | cpu | gpu | mps
    devices: int | str = ranged(1, ranges.DEVICES)  # devices of each machine; auto: all of them
    num_nodes: int = ranged(1, POSITIVE)  # machines, each with `devices` devices
    strategy: str = "auto"  # auto | ddp | fsdp, or another of Lightning's names
    # auto: bfloat16 over float32 weights on GPUs that have it, else float32; or Lightning's names
    precision: str = "auto"
    # true | false | auto: where the time it saves in the run exceeds its own
    compile: bool | str = ranged("auto", SWITCH)
    # activations are computed again in the backward pass: less memory, a third more time
    activation_checkpointing: bool = False
    max_steps: int = ranged(1000, POSITIVE)  # optimizer steps
    val_check_interval: int = ranged(250, POSITIVE)  # optimizer steps from one validation and checkpoint to the next
    # optimizer steps from one point of the training curves to the next
    log_every_n_steps: int = ranged(10, POSITIVE)
    # the largest global norm of the gradients; null: no clipping
    gradient_clip_val: float | None = ranged(1.0, POSITIVE)
    progress: bool = True  # a bar in a terminal, plain lines elsewhere
    threads: int | None = ranged(None, ranges.THREADS)  # CPU threads of torch; null: torch decides
    profile: bool = False  # a profiler trace for TensorBoard
    extra: dict[str, Any] = field(default_factory=dict)  # further arguments of lightning.Trainer, by their names


@dataclass(kw_only=True)
class SampleConfig:
    prompt: str | None = None  # what the samples of a run continue; null: the first words of the validation split
    max_new_tokens: int = ranged(100, NOT_NEGATIVE)  # tokens; 0: no samples
    temperature: float = ranged(0.8, NOT_NEGATIVE)  # of the samples; 0: always the likeliest token
    # true | false | auto: on standard error as they come, where that is a terminal
    show: bool | str = ranged("auto", SWITCH)

    def __post_init__(self) -> None:
        # samples.md and the last words show what the model reads
        self.prompt = self.prompt and clean_typed(self.prompt)


@dataclass(kw_only=True)
class Config:
    """The config of one training run, as `config.yaml` in its run folder holds it."""

    task: str = "oz"  # names the folder of the run: outputs/TASK/…
    seed: int = ranged(1337, ranges.SEED)  # of the weights, the order of the data, dropout and the samples
    run_dir: str = "outputs"  # the folder of the run; a sweep makes one for each of its runs below it
    resume: str | None = None  # a run folder to go on with
    # a model whose weights to start from: a run, a folder of Hugging Face, hub:OWNER/NAME, a .gguf file, smollm2; or
    # weights alone, a .pt or .ckpt of torch's
    init_from: str | None = None
    print_config: bool = False  # the composed configuration as a tree on standard error, before the run starts
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    # tensorboard | csv | wandb -> its settings, or a name -> {_target_: a Lightning logger, its arguments}
    logger: dict[str, Any] = field(default_factory=dict, metadata={ranges.KEY: ranges.loggers(LOGGERS)})
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
        if self.data.overfit and self.data.batch_schedule:
            raise UserError("data.overfit=true learns one batch of one size: use data.batch_schedule=null")
        for key, without in (
            (f"name={self.optim.name}", self.optim.name == "adamw"),
            ("ema_decay", self.optim.ema_decay is None),
        ):
            if self.trainer.strategy == "fsdp" and not without:
                raise UserError(f"optim.{key} needs whole weights, which trainer=fsdp shares out: use trainer=ddp")


@dataclass(kw_only=True)
class SamplingConfig:
    """Sampling of the next tokens, the length and number of the samples; raises UserError."""

    max_new_tokens: int = 256  # tokens a sample, at most
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int | None = None  # tokens kept; null: all
    top_p: float | None = None  # probability kept; null: all
    min_p: float | None = None  # share of the likeliest token's probability that a token needs; null: none
    repetition_penalty: float = 1.0  # above 1, tokens written before become less likely; 1: none
    num_samples: int = 1  # texts, written side by side in one batch
    # true | false | auto: on a CUDA GPU each token's step as one captured graph, else plain
    compile: bool | str = "auto"
    seed: int = 1337  # from 0 to 2^63 - 1; the same seed writes the same text (on a CPU)
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
    """The config of generate.py: the model, the prompt and the sampling."""

    run: str = "last"  # a run folder or last, the newest below outputs/; a .gguf file, a folder of transformers, hub:OWNER/NAME, smollm2
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


def keys(schema: type) -> list[str]:
    """Returns the dotted names of all settings of a schema, each group before its members."""
    found = []
    for item in fields(schema):
        found.append(item.name)
        if isinstance(item.type, type) and is_dataclass(item.type):
            found += [f"{item.name}.{inner}" for inner in keys(item.type)]
    return found


def leaves(config: Any) -> list[tuple[str, Any]]:
    """Returns (dotted name, value) of every setting of a checked config."""
    return [(key, value) for key, _, value in walk(config)]


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, "Field[Any]", Any]]:
    """Yields (dotted name, field, value) of every setting of a checked config."""
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from walk(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, item, value
