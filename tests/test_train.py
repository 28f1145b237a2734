"""train.py as its users start it: run folders, contracts, faults. Real processes."""

import json
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPO, SMALL, Process, as_version_0_1, run, story
from filelock import FileLock
from safetensors.torch import load_file

from llm_from_scratch.checkpoint import checkpoints, load_state
from llm_from_scratch.run import read_rows
from llm_from_scratch.weights import load_model


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(story(30_000), encoding="utf-8")
    return path


def test_the_run_folder_is_the_contracts(finished: Path) -> None:
    run = finished / "run"
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "timing.jsonl",
        "tensorboard",
        "checkpoints",
        "model",
        "samples.md",
        "curves.png",
    ):
        assert (run / name).exists(), name
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert "${" not in json.dumps(config)
    assert (config["model"]["n_layer"], config["trainer"]["max_steps"], config["run_dir"]) == (2, 60, "run")

    rows = read_rows(run / "metrics.jsonl")
    # Every interval, and the last step
    assert [row["step"] for row in rows if row["split"] == "val"] == [25, 50, 60]
    assert [row["step"] for row in rows if row["split"] == "train"] == [10, 20, 30, 40, 50, 60]
    assert set(rows[-1]) == {"step", "split", "loss", "bits_per_byte", "perplexity"}
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert rows[-1]["perplexity"] == pytest.approx(np.exp(rows[-1]["loss"]))
    assert not any("second" in name for row in rows for name in row)
    assert [path.name for path in checkpoints(run)] == ["step_00000060", "step_00000050"]
    best = min((row for row in rows if row["split"] == "val"), key=lambda row: row["loss"])
    assert (load_model(run).step, load_model(run).loss) == (best["step"], best["loss"])
    assert (run / "samples.md").read_text(encoding="utf-8").count("## Step") == 3


def test_the_learning_rate_follows_the_schedule(finished: Path) -> None:
    rates = {row["step"]: row["lr"] for row in read_rows(finished / "run" / "metrics.jsonl") if row["split"] == "train"}
    # Warm-up of 5 steps, then half a cosine over steps 5 to 59 (counted from 0) to a tenth; step 10
    # is the one of index 9.
    for step, rate in rates.items():
        expected = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - 1 - 5) / (59 - 5)))
        assert rate == pytest.approx(1e-3 * expected)
    assert rates[60] == pytest.approx(1e-4)


