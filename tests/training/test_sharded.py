"""`trainer=fsdp`: processes that share the weights train as one does, save together, and go on in
any number.
"""

import json
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from conftest import KILLER, REPO, SMALL, Process, run, story
from safetensors.torch import load_file

from llm_from_scratch.checkpoint import Rows, Writers, checkpoints, load_state, save_state
from llm_from_scratch.errors import UserError
from llm_from_scratch.run import read_rows
from llm_from_scratch.training.muon import orthogonal, orthogonal_rows

WORDS = tuple(word for word in SMALL if word != "trainer=cpu")
SHARED = (*WORDS, "trainer.log_every_n_steps=1", "trainer.val_check_interval=5", "optim.warmup_steps=2")
# The length of the run does not change the learning rate.
SHARED += ("optim.schedule=constant", "model.dropout=0.2")
HEIGHTS = [[7], [4, 2, 1], [5], [3], [12]]  # of matrices that three processes share unevenly


@pytest.fixture
def text(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")


def equal_runs(tmp_path: Path, one: str, two: str, tolerance: float = 2e-5) -> None:
    """The rows of two runs and the weights of their best validation, but for rounding."""
    a, b = (read_rows(tmp_path / name / "metrics.jsonl") for name in (one, two))
    assert [(row["step"], row["split"]) for row in a] == [(row["step"], row["split"]) for row in b]
    for first, second in zip(a, b, strict=True):
        for name in first.keys() & {"loss", "grad_norm", "lr"}:
            assert first[name] == pytest.approx(second[name], rel=tolerance), (first, second)
    weights, others = (load_file(tmp_path / name / "model/model.safetensors") for name in (one, two))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], atol=tolerance, rtol=1e-3)


# ------------------------------------------------------------------------------- a state of several
class Threads(Writers):
    """Writers in threads of this process."""

    def __init__(self, rank: int, values: list[Any], barrier: Barrier) -> None:
        super().__init__(rank, len(values))
        self.values, self.barrier = values, barrier

    def exchange(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


def save_together(folder: Path, tensor: torch.Tensor, count: int) -> None:
    values, barrier = [None] * count, Barrier(count)
    parts = [*tensor.chunk(count)]
    parts += [tensor[:0]] * (count - len(parts))

    def save(rank: int) -> None:
        state = {"rows": [Rows(parts[rank])], "rank": rank, "whole": torch.tensor(rank)}
        save_state(state, folder, {"data": "x"}, Threads(rank, values, barrier))

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(save, rank) for rank in range(count)]:
            done.result()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_a_state_that_several_write_is_the_whole_one(tmp_path: Path, count: int) -> None:
    tensor = torch.randn(7, 3)
    save_together(tmp_path / "step_00000001", tensor, count)
    assert len([*(tmp_path / "step_00000001").glob("*.safetensors")]) == count
    state = load_state(tmp_path / "step_00000001")
    assert torch.equal(state["rows"][0], tensor)
    assert (state["rank"], state["whole"]) == (0, 0)


