"""Runs that are killed with SIGKILL and resumed, again and again, beside one that nothing
disturbed: every byte must be the same.

`make chaos` makes all the kills, on Oz; `make test` makes three, on a made text. A point of death
is one of kill.py's (`state rename 1 before`), or an instant: `start +2.5` is so many seconds after
a process has begun, `training +0.3` after it has begun to train. Instead of SIGKILL, `validation
call 3 SIGTERM` sends a signal that the run saves for, and `pipe +0.3` is Ctrl-C in `train.py 2>&1 |
tee log`, of which `tee` dies first.
"""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO, story

from llm_from_scratch.checkpoint import checkpoints, verify_state
from llm_from_scratch.run import read_rows
from llm_from_scratch.weights import load_model

KILL = str(Path(__file__).with_name("kill.py"))
# A run of a few seconds: two micro-batches a step, dropout, a validation and a checkpoint every
# five steps.
SETTINGS = (
    "data.batch_size=8",
    "data.micro_batch_size=4",
    "data.val_fraction=0.03",
    "model.n_layer=2",
    "model.n_embd=32",
    "model.n_head=2",
    "model.block_size=32",
    "model.dropout=0.1",
    "optim.warmup_steps=10",
    "trainer=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=5",
    "sample.max_new_tokens=8",
    "run_dir=run",
)
OZ = (*SETTINGS, "data=oz", "trainer.max_steps=120")
VARIANTS = {
    "tokens": (*OZ, "tokenizer.vocab_size=320"),
    # With all that has a state of its own: Muon's momentum, an average of the weights, the random
    # cuts of the text.
    "text": (
        *OZ,
        "tokenizer.vocab_size=320",
        "data.stream=text",
        "data.subword_dropout=0.1",
        "optim=muon",
        "optim.ema_decay=0.9",
    ),
    # So fast that the best validation is not always the last
    "char": (*OZ, "tokenizer=char", "optim.lr=0.3"),
}
# With state that others keep: loggers, callbacks of the user, several corpora, a second process.
MORE = {
    "csv": (*OZ, "tokenizer.vocab_size=320", "logger=csv"),
    "stopping": (
        *(*OZ, "tokenizer=char", "optim.lr=0.3"),
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=2"),
    ),
    "mixture": (
        *(word for word in SETTINGS if "val_fraction" not in word),
        *("data=mix", "data.mix={oz: 0.6, shakespeare: 0.4}", "trainer.max_steps=120", "tokenizer.vocab_size=320"),
    ),
    "mask": (
        *SETTINGS,
        *("data=text", "data.path=../texts", "data.doc_mask=true", "trainer.max_steps=120", "tokenizer.vocab_size=320"),
    ),
    "two": (*(word for word in OZ if word != "trainer=cpu"), "trainer=ddp_cpu", "tokenizer.vocab_size=320"),
}
# In step 18: three checkpoints have been written, so that the next save meets an older model and
# removes the oldest state.
STEADY = "forward call 36 before"
MOMENTS = {"write": ("before", "amid", "after"), "remove": ("before", "amid", "after"), "call": ("before",)}
Kill = dict[str, Any]

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")


class Start:
    """A process of train.py in `folder`; with a point of kill.py's, or `none` for a trace, it goes
    through kill.py.
    """

    def __init__(
        self, folder: Path, words: Iterable[str], point: str | None = None, *, clock: float = 0, piped: bool = False
    ) -> None:
        self.trace, self.errors = folder / "trace", folder / "stderr"
        point = point or ("none" if clock else None)
        program = [KILL, str(self.trace), point] if point else [str(REPO / "train.py")]
        environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "PYTHONWARNINGS": "ignore"}
        environment.setdefault("LLM_CORPORA", str(REPO.parent / "shared" / "corpora"))
        environment["CHAOS_CLOCK"] = str(clock)
        with self.errors.open("w") as errors:
            self.reader = None
            if piped:
                self.reader = subprocess.Popen(["tee"], stdin=subprocess.PIPE, stdout=errors)
            output: Any = self.reader.stdin if self.reader else errors
            command = [sys.executable, *program, *words]
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_hears_hangups,
            )
            if self.reader:
                output.close()

    def status(self, seconds: float = 180) -> int:
        return self.process.wait(seconds)

    def kill_at(self, instant: str, sign: Path) -> int:
        """Kills the process so many seconds after its start, or after `sign` has been
        written anew.
        """
        since, seconds = instant.split(" +")
        before = _written(sign)
        while since != "start" and self.process.poll() is None and _written(sign) == before:
            time.sleep(0.002)
        try:
            return self.status(float(seconds))
        except subprocess.TimeoutExpired:
            if self.reader:
                self.reader.kill()
                self.reader.wait()
                os.killpg(self.process.pid, signal.SIGINT)
            else:
                self.process.kill()
            return self.status()

    def all_ended(self, seconds: float = 60) -> bool:
        """Whether the other processes of the run end soon after the one that was killed."""
        deadline = time.monotonic() + seconds
        while left := _group(self.process.pid):
            if time.monotonic() > deadline:
                for process in left:
                    os.kill(process, signal.SIGKILL)
                return False
            time.sleep(0.05)
        return True


