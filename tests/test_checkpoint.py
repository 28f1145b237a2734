"""States to resume: a state comes back as it was, and a damaged one is refused."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import STATE, small_model

from llm_from_scratch.checkpoint import (
    Background,
    load_state,
    newest_state,
    save_state,
    verify_state,
)
from llm_from_scratch.files import building_folder, publish
from llm_from_scratch.run import remove_leftovers
from llm_from_scratch.weights import load_model


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(STATE, tmp_path / "step_1")
    back = load_state(tmp_path / "step_1")
    moments = back["optimizer_states"][0]["state"][0]
    assert torch.equal(moments["exp_avg"], torch.arange(6.0).view(2, 3))
    assert moments["step"] == 7
    assert back["optimizer_states"][0]["param_groups"][0]["betas"] == (0.9, 0.95)
    assert (back["global_step"], back["nothing"], back["text"]) == (7, None, "é\n")
    assert {path.name for path in tmp_path.iterdir()} == {"step_1"}


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text() | st.integers(), x) | st.tuples(x, x),
    )
)
def test_any_plain_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    folder = tmp_path_factory.mktemp("tree") / "state"
    save_state({"tree": tree}, folder)
    assert load_state(folder) == {"tree": tree}


def test_objects_are_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="/path: a checkpoint holds tensors and plain values, not PosixPath|WindowsPath"
    ):
        save_state({"path": tmp_path}, tmp_path / "state")


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "manifest.json"])
def test_fault_05_a_flipped_bit_or_a_cut_is_found(tmp_path: Path, name: str) -> None:
    for damage in ("flip", "cut", "gone"):
        folder = tmp_path / damage
        save_state(STATE, folder)
        content = bytearray((folder / name).read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        (folder / name).unlink()
        if damage != "gone":
            (folder / name).write_bytes(content[:-3] if damage == "cut" else content)
        with pytest.raises(ValueError, match=name if damage != "flip" or name != "manifest.json" else "."):
            load_state(folder)


def test_fault_05_06_the_newest_state_that_holds_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_state(tmp_path) is None
    for step in (10, 20):
        save_state(STATE, tmp_path / "checkpoints" / f"step_{step:08d}")
    assert newest_state(tmp_path) == tmp_path / "checkpoints/step_00000020"
    (tmp_path / "checkpoints/step_00000020/state.json").write_text("{}")
    assert newest_state(tmp_path) == tmp_path / "checkpoints/step_00000010"
    assert len(caplog.records) == 1
    (tmp_path / "checkpoints/step_00000010/manifest.json").unlink()
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        newest_state(tmp_path)


def test_a_bug_in_the_verification_is_no_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(STATE, tmp_path / "checkpoints/step_00000010")

    def planted(path: Path) -> str:
        raise ValueError("planted")

    monkeypatch.setattr("llm_from_scratch.checkpoint.sha256", planted)
    with pytest.raises(ValueError, match=r"^planted$"):
        newest_state(tmp_path)


def test_the_background_writes_what_was_there_when_it_was_handed_over(tmp_path: Path) -> None:
    background, weights = Background(), torch.zeros(3)
    for step in range(5):
        weights.fill_(step)
        background.submit(save_state, {"weights": weights, "moments": (weights,)}, tmp_path / f"step_{step}")
        weights.fill_(-1)  # training goes on
    background.wait()
    for step in range(5):
        state = load_state(tmp_path / f"step_{step}")
        assert state["weights"].tolist() == state["moments"][0].tolist() == [step] * 3

    def fail(tree: object) -> None:
        raise OSError("no space")

    background.submit(fail, None)
    with pytest.raises(OSError, match="no space"):
        background.wait()


def test_fault_05_every_bit_of_a_manifest_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20):
        save_state(
            {"step": step}, tmp_path / "checkpoints" / f"step_{step:08d}", {"data": "a" * 64, "tokenizer": "b" * 64}
        )
    path = tmp_path / "checkpoints/step_00000020/manifest.json"
    good = path.read_bytes()
    for old, new in ((b"aaaa", b"aaab"), (b'"data"', b'"dbta"'), (b'"sha256"', b'"sha257"'), (b'"facts"', b'"fbcts"')):
        path.write_bytes(good[::-1].replace(old[::-1], new[::-1], 1)[::-1])
        caplog.clear()
        assert newest_state(tmp_path) == tmp_path / "checkpoints/step_00000010"
        assert len(caplog.records) == 1
    manifest = json.loads(good)
    del manifest["sha256"]  # as version 0.1 wrote it
    path.write_text(json.dumps(manifest))
    assert verify_state(path.parent) == {"data": "a" * 64, "tokenizer": "b" * 64}


def test_nothing_is_written_behind_a_write_that_failed(tmp_path: Path) -> None:
    """Else a checkpoint would tell of a best validation whose model is not on the disk."""
    background, both = Background(), threading.Event()

    def fail(tree: object) -> None:
        both.wait(10)
        raise OSError("Input/output error")

    background.submit(fail, None)
    background.submit(save_state, {"best": 1.0}, tmp_path / "step_00000010")
    both.set()
    with pytest.raises(OSError, match="Input/output"):
        background.wait()
    background.wait()
    assert not (tmp_path / "step_00000010").exists()
    with pytest.raises(OSError, match="Input/output"):
        background.submit(save_state, {"best": 1.0}, tmp_path / "step_00000020")


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_model(tmp_path / "run", step=5)
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if path.name.startswith(".building-"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(OSError, match="Input/output"):
        small_model(tmp_path / "run", step=6)
    monkeypatch.undo()
    assert load_model(tmp_path / "run").step == 5
    remove_leftovers(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model"]


def test_published_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            small_model(tmp_path / f"run {umask}", step=5)
            save_state(STATE, tmp_path / f"run {umask}/checkpoints/step_00000005")
        finally:
            os.umask(before)
        files = [path for path in (tmp_path / f"run {umask}").rglob("*") if path.is_file()]
        assert len(files) == 6
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}


def test_publish_makes_one_folder_of_another(tmp_path: Path) -> None:
    building = building_folder(tmp_path / "folder")
    (building / "file").write_text("new", encoding="utf-8")
    publish(building, tmp_path / "folder")
    assert (tmp_path / "folder/file").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_the_thread_that_writes_starts_no_threads_of_its_own(tmp_path: Path) -> None:
    """Threads of OpenMP stay for as long as the writer does, and those of a training then wait asleep."""
    threads, background = torch.get_num_threads(), Background()
    torch.set_num_threads(2)
    try:
        state = {"weights": torch.ones(2_000_000).mul_(2)}  # by all threads of this one
        before = len([*Path("/proc/self/task").iterdir()])
        background.submit(save_state, state, tmp_path / "step_00000001", {})
        background.wait()
        assert len([*Path("/proc/self/task").iterdir()]) <= before + 1  # the writer
    finally:
        torch.set_num_threads(threads)
