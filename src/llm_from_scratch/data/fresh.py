"""Fresh stories: a training sequence is told when it is read, and never again.

A step's stories are a function of (seed, step), as the chunks of a text are: a resumed run reads
what an unbroken one reads, on any number of devices.

Symbols: B sequences of an optimizer step, T tokens of one (`model.block_size`).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from llm_from_scratch import tales
from llm_from_scratch.data.sampler import RandomBatches
from llm_from_scratch.tokenizer import Tokenizer

OF_RUNS = 2**32  # is added to a run's seed: no run tells the stories of another seed's files
A_STEP, A_ROW = 2**32, 2**12  # numbers of stories that a step and a sequence have for themselves


class FreshSampler(RandomBatches):
    """Sequences of new training stories.

    Each begins with the end-of-text token before its first story, and is cut after T + 1 tokens.
    Row r of step s has the stories from number s * A_STEP + r * A_ROW on.

    Args:
        level: of the stories.
        tokenizer: of the run.
        settings: those of `RandomBatches`, but `n_places`.
    """

    def __init__(self, level: int, tokenizer: Tokenizer, **settings: Any) -> None:
        self.level, self.tokenizer = level, tokenizer
        super().__init__(1, **settings)

    def places(self, step: int) -> np.ndarray:
        """Returns the number of the first story of each sequence, (B,) int64."""
        return step * A_STEP + A_ROW * np.arange(self.size(step), dtype=np.int64)

    def _read(self, step: int, rows: slice | np.ndarray) -> np.ndarray:
        return np.array([self._sequence(number) for number in self.places(step)[rows].tolist()])

    def _sequence(self, number: int) -> np.ndarray:
        """Returns a sequence, (T+1,), whose first story has this number."""
        end = np.array([self.tokenizer.eot_id])
        ids = end
        while len(ids) <= self.block_size:
            story = tales.tell(self.seed + OF_RUNS, number, self.level, "train")
            ids, number = np.concatenate([ids, self.tokenizer.encode_array(story), end]), number + 1
        return ids[: self.block_size + 1]


def fresh_stories(level: int, seed: int, sizes: Iterable[int], length: float) -> Iterator[str]:
    """Yields all stories that a run has read to their ends, and some that were cut.

    Args:
        level: of the stories.
        seed: of the run.
        sizes: the sequences of each of its steps.
        length: characters of a sequence, at most.
    """
    for step, size in enumerate(sizes):
        for row in range(size):
            number, told = step * A_STEP + row * A_ROW, 0
            while told < length:
                story = tales.tell(seed + OF_RUNS, number, level, "train")
                yield story
                number, told = number + 1, told + len(story)