def _hears_hangups() -> None:
    """A run would leave SIGHUP ignored where `make chaos` itself stands behind nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _group(leader: int) -> list[int]:
    """The processes that run in a group, where /proc tells of them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(group) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def status_after(point: str) -> int:
    """The exit status of a process that came to this point."""
    last = "SIGINT" if point.startswith("pipe") else point.split()[-1]
    return 128 + getattr(signal, last) if last.startswith("SIG") else -signal.SIGKILL


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def goes_on_from(run: Path) -> int:
    """The step of the newest checkpoint, 0 without one. Whatever a kill leaves under its final name
    is whole.
    """
    if (run / "config.yaml").exists():
        assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["trainer"]
    for folder in checkpoints(run)[:2]:
        verify_state(folder)
    if not checkpoints(run):
        return 0
    step = int(checkpoints(run)[0].name.removeprefix("step_"))
    if step >= 5:  # the first validation brings the first model
        assert load_model(run).step <= step + 5  # the model comes before the state of its step
    return step


def survive(
    folder: Path, words: Iterable[str], plan: deque[str], kills: list[Kill], clocks: random.Random | None = None
) -> Path:
    """Starts a run, kills each of its processes at the next point of the plan, and resumes it until
    one ends by itself.

    A point that the last process did not come to stays in the plan. Every kill is noted in `kills`.
    With `clocks` each process has a clock of its own, up to an hour off.
    """
    folder.mkdir(parents=True)
    run, step = folder / "run", 0
    while True:
        resumed, point = (run / "config.yaml").exists(), plan[0] if plan else ""
        instant = point.startswith(("start", "training", "pipe"))
        start = Start(
            folder,
            ["resume=run"] if resumed else words,
            None if instant else point or None,
            clock=clocks.uniform(-3600, 3600) if clocks else 0,
            piped=point.startswith("pipe"),
        )
        status = start.kill_at(point, run / "timing.jsonl") if instant else start.status()
        errors = start.errors.read_text(encoding="utf-8")
        if status == 0 or (status == 2 and "has made its" in errors and (run / "curves.png").exists()):
            return run  # the second is a run that was killed behind its last word
        assert status == status_after(point), f"after {kills}, on the way to {point or 'the end'}: {errors}"
        assert start.all_ended(), f"processes are left after {point}"
        assert "checkpoint refused" not in errors
        if resumed and step == 0 and point.startswith(("forward", "model", "state")):
            assert "starts again at step 0" in errors
        step = goes_on_from(run)
        kills.append({"point": plan.popleft(), "resumed_from": step if (run / "config.yaml").exists() else None})


def survive_all(
    folder: Path,
    words: Iterable[str],
    plan: Iterable[str],
    kills: list[Kill],
    wanted: Path,
    lead: tuple[str, ...] = (),
    clocks: random.Random | None = None,
) -> None:
    """As many runs as the plan needs, each beginning with the points of `lead`; each must be the
    undisturbed one in the end.
    """
    rest, attempt = deque(plan), 0
    while rest:
        left, attempt = len(rest), attempt + 1
        rest.extendleft(reversed(lead))
        check_same(survive(folder / str(attempt), words, rest, kills, clocks), wanted)
        if len(rest) == left and rest[0].startswith(("start", "training", "pipe")):
            since, seconds = rest.popleft().split(
                "+"
            )  # the machine is faster now than when the undisturbed run was timed
            rest.appendleft(f"{since}+{float(seconds) / 2:.3f}")
        else:
            assert len(rest) < left, f"no process came to {rest[0]}"


