"""The checks of a run: everything broken on purpose, and the line that says so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPO, SMALL, as_version_0_1
from filelock import FileLock

from llm_from_scratch.checkpoint import checkpoints
from llm_from_scratch.data.prepared import manifest_sha256
from llm_from_scratch.doctor.examination import examine
from llm_from_scratch.doctor.findings import Finding
from llm_from_scratch.files import sha256
from llm_from_scratch.run import read_rows, write_rows
from llm_from_scratch.weights import load_model


@pytest.fixture
def sound(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run with its text, in the folder that it was started in."""
    folder = tmp_path / "sound"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


def about(run: str, mark: str | None = None) -> list[Finding]:
    """The findings on a run that have that mark."""
    found = list(examine(Path(run)))
    assert all("\n" not in finding.what + finding.advice for finding in found)
    assert all(finding.advice for finding in found if finding.mark != "ok")
    return [finding for finding in found if mark in (None, finding.mark)]


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def test_a_sound_run_has_no_fault(sound: Path) -> None:
    found = about("run")
    assert [finding for finding in found if finding.mark == "fault"] == []
    lines = [finding.what for finding in found]
    for start in ("Python 3.", "filelock", "a CPU with", "data/:", "outputs/:"):
        assert any(line.startswith(start) for line in lines), start
    run = Path("run")
    assert f"{run / 'config.yaml'}: data=text, 60 steps" in lines
    for step in ("step_00000060", "step_00000050"):
        assert f"{run / 'checkpoints' / step}: every byte verified" in lines
    assert any(line.startswith(f"{run / 'model'}: verified; step ") for line in lines)
    assert f"{run / 'metrics.jsonl'}: 9 rows" in lines
    assert any("prepared-" in line and "every byte verified" in line for line in lines)
    assert "run: has made its 60 steps; to go on: python train.py resume=run trainer.max_steps=120" in lines
    assert any(line.startswith("run: a checkpoint takes 0.") for line in lines)


FILES = (
    "run/checkpoints/step_00000060/state.json",
    "run/checkpoints/step_00000060/tensors.safetensors",
    "run/checkpoints/step_00000060/manifest.json",
    "run/checkpoints/step_00000050/tensors.safetensors",
    "run/model/model.safetensors",
    "run/model/tokenizer.json",
    "run/model/tokenizer.model",
    "data/text/prepared-*/manifest.json",
    "data/text/prepared-*/train_00000.bin",
    "data/text/prepared-*/train_00000.idx",
    "data/text/prepared-*/val_00000.bin",
    "data/text/prepared-*/val_00000.idx",
    "data/text/prepared-*/train.txt",
    "data/text/prepared-*/val.ends",
    "data/text/prepared-*/tokenizer/tokenizer.model",
)


@pytest.mark.parametrize("pattern", FILES)
def test_a_flipped_bit_or_a_lost_file_is_named(sound: Path, pattern: str) -> None:
    (path,) = sound.glob(pattern)
    good = path.read_bytes()
    for place in (0.0, 0.4, 1.0):
        flip(path, place)
        # White space and a name nobody reads may change in a .json; all that is read from it may
        # not.
        found = [finding.what for finding in about("run", "fault")]
        assert found or path.suffix == ".json", place
        # Of a manifest and what it vouches for, it cannot be told which has changed.
        assert all(path.name in what or path.name == "manifest.json" for what in found), found
        path.write_bytes(good)
    path.unlink()
    found = [finding.what for finding in about("run", "fault")]
    assert any(path.name in what for what in found), found


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("n_layer: 2", "n_layer: 3", "n_layer"),
        ("n_head: 2", "n_head: 4", "n_head"),
        ("max_steps: 60", "max_steps: sixty", "trainer.max_steps"),
        ("batch_size: 8", "bacth_size: 8", "did you mean data.batch_size"),
        ("seed:", "\xff:", "config.yaml"),
    ],
)
def test_a_changed_configuration(sound: Path, old: str, new: str, named: str) -> None:
    path = sound / "run/config.yaml"
    content = as_version_0_1(path).encode()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode("latin-1"), 1))
    (found,) = about("run", "fault")
    assert "config.yaml" in found.what
    assert named in found.what
    # The others were checked all the same.
    assert any("step_00000060: every byte verified" in finding.what for finding in about("run", "ok"))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [('"rope_base": 1', '"rope_base": 2', "rope_base"), ('"loss": ', '"loss": 1', "loss at step")],
)
def test_a_model_folder_that_says_otherwise(sound: Path, old: str, new: str, named: str) -> None:
    path = sound / "run/model/config.json"
    facts = json.loads(path.read_text().replace(old, new))
    del facts["config_sha256"]  # as version 0.1 wrote it
    path.write_text(json.dumps(facts))
    (found,) = about("run", "fault")
    assert "config.json" in found.what
    assert named in found.what


