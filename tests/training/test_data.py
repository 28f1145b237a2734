"""The corpus on the device: the same batches as the sampler's own."""

import numpy as np
import pytest
import torch

from llm_from_scratch.data.sampler import RandomChunkSampler
from llm_from_scratch.training.data import DeviceChunks


@pytest.mark.parametrize(("dtype", "high"), [("<u2", 65_535), ("<u4", 2**31 + 5)])
def test_chunks_gathered_on_the_device_are_the_samplers(dtype: str, high: int) -> None:
    # Ids that a signed number of the same size would have below zero; shards of one chunk, of none,
    # and of many.
    shards = [np.random.default_rng(n).integers(0, high + 1, n).astype(dtype) for n in (9, 500, 8, 77)]
    shards[0][:] = high
    for rank, world_size, n_micro in ((0, 1, 1), (1, 2, 2)):
        sampler = RandomChunkSampler(shards, block_size=8, batch_size=64, seed=5, rank=rank, world_size=world_size)
        chunks = DeviceChunks(sampler, torch.device("cpu"))
        seen = set()
        for step in range(20):
            for micro in range(n_micro):
                for got, wanted in zip(
                    chunks.batch(step, micro, n_micro)[:2], sampler.batch(step, micro, n_micro), strict=True
                ):
                    np.testing.assert_array_equal(got.numpy(), wanted)
                    seen |= set(wanted.ravel().tolist())
        assert high in seen