def check_same(run: Path, wanted: Path) -> None:
    got, want = contents(run), contents(wanted)
    assert sorted(got) == sorted(want)
    assert [name for name in want if got[name] != want[name]] == []


def contents(run: Path) -> dict[str, Any]:
    """All that a run folder holds, without what depends on the clock and on how often the run was
    started.
    """
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        assert not name.startswith("tensorboard/.building"), "half a file is left"
        if path.is_file() and not name.startswith((".hydra/", "tensorboard/")) and name != ".lock":
            found[name] = path.read_bytes()
    found["config.yaml"] = yaml.safe_load(found["config.yaml"]) | {"resume": None}
    for name in [name for name in found if name.endswith("metrics.csv")]:
        rows = csv.DictReader(found[name].decode().splitlines())
        found[name] = [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]
    found["timing.jsonl"] = [(row["step"], sorted(row)) for row in read_rows(run / "timing.jsonl")]
    found[".timing.jsonl.crc32"] = len(found[".timing.jsonl.crc32"])
    return found | {f"TensorBoard's {tag}": points for tag, points in curves(run).items()}


def curves(run: Path) -> dict[str, list[Any]]:
    """The points of each of TensorBoard's curves and texts, as TensorBoard shows them: no step
    twice.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not (run / "tensorboard").exists():
        return {}
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found: dict[str, list[Any]] = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        found[tag] = [point.step if tag.startswith("time/") else (point.step, point.value) for point in points]
        assert len({point.step for point in points}) == len(points), f"{tag}: a step comes twice"
    # Of each process
    for tag in (tag for tag in events.Tags()["tensors"] if not tag.startswith("custom_scalars")):
        found[tag] = [(point.step, bytes(point.tensor_proto.string_val[0])) for point in events.Tensors(tag)]
    return found


def undisturbed(folder: Path, words: Iterable[str], point: str | None = None) -> Path:
    folder.mkdir()
    start = Start(folder, words, point)
    assert start.status() == 0, start.errors.read_text(encoding="utf-8")
    return folder / "run"


def calls_of_a_save(run: Path, last: str) -> list[str]:
    """The calls, as `scope call number`, that kill.py noted in the first five steps of a process
    and in their save, which ends with `last`.

    They come from two threads. So that the list is the same each time, those of the writing one are
    behind the others, and the removals with which a start clears away what a kill has left half
    done do not count.
    """
    lines = (run.parent / "trace").read_text(encoding="utf-8").splitlines()
    calls = [" ".join(line.split(" ")[:3]) for line in lines]
    saving = [call for call in calls if call.startswith(("model", "state"))]
    others = [call for call in calls if call not in saving]
    clearing = Counter(call.rsplit(" ", 1)[0] for call in saving[: saving.index("model write 1")])
    saving = [renumbered(call, clearing) for call in saving[clearing.total() :]]
    return others[: others.index("forward call 11")] + saving[: saving.index(last) + 1]


def renumbered(call: str, earlier: Counter[str]) -> str:
    """`state remove 2`, with one `state remove` earlier -> `state remove 1`."""
    kind, number = call.rsplit(" ", 1)
    return f"{kind} {int(number) - earlier[kind]}"


@pytest.fixture
def kills(record_property: Callable[[str, Any], None]) -> list[Kill]:
    """The kills that a test makes; conftest.py makes the summary of them."""
    made: list[Kill] = []
    record_property("kills", made)
    return made


References = Callable[[str], tuple[Path, float]]


@pytest.fixture(scope="session")
def reference(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> References:
    """variant -> the run folder of an undisturbed train.py, and the seconds it took."""
    made: dict[str, tuple[Path, float]] = {}

    def get(variant: str) -> tuple[Path, float]:
        if variant not in made:
            since, folder = time.perf_counter(), tmp_path_factory.mktemp("reference")
            make_texts(folder)
            run = undisturbed(folder / variant, (VARIANTS | MORE)[variant])
            made[variant] = run, time.perf_counter() - since
        return made[variant]

    return get


@pytest.fixture(scope="session")
def points(tmp_path_factory: pytest.TempPathFactory, reference: References) -> list[str]:
    """Every point of five steps and their save, in the order in which a resumed process comes to
    them.
    """
    folder = tmp_path_factory.mktemp("steady")
    assert Start(folder, VARIANTS["tokens"], STEADY).status() == -signal.SIGKILL
    assert Start(folder, ["resume=run"], "none").status() == 0
    check_same(folder / "run", reference("tokens")[0])
    # Which removes the oldest
    return with_moments(calls_of_a_save(folder / "run", "state remove 1"))


def with_moments(calls: list[str]) -> list[str]:
    """Calls -> points of death. Of micro-batches and rows, which are many and alike, the first four
    and the last two.
    """
    found = []
    for many in ("forward call", "validation call", "metrics write"):
        alike = [call for call in calls if call.startswith(many)]
        calls = [call for call in calls if call not in alike[4:-2]]
    for call in calls:
        found += [f"{call} {moment}" for moment in MOMENTS.get(call.split()[1], ("before", "after"))]
    return found


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(3))
def test_fault_01_killed_at_every_call_of_a_save(
    part: int, points: list[str], reference: References, kills: list[Kill], tmp_path: Path
) -> None:
    assert len(points) > 90
    for scope in ("config", "metrics", "samples", "model", "state"):
        assert f"{scope} write 1 amid" in points
    for scope in ("metrics", "samples", "model", "state"):
        assert {f"{scope} {call} 1 {moment}" for call in ("fsync", "rename") for moment in ("before", "after")} <= {
            *points
        }
    survive_all(tmp_path / "runs", VARIANTS["tokens"], points[part::3], kills, reference("tokens")[0], (STEADY,))


@pytest.mark.chaos
def test_fault_01_killed_in_the_first_save(reference: References, kills: list[Kill], tmp_path: Path) -> None:
    """Before there is a checkpoint a run starts again at step 0, and the first save finds no older
    model.
    """
    undisturbed(tmp_path / "traced", VARIANTS["tokens"], "none")
    check_same(tmp_path / "traced/run", reference("tokens")[0])
    calls = calls_of_a_save(tmp_path / "traced/run", "state rename 1")
    plan = [point for point in with_moments(calls) if point.endswith("before")]
    assert plan[0] == "config write 1 before"
    survive_all(tmp_path / "runs", VARIANTS["tokens"], plan, kills, reference("tokens")[0])


@pytest.mark.chaos
def test_fault_01_killed_after_the_last_step(
    points: list[str], corpora: Path, kills: list[Kill], tmp_path: Path
) -> None:
    """The save of step 20 is the last: what is left of it, and the picture and TensorBoard's table
    of runs behind it, still come.
    """
    words = tuple(word.replace("max_steps=120", "max_steps=20") for word in VARIANTS["tokens"])
    wanted = undisturbed(tmp_path / "wanted", words)
    saved = ["state fsync 5 before", "state rename 2 before", "state rename 2 after", "state remove 1 amid"]
    assert {*saved} <= {*points}
    ending = ["ending write 1 before", "ending write 1 amid", "ending rename 1 before", "ending rename 1 after"]
    plan = [point for both in zip(saved, ending, strict=True) for point in both]
    survive_all(tmp_path / "runs", words, plan, kills, wanted, (STEADY,))


@pytest.mark.chaos
@pytest.mark.parametrize("variant", ["text", "char"])
def test_fault_01_killed_in_a_save_of_another_kind_of_run(
    variant: str, points: list[str], reference: References, kills: list[Kill], tmp_path: Path
) -> None:
    survive_all(tmp_path / "runs", VARIANTS[variant], points[::7], kills, reference(variant)[0], (STEADY,))


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("variant", "seed", "count"), [("tokens", 1, 16), ("tokens", 2, 16), ("text", 3, 14), ("char", 4, 14)]
)
def test_fault_01_killed_at_random_instants(
    variant: str, seed: int, count: int, reference: References, kills: list[Kill], tmp_path: Path
) -> None:
    """Half of them anywhere in a process, its start-up included; half in the training, a sixth of
    it at a time.
    """
    wanted, seconds = reference(variant)
    timing = read_rows(wanted / "timing.jsonl")
    training = sum(row.get("seconds", 0) + row.get("validation_seconds", 0) for row in timing)
    draw = random.Random(seed).uniform
    plan = []
    for _ in range(count // 2):
        plan += [f"start +{draw(0.01, seconds - training / 2):.3f}", f"training +{draw(0, training / 6):.3f}"]
    survive_all(tmp_path / "runs", VARIANTS[variant], plan, kills, wanted)


def make_texts(folder: Path) -> None:
    """Eighty documents beside the folders of the runs."""
    (folder / "texts").mkdir()
    for number in range(80):
        (folder / "texts" / f"{number:02}.txt").write_text(story(1_000, seed=number), encoding="utf-8")


SAVE = ("state rename 2 before", "model write 1 amid", "metrics rename 1 after", "validation call 3 before")


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("variant", "plan"),
    [
        (
            "csv",
            (
                *("csv write 1 before", "csv write 2 amid", "csv write 2 after", "csv fsync 2 before"),
                *("csv rename 1 before", "csv rename 1 after", "forward call 22 before", "training +0.2"),
            ),
        ),
        ("stopping", (*SAVE, "state rename 1 before", "state rename 1 after", "ending write 1 before")),
        ("mixture", (*SAVE, "training +0.3")),
        ("mask", (*SAVE, "training +0.1")),
        ("two", ("start +4", "validation call 3 before", "state rename 2 before", "forward call 12 before")),
        (
            "tokens",
            (STEADY, "curves rename 1 before", "curves rename 2 after", "curves fsync 3 before", "curves write 1 amid"),
        ),
    ],
)
def test_fault_01_killed_with_what_others_keep_and_clocks_that_jump(
    variant: str, plan: tuple[str, ...], reference: References, kills: list[Kill], tmp_path: Path
) -> None:
    """Loggers, early stopping, mixtures, attention within documents, two processes; every process
    has another clock.
    """
    wanted, _ = reference(variant)
    if variant == "stopping":
        assert read_rows(wanted / "metrics.jsonl")[-1]["step"] < 120
    make_texts_of(variant, tmp_path / "runs")
    survive_all(tmp_path / "runs", (VARIANTS | MORE)[variant], plan, kills, wanted, clocks=random.Random(5))


def make_texts_of(variant: str, folder: Path) -> None:
    if variant == "mask":
        folder.mkdir()
        make_texts(folder)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("variant", "plan"),
    [
        ("tokens", ("validation call 3 SIGTERM", "validation call 1 SIGHUP", "forward call 10 SIGTERM")),
        ("csv", ("forward call 20 SIGINT", "validation call 4 SIGUSR1")),
        ("two", ("validation call 3 SIGTERM",)),
        ("tokens", ("pipe +0", "pipe +0.05", "pipe +0.1")),
        ("csv", ("pipe +0.15", "pipe +0.02")),
    ],
)
def test_fault_03_signals_at_validation_steps_and_a_reader_that_died(
    variant: str, plan: tuple[str, ...], reference: References, kills: list[Kill], tmp_path: Path
) -> None:
    """A signal finishes its step with the validation: all rows, samples and curves of it come,
    once.
    """
    wanted, _ = reference(variant)
    survive_all(tmp_path / "runs", (VARIANTS | MORE)[variant], plan, kills, wanted, clocks=random.Random(6))


@pytest.mark.chaos
def test_fault_02_killed_twice_in_one_accumulation_window(
    reference: References, kills: list[Kill], tmp_path: Path
) -> None:
    """A step is two micro-batches: an even one is the second, with gradients of the first that no
    checkpoint holds.
    """
    plan = [
        "forward call 36 before",
        "forward call 2 before",
        "forward call 2 before",
        "forward call 12 before",
        "forward call 2 before",
    ]
    survive_all(tmp_path / "runs", VARIANTS["tokens"], plan, kills, reference("tokens")[0])


@pytest.mark.slow
def test_fault_01_three_kills(kills: list[Kill], tmp_path: Path) -> None:
    """The short form: in a save right before its rename, at a random instant of the training, in a
    validation.
    """
    words = (
        *SETTINGS,
        "data=text",
        "data.path=../story.txt",
        "data.dir=../data",
        "tokenizer.vocab_size=320",
        "trainer.max_steps=40",  # training goes on for longer than the random instant, on a fast machine too
    )
    (tmp_path / "story.txt").write_text(story(60_000), encoding="utf-8")
    wanted = undisturbed(tmp_path / "wanted", words)
    # The model is half a save ahead of the state: 5 steps are lost, and come again the same.
    plan = ["state rename 3 before", f"training +{random.Random(0).uniform(0, 0.2):.3f}", "validation call 3 before"]
    check_same(survive(tmp_path / "killed", words, deque(plan), kills), wanted)
    assert len(kills) == 3
    assert kills[0]["resumed_from"] == 10
