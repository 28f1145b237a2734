"""The LightningModule: one step of training and of validation.

Shapes: B batch, T time, V vocabulary. The batch, the dropout and the learning rate are functions of
(seed, step). So a checkpoint needs only the weights, the optimizer state and the step, and a
resumed run equals one that never stopped. Dividing a batch otherwise into micro-batches and
processes changes rounding alone; on a GPU it also changes the dropout of the attention weights.
"""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from llm_from_scratch.config import Config
from llm_from_scratch.data.sampler import sequences_before
from llm_from_scratch.evaluation.scoring import likelihood_row
from llm_from_scratch.kernels import IGNORE
from llm_from_scratch.lora import adapted_layers, kept_parameters, set_dropout_keys
from llm_from_scratch.model import GPT
from llm_from_scratch.training.averaging import WeightAverage
from llm_from_scratch.training.compilation import compile_model
from llm_from_scratch.training.data import Batch
from llm_from_scratch.training.internals import CURRENT_HOOK, count_micro_batches, count_optimizer_steps
from llm_from_scratch.training.optimizers import lr_factor, make_optimizer, row_keys, seed_step
from llm_from_scratch.training.sharded import Sharded, whole

log = logging.getLogger(__name__)
JUMP = 0.1  # relative change of the learning rate at a resume, above which the run warns