def test_a_model_that_a_failed_write_left_behind(sound: Path) -> None:
    rows = read_rows(sound / "run/metrics.jsonl")
    held = load_model(sound / "run").step
    better = [row | {"loss": 0.5} if row["split"] == "val" and row["step"] != held else row for row in rows]
    write_rows(sound / "run/metrics.jsonl", better)
    (found,) = about("run", "fault")
    assert f"of step {held}, where step" in found.what
    assert "had a better validation: a write has failed" in found.what


def test_links_pipes_and_code_are_told(sound: Path) -> None:
    (sound / "elsewhere").write_text("mine", encoding="utf-8")
    lock = sound / "run/.lock"
    lock.unlink()
    lock.symlink_to(sound / "elsewhere")
    (found,) = about("run", "fault")
    assert found.what.startswith(f"{Path('run/.lock')} is a link that leads out of run")
    assert (sound / "elsewhere").read_text(encoding="utf-8") == "mine"
    lock.unlink()
    config = as_version_0_1(sound / "run/config.yaml")
    (sound / "run/config.yaml").write_text(config.replace("callbacks: {}", "callbacks: {x: {_target_: os.system}}"))
    assert any("this would run os.system" in finding.what for finding in about("run", "warning"))
    lock.symlink_to(lock)
    assert any("is a link that leads out" in finding.what for finding in about("run", "fault"))


def test_metrics_cut_off_and_damaged(sound: Path) -> None:
    path = sound / "run/metrics.jsonl"
    good = path.read_bytes()
    path.write_bytes(good[:-5])
    found = [finding.what for finding in about("run", "warning")]
    assert f"{Path('run/metrics.jsonl')}: its last line is cut off" in found
    lines = good.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"step": \n', *lines[2:]]))
    assert [finding.what for finding in about("run", "fault")] == [
        f"{Path('run/metrics.jsonl')}: line 3 cannot be read"
    ]


def test_what_could_be_resumed(sound: Path) -> None:
    newest, older = checkpoints(Path("run"))
    flip(newest / "tensors.safetensors", 0.5)
    assert "run: can go on from step 50 of 60: python train.py resume=run" in [f.what for f in about("run", "ok")]
    (older / "state.json").unlink()
    faults = about("run", "fault")
    assert faults[-1].what == "run: every checkpoint is damaged"
    assert "init_from=run" in faults[-1].advice
    shutil.rmtree("run/checkpoints")
    found = next(f for f in about("run", "warning") if "no checkpoint yet" in f.what)
    assert found.advice == "python train.py resume=run starts again at step 0"
    Path("run").rename("my run")
    found = next(f for f in about("my run", "warning") if "no checkpoint yet" in f.what)
    assert found.advice.startswith("python train.py 'resume=my run' ")


def test_a_renamed_checkpoint_does_not_lie(sound: Path) -> None:
    checkpoints(Path("run"))[0].rename("run/checkpoints/step_00000099")
    (found,) = about("run", "fault")
    assert "step_00000099: holds step 60" in found.what


