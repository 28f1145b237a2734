"""The processes that a command starts, whoever starts them, work on one run or one sweep: the one
that it announces.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO, SMALL, Process, run, story
from hydra import compose, initialize_config_dir

from llm_from_scratch.checkpoint import checkpoints, load_state
from llm_from_scratch.front.run_name import RUN_NAME, run_name
from llm_from_scratch.run import read_rows
from llm_from_scratch.signals import LIGHTNING_CHILD

QUICK = (
    *(word for word in SMALL if "max_new_tokens" not in word),
    "trainer.max_steps=2",
    "sample.max_new_tokens=0",
    "logger=none",
)
ALONE = tuple(word for word in QUICK if word != "trainer=cpu")
# What stands in for SLURM: sbatch runs the script, and once more where it has died; srun starts its tasks.
SLURM = {
    "sbatch": """
import os, re, subprocess, sys
if sys.argv[1] == "again":
    statuses = [subprocess.call(["bash", sys.argv[2]], env=os.environ | {"SLURM_RESTART_COUNT": str(n)}) for n in (0, 1)]
    sys.exit(statuses[1])
asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(.+)", open(sys.argv[1]).read()))
open("asked.json", "w").write(__import__("json").dumps(asked))
nodes, tasks = int(asked["nodes"]), int(asked["ntasks-per-node"])
job = {"SLURM_JOB_ID": "4321", "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": str(nodes),
       "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NTASKS": str(nodes * tasks), "SLURM_NTASKS_PER_NODE": str(tasks)}
log = open("job.log", "w")
subprocess.Popen([sys.executable, __file__, "again", sys.argv[1]], env=os.environ | job, stdout=log, stderr=log)
print("Submitted batch job 4321")
""",
    "srun": """
