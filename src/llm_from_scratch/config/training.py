"""Settings of the training: optimizer, loss, fine-tuning, trainer, samples, loggers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_from_scratch import ranges
from llm_from_scratch.data.clean import clean_typed
from llm_from_scratch.ranges import BELOW_HALF, NOT_NEGATIVE, PART, PART_OR_ALL, POSITIVE, SHARE, SWITCH, choice, ranged

FAILURE = "error.txt"  # in the folder of a sweep's run: why it failed, in one line
# The loggers that are made here, with those of their settings that a stranger's run folder may have changed: they write
# nowhere else and run nothing. None stands for all of a logger's settings.
LOGGERS: Mapping[str, frozenset[str] | None] = {
    "tensorboard": None,
    "csv": None,
    "wandb": frozenset({"project", "entity", "name", "group", "tags", "notes", "job_type", "offline", "mode"}),
    "mlflow": frozenset({"experiment_name", "run_name", "tags"}),
}
# The linear layers of a block, by the ends of their names.
LINEAR_LAYERS = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.out")


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
class LossConfig:
    # cross_entropy: of the next token | dpo: of pairs of answers, of which one is preferred (data=preferences)
    name: str = ranged("cross_entropy", choice("cross_entropy", "dpo"))
    # dpo: reward a nat by which an answer is likelier than at the start; a larger one keeps the model nearer to it
    beta: float = ranged(0.1, POSITIVE)
    label_smoothing: float = ranged(0.0, BELOW_HALF)  # dpo: the share of the pairs that is labelled the wrong way round
    # dpo: nats a token of an answer rather than of all its tokens; beta is then 2 to 10
    length_normalised: bool = False


@dataclass(kw_only=True)
class FinetuneConfig:
    # of a model that init_from names: full: all weights | lora: adapters beside frozen weights (Hu et al. 2021)
    # | head: the matrix before the logits alone | null: all weights, also of a new model
    method: str | None = ranged(None, choice("full", "lora", "head"))
    # modules that keep their weights, by name or glob: token_embedding, blocks.0, blocks.[0-5], blocks.*.attention
    freeze: list[str] = field(default_factory=list)
    # the learning rate of a layer is that of the next one times this; optim.lr is the last layer's; null: one for all
    layer_decay: float | None = ranged(None, PART)
    rank: int = ranged(8, POSITIVE)  # lora: columns of an adapter's matrices
    alpha: float = ranged(16.0, POSITIVE)  # lora: an adapter counts alpha / rank
    dropout: float = ranged(0.0, SHARE)  # lora: probability, on the input of an adapter
    # lora: linear layers of the blocks, by the ends of their names, by whole names or by globs of these
    targets: list[str] = field(default_factory=lambda: list(LINEAR_LAYERS))


@dataclass(kw_only=True)
class TrainerConfig:
    accelerator: str = ranged("auto", choice("auto", "cpu", "gpu", "mps"))  # auto | cpu | gpu | mps
    devices: int | str = ranged(1, ranges.DEVICES)  # devices of each machine; auto: all of them
    num_nodes: int = ranged(1, POSITIVE)  # machines, each with `devices` devices
    strategy: str = "auto"  # auto | ddp | fsdp, or another of Lightning's names
    # auto: bfloat16 over float32 weights on GPUs that have it, and on processors that multiply it faster (AMX, AVX512-BF16)
    # for models of model.n_embd=256 or more, else float32; or Lightning's names
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