def sum_dtype(device: torch.device) -> torch.dtype:
    """Returns the type of a sum of millions of small terms: float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


class LanguageModel(lightning.LightningModule):
    """The LightningModule that trains a GPT to predict the next token.

    Args:
        model: the network.
        config: the settings of the run.
        val_bytes: UTF-8 bytes of the whole validation text, for bits per byte.
    """

    forward_method = "loss"  # of the model, the first that a step calls: it gathers sharded weights

    def __init__(self, model: GPT, config: Config, *, val_bytes: int) -> None:
        super().__init__()
        self.model = model
        self.loss: Callable[..., Tensor] = model.loss
        self.config, self.optim = config, config.optim
        self.max_steps, self.seed, self.val_bytes = config.trainer.max_steps, config.seed, val_bytes
        self.compiles = config.trainer.compile
        self.compiled = False
        self.adapted = bool(adapted_layers(model))
        # A checkpoint of adapters lacks the frozen weights, which come from their base.
        self.strict_loading = not self.adapted
        # The callbacks read these every few steps: reading them at every step would make the host
        # wait for the device.
        self.losses: list[Tensor] = []  # of the micro-batches of this optimizer step
        self.grad_norm: Tensor | None = None  # before clipping
        self.lr = 0.0  # of this optimizer step
        self.lr_scale = 1.0  # factor of the schedule's learning rate, lowered at plateaus
        self.average: WeightAverage | None = None
        self.val_row: dict[str, float] = {}  # of the average where there is one
        self.raw_row: dict[str, float] = {}  # of the weights themselves where there is an average
        # Number of batches with NaN or infinite values, and the step (1-based) of the last one.
        self.skipped = torch.zeros(2, dtype=torch.int64)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets the attribute for Lightning's running hook directly, fifty times a step.

        torch's own method would search all parameters and buffers for the name each time.
        """
        if name == CURRENT_HOOK:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def batches(self, step: int) -> float:
        """Returns the full batches (of `data.batch_size`) consumed before optimizer step `step`.

        The learning-rate schedule is a function of this number, which need not be whole.
        """
        data = self.config.data
        return sequences_before(step, data.batch_size, data.batch_schedule) / data.batch_size

    def configure_model(self) -> None:
        """Compiles the model where that pays; under `trainer=fsdp` shards its weights."""
        trainer = self.trainer
        if self.compiles:
            setting, self.compiles = self.compiles, False  # Lightning calls again for each stage
            batch_tokens = self.config.data.batch_size * self.config.model.block_size
            tokens = int(self.batches(self.max_steps) * batch_tokens) // trainer.world_size
            device, alone = trainer.strategy.root_device, trainer.world_size == 1
            self.compiled, self.loss = compile_model(self.model, setting, device=device, alone=alone, tokens=tokens)
        if isinstance(trainer.strategy, Sharded):
            trainer.strategy.shard(self.model, self.forward_method)
            self.loss = self.model.loss

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the logits: ids (B, T) -> (B, T, V)."""
        return self.model(ids)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss (nats a token) of one micro-batch.

        Its mean over the micro-batches and ranks of a step is the step's loss: the mean over all
        targets of the step.
        """
        micro = batch_idx % self.trainer.accumulate_grad_batches
        if micro == 0:
            self.losses = []
        keys = None
        adapter_dropout = self.adapted and self.config.finetune.dropout > 0
        if self.model.config.dropout or adapter_dropout:
            step, count = self.trainer.global_step, len(batch[0])
            # The sampler orders a step's sequences by (rank, micro-batch).
            first = (self.global_rank * self.trainer.accumulate_grad_batches + micro) * count
            keys = row_keys(self.seed, step, first, count, self.device)
            # For the dropout of the fused attention kernel on a GPU
            seed_step(self.seed, step, micro, self.global_rank)
            if adapter_dropout:
                set_dropout_keys(self.model, keys)
        loss = self._micro_batch_loss(batch, keys)
        self.losses.append(loss.detach())
        return loss

    def _micro_batch_loss(self, batch: Batch, keys: Tensor | None) -> Tensor:
        """Returns the summed loss of a micro-batch over the mean count of targets of its step.

        Where micro-batches have different numbers of targets, the mean of their means would weight
        a token by its micro-batch, and depend on how the step is divided.
        """
        targets = self.trainer.datamodule.targets(self.trainer.global_step)  # type: ignore[attr-defined]
        if targets is None:  # every micro-batch has the same number
            return self.loss(batch.x, batch.y, keys=keys, documents=batch.documents)
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        total = self.loss(batch.x, batch.y, reduction="sum", keys=keys, documents=batch.documents)
        return total * (parts / max(1, targets))

    def step_measures(self) -> dict[str, float]:
        """Returns the measures of a training row beside loss, learning rate and gradient norm."""
        return {}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Sets the micro-batches of the next step, where `data.batch_schedule` is set."""
        trainer = self.trainer
        if trainer.datamodule.batch_schedule and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:  # type: ignore[attr-defined]
            self._count_micro_batches(trainer.global_step)

    def _count_micro_batches(self, step: int) -> None:
        """Sets Lightning's counters as if every step had the micro-batches of step `step`."""
        count_micro_batches(self.trainer, step, self.trainer.datamodule.micro_batches(step))  # type: ignore[attr-defined]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients by their global norm (Pascanu et al. 2013).

        Keeps the norm for the logs, and counts batches with NaN or infinite values.
        """
        self.lr = optimizer.param_groups[0]["lr"]
        limit = math.inf if gradient_clip_val is None else gradient_clip_val
        self.grad_norm = whole(torch.nn.utils.clip_grad_norm_(self.weights, limit).detach())
        total = self.grad_norm + sum(self.losses)  # NaN or infinite where one of them is
        optimizer.found_inf = None  # type: ignore[attr-defined]
        if self.device.type == "cpu" and math.isfinite(total):
            return  # reading a number costs a CPU nothing
        # The flag stays on the device, so the host does not wait: where it is set, the fused
        # optimizer leaves weights and moments unchanged (a gradient scaler has its own flag).
        bad = ~torch.isfinite(total)
        if optimizer.defaults.get("fused"):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.skipped += torch.stack((bad, bad * (self.trainer.global_step + 1 - self.skipped[1])))
        # A custom optimizer skips no update.
        if self.device.type == "cpu" or self.optim.name == "custom":
            self.check_numbers()

    def check_numbers(self) -> None:
        """Ends the run after more than `optim.skip_bad_steps` batches with NaN or infinite values.

        On a CPU, and for a custom optimizer, it is called before each optimizer step. Otherwise it
        is called when the metrics are read; the device has then already skipped the update.

        Raises:
            FloatingPointError: with the step, the learning rate, the batch's place in the corpus
                and a remedy.
        """
        count, step = self.skipped.tolist()
        if count > self.optim.skip_bad_steps:
            places = ", ".join(map(str, self.trainer.datamodule.sampler.places(step - 1)[:4]))  # type: ignore[attr-defined]
            raise FloatingPointError(
                f"step {step}: the loss or a gradient is NaN or infinite (learning rate {self.lr:g}; the batch's sequences begin at"
                f" {places}, … of the training text's tokens); the update was not made, the last good checkpoint stays: lower"
                f" optim.lr, or pass over such batches with optim.skip_bad_steps=N ({count} so far)"
            )

    def on_train_start(self) -> None:
        """Applies the present settings to a resumed run; warns where the learning rate jumps."""
        before = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.follow_settings()
        now, step = self.trainer.optimizers[0].param_groups[0]["lr"], self.trainer.global_step
        if step and not math.isclose(before, now, rel_tol=JUMP) and self.trainer.is_global_zero:
            log.warning(
                "step %d: the learning rate jumps from %.3g to %.3g, as its settings or trainer.max_steps are others than"
                " before: it goes on evenly with optim.schedule=constant, or trainer.max_steps and optim.lr as they were;"
                " a new run from these weights (init_from=%s) warms up first",
                *(step, before, now, self.trainer.default_root_dir),
            )

    def follow_settings(self) -> None:
        """Sets the optimizer's hyper-parameters and learning rate from the present settings."""
        optimizer, scheduler = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        for group, settings in zip(optimizer.param_groups, self.settings, strict=True):
            group.update({name: value for name, value in settings.items() if name != "lr"})
            group["initial_lr"] = settings["lr"]
        scheduler.base_lrs = [settings["lr"] for settings in self.settings]
        for group, base, factor in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * factor(scheduler.last_epoch)

    def on_fit_start(self) -> None:
        """Moves the counter of skipped batches to the device; lists the weights once."""
        self.skipped = self.skipped.to(self.device)
        self.weights = [parameter for parameter in self.parameters() if parameter.requires_grad]

    def on_validation_epoch_start(self) -> None:
        """Sets a validation's sums of loss and tokens to zero, on the device."""
        # Summed losses of the trained weights and of their average
        self.nats = torch.zeros(2, dtype=sum_dtype(self.device), device=self.device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds the summed loss of one batch of windows; padding is ignored."""
        self.nats[0] += self.loss(batch.x, batch.y, reduction="sum", documents=batch.documents)
        if self.average:
            with self.average.applied():
                self.nats[1] += self.loss(batch.x, batch.y, reduction="sum", documents=batch.documents)
        self.tokens += (batch.y != IGNORE).sum()

    def validation_rows(self) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the measures over the whole split, of the weights and of their average."""
        nats, tokens = (
            self.trainer.strategy.reduce(self.nats, reduce_op="sum"),
            self.trainer.strategy.reduce(self.tokens, reduce_op="sum"),
        )
        weights, average = (likelihood_row(each, int(tokens.item()), self.val_bytes) for each in nats.tolist())
        return weights, average

    def on_validation_epoch_end(self) -> None:
        """Computes the rows of a validation; callbacks can monitor its values."""
        raw, average = self.validation_rows()
        self.val_row, self.raw_row = (average, raw) if self.average else (raw, {})
        # For Lightning's own callbacks (EarlyStopping, ModelCheckpoint) to monitor.
        self.log_dict({f"val/{name}": value for name, value in self.val_row.items()}, rank_zero_only=True, logger=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Returns the optimizer and its learning-rate schedule, which moves every step."""
        # A gradient scaler needs to see the gradients.
        fused = self.device.type in ("cpu", "cuda", "mps") and self.trainer.precision != "16-mixed"
        optimizer = make_optimizer(self.model, self.optim, fused=fused, layer_decay=self.config.finetune.layer_decay)
        # Loading a checkpoint overwrites these settings. A custom optimizer may keep state in its
        # groups.
        given = {"lr", "weight_decay", *self.optim.custom} if self.optim.name == "custom" else None
        self.settings = [
            {name: value for name, value in group.items() if name != "params" and (given is None or name in given)}
            for group in optimizer.param_groups
        ]

        def schedule(step: int) -> float:
            return lr_factor(self.batches(step), self.optim, self.batches(self.max_steps)) * self.lr_scale

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def averaged(self) -> AbstractContextManager[None]:
        """Returns a context in which the model has the averaged weights.

        Without `optim.ema_decay` the context changes nothing.
        """
        return self.average.applied() if self.average else nullcontext()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the count of skipped batches and the layout to a checkpoint.

        Of a model with adapters only these are kept. Lightning's loop counters are dropped: they
        follow from the number of optimizer steps.
        """
        checkpoint.pop("loops")
        if self.adapted:
            kept = {f"model.{name}" for name in kept_parameters(self.model)}
            checkpoint["state_dict"] = {name: one for name, one in checkpoint["state_dict"].items() if name in kept}
        checkpoint["skipped"] = self.skipped.cpu()
        checkpoint["layout"] = self.layout()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Sets Lightning's counters for the present micro-batches, as in an unbroken run."""
        step = int(checkpoint["global_step"])
        self._count_micro_batches(step)
        count_optimizer_steps(self.trainer, step)
        self.skipped = checkpoint["skipped"].to(self.device)
        if self.trainer.is_global_zero:
            self._tell_changes(checkpoint["layout"])

    def layout(self) -> dict[str, Any]:
        """Returns how a step is divided and computed, as every checkpoint records it.

        The data, and dropout on a CPU, do not depend on it.
        """
        trainer = self.trainer
        return {
            "processes": trainer.world_size,
            "micro_batch_size": trainer.datamodule.micro_batch_size,  # type: ignore[attr-defined]
            "micro_batch_chosen": trainer.datamodule.micro_batch_chosen,  # type: ignore[attr-defined]
            "threads": torch.get_num_threads(),
            "compiled": self.compiled,
            "device": trainer.strategy.root_device.type,
            "precision": trainer.precision,
        }

    def _tell_changes(self, before: dict[str, Any] | str) -> None:
        """Logs the changes of a resumed run's layout, and how far its losses can differ.

        Args:
            before: the layout in the checkpoint; a string in those of version 0.1.
        """
        now, dropout = self.layout(), self.model.config.dropout > 0
        if isinstance(before, str):  # version 0.1
            if dropout:
                log.warning(
                    "the run was begun with version 0.1: from here on dropout drops other numbers, as of another seed"
                )
            return
        changed = [name for name in now if name != "micro_batch_chosen" and now[name] != before.get(name)]
        if not changed:
            return
        by_kernels = dropout and {now["device"], before.get("device")} != {"cpu"} and changed != ["threads"]
        log.info(
            "the run goes on with %s: the data and their order do not depend on this, %s",
            ", ".join(f"{name}={now[name]} rather than {before.get(name)}" for name in changed),
            "but a GPU draws the dropout of attention weights by micro-batch: losses differ as between two seeds"
            if by_kernels
            else "nor does dropout; losses differ by rounding, and the difference grows with the steps",
        )