import os, subprocess, sys
command = sys.argv[next(i for i, word in enumerate(sys.argv) if "python" in word and "/bin/" in word and i):]
tasks = int(os.environ["SLURM_NTASKS_PER_NODE"])
places = [(str(n), str(n % tasks), str(n // tasks)) for n in range(int(os.environ["SLURM_NTASKS"]))]
started = [subprocess.Popen(command, env=os.environ | dict(zip(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), place)))
           for place in places]
sys.exit(max(abs(one.wait()) for one in started))
""",
    "sacct": """print("JobID|State|NodeList\\n4321|RUNNING|localhost")""",
}


@pytest.fixture(autouse=True)
def text(tmp_path: Path) -> Path:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    return tmp_path / "story.txt"


def test_a_name_is_handed_on_and_never_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_NAME, "chosen")
    assert run_name() == run_name() == "chosen"
    monkeypatch.delenv(RUN_NAME)
    assert run_name() != run_name()
    assert RUN_NAME not in os.environ


def test_a_configuration_has_one_name_and_another_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_NAME, raising=False)
    with initialize_config_dir(version_base="1.3", config_dir=str(REPO / "configs")):
        first, second = compose("train"), compose("train")
    assert first.run_dir == first.run_dir
    assert first.run_dir != second.run_dir


def test_two_processes_have_one_run_folder(tmp_path: Path) -> None:
    """Started from within another command, whose name they leave alone."""
    done = run([str(REPO / "train.py"), *ALONE, "trainer=ddp_cpu", "task=two"], tmp_path, {RUN_NAME: "another"})
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs/two").iterdir()
    assert folder.name != "another"
    assert done.stdout == f"run: {folder.relative_to(tmp_path)}\n"
    assert load_state(checkpoints(folder)[0])["layout"]["processes"] == 2
    assert "no validation" not in done.stderr


@pytest.mark.slow
def test_a_number_of_devices_has_one_run_folder(train: Process, tmp_path: Path) -> None:
    done = train(*QUICK, "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"run: {next((tmp_path / 'outputs/text').iterdir()).relative_to(tmp_path)}\n"


def check_sweep(tmp_path: Path, output: str, said: str) -> Path:
    """One folder below outputs/ with both runs, a line for each, and a table of both."""
    (sweep,) = (tmp_path / "outputs").glob("*/*")
    shown = sweep.relative_to(tmp_path)
    assert output == f"run: {shown}/0\nrun: {shown}/1\n"
    assert sorted(path.parent.name for path in sweep.glob("*/curves.png")) == ["0", "1"]
    table = said.split(f"All runs of {shown}")[1]
    assert "failed" not in table
    return sweep


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launchers_processes_write_to_the_announced_sweep(train: Process, tmp_path: Path, launcher: str) -> None:
    if not importlib.util.find_spec(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher"):
        pytest.skip(f"needs hydra-{launcher.split('_')[0]}-launcher, of the extra `sweep`")
    done = train("-m", f"hydra/launcher={launcher}", *QUICK, "seed=1,2", "task=swept")
    assert done.returncode == 0, done.stderr
    sweep = check_sweep(tmp_path, done.stdout, done.stderr)
    assert "seed=1" in done.stderr.split(f"All runs of {sweep.relative_to(tmp_path)}")[1]


@pytest.mark.slow
def test_a_job_of_slurms_over_two_nodes_that_dies_is_queued_again_and_goes_on(train: Process, tmp_path: Path) -> None:
    if not importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"):
        pytest.skip("needs hydra-submitit-launcher, of the extra `sweep`")
    own = (*ALONE[:-3], "trainer=fsdp_cpu", "trainer.devices=1", "trainer.max_steps=6", "trainer.val_check_interval=2")
    words = [*own, "trainer.num_nodes=2", "sample.max_new_tokens=0"]
    (tmp_path / "dying.py").write_text(
        "import os, signal\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "class Dying(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        if os.environ.get('SLURM_RESTART_COUNT') == '0' and trainer.global_step == 5:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )
    (tmp_path / "bin").mkdir()
    for name, program in SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!{sys.executable}\n{program.lstrip()}")
        (tmp_path / "bin" / name).chmod(0o755)
    words += [
        "+callbacks.dying._target_=dying.Dying",
        "hydra/launcher=slurm",
        "hydra.launcher.gpus_per_node=null",
        "run_dir=jobs",
    ]
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    done = run([str(REPO / "train.py"), "-m", *words], tmp_path, {"PATH": path})
    log = (tmp_path / "job.log").read_text()
    assert done.returncode == 0, done.stderr + log
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert (asked["nodes"], asked["ntasks-per-node"], asked["signal"], asked["time"]) == ("2", "1", "USR2@180", "1440")
    alone = train(*own[:-4], "trainer=cpu", *own[-2:], "sample.max_new_tokens=0", "run_dir=alone")
    assert alone.returncode == 0, alone.stderr
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("alone", "jobs/0")]
    assert [(row["step"], row["split"]) for row in rows[0]] == [(row["step"], row["split"]) for row in rows[1]]
    assert [row["loss"] for row in rows[1]] == pytest.approx([row["loss"] for row in rows[0]], rel=1e-5)
    assert load_state(checkpoints(tmp_path / "jobs/0")[0])["layout"]["processes"] == 2


def test_a_launcher_without_a_sweep_is_refused(train: Process) -> None:
    done = train("hydra/launcher=slurm", *QUICK)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert re.search("add -m|pip install -e '.\\[sweep\\]'", done.stderr), done.stderr


@pytest.mark.slow
def test_a_launcher_tells_the_run_that_failed(train: Process, tmp_path: Path) -> None:
    if not importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        pytest.skip("needs hydra-joblib-launcher, of the extra `sweep`")
    done = train("-m", "hydra/launcher=joblib", *QUICK, "optim.lr=1e-3,1e30", "optim.warmup_steps=0")
    assert done.returncode == 1, done.stderr
    (sweep,) = (tmp_path / "outputs").glob("*/*")
    assert done.stdout == f"run: {sweep.relative_to(tmp_path)}/0\n"
    assert "1 failed: " in done.stderr


def test_runs_that_differ_in_what_names_their_folder_stay_in_one_sweep(train: Process, tmp_path: Path) -> None:
    done = train("-m", *QUICK, "task=one,other")
    assert done.returncode == 0, done.stderr
    check_sweep(tmp_path, done.stdout, done.stderr)


def other_ranks(parent: int) -> list[int]:
    """The processes of a DDP run that another one has started, where /proc tells of them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_text()
        except OSError:  # it has ended meanwhile
            continue
        if number == parent and LIGHTNING_CHILD in command:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.slow
def test_the_second_process_ends_when_the_first_is_killed_before_they_meet(tmp_path: Path) -> None:
    words = [sys.executable, str(REPO / "train.py"), *ALONE, "trainer=ddp_cpu", "run_dir=run"]
    environment = os.environ | {"PYTHONPATH": str(REPO / "src")}
    first = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (started := other_ranks(first.pid)):
        assert first.poll() is None
        time.sleep(0.01)
    time.sleep(1)  # the second one imports torch
    first.kill()
    first.wait()
    deadline = time.monotonic() + 120
    while left := [process for process in started if Path(f"/proc/{process}/stat").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