def test_tensorboard_holds_the_curves(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for tag in (
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "val/loss",
        "val/perplexity",
        "val/bits_per_byte",
        "time/tokens_per_second",
    ):
        assert tag in tags["scalars"], tag
    assert any("sample" in tag for tag in tags["tensors"])
    rows = [row for row in read_rows(finished / "run" / "metrics.jsonl") if row["split"] == "val"]
    logged = events.Scalars("val/loss")
    assert [point.step for point in logged] == [row["step"] for row in rows]
    assert [point.value for point in logged] == pytest.approx([row["loss"] for row in rows])


def test_the_shards_are_the_cleaned_text(finished: Path) -> None:
    run = load_model(finished / "run")
    (folder,) = (finished / "data" / "text").glob("prepared-*/")
    for split in ("train", "val"):
        ids = np.memmap(folder / f"{split}_00000.bin", dtype="<u2", mode="r")
        assert run.tokenizer.decode_bytes(ids.tolist()) == (folder / f"{split}.txt").read_bytes()
    whole = (folder / "train.txt").read_bytes() + (folder / "val.txt").read_bytes()
    assert whole == (finished / "story.txt").read_bytes()


def test_the_same_seed_gives_the_same_metrics(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "story.txt", tmp_path)
    overrides = (
        *SMALL,
        "model.dropout=0.1",
        "optim.warmup_steps=5",
        "trainer.max_steps=60",
        "trainer.val_check_interval=25",
    )
    done = run([str(REPO / "train.py"), *overrides, "run_dir=again"], tmp_path, {"PYTHONHASHSEED": "7"})
    assert done.returncode == 0, done.stderr
    assert "data.micro_batch_size" not in done.stderr  # the batch is taken as a whole
    assert (tmp_path / "again/metrics.jsonl").read_bytes() == (finished / "run/metrics.jsonl").read_bytes()


def test_a_run_records_how_its_steps_are_cut(finished: Path) -> None:
    layout = load_state(checkpoints(finished / "run")[0])["layout"]
    assert (layout["processes"], layout["micro_batch_size"], layout["micro_batch_chosen"]) == (1, 8, True)


def test_a_longer_run_goes_on_from_a_shorter_one(train: Process, text: Path, tmp_path: Path) -> None:
    shared = (
        *SMALL,
        "model.dropout=0.1",
        "data.micro_batch_size=2",
        "trainer.val_check_interval=10",
        "trainer.log_every_n_steps=1",
        "optim.min_lr_ratio=1",
        "optim.warmup_steps=5",
        "optim.lr=1e-2",
    )
    whole = train(*shared, "trainer.max_steps=30", "run_dir=whole")
    assert whole.returncode == 0, whole.stderr
    part = train(*shared, "trainer.max_steps=20", "run_dir=part")
    assert part.returncode == 0, part.stderr
    resumed = train("resume=part", "trainer.max_steps=30")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == "run: part\n"
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    refused = train("resume=part", "model.n_layer=3")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "model.n_layer=3: the resumed run has 2" in refused.stderr
    older = tmp_path / "part/config.yaml"  # of a version that had no such setting
    older.write_text(as_version_0_1(older).replace("  doc_mask: false\n", ""), encoding="utf-8")
    refused = train("resume=part", "data.doc_mask=true")
    assert (refused.returncode, "data.doc_mask=True: the resumed run has False" in refused.stderr) == (2, True)
    started = train(*SMALL, "init_from=part", "trainer.max_steps=1", "run_dir=next")
    assert started.returncode == 0, started.stderr
    first = read_rows(tmp_path / "next/metrics.jsonl")[0]
    assert first["loss"] < 3  # the made text's untrained loss is log(320) = 5.8
    (tmp_path / "part").rename(tmp_path / "elsewhere")  # what goes on needs nothing but its own
    resumed = train("resume=next", "trainer.max_steps=2")
    assert resumed.returncode == 0, resumed.stderr


def test_a_batch_that_grows(train: Process, text: Path, tmp_path: Path) -> None:
    """2 sequences a step up to step 4, 4 up to step 8, then 8, in micro-batches of 2."""
    shared = (
        *SMALL,
        "model.dropout=0.1",
        "data.micro_batch_size=2",
        "trainer.val_check_interval=3",
        "optim.schedule=constant",
        "optim.warmup_steps=0",
    )
    shared += ("trainer.log_every_n_steps=1", "optim.ema_decay=0.9")
    grows = (*shared, "data.batch_schedule=[[4, 2], [8, 4]]")
    for name, overrides in (
        ("whole", (*grows, "trainer.max_steps=11")),
        ("part", (*grows, "trainer.max_steps=6")),
        (
            "two",
            (*(word for word in shared if word != "data.batch_size=8"), "data.batch_size=2", "trainer.max_steps=4"),
        ),
    ):
        done = train(*overrides, f"run_dir={name}")
        assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "whole/metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 12))
    assert [row["step"] for row in rows if row["split"] == "val"] == [3, 6, 9, 11]
    # The steps of a batch are those of a run that always has this one.
    assert [row for row in read_rows(tmp_path / "two/metrics.jsonl") if row["step"] <= 3] == rows[:5]
    timing = [row for row in read_rows(tmp_path / "whole/timing.jsonl") if "tokens_per_second" in row]
    # Seconds are rounded to a thousandth
    tokens = [row["tokens_per_second"] * row["seconds"] for row in timing]
    assert tokens == pytest.approx([32 * size for size in (2, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8)], rel=0.2)
    resumed = train("resume=part", "trainer.max_steps=11")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    refused = train("resume=part", "data.batch_schedule=[[4, 4]]")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr


def test_the_learning_rate_counts_what_a_step_has_of_a_whole_batch(train: Process, text: Path, tmp_path: Path) -> None:
    done = train(
        *SMALL,
        "data.batch_schedule=[[4, 2], [8, 4]]",
        "trainer.max_steps=11",
        "trainer.log_every_n_steps=1",
        "optim.schedule=linear",
        "optim.min_lr_ratio=0",
        "optim.warmup_steps=2",
        "optim.lr=6e-3",
        "run_dir=run",
    )
    assert done.returncode == 0, done.stderr
    rates = [row["lr"] / 1e-3 for row in read_rows(tmp_path / "run/metrics.jsonl") if row["split"] == "train"]
    # Whole batches before the steps: 0, 1/4, 1/2, 3/4, 1, 3/2, 2, 5/2, 3, 4, 5, and 6 in all. Two
    # of warm-up, then down to the last.
    assert rates == pytest.approx([3, 3.75, 4.5, 5.25, 6, 6, 6, 5, 4, 2, 0])


def test_a_multirun_has_a_folder_a_job_and_a_table(train: Process, text: Path, tmp_path: Path) -> None:
    done = train("-m", *SMALL, "trainer.max_steps=2", "optim.lr=1e-3,3e-3", "run_dir=sweep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["run:", str(Path("sweep/0")), "run:", str(Path("sweep/1"))]
    assert "All runs of sweep" in done.stderr
    assert "optim.lr=0.003" in done.stderr
    table = done.stderr.split("All runs of sweep")[1]
    assert {row.split("│")[1].strip() for row in table.splitlines() if row.startswith("│")} == {"0", "1"}
    for job, rate in (("0", 1e-3), ("1", 3e-3)):
        assert yaml.safe_load((tmp_path / "sweep" / job / "config.yaml").read_text())["optim"]["lr"] == rate
    assert "Results of" not in done.stderr
    alone = train("resume=sweep/1", "trainer.max_steps=4")
    assert (alone.returncode, alone.stdout) == (0, "run: sweep/1\n")
    assert "Results of sweep/1" in alone.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "overrides"),
    [
        ("ddp_cpu", ()),
        ("ddp_cpu", ("data.batch_schedule=[[2, 2], [4, 4]]", "data.micro_batch_size=1")),
        # Three matrices of a shape for two processes
        ("ddp_cpu", ("optim=muon", "model.n_unique_layer=1")),
    ],
)
def test_two_processes_see_the_data_that_one_sees(
    train: Process, text: Path, tmp_path: Path, trainer: str, overrides: tuple[str, ...]
) -> None:
    small = (word for word in SMALL if word != "trainer=cpu")
    shared = (*small, "trainer.max_steps=5", "trainer.log_every_n_steps=1", *overrides)
    one = train(*shared, "trainer=cpu", "run_dir=one")
    two = train(*shared, f"trainer={trainer}", "run_dir=two")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert two.stdout == "run: two\n"
    for a, b in zip(read_rows(tmp_path / "one/metrics.jsonl"), read_rows(tmp_path / "two/metrics.jsonl"), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-4)
    weights = [load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("data.stream=text", "data.subword_dropout=0.1")])
