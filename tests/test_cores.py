"""Cores are shared with other programs: the seconds that others keep them busy, and OpenMP's threads."""

import subprocess
import sys
from pathlib import Path

import pytest

from llm_from_scratch import cores
from llm_from_scratch.cores import Usage
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import save_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="acts on Linux alone")

# user, nice, system, idle, iowait, irq, softirq, steal: busy are all but idle, iowait and steal.
STAT = """cpu  900 0 900 9000 0 0 0 0 0 0
cpu0 100 10 20 5000 30 4 6 70 0 0
cpu1 200 0 60 4000 0 0 0 0 0 0
cpu2 600 0 900 1000 0 0 0 0 0 0
intr 12
"""


def test_busy_seconds_are_those_of_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(cores.os, "sysconf", lambda name: 100)  # ticks a second
    found = Usage.read()
    assert found is not None
    assert (found.busy, found.cores) == (1.4 + 2.6, 2)
    monkeypatch.setattr(cores, "STAT", tmp_path / "none")
    assert Usage.read() is None


def test_crowded_is_where_others_take_more_than_a_quarter_of_what_is_needed() -> None:
    before = Usage(at=10.0, busy=100.0, own=50.0, cores=4)
    # In two seconds of four cores: 5 s of work, 2.8 s of it our own, so 1.1 cores for others.
    now = Usage(at=12.0, busy=105.0, own=52.8, cores=4)
    assert now.crowded_since(before, threads=4)  # more than 1
    assert not now.crowded_since(before, threads=3)  # one core is nobody's: up to 1.75
    alone = Usage(at=12.0, busy=108.0, own=57.9, cores=4)
    assert not alone.crowded_since(before, threads=4)


# Counts the threads of the process before and after `serve` has loaded a model.
LOADED = """
import argparse, os, sys, time
from llm_from_scratch.commands import serve

parser = argparse.ArgumentParser()
serve.arguments(parser)
options = parser.parse_args([sys.argv[1], "--device", "cpu", "--dtype", "int8"])
word = serve._resolved(sys.argv[1], options)

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
serve._open(word, options)
for _ in range(50):  # until those of the thread that loaded have ended
    if threads() == before:
        break
    time.sleep(0.1)
print(before, threads())
"""


def test_a_server_that_has_loaded_leaves_the_cores_to_its_engine(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    tokenizer = CharTokenizer("abc", byte_fallback=True)
    sizes = {"block_size": 64, "n_layer": 1, "n_head": 4, "n_embd": 256}  # large enough for several threads
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **sizes))
    (tmp_path / "run").mkdir()
    save_model(dict(model.named_parameters()), model.config, tokenizer, tmp_path / "run", step=1, loss=1.0)
    done = subprocess.run(
        [sys.executable, "-c", LOADED, tmp_path / "run"],
        env=cores.os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    before, after = done.stdout.split()
    assert after == before


# Counts the threads of the process while the cores are crowded, and while they are not.
SHARED = """
import os, sys, time
import torch
from llm_from_scratch import cores

cores.SECONDS = 0.01
crowded = False
cores.Usage.crowded_since = lambda self, before, threads: crowded

def threads():
    time.sleep(0.2)
    return len(os.listdir("/proc/self/task"))

torch.ones(2**18).mul_(2)
counts = [threads()]
with cores.sharing_cores():
    counts.append(threads())
    for crowded in (True, False, True):
        for _ in range(int(sys.argv[1])):  # until it has come about
            last = threads()
            if (last > counts[1]) == crowded:
                break
        counts.append(last)
counts.append(threads())
print(torch.get_num_threads(), *counts)
"""


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "300000"}, {"OMP_WAIT_POLICY": "active"}])
def test_more_openmp_threads_than_cores_stand_by_while_others_need_the_cores(given: dict[str, str]) -> None:
    variables = {name: value for name, value in cores.os.environ.items() if name not in cores.CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", SHARED, "2" if given else "50"],
        env=variables | given | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    threads, before, *counts = [int(count) for count in done.stdout.split()]
    # The watcher; beside it one that stands by, the first of `threads` threads.
    expected = [before] * 5 if given else [before + 1, before + 1 + threads, before + 1, before + 1 + threads, before]
    assert counts == expected
