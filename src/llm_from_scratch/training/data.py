"""Batches for Lightning's training loop: the samplers as iterables of tensors."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor

from llm_from_scratch.config import Config, DataConfig
from llm_from_scratch.data.documents import SPLITS
from llm_from_scratch.data.packing import PackedRows
from llm_from_scratch.data.preferences import Pairs
from llm_from_scratch.data.prepared import Conversations, Preferences, Prepared
from llm_from_scratch.data.sampler import RandomChunkSampler, Sampler, ValidationWindows, batch_size_at
from llm_from_scratch.errors import UserError

log = logging.getLogger(__name__)
SHARE_OF_GPU = 0.25  # the largest part of a GPU's free memory that a corpus may occupy


class Batch(NamedTuple):
    """Sequences of one micro-batch."""

    x: Tensor  # (B, T) int64, the inputs
    y: Tensor  # (B, T) int64, the targets; IGNORE where there is none
    documents: Tensor | None = None  # (B, T) int64, the number of each token's document in its row
    reference: Tensor | None = None  # (B,), log-probabilities under the reference model


def as_batch(arrays: Iterable[np.ndarray | None]) -> Batch:
    """Returns the arrays of a micro-batch, in the order of Batch's fields, as tensors."""
    x, y, *rest = (None if one is None else torch.from_numpy(one) for one in arrays)
    assert x is not None
    assert y is not None
    return Batch(x, y, *rest)


