"""Shares the CPU cores with other programs while a model computes.

OpenMP's threads wait for each other at the end of every parallel loop: first in a loop that keeps
their core busy (about 3 ms in libgomp), then asleep. On idle cores the busy wait saves a wake-up at
every loop. Where another program wants the same cores, it takes them from the very thread that the
others wait for: two trainings on two cores are then several times slower than one.

libgomp waits asleep where a process has more OpenMP threads than cores. `sharing_cores` brings that
about, and only while other programs keep the cores busy: a thread with OpenMP threads of its own
stands by. The number of threads that compute stays the same, and so does every result.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

SECONDS = 1.0  # between two looks at the cores
CROWDED = 0.25  # share of the cores that this process needs, which others may keep busy
STAT = Path("/proc/stat")
CHOICES = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # the user's own choice of how threads wait


def in_new_thread(work: Callable[..., T], *given: Any) -> T:
    """Runs work in a thread that ends with it.

    Each thread that computes with torch gets OpenMP threads, which stay as long as it does. With
    more of them than cores, those of every other thread wait asleep for each other ever after,
    which is slower.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *given).result()


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Lets OpenMP's threads sleep while they wait, whenever other programs need the cores.

    It acts on Linux alone, and does nothing where GOMP_SPINCOUNT or OMP_WAIT_POLICY is set.
    """
    if sys.platform != "linux" or CHOICES & os.environ.keys():
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(done,), name="sharing_cores", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(done: threading.Event) -> None:
    import torch

    release: threading.Event | None = None
    before = Usage.read()
    while before is not None and not done.wait(SECONDS):
        now = Usage.read()
        if now is None:
            break
        crowded = now.crowded_since(before, torch.get_num_threads())
        if crowded and release is None:
            release = _stand_by()
        elif release is not None and not crowded:
            release.set()
            release = None
        before = now
    if release is not None:
        release.set()


def _stand_by() -> threading.Event:
    """Starts a thread with OpenMP threads of its own; they end when the returned event is set."""
    release = threading.Event()

    def hold() -> None:
        import torch

        torch.ones(2**18).mul_(2)  # large enough for all of its threads
        release.wait()

    threading.Thread(target=hold, name="more OpenMP threads than cores", daemon=True).start()
    return release


@dataclass(frozen=True)
class Usage:
    """Seconds for which the cores of this process have been busy, and its own part of them."""

    at: float
    busy: float
    own: float
    cores: int

    @classmethod
    def read(cls) -> "Usage | None":
        """Reads the counters of the kernel; None where there are none."""
        mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        try:
            lines = [line.split() for line in STAT.read_text().splitlines()]
            # user, nice, system, idle, iowait, irq, softirq
            ticks = [[int(number) for number in line[1:8]] for line in lines if line and line[0] in mine]
        except (OSError, ValueError):
            return None
        busy = sum(sum(one) - sum(one[3:5]) for one in ticks) / os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), busy, time.process_time(), len(ticks)) if ticks else None

    def crowded_since(self, before: "Usage", threads: int) -> bool:
        """Says whether others kept busy more than the share CROWDED of the cores for `threads`."""
        others = (self.busy - before.busy - self.own + before.own) / (self.at - before.at)
        return others > self.cores - (1 - CROWDED) * threads
