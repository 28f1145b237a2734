"""The benchmarks run from end to end at their smallest size; their figures are nobody's here, and
go to a folder of the test.

NANOGPT=PATH, a clone of nanoGPT, adds that peer.
"""

import json
import os
import pickle
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPO, run, story

from llm_from_scratch.data.shards import open_shard
from llm_from_scratch.model import GPT, GPTConfig

BENCHMARKS = sorted((REPO / "benchmarks").glob("[a-z]*.py"))
NANOGPT = ["--nanogpt", os.environ["NANOGPT"]] if "NANOGPT" in os.environ else []


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))


@pytest.fixture(autouse=True)
def committed_results_stay() -> Iterator[None]:
    def sizes() -> dict[Path, int]:
        return {path: path.stat().st_size for path in (REPO / "benchmarks" / "results").glob("*")}

    before = sizes()
    yield
    assert sizes() == before


def rows_of(benchmark: str, tmp_path: Path, *arguments: str, program: str | None = None) -> list[dict]:
    """Runs a benchmark once at the size given; the lines that it appended."""
    results = tmp_path / "results"
    script = str(REPO / "benchmarks" / f"{program or benchmark}.py")
    done = run([script, "--repeats", "1", "--results", str(results), *NANOGPT, *arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (results / f"{benchmark}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows
    assert all({"date", "processor", "versions"} <= set(row) for row in rows)
    return rows


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_help_says_what_is_measured_where_the_package_is_not_installed(path: Path, tmp_path: Path) -> None:
    libraries = sysconfig.get_path("purelib")  # without the .pth files that -S leaves out
    done = run(["-S", str(path), "--help"], tmp_path, {"PYTHONPATH": libraries})
    assert done.returncode == 0, done.stderr
    assert "--results" in done.stdout
    assert len(done.stdout.split("options:")[0].splitlines()) > 5


# ---------------------------------------------------------------------------------- from end to end
@pytest.mark.slow
def test_training_measures_train_py_and_hugging_face_with_gpt2s_vocabulary(tmp_path: Path) -> None:
    sizes = "--gpt2 --n-layer 1 --n-embd 16 --n-head 1 --block-size 8 --batch-size 2 --steps 4 --warmup 2 --threads 1"
    peers = ["huggingface", "nanogpt"] if NANOGPT else ["huggingface"]
    rows = rows_of("training", tmp_path, *sizes.split(), "--only", "gpt2-shape", *peers)
    assert [row["contender"] for row in rows] == ["gpt2-shape", *peers]
    for row in rows:
        assert row["tokens/s"] == pytest.approx(16 / row["ms a step"] * 1000)
        assert 0 < row["MFU %"] < 100
        assert row["to Hugging Face"] == pytest.approx(row["tokens/s"] / rows[1]["tokens/s"])
        assert row["cuda MB"] is None


@pytest.mark.slow
def test_overhead_compares_two_loops_of_the_same_run(tmp_path: Path) -> None:
    (row,) = rows_of("overhead", tmp_path, "--steps", "40", "--warmup", "10")
    ours, raw = row["train.py ms a step"], row["raw loop ms a step"]
    assert row["difference ms"] == pytest.approx(ours - raw)
    assert min(ours, raw) > 0


@pytest.mark.slow
def test_side_by_side_compares_waiting_threads_alone_and_beside_a_twin(tmp_path: Path) -> None:
    rows = rows_of("side_by_side", tmp_path, *["--spins", "1000", "--steps", "6", "--warmup", "2", "--threads", "1"])
    assert [row["spins"] for row in rows] == ["train.py", "1000"]
    best = min(row["ms alone"] for row in rows)
    for row in rows:
        assert row["speed beside a twin"] == pytest.approx(best / row["ms beside a twin"])
        assert row["slower alone %"] == pytest.approx(100 * (row["ms alone"] / best - 1))


@pytest.mark.slow
def test_serving_measures_every_server_under_load(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    words = ["--clients", "1", "6", "--requests", "2", "--tokens", "20", "--prompt", "5"]
    rows = rows_of("serving", tmp_path, *words)
    assert [(row["server"], row["clients"]) for row in rows] == [
        ("this server", 1), ("this server", 6), ("one at a time", 1), ("one at a time", 6)
    ]  # fmt: skip
    for row in rows:
        assert (row["errors"], row["refused"]) == (0, 0)
        assert 0 < row["first p50 s"] <= row["first p95 s"] <= row["whole p95 s"]
    rows = rows_of("serving_fairness", tmp_path, "--fairness", "--tokens", "30", program="serving")
    assert [row["long prompts beside"] for row in rows] == [0, 1, 4]
    for row in rows:
        assert 0 < row["pause p50 s"] <= row["pause p95 s"] <= row["longest pause s"]


@pytest.mark.slow
def test_sampler_measures_speed_and_memory(tmp_path: Path) -> None:
    sizes = "--seconds 0.05 --batches 3 --huge-gb 1 --shards 2 --batch-size 4 --block-size 16"
    speeds, memory = [], []
    for row in rows_of("sampler", tmp_path, *sizes.split()):
        (speeds if "reader" in row else memory).append(row)
    assert [row["reader"] for row in speeds] == ["this sampler", "nanoGPT's get_batch"][: 1 + bool(NANOGPT)]
    if Path("/proc/self/status").exists():
        assert [row["corpus MB"] for row in memory] == [1, 1000]
        assert abs(memory[1]["added MB"] - memory[0]["added MB"]) < 10  # the corpora differ by 999


@pytest.mark.slow
def test_prepare_measures_rates_and_memory(tmp_path: Path) -> None:
    for name in ("tiktoken", "tokenizers", "pyarrow"):
        pytest.importorskip(name)
    (tmp_path / "text.txt").write_text(story(300_000), encoding="utf-8")
    sizes = ["--mb", "0.4", "--big-mb", "0.8", "--text", str(tmp_path / "text.txt")]
    rows = rows_of("prepare", tmp_path, *sizes)
    rates = [row for row in rows if "method" in row]
    methods = ["ours", "nanoGPT's method"] if find_spec("datasets") else ["ours"]
    assert [(row["method"], row["workers"]) for row in rates] == [
        *((method, workers) for method in methods for workers in (1, 2)),
        ("SentencePiece", 1),
    ]
    assert all(row["MB/s"] > 0 and row["MB a CPU second"] > 0 for row in rates)
    assert [row["cores"] for row in rows if "cores" in row] == [2, 16, 256]
    corpora = [row for row in rows if "corpus MB" in row]
    assert [(row["corpus MB"] > 0.6, row["workers"]) for row in corpora] == [
        (False, 1),
        (False, 2),
        (True, 1),
        (True, 2),
    ]


def test_the_projection_counts_rounds_of_files() -> None:
    from prepare import projected

    assert projected(10, 1, 1) == pytest.approx(39_769 / 10 / 60)
    assert projected(10, 0.5, 16) == pytest.approx(5 * 39_769 / 80 / 5 / 60)
    assert projected(10, 1, 256) == projected(10, 1, 80)  # more cores than files wait


@pytest.mark.slow
def test_decoding_measures_every_writer(tmp_path: Path) -> None:
    sizes = "--n-layer 1 --n-embd 16 --n-head 1 --block-size 8 --new-tokens 8 --batches 1 2 --threads 1"
    rows = rows_of("decoding", tmp_path, *sizes.split())
    assert [(row["writer"], row["batch"]) for row in rows if row["writer"] != "nanoGPT"] == [
        ("generate_tokens", 1),
        ("Hugging Face", 1),
        ("generate_tokens", 2),
        ("Hugging Face", 2),
    ]
    assert all(row["tokens/s"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU it is measured: make gpu")
def test_the_gpu_check_runs_at_a_small_size_without_a_gpu(tmp_path: Path) -> None:
    script = str(REPO / "benchmarks" / "gpu.py")
    done = run([script, "--results", str(tmp_path), "--only", "tests", "decoding"], tmp_path, {"OUT": ""})
    assert done.returncode == 0, done.stdout
    rows = [json.loads(line) for line in (tmp_path / "gpu" / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["measured"] for row in rows} == {"not measured"}
    assert "decoding, batch 1: generate_tokens" in {row["what"] for row in rows}


@pytest.mark.slow
def test_startup_measures_both_scripts(tmp_path: Path) -> None:
    seconds = {row["program"]: row["seconds"] for row in rows_of("startup", tmp_path)}
    assert list(seconds) == ["import torch", "train.py --help", "generate.py --help", "generate.py, first token"]
    # No comparison: another process may delay any of them
    assert all(0.1 < value < 100 for value in seconds.values())


@pytest.mark.slow
def test_time_to_loss_stops_the_run_at_the_target(tmp_path: Path, corpora: Path) -> None:
    if not (corpora / "shakespeare" / "input.txt").exists():
        pytest.skip("needs tiny Shakespeare")
    overrides = "model.n_layer=1 model.n_embd=16 model.n_head=1 trainer.max_steps=100000 trainer.val_check_interval=2"
    # It saves nothing before its 250th
    sizes = ["--target", "9", "--threads", "1", "--nanogpt-iters", "250"]
    row, *_ = rows_of("time_to_loss", tmp_path, *sizes, "--overrides", *overrides.split())
    assert row["reached"]
    assert row["loss"] < 9
    assert sum(row[part] for part in ("training", "compiling", "validations", "start")) == pytest.approx(row["seconds"])


def test_the_parts_of_a_time_to_loss_by_hand() -> None:
    from time_to_loss import parts

    rows = [
        {"seconds": 7.0},
        {"seconds": 1.0},
        {"validation_seconds": 3.0},
        {"seconds": 1.5},
        {"validation_seconds": 0.5},
    ]
    found = parts([*rows, {"seconds": 1.0}, {"validation_seconds": 0.5}], 30.0)
    # The others' medians are 1 and 0.5: compiling took 6 of the first steps' seconds, 2.5 of the
    # first validation's.
    assert found == {"training": 4.5, "compiling": 8.5, "validations": 1.5, "start": 15.5}
    assert parts([{"seconds": 2.0}], 5.0) == {"training": 2.0, "compiling": 0, "validations": 0, "start": 3.0}


def test_time_to_loss_says_that_it_is_skipped_without_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (REPO / "data" / "shakespeare" / "input.txt").exists():
        pytest.skip("the text was downloaded")
    monkeypatch.setenv("LLM_CORPORA", str(tmp_path))
    done = run([str(REPO / "benchmarks" / "time_to_loss.py"), "--results", str(tmp_path / "results")], tmp_path)
    assert (done.returncode, (tmp_path / "results").exists()) == (0, False), done.stderr
    assert "skipped" in done.stdout


def test_a_wrong_path_to_nanogpt_costs_one_line(tmp_path: Path) -> None:
    done = run([str(REPO / "benchmarks" / "sampler.py"), "--nanogpt", str(tmp_path)], tmp_path)
    assert done.returncode == 2
    assert "holds no model.py and train.py" in done.stderr


# ---------------------------------------------------------------------------------------- the parts
def test_peers_take_turns() -> None:
    from _record import take_turns

    order: list[str] = []
    found = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert (order, found) == (list("ababab"), {"a": [None] * 3, "b": [None] * 3})


def test_nanogpts_log_gives_the_mean_of_the_iterations_behind_the_warm_up() -> None:
    from _nanogpt import step_seconds

    log = "step 0: train loss 4.1, val loss 4.2\n" + "".join(
        f"iter {i}: loss 4.2134, time {ms}ms, mfu -100.00%\n" for i, ms in enumerate(("512.50", "20.00", "40.00"))
    )
    assert step_seconds(log, warmup=1) == pytest.approx(0.03)
    with pytest.raises(RuntimeError, match="no iteration behind number 3"):
        step_seconds(log, warmup=3)


def test_nanogpts_data_are_the_text(tmp_path: Path) -> None:
    from _nanogpt import write_characters

    text = "to be, or not to be" * 3
    write_characters(tmp_path, text)
    meta = pickle.loads((tmp_path / "meta.pkl").read_bytes())
    ids = np.concatenate([np.fromfile(tmp_path / name, np.uint16) for name in ("train.bin", "val.bin")])
    assert "".join(meta["itos"][i] for i in ids) == text
    assert meta["vocab_size"] == len(set(text)) == len(meta["stoi"])
    assert len(np.fromfile(tmp_path / "val.bin", np.uint16)) == 6  # a tenth of 57, rounded up


def test_train_py_and_nanogpt_read_the_same_text(tmp_path: Path) -> None:
    from _processes import characters
    from training import write_text

    name, text = characters()
    assert write_text(tmp_path, SimpleNamespace(gpt2=False)) == len(set(text))
    assert (tmp_path / "text.txt").read_bytes().decode() == text
    assert sum(path.stat().st_size for path in (tmp_path / "data" / "bench").glob("*.bin")) == 2 * len(text)
    assert len(text) == (1_115_394 if name == "shakespeare" else 1_200_000)


@pytest.mark.parametrize(("model", "inner"), [("gpt2", 512), ("tiny", 384)])
def test_the_operations_of_the_cpu_row_are_those_of_its_matrices(model: str, inner: int) -> None:
    from training import operations

    options = SimpleNamespace(n_layer=4, n_head=4, n_embd=128, block_size=64)
    activation = "gelu" if model == "gpt2" else "swiglu"
    network = GPT(GPTConfig(vocab_size=65, n_layer=4, n_embd=128, block_size=64, activation=activation, n_inner=inner))
    # The tied head is its embedding
    weights = sum(p.numel() for p in network.parameters() if p.dim() == 2)
    assert operations(model, 65, options) == 6 * weights + 12 * 4 * 128 * 64
    if model == "gpt2":
        assert 12 * 64 * operations(model, 65, options) == pytest.approx(
            3.96e9, rel=0.01
        )  # by hand, a step of 768 tokens


def test_the_sparse_corpus_is_opened_whole_and_takes_no_room(tmp_path: Path) -> None:
    from sampler import write_sparse

    write_sparse(tmp_path / "huge", 500_000_000)
    shard = open_shard(tmp_path / "huge")
    assert (len(shard.tokens), shard.document_ends.tolist()) == (500_000_000, [500_000_000])
    if hasattr((tmp_path / "huge.bin").stat(), "st_blocks"):
        assert (tmp_path / "huge.bin").stat().st_blocks * 512 < 10_000_000


def test_what_is_shared_by_all_rows_stands_in_every_line(tmp_path: Path) -> None:
    from _record import record

    record("trial", [{"a": 1.5, "b": None}, {"a": 2, "b": "x"}], tmp_path, {"device": "cpu"})
    lines = [json.loads(line) for line in (tmp_path / "trial.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["a"], line["b"], line["device"]) for line in lines] == [(1.5, None, "cpu"), (2, "x", "cpu")]
    assert lines[0]["versions"]["torch"] == torch.__version__