def test_data_of_another_run_or_none(sound: Path) -> None:
    (folder,) = (path for path in Path("data/text").glob("prepared-*") if path.is_dir())
    tokenizer = folder / "tokenizer/tokenizer.json"
    facts = json.loads((folder / "manifest.json").read_text())
    facts["val_fraction"] = 0.2
    facts["sha256"] = manifest_sha256(facts)
    (folder / "manifest.json").write_text(json.dumps(facts))
    (found,) = (f for f in about("run", "warning") if "no text of this run" in f.what)
    assert json.loads(tokenizer.read_text())["fingerprint"][:12] in found.what
    shutil.rmtree("data")
    (found,) = (f for f in about("run", "warning") if "no text of this run" in f.what)
    assert "prepares it anew" in found.advice
    assert not Path("data").exists()  # nothing is prepared by the doctor


def test_what_a_kill_leaves_and_a_run_that_goes_on(sound: Path) -> None:
    Path("run/checkpoints/.building-step_00000070").mkdir()
    with FileLock("run/.lock"):
        found = [finding.what for finding in about("run", "warning")]
    assert "run: a training is running here" in found
    assert not any("left behind" in what for what in found)  # it may be written now
    found = [finding.what for finding in about("run", "warning")]
    assert any(".building-step_00000070: left behind" in what for what in found)
    # Being removed, as the oldest of three, when the kill came
    checkpoints(Path("run"))[1].rename("run/checkpoints/.old-step_00000050")
    left = [finding for finding in about("run", "warning") if ".old-step_00000050: left behind" in finding.what]
    assert [finding.advice for finding in left] == ["delete it: nothing reads it"]
    assert about("run", "fault") == []


def test_a_model_that_a_kill_left_between_two_renames(sound: Path) -> None:
    left = Path("run/.old-model")
    Path("run/model").rename(left)
    shutil.rmtree("run/checkpoints")  # so that the model alone says which text is the run's
    assert about("run", "fault") == []
    (found,) = (finding for finding in about("run", "warning") if ".old-model" in finding.what)
    assert found.what.startswith(f"{left}: the model of this run")
    assert found.advice.startswith("keep it: a resume gives it back the name model")
    lines = [finding.what for finding in about("run", "ok")]
    assert any(line.startswith(f"{left}: verified; step ") for line in lines)
    assert any("prepared-" in line and "every byte verified" in line for line in lines)
    Path("run/model").mkdir()
    assert any(f"{left}: left behind by a kill" == finding.what for finding in about("run", "warning"))


