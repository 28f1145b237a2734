"""Workers that die."""

import signal

import pytest

from llm_from_scratch.data.workers import run_tasks


def test_fault_13_a_worker_that_is_killed_is_an_error_and_no_hang() -> None:
    with pytest.raises(ValueError, match=r"a worker was killed.*prepare\.workers=2"):
        list(run_tasks(kill, [signal.SIGKILL] * 2, engine="local", workers=2, size=1, what="test"))


def kill(job: int, told: object) -> None:
    signal.raise_signal(job)