class TextDataModule(lightning.LightningDataModule):
    """Training batches as a function of (seed, step), and the validation split in fixed windows.

    Args:
        prepared: the tokenized text.
        config: the settings of the run.
        micro_batch_size: sequences of one rank in a micro-batch.

    Raises:
        UserError: when the validation split is shorter than one block.
    """

    def __init__(self, prepared: Prepared, config: Config, micro_batch_size: int) -> None:
        super().__init__()
        self.prepared, self.settings, self.micro_batch_size = prepared, config.data, micro_batch_size
        self.block_size, self.seed = config.model.block_size, config.seed
        self.micro_batch_chosen = config.data.micro_batch_size is None
        self.batch_schedule = config.data.batch_schedule
        self.first_step = 0
        self.sampler: Sampler
        block_size = self.block_size
        val_tokens = prepared.manifest["splits"]["val"]["tokens"]
        if val_tokens < block_size and not isinstance(prepared, Conversations):
            raise UserError(
                f"the validation split has {val_tokens} tokens, and one block needs {block_size}: use a longer text,"
                f" a larger data.val_fraction, or model.block_size={val_tokens} or less"
            )

    def micro_batches(self, step: int) -> int:
        """Returns the number of micro-batches of one rank in optimizer step `step` (0-based)."""
        assert self.trainer is not None
        sequences = batch_size_at(step, self.settings.batch_size, self.batch_schedule)
        return sequences // self.trainer.world_size // self.micro_batch_size

    def state_dict(self) -> dict[str, Any]:
        """Returns the next step (0-based), which is the whole position in the data."""
        assert self.trainer is not None
        return {"step": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the step of the next training batch."""
        self.first_step = int(state_dict["step"])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves the tensors of a batch; Lightning would first search it for tensors."""
        if batch[0].device == device:
            return batch
        x, y, *rest = batch
        more = (None if one is None else one.to(device, non_blocking=True) for one in rest)
        return Batch(x.to(device, non_blocking=True), y.to(device, non_blocking=True), *more)

    def targets(self, step: int) -> int | None:
        """Returns the targets of an optimizer step (0-based) over all ranks.

        None where every sequence has the same number: all its tokens.
        """
        return self.sampler.targets(0 if self.settings.overfit else step)

    def train_dataloader(self) -> "TrainingBatches":
        """Returns this rank's training batches, without end: the Trainer stops at max_steps.

        A CUDA GPU keeps a small corpus in its memory.
        """
        assert self.trainer is not None
        self.sampler = self.prepared.sampler(
            self.settings,
            block_size=self.block_size,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        if isinstance(self.prepared, Conversations) and self.trainer.is_global_zero:
            tell_left_out(self.prepared, self.settings, self.block_size)
        device, chunks = self.trainer.strategy.root_device, None
        if isinstance(self.sampler, RandomChunkSampler) and device.type == "cuda":
            room = SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]
            chunks = DeviceChunks(self.sampler, device) if self.sampler.n_bytes < room else None
        return TrainingBatches(self.sampler, self.micro_batch_size, self.first_step, self.settings.overfit, chunks)

    def val_dataloader(self) -> "ValidationBatches":
        """Returns this rank's validation windows; all ranks together read every token once."""
        assert self.trainer is not None
        windows = self.prepared.validation(self.settings, self.block_size)
        return ValidationBatches(windows, self.micro_batch_size, self.trainer.global_rank, self.trainer.world_size)


def tell_left_out(prepared: Conversations, data: DataConfig, block_size: int) -> None:
    """Warns of conversations that are cut or left out, with their number; of pairs `Pairs` does."""
    if isinstance(prepared, Preferences):
        return
    for split in SPLITS:
        packed = prepared.packed(split, data, block_size)
        if packed.cut or packed.skipped:
            log.warning(
                "%s: of %s conversations %s are cut after %d tokens (model.block_size + 1), and %s left out, as they are longer"
                " or have no answer within so many",
                *(split, f"{len(packed.documents.ends):,}", f"{packed.cut:,}", block_size + 1, f"{packed.skipped:,}"),
            )


class DeviceChunks:
    """The sampler's batches, gathered on the device from its copy of the whole corpus.

    A step sends only the start positions (B,) to the device, without waiting.
    """

    def __init__(self, sampler: RandomChunkSampler, device: torch.device) -> None:
        self.sampler, self.device = sampler, device
        # torch indexes signed integers on every device; `batch` makes the ids unsigned again.
        size = max(shard.itemsize for shard in sampler.shards)
        self.mask = 2 ** (8 * size) - 1
        dtype = torch.int16 if size == 2 else torch.int32
        self.tokens = torch.empty(sum(map(len, sampler.shards)), dtype=dtype, device=device)
        slots = self.tokens.split([len(shard) for shard in sampler.shards])
        for shard, slot in zip(sampler.shards, slots, strict=True):
            # In parts, as a corpus may be larger than the host's memory
            for start in range(0, len(shard), 2**24):
                ids = torch.from_numpy(shard[start : start + 2**24].astype(f"<i{size}"))
                slot[start : start + 2**24] = ids.to(device)
        self.column = torch.arange(sampler.block_size + 1, device=device)

    def batch(self, step: int, micro: int = 0, n_micro: int = 1) -> Batch:
        """Returns the micro-batch that the sampler's `batch` gives: x and y, (B, T) int64 each."""
        starts = torch.from_numpy(self.sampler.starts(step, micro, n_micro))
        if self.device.type == "cuda":
            starts = starts.pin_memory().to(self.device, non_blocking=True)
        ids = self.tokens[starts[:, None] + self.column].long() & self.mask  # (B, T+1)
        return Batch(ids[:, :-1], ids[:, 1:])


class TrainingBatches:
    """The micro-batches of one rank from step `first_step` (0-based) on, without end.

    With `overfit` all are of step 0. Where `chunks` is None, they are read on the host.
    """

    def __init__(
        self,
        sampler: Sampler,
        micro_batch_size: int,
        first_step: int,
        overfit: bool,
        chunks: DeviceChunks | None = None,
    ) -> None:
        self.sampler, self.micro_batch_size = sampler, micro_batch_size
        self.first_step, self.overfit = first_step, overfit
        self.chunks = chunks

    def __iter__(self) -> Iterator[Batch]:
        step = self.first_step
        while True:
            seen = 0 if self.overfit else step
            n_micro = self.sampler.size(seen) // self.sampler.world_size // self.micro_batch_size
            for micro in range(n_micro):
                place = (seen, micro, n_micro)
                if self.chunks:
                    yield self.chunks.batch(*place)
                else:
                    yield as_batch(self.sampler.batch(*place))
            step += 1


class ValidationBatches:
    """The validation windows, rows or pairs of one rank."""

    def __init__(
        self, windows: ValidationWindows | PackedRows | Pairs, batch_size: int, rank: int, world_size: int
    ) -> None:
        self.windows, self.batch_size, self.rank, self.world_size = windows, batch_size, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        for arrays in self.windows.batches(self.batch_size, self.rank, self.world_size):
            yield as_batch(arrays)