@pytest.mark.parametrize(
    ("place", "check"), [("load_run", "model"), ("verify_state", "checkpoints"), ("open_prepared", "prepared data")]
)
def test_a_bug_in_a_check_is_no_damage(sound: Path, monkeypatch: pytest.MonkeyPatch, place: str, check: str) -> None:
    def planted(*_: object, **__: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(f"llm_from_scratch.doctor.run.{place}", planted)
    found = [finding for finding in about("run", "fault") if finding.what.startswith(f"{check}: ")]
    assert [finding.what for finding in found] == [f"{check}: ValueError: planted"]
    assert not any("planted" in finding.what and "copy" in finding.advice for finding in about("run"))


def test_a_full_disk(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(path.stat().st_size for path in checkpoints(Path("run"))[0].iterdir())
    for free, mark in ((1000, "fault"), (2 * size + 2**20, "warning")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(0, 0, free))
        assert any(finding.what.startswith("run: a checkpoint takes") for finding in about("run", mark)), free


def test_the_command(sound: Path, command: Callable[..., object]) -> None:
    def started(*arguments: str) -> tuple[int, str, str]:
        done = command(*arguments, cwd=sound)
        return done.returncode, done.stdout, done.stderr  # type: ignore[attr-defined]

    status, shown, _ = started("doctor", "run")
    assert status == 0, shown
    assert all(line.split()[0] in ("ok", "warning") for line in shown.splitlines())
    flip(sound / "run/checkpoints/step_00000060/tensors.safetensors", 0.5)
    status, shown, errors = started("doctor", "run", "--json")
    report = json.loads(shown)
    assert (status, report["faults"], errors) == (1, 1, "")
    (bad,) = (finding for finding in report["findings"] if finding["mark"] == "fault")
    assert "tensors.safetensors" in bad["what"]
    status, shown, errors = started("doctor", "nowhere")
    assert (status, shown, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: nowhere: there is no such folder")
    assert started("doctor", "last")[0] == 2  # no run below outputs/
    assert "Exit status: 0 no fault" in started("doctor", "--help")[1]


def test_a_run_that_was_stopped_before_its_first_validation_is_sound(
    sound: Path, program: Callable[..., object]
) -> None:
    shutil.rmtree("run")
    program(sound, *SMALL, "trainer.max_steps=60", "trainer.val_check_interval=50", "run_dir=run", stop_after=5)
    assert [path.name for path in checkpoints(Path("run"))] == ["step_00000005"]
    assert about("run", "fault") == []
    (line,) = (one.what for one in about("run", "ok") if one.what.startswith(str(Path("run/model"))))
    assert line.endswith("not there yet: the first validation writes it")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`program(folder, *overrides, stop_after=N)` trains in this process until SIGTERM comes in
    that step.
    """
    from llm_from_scratch import signals
    from llm_from_scratch.commands import train
    from llm_from_scratch.training.callbacks import Signals

    def start(folder: Path, *words: str, stop_after: int) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", [str(REPO / "train.py"), *words])
        seen = [0]
        ends = Signals.on_train_batch_end

        def counted(self: Signals, *arguments: object) -> None:
            seen[0] += 1
            ends(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Signals, "on_train_batch_end", counted)
        with monkeypatch.context() as patch:
            patch.setattr(signals, "received", lambda: 15 if seen[0] >= stop_after else None)
            with pytest.raises(SystemExit):
                train.main()

    return start


def change(state: Path, **callbacks: dict[str, object]) -> None:
    """Puts other values into a checkpoint's callbacks, checksums included."""
    path, manifest = state / "state.json", state / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for name, held in callbacks.items():
        values["callbacks"].setdefault(name, {}).update(held)
    values["global_step"] = int(state.name.removeprefix("step_"))
    path.write_text(json.dumps(values), encoding="utf-8")
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    facts["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    facts.pop("sha256", None)  # as version 0.1 wrote it
    manifest.write_text(json.dumps(facts), encoding="utf-8")


def test_a_run_that_ended_by_itself_does_not_simply_go_on(sound: Path) -> None:
    path = sound / "run" / "config.yaml"
    path.write_text(
        as_version_0_1(path).replace("max_steps: 60", "max_steps: 90").replace("patience: null", "patience: 2")
    )
    newest = checkpoints(Path("run"))[0]
    change(newest, Patience={"best": 1.0, "waited": 2, "lowered": 0})
    (line,) = (one.what for one in about("run", "ok") if "to go on" in one.what)
    expected = "run: was ended by optim.patience=2 at step 60 of 90; to go on all the same: python train.py resume=run"
    assert line == f"{expected} optim.patience=4"
    change(newest, Patience={"waited": 0}, Checkpoints={"stopped": True})
    (line,) = (one.what for one in about("run", "ok") if "to go on" in one.what)
    assert "was ended by one of its callbacks at step 60 of 90" in line
    change(newest, Checkpoints={"stopped": False})
    assert any("run: can go on from step 60 of 90" in one.what for one in about("run", "ok"))


def test_a_model_whose_validation_comes_again_is_no_fault(sound: Path) -> None:
    held = load_model(sound / "run").step
    assert held == 60
    # Killed before the checkpoint of step 60, resumed from 50, and stopped
    shutil.rmtree(checkpoints(Path("run"))[0])
    write_rows(
        sound / "run/metrics.jsonl", [row for row in read_rows(sound / "run/metrics.jsonl") if row["step"] <= 50]
    )
    assert about("run", "fault") == []


def test_the_advice_can_be_followed(sound: Path) -> None:
    shutil.rmtree("run/model")
    (found,) = about("run", "fault")
    # It is complete
    assert "resume=run trainer.max_steps=120 writes it again at its next validation" in found.advice
    for state in checkpoints(Path("run")):
        flip(state / "tensors.safetensors", 0.5)
    advice = [finding.advice for finding in about("run", "fault")]
    assert not any("passes over it" in line or "init_from" in line for line in advice), advice
