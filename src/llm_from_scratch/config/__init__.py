"""The typed schema of every setting, with its unit and its range.

    model        the architecture
    data         tokenizer, corpus, selection, storage, batches, preparation
    training     optimizer, loss, fine-tuning, trainer, samples, loggers
    generation   sampling, generate.py
    sweep        the sweeper of sweep=optuna

No module here imports torch: a mistake in a setting is reported within a second. The comment at a
field, behind it or above it, is its explanation in docs/settings.md.
"""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from llm_from_scratch import ranges
from llm_from_scratch.config.data import (
    FOREIGN_KINDS,
    BatchConfig,
    ConversationConfig,
    CorpusConfig,
    DataConfig,
    DownloadConfig,
    PrepareConfig,
    SelectionConfig,
    StorageConfig,
    TokenizerConfig,
)
from llm_from_scratch.config.generation import GenerateConfig, SamplingConfig
from llm_from_scratch.config.model import MAX_SHARING_LAYERS, ROPE_SCALING, ModelConfig, check_rope_scaling
from llm_from_scratch.config.sweep import SweeperConfig
from llm_from_scratch.config.training import (
    FAILURE,
    LINEAR_LAYERS,
    LOGGERS,
    FinetuneConfig,
    LossConfig,
    OptimConfig,
    SampleConfig,
    TrainerConfig,
)
from llm_from_scratch.errors import UserError
from llm_from_scratch.ranges import ranged

__all__ = [
    "FAILURE", "FOREIGN_KINDS", "LINEAR_LAYERS", "LOGGERS", "MAX_SHARING_LAYERS", "ROPE_SCALING", "BatchConfig", "Config",
    "ConversationConfig", "CorpusConfig", "DataConfig", "DownloadConfig", "FinetuneConfig", "GenerateConfig", "LossConfig",
    "ModelConfig", "OptimConfig", "PrepareConfig", "SampleConfig", "SamplingConfig", "SelectionConfig", "StorageConfig",
    "SweeperConfig", "TokenizerConfig", "TrainerConfig", "check_rope_scaling", "keys", "leaves", "walk",
]  # fmt: skip


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
    loss: LossConfig = field(default_factory=LossConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    # texts that are validated and not trained on, so that what is forgotten is seen: name -> settings as of `data`
    watch: dict[str, Any] = field(default_factory=dict, metadata={ranges.KEY: ranges.CORPORA})
    # tensorboard | csv | wandb | mlflow -> its settings, or a name -> {_target_: a Lightning logger, its arguments}
    logger: dict[str, Any] = field(default_factory=dict, metadata={ranges.KEY: ranges.loggers(LOGGERS)})
    # live: a page of the run | explain: images of its inside | name -> {_target_: a Lightning callback, its arguments}
    callbacks: dict[str, Any] = field(default_factory=dict)

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
        if self.data.stream == "fresh" and self.data.level is None:
            raise UserError("data.stream=fresh tells new stories for every step: use data=tales, or data.stream=tokens")
        largest = max((size for pair in self.data.batch_schedule or [] for size in pair[1:]), default=0)
        if largest > self.data.batch_size:
            raise UserError(
                f"data.batch_schedule has {largest} sequences, more than data.batch_size={self.data.batch_size}: change it too, or"
                " use data.batch_schedule=null"
            )
        if self.data.overfit and self.data.batch_schedule:
            raise UserError("data.overfit=true learns one batch of one size: use data.batch_schedule=null")
        self._check_loss()
        self._check_finetune()
        if self.trainer.strategy == "fsdp" and self.optim.name == "custom":
            raise UserError("optim.name=custom needs whole weights, which trainer=fsdp shares out: use trainer=ddp")

    def _check_loss(self) -> None:
        """Checks that loss=dpo has pairs of answers and a model to start from."""
        if self.loss.name != "dpo":
            return
        if self.data.format != "preferences":
            raise UserError("loss=dpo: is of pairs of answers: add data=preferences data.path=FILE")
        if self.init_from is None:
            raise UserError("loss=dpo: there is no model whose answers are to change: name one, init_from=MODEL")
        if self.trainer.compile is True:
            raise UserError("trainer.compile=true: loss=dpo has other lengths at each step: leave it out")

    def _check_finetune(self) -> None:
        method = self.finetune.method
        if method is not None and self.init_from is None:
            raise UserError(f"finetune={method}: there is no model to fine-tune: name one, init_from=MODEL")
        if method == "lora" and self.init_from is not None and self.init_from.endswith((".pt", ".pth", ".ckpt")):
            raise UserError(
                f"finetune=lora: adapters need a model with a tokenizer, and init_from={self.init_from} is weights"
            )


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