def test_the_cut_of_a_batch_changes_rounding_alone(
    train: Process, text: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    """1, 2, 3, 4, 8 micro-batches and two processes: one seed, one run, dropout on."""
    small = [word for word in SMALL if word not in ("trainer=cpu", "data.batch_size=8")]
    shared = (*small, "data.batch_size=24", "model.dropout=0.2", *overrides)
    shared += ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "trainer.val_check_interval=3")
    kinds = {f"{24 // size}": ("trainer=cpu", f"data.micro_batch_size={size}") for size in (24, 12, 8, 6, 3)}
    kinds["ddp"] = ("trainer=ddp_cpu", "data.micro_batch_size=4")
    if not overrides:
        kinds["chosen"] = ("trainer=cpu",)
        kinds["fsdp"] = ("trainer=fsdp_cpu",)
    rows = {}
    for name, more in kinds.items():
        done = train(*shared, *more, f"run_dir={name}")
        assert done.returncode == 0, done.stderr
        rows[name] = read_rows(tmp_path / name / "metrics.jsonl")
    for name, found in rows.items():
        for a, b in zip(rows["1"], found, strict=True):
            assert (a["step"], a["split"]) == (b["step"], b["split"])
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5), name


@pytest.mark.parametrize("trainer", ["cpu", pytest.param("ddp_cpu", marks=pytest.mark.slow)])
def test_no_warning_of_a_library_reaches_the_user(text: Path, tmp_path: Path, trainer: str) -> None:
    small = [word for word in SMALL if word != "trainer=cpu"]
    command = [str(REPO / "train.py"), *small, f"trainer={trainer}", "trainer.max_steps=3", "run_dir=run"]
    done = run(command, tmp_path, {"PYTHONWARNINGS": ""})  # Python's own choice, as a user has it
    assert done.returncode == 0, done.stderr
    assert "site-packages" not in done.stderr, done.stderr