def test_a_lost_or_a_foreign_share_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "step_00000001"
    save_together(state, torch.randn(7, 3), 3)
    share = state / "tensors-00002.safetensors"
    held = share.read_bytes()
    share.unlink()
    with pytest.raises(UserError, match=r"tensors-00002.safetensors: missing"):
        load_state(state)
    share.write_bytes((state / "tensors-00001.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"tensors-00002.safetensors"):
        load_state(state)
    share.write_bytes(held)
    (state / "tensors-00003.safetensors").write_bytes(held)  # nobody's: not read
    assert len(load_state(state)["rows"][0]) == 7


def test_where_one_process_cannot_write_none_has_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_from_scratch import checkpoint

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if path.name == "tensors-00001.safetensors":
            raise OSError(28, "no space")
        path.write_bytes(b"")

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(checkpoint, "load_file", lambda path: {"/rows/0": torch.ones(1), "/whole": torch.tensor(0)})
    with pytest.raises(OSError, match="no space"):
        save_together(tmp_path / "step_00000001", torch.ones(2), 2)
    assert not (tmp_path / "step_00000001").exists()


# --------------------------------------------------------------------------------------------- Muon
def _orthogonalize(rank: int, count: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    torch.manual_seed(1)
    weights = [torch.randn(sum(heights), 4) for heights in HEIGHTS]
    own = [([*weight.chunk(count)] + [weight[:0]] * count)[rank] for weight in weights]
    group = dist.group.WORLD
    assert group is not None
    found = orthogonal_rows(own, HEIGHTS, group)
    matrices = [part for weight, heights in zip(weights, HEIGHTS, strict=True) for part in weight.split(heights)]
    done = iter(orthogonal(matrices, shared=False))
    for rows, heights in zip(found, HEIGHTS, strict=True):
        whole = torch.cat([next(done) for _ in heights])
        torch.testing.assert_close(rows, ([*whole.chunk(count)] + [whole[:0]] * count)[rank], atol=1e-6, rtol=1e-5)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 7])
def test_muons_rows_are_those_of_whole_matrices(tmp_path: Path, count: int) -> None:
    mp.spawn(_orthogonalize, (count, str(tmp_path)), nprocs=count)


# ------------------------------------------------------------------------------------------ training
# Loads the package once, then forks the processes of each run: a start takes longer than these runs.
FORKS = """
import json, os, socket, sys, traceback
import llm_from_scratch.training.fit
from llm_from_scratch.commands import train

def end(words, variables):
    os.environ.update(variables)
    sys.argv[1:] = words
    try:
        train.main()
    except SystemExit as ended:
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for count, words in json.loads(sys.argv[1]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"NODE_RANK": "0", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            code = end(words, group | {"LOCAL_RANK": str(rank)} if count > 1 else {})
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    # One that dies takes the others along, as a launcher does.
    statuses = []
    while children:
        child, status = os.wait()
        children.remove(child)
        statuses.append(os.waitstatus_to_exitcode(status))
        if statuses[-1]:
            [os.kill(other, 9) for other in children]
    print("statuses", *statuses, flush=True)
"""


def trained(tmp_path: Path, *runs: tuple[int, tuple[str, ...]]) -> list[bool]:
    """Trains one run after another, each (number of processes, words): which of them succeeded."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    done = run(["-c", FORKS, json.dumps(runs)], tmp_path)
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("statuses")]
    assert len(found) == len(runs), done.stderr
    good = [set(statuses) == {"0"} for statuses in found]
    print(done.stderr)  # where an assertion fails, pytest shows it
    return good


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            *("model=llama", *SMALL[3:7], "optim=muon", "optim.ema_decay=0.7"),
            *("trainer.activation_checkpointing=true", "data.micro_batch_size=2"),
        ),
    ],
)
def test_two_processes_train_as_one(text: None, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    words = (*(word for word in SHARED if word not in overrides), *overrides)
    words += ("trainer.gradient_clip_val=0.5", "trainer.max_steps=10")
    one = (1, (*words, "trainer=cpu", "run_dir=one"))
    assert all(trained(tmp_path, one, (2, (*words, "trainer=fsdp_cpu", "run_dir=two"))))
    equal_runs(tmp_path, "one", "two")
    norms = [row["grad_norm"] for row in read_rows(tmp_path / "one/metrics.jsonl") if "grad_norm" in row]
    assert min(norms) > 0.5  # every step is clipped
    assert (tmp_path / "two/samples.md").read_text() == (tmp_path / "one/samples.md").read_text()


@pytest.mark.slow
def test_saved_by_two_a_run_goes_on_with_two_one_and_four(text: None, tmp_path: Path) -> None:
    words = (*SHARED, "trainer=fsdp_cpu", "optim=muon", "optim.ema_decay=0.7")
    first = (2, (*words, "trainer.max_steps=5", "run_dir=two"))
    assert all(trained(tmp_path, (2, (*words, "trainer.max_steps=10", "run_dir=whole")), first))
    for name in ("one", "four"):
        shutil.copytree(tmp_path / "two", tmp_path / name)
    more = "trainer.max_steps=10"
    resumed = ((1, ("resume=one", "trainer=cpu", more)), (4, ("resume=four", "trainer.devices=4", more)))
    assert all(trained(tmp_path, *resumed, (2, ("resume=two", more))))
    for name, files in (("one", 1), ("four", 4), ("two", 2)):
        equal_runs(tmp_path, "whole", name)
        assert len([*checkpoints(tmp_path / name)[0].glob("*.safetensors")]) == files
    for file in ("metrics.jsonl", "model/model.safetensors", "samples.md"):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.slow
def test_a_process_that_is_killed_in_a_save_costs_the_steps_since_the_last_one(text: None, tmp_path: Path) -> None:
    """SIGKILL in the second process as it writes its share, and in the first as it publishes."""
    words = (*SHARED, "trainer=fsdp_cpu", "trainer.max_steps=15")
    (tmp_path / "dying.py").write_text(
        "import os, signal\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "from llm_from_scratch import checkpoint\n"
        "class Dying(Callback):\n"
        "    def __init__(self, at): self.at = at\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        name = ('publish', 'save_file')[trainer.global_rank]\n"
        "        if name == self.at and trainer.global_step == 9:\n"
        "            setattr(checkpoint, name, lambda *a: os.kill(os.getpid(), signal.SIGKILL))\n",
        encoding="utf-8",
    )
    places = ("save_file", "publish")
    callback = ("+callbacks.dying._target_=dying.Dying", "+callbacks.dying.at=")
    killed = [(2, (*words, callback[0], callback[1] + at, f"run_dir={at}")) for at in places]
    assert trained(tmp_path, (2, (*words, "run_dir=whole")), *killed) == [True, False, False]
    for at in places:
        assert [path.name for path in checkpoints(tmp_path / at)] == ["step_00000005"]
    again = [(2, (f"resume={at}", callback[0], f"{callback[1]}never")) for at in places]
    assert all(trained(tmp_path, *again))
    for at in places:
        for file in ("metrics.jsonl", "model/model.safetensors", "samples.md"):
            assert (tmp_path / at / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
        assert not [path for path in (tmp_path / at / "checkpoints").iterdir() if not path.name.startswith("step_")]


@pytest.mark.slow
def test_adapters_and_frozen_weights(text: None, tmp_path: Path) -> None:
    own = ("data=text", "data.path=story.txt", "data.batch_size=8", "init_from=base", "trainer.val_check_interval=2")
    own += ("trainer.log_every_n_steps=1", "optim.warmup_steps=1", "optim.schedule=constant", "trainer.max_steps=4")
    kinds = {
        "adapters": ("finetune=lora", "finetune.dropout=0.1", "optim=muon"),
        "frozen": ("finetune=full", "finetune.freeze=[token_embedding,blocks.0]", "optim.ema_decay=0.5"),
    }
    runs: list[tuple[int, tuple[str, ...]]] = [(1, (*SMALL, "trainer.max_steps=3", "run_dir=base"))]
    for name, words in kinds.items():
        runs += [(1, (*own, *words, "trainer=cpu", f"run_dir={name}1"))]
        runs += [(2, (*own, *words, "trainer=fsdp_cpu", f"run_dir={name}2"))]
    assert all(trained(tmp_path, *runs, (2, ("resume=adapters2", "trainer.max_steps=6"))))
    for name in kinds:
        one, two = (read_rows(tmp_path / f"{name}{count}/metrics.jsonl") for count in (1, 2))
        assert [row["loss"] for row in two[: len(one)]] == pytest.approx([row["loss"] for row in one], rel=2e-5)
    assert (tmp_path / "adapters2/model/adapter_model.safetensors").exists()
    state = load_state(checkpoints(tmp_path / "adapters2")[0])
    assert {name.rpartition(".")[2] for name in state["state_dict"]} == {"lora_A", "lora_B"}


# ------------------------------------------------------------------------------------------ torchrun
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_two_nodes_of_one_process_each(train: Process, text: None, tmp_path: Path) -> None:
    done = train(*SHARED, "trainer=cpu", "trainer.max_steps=5", "run_dir=one")
    assert done.returncode == 0, done.stderr
    meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=7", "--local-addr=127.0.0.1"]
    words = [*SHARED, "trainer=fsdp_cpu", "trainer.devices=1", "trainer.num_nodes=2", "trainer.max_steps=5"]
    command = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *meet, str(REPO / "train.py"), *words]
    with ThreadPoolExecutor(2) as pool:
        done_both = [pool.submit(run, command, tmp_path) for _ in range(2)]
        said = [node.result() for node in done_both]
    for node in said:
        assert node.returncode == 0, node.stderr
    (folder,) = (tmp_path / "outputs/text").iterdir()
    assert "".join(node.stdout for node in said) == f"run: {folder.relative_to(tmp_path)}\n"
    equal_runs(tmp_path, "one", str(folder.relative_to(tmp_path)))
    assert len([*checkpoints(folder)[0].glob("*.safetensors")]) == 2


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_again_and_the_run_goes_on(train: Process, text: None, tmp_path: Path) -> None:
    words = [*SHARED, "trainer=fsdp_cpu", "trainer.max_steps=15"]
    done = train(*words, "run_dir=whole")
    assert done.returncode == 0, done.stderr
    (tmp_path / "killer.py").write_text(
        "import os, signal\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "class Killer(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'\n"
        "        if first and trainer.global_step == 8 and trainer.global_rank == 1:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    for named in (["run_dir=run"], []):
        done = run([*launcher, str(REPO / "train.py"), *words, KILLER, *named], tmp_path)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / "run" if named else next((tmp_path / "outputs/text").iterdir())
        for file in ("metrics.jsonl", "model/model.safetensors", "samples.md"):
            assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.slow
def test_started_again_a_command_takes_no_run_that_is_not_its_own(train: Process, text: None, tmp_path: Path) -> None:
    words = [*SHARED, "trainer=fsdp_cpu", "trainer.max_steps=2", "run_dir=run"]
    done = train(*words)
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "run/config.yaml").read_bytes()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = run([*launcher, str(REPO / "train.py"), *words], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("run_dir=run holds a run already") == 2, done.stderr
    assert (tmp_path / "run/config.yaml").read_bytes() == before
