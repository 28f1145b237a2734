"""The time left of a training, from the durations of its steps and validations."""

from collections.abc import Callable


class Pace:
    """An estimate of the time left, from the durations of the steps and validations so far.

    Args:
        work: full batches before a step, as `LanguageModel.batches`; with a schedule of batch sizes
            later steps take longer.
        max_steps: optimizer steps of the run.
        every: optimizer steps from one validation to the next.
    """

    def __init__(self, work: Callable[[int], float], max_steps: int, every: int) -> None:
        self.work, self.max_steps, self.every = work, max_steps, every
        self.rows, self.done, self.seconds = 0, 0.0, 0.0
        self.validations, self.validating = 0, 0.0

    def trained(self, before: int, step: int, seconds: float) -> None:
        """Adds the duration of the steps from `before` to `step`, one row of the training curve.

        The first row is dropped once the second comes, as it includes start-up costs.
        """
        if self.rows == 1:  # the first row includes start-up costs
            self.done, self.seconds = 0.0, 0.0
        self.rows += 1
        self.done += self.work(step) - self.work(before)
        self.seconds += seconds

    def validated(self, seconds: float) -> None:
        """Adds the duration of one validation."""
        self.validations += 1
        self.validating += seconds

    def watched(self, seconds: float) -> None:
        """Adds the duration of the watched texts to that of the last validation."""
        self.validating += seconds

    def left(self, step: int) -> float:
        """Returns the estimated seconds from `step` to the end of the run.

        Validations count only once one has been timed.
        """
        steps = (self.work(self.max_steps) - self.work(step)) * self.seconds / max(self.done, 1e-9)
        to_come = -(-self.max_steps // self.every) - step // self.every if step < self.max_steps else 0
        return steps + to_come * self.validating / max(self.validations, 1)