@pytest.mark.slow
def test_compiled_and_computed_again_a_run_learns_the_same(train: Process, text: Path, tmp_path: Path) -> None:
    shared = (*SMALL, "trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=1")
    shared += ("model.dropout=0.2",)  # the same masks in a compiled graph
    kinds = {
        "plain": ("trainer.compile=false",),
        "compiled": ("trainer.compile=true",),
        "again": ("trainer.activation_checkpointing=true",),
    }
    rows, weights = {}, {}
    for name, overrides in kinds.items():
        done = train(*shared, *overrides, f"run_dir={name}")
        assert done.returncode == 0, done.stderr
        rows[name] = read_rows(tmp_path / name / "metrics.jsonl")
        weights[name] = load_file(tmp_path / name / "model/model.safetensors")
        assert load_state(checkpoints(tmp_path / name)[0])["layout"]["compiled"] == (name == "compiled")
    for name in ("compiled", "again"):
        assert weights[name].keys() == weights["plain"].keys()  # compiling renames nothing
        for a, b in zip(rows["plain"], rows[name], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=2e-4)


def test_without_a_compiler_training_says_why_and_goes_on(train: Process, text: Path, tmp_path: Path) -> None:
    done = run(
        [str(REPO / "train.py"), *SMALL, "trainer.compile=true", "trainer.max_steps=2", "run_dir=run"],
        tmp_path,
        {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"trainer\.compile: .*no-such-compiler.*: the training goes on without", done.stderr), done.stderr
    assert load_state(checkpoints(tmp_path / "run")[0])["layout"]["compiled"] is False


def slurm_tasks() -> list[dict[str, str]]:
    """What srun sets for each of the two tasks of a node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "oz",
        "SLURM_NNODES": "1",
    }
    job |= {"SLURM_NODEID": "0", "SLURM_JOB_START_TIME": "1700000000", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]


@pytest.mark.slow
def test_the_first_of_several_processes_waits_where_another_prepares(
    train: Process, text: Path, tmp_path: Path
) -> None:
    small = (*(word for word in SMALL if word != "trainer=cpu"), "trainer.max_steps=2")
    assert train(*small, "trainer=cpu", "run_dir=first").returncode == 0
    (prepared,) = (path for path in (tmp_path / "data/text").glob("prepared-*") if path.is_dir())
    command = [str(REPO / "train.py"), *small, "trainer=ddp_cpu"]
    with ThreadPoolExecutor(2) as pool:
        with FileLock(f"{prepared}.lock"):  # as the second task holds it, when it is faster
            shutil.rmtree(prepared)  # what is finished is open to all
            running = [pool.submit(run, command, tmp_path, task) for task in slurm_tasks()]
            with pytest.raises(TimeoutError):
                running[0].result(timeout=12)
        for process in running:
            assert process.result().returncode == 0, process.result().stderr


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("slurm", marks=pytest.mark.slow)])
def test_processes_that_a_launcher_starts_share_one_run_folder(text: Path, tmp_path: Path, launcher: str) -> None:
    small = (*(word for word in SMALL if word != "trainer=cpu"), "trainer=ddp_cpu", "trainer.max_steps=3")
    command = [str(REPO / "train.py"), *small]
    if launcher == "torchrun":
        arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command]
        done = [run(arguments, tmp_path)]
    else:
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda task: run(command, tmp_path, task), slurm_tasks()))
    for process in done:
        assert process.returncode == 0, process.stderr
    (folder,) = (tmp_path / "outputs/text").iterdir()
    assert "".join(process.stdout for process in done) == f"run: {folder.relative_to(tmp_path)}\n"
    assert load_state(checkpoints(folder)[0])["layout"]["processes"] == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.stream=text",),
        ("data.stream=text", "data.subword_dropout=0.1"),
        ("tokenizer=char",),
        ("debug=fast",),
        ("logger=csv",),
        ("logger=none",),
        ("debug=profile",),
    ],
)
def test_the_other_ways_to_run(train: Process, text: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    small = [word for word in SMALL if not (word.startswith("tokenizer.") and "tokenizer=char" in overrides)]
    steps = [] if any(word.startswith("debug") for word in overrides) else ["trainer.max_steps=3"]
    done = train(*small, *steps, *overrides, "run_dir=other")
    assert done.returncode == 0, done.stderr
    assert read_rows(tmp_path / "other/metrics.jsonl")[-1]["split"] == "val"
    assert (tmp_path / "other/tensorboard").exists() == (
        "logger=csv" not in overrides and "logger=none" not in overrides
    )
    if "debug=profile" in overrides:
        assert list((tmp_path / "other/tensorboard").glob("*.pt.trace.json"))


def test_one_batch_is_learned_by_heart(train: Process, text: Path, tmp_path: Path) -> None:
    done = train(*SMALL, "debug=overfit", "optim.lr=1e-2", "run_dir=heart")
    assert done.returncode == 0, done.stderr
    train_rows = [row for row in read_rows(tmp_path / "heart/metrics.jsonl") if row["split"] == "train"]
    assert train_rows[-1]["loss"] < 0.1 < 2 < train_rows[0]["loss"]
    assert done.stderr.splitlines()[-1].startswith("One batch was learned by heart: its loss went from ")


def test_fault_20_a_gpu_that_is_not_there(train: Process, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = train("trainer=gpu")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: trainer\.accelerator=gpu: there is none here; this machine has .*a CPU with \d+ cores.*\n", done.stderr
    )
    assert list(tmp_path.iterdir()) == []  # a refused job leaves nothing behind


def test_fault_10_texts_that_are_too_short(train: Process, tmp_path: Path) -> None:
    for content, line in (("", "empty"), ("Too short a story. " * 20, "tokens")):
        (tmp_path / "story.txt").write_text(content)
        done = train("data=text", "data.path=story.txt", "tokenizer=char", "model.block_size=512", "trainer=cpu")
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert line in done.stderr


def test_fault_23_a_clock_that_stands_still(tmp_path: Path) -> None:
    # Two processes that read the very same time: the folders still differ.
    program = (
        "import sys, hydra; from llm_from_scratch.front import compose, run_name;"
        "hydra.initialize_config_dir(version_base='1.3', config_dir=sys.argv[1]).__enter__();"
        "run_name.time.strftime = lambda pattern: 'noon';"
        "print(hydra.compose('train').run_dir)"
    )
    folders = {run(["-c", program, str(REPO / "configs")], tmp_path).stdout.strip() for _ in range(2)}
    assert len(folders) == 2
    assert all(re.fullmatch(r"outputs/oz/noon_[0-9a-f]{4}", folder) for folder in folders), folders


def test_a_run_folder_belongs_to_one_run(train: Process, finished: Path) -> None:
    done = train(*SMALL, "run_dir=run", cwd=finished)
    assert done.returncode == 2
    assert done.stderr.startswith("error: run_dir=run holds a run already")


def test_help_and_the_composed_configuration(train: Process) -> None:
    shown = train("--help")
    assert shown.returncode == 0
    for word in ("model: article, gpt2", "trainer.max_steps", "python train.py -m"):
        assert word in shown.stdout
    composed = train("model=gpt2", "--cfg", "job")
    assert composed.returncode == 0, composed.stderr
    assert yaml.safe_load(composed.stdout)["model"]["n_embd"] == 768


def test_a_callback_of_the_users_own(train: Process, text: Path, tmp_path: Path) -> None:
    # A learning rate of nearly nothing: no validation is better than the one before by 10 nats, so
    # patience ends the run.
    overrides = ("callbacks=early_stopping", "+callbacks.early_stopping.min_delta=10", "trainer.val_check_interval=2")
    done = train(*SMALL, *overrides, "trainer.max_steps=100", "run_dir=stopped")
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in read_rows(tmp_path / "stopped/metrics.jsonl") if row["split"] == "val"] == [
        2,
        4,
        6,
        8,
    ]


def test_the_real_book(train: Process, corpora: Path, tmp_path: Path) -> None:
    for tokenizer in ("char", "bpe"):
        done = train(
            "model=tiny",
            "data=oz",
            f"tokenizer={tokenizer}",
            "trainer=cpu",
            "trainer.max_steps=3",
            f"run_dir={tokenizer}",
        )
        assert done.returncode == 0, done.stderr
    (model,) = (tmp_path / "data/oz").glob("prepared-*/tokenizer/tokenizer.model")
    folder = model.parents[1]
    assert (
        len((folder / "val.txt").read_bytes()) == 21_344
    )  # the last tenth of the characters, as the published figures have it
    assert len((folder / "train.txt").read_bytes().decode()) == 187_030
