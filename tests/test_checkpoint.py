"""State folders and model folders: what goes in comes out, and what is damaged is refused."""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from llm_from_scratch.checkpoint import (
    Background,
    checkpoints,
    load_state,
    newest_state,
    prune_states,
    save_state,
    verify_state,
)
from llm_from_scratch.files import building_folder, publish
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.run import append_row, last_run, line_checksums, read_rows, remove_leftovers
from llm_from_scratch.tokenizer import CharTokenizer
from llm_from_scratch.weights import load_model, model_metadata, save_model

STATE = {
    "global_step": 7,
    "optimizer_states": [
        {
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.arange(6.0).view(2, 3)}},
            "param_groups": [{"betas": (0.9, 0.95)}],
        }
    ],
    "nothing": None,
    "text": "é\n",
}


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


@pytest.mark.parametrize("shared", [{"tie_weights": True}, {"tie_weights": False}, {"n_unique_layer": 1}])
def test_a_model_folder_is_all_that_using_it_needs(tmp_path: Path, shared: dict[str, object]) -> None:
    tokenizer = CharTokenizer("abc")
    model = GPT(
        GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=2, n_embd=16, n_head=2, block_size=8, **shared)
    ).eval()  # type: ignore[arg-type]
    save_model(dict(model.named_parameters()), model.config, tokenizer, tmp_path, step=5, loss=1.5)
    run = load_model(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(run.model(ids), model(ids))
    assert (run.step, run.loss, run.tokenizer.decode([1, 2])) == (5, 1.5, "ab")
    weights = load_file(tmp_path / "model/model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == model.num_parameters()

    path = tmp_path / "model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bytes have changed"):
        load_model(tmp_path)


def test_last_is_the_newest_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run below"):
        last_run(tmp_path)
    for i, name in enumerate(("oz/a", "oz/sweep/0", "text/b", "text/b/.hydra")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("")
        import os

        os.utime(tmp_path / name / "config.yaml", (i, i))
    assert last_run(tmp_path) == tmp_path / "text/b"
    (tmp_path / "oz/sweep/0/model").mkdir()
    (tmp_path / "oz/sweep/0/model/config.json").write_text("")
    assert last_run(tmp_path, holding="model/config.json") == tmp_path / "oz/sweep/0"


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


def small_model(run: Path, step: int, loss: float = 1.5, **settings: Any) -> GPT:
    """Saves a model of 32 characters' width as a run's."""
    tokenizer = CharTokenizer("abc")
    model = GPT(GPTConfig(vocab_size=4, **({"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 8} | settings)))
    run.mkdir(exist_ok=True)
    save_model(dict(model.named_parameters()), model.config, tokenizer, run, step=step, loss=loss)
    return model


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


@pytest.mark.parametrize(
    ("old", "new"), [("10000.0", "20000.0"), ("1e-06", "2e-06"), ('"step": 5', '"step": 4'), ("1.5", "1.4")]
)
def test_every_setting_of_a_model_is_covered(tmp_path: Path, old: str, new: str) -> None:
    small_model(tmp_path / "run", step=5)
    path = tmp_path / "run/model/config.json"
    good = path.read_text(encoding="utf-8")
    assert old in good
    path.write_text(good.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"config.json: missing or damaged .*bytes have changed"):
        load_model(tmp_path / "run")


def test_a_model_that_is_older_than_a_setting_has_its_default(tmp_path: Path) -> None:
    small_model(tmp_path / "run", step=5)
    path = tmp_path / "run/model/config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["config_sha256"], facts["tokenizer"], facts["model"]["n_unique_layer"]
    path.write_text(json.dumps(facts), encoding="utf-8")
    assert load_model(tmp_path / "run").model.config.n_unique_layer is None
    facts["model"]["n_unique_player"] = 1
    path.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ValueError, match="n_unique_player: no setting of a model"):
        load_model(tmp_path / "run")


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


def test_what_others_keep_beside_the_checkpoints_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("step_best", "step_00000030.bak", ".git", ".old-mine", ".building-step_7"):
        (folder / name).mkdir(parents=True)
    (folder / "step_00000040").write_text("a file", encoding="utf-8")
    (tmp_path / ".building-notes.txt").write_text("mine", encoding="utf-8")
    for step in (10, 20, 100_000_000):
        save_state(STATE, folder / f"step_{step:08d}")
    ours = [building_folder(folder / "step_00000050"), folder / ".old-step_00000060", tmp_path / ".building-model"]
    for path in ours[1:]:
        path.mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_100000000", "step_00000020", "step_00000010"]
    prune_states(tmp_path, kept=2)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".building-step_7", ".git", ".old-mine", "step_00000020", "step_00000030.bak", "step_00000040"),
        *("step_100000000", "step_best"),
    ]
    assert (tmp_path / ".building-notes.txt").exists()
    assert not any(path.exists() for path in ours)


def test_a_model_that_was_moved_aside_gets_its_name_back(tmp_path: Path) -> None:
    small_model(tmp_path / "run", step=5)
    (tmp_path / "run/model").rename(tmp_path / "run/.old-model")
    assert model_metadata(tmp_path / "run")["step"] == 5
    remove_leftovers(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model"]


def test_a_hard_linked_backup_is_not_written_through(tmp_path: Path) -> None:
    small_model(tmp_path / "run", step=5)
    backup = tmp_path / "backup"
    backup.mkdir()
    for path in (tmp_path / "run/model").iterdir():
        os.link(path, backup / path.name)
    before = {path.name: path.read_bytes() for path in backup.iterdir()}
    small_model(tmp_path / "run", step=6, loss=1.25)
    assert {path.name: path.read_bytes() for path in backup.iterdir()} == before
    assert load_model(tmp_path / "run").step == 6


def test_a_link_out_of_a_run_is_not_followed(tmp_path: Path) -> None:
    small_model(tmp_path / "other", step=5)
    (tmp_path / "other/checkpoints/.config").mkdir(parents=True)
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(tmp_path / "other/model")
    (run / "checkpoints").symlink_to(tmp_path / "other/checkpoints")
    for function in (load_model, checkpoints, remove_leftovers):
        with pytest.raises(ValueError, match="is a link that leads out of"):
            function(run)
    assert (tmp_path / "other/checkpoints/.config").is_dir()
    (tmp_path / "alias").symlink_to(tmp_path / "other")  # the run folder itself may be reached by one
    assert load_model(tmp_path / "alias").step == 5


def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    small_model(tmp_path / "run", step=5)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        path = tmp_path / "run/model" / name
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ValueError, match=f"{name}.* is neither a file nor a folder"):
            load_model(tmp_path / "run")
        path.unlink()
        path.write_bytes(content)


def test_layers_that_share_their_weights_are_bounded(tmp_path: Path) -> None:
    """A folder of 108 KB, whose forward pass took minutes."""
    small_model(tmp_path / "run", step=5, n_layer=4, n_unique_layer=1)
    path = tmp_path / "run/model/config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["config_sha256"]
    for name, value, problem in (
        ("n_layer", 100_000, "layers that share"),
        ("block_size", 2**23, "layers and positions"),
    ):
        changed = facts | {"model": facts["model"] | {name: value}}
        path.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ValueError, match=f"damaged .*{problem}"):
            load_model(tmp_path / "run")


def test_publish_makes_one_folder_of_another(tmp_path: Path) -> None:
    building = building_folder(tmp_path / "folder")
    (building / "file").write_text("new", encoding="utf-8")
    publish(building, tmp_path / "folder")
    assert (tmp_path / "folder/file").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_rows_that_are_gone_or_twice_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(6):
        append_row(path, {"step": step, "loss": 0.5})
    whole, sums = path.read_bytes(), line_checksums(path).read_bytes()

    def read(rows: bytes, checksums: bytes) -> tuple[list[int], str]:
        path.write_bytes(rows)
        line_checksums(path).write_bytes(checksums)
        caplog.clear()
        return [row["step"] for row in read_rows(path)], caplog.text

    lines = whole.splitlines(keepends=True)
    every = list(range(6))
    assert read(whole, sums) == (every, "")
    assert read(b"".join(lines[:-1]), sums) == (every[:-1], "")  # a kill between the checksum and its row
    found, said = read(b"".join(lines[:3]), sums)
    assert (found, "it lacks 2 lines or more" in said) == (every[:3], True)
    found, said = read(b"", sums)
    assert (found, "has been cut off" in said) == ([], True)
    found, said = read(whole + whole, sums)
    assert (found, "damaged lines are left out, 6 in all" in said) == (every, True)
    assert read(whole.replace(b"\n", b"\r\n"), sums.replace(b"\n", b"\r\n")) == (every, "")
    for checksums in (b"", sums[:20]):
        found, said = read(whole, checksums)
        assert (found, "cannot be verified; they are kept" in said) == (every, True)
    assert read(whole, sums + sums) == (every, "")
    found, said = read(whole.replace(b"0.5", b"0.7", 1), sums)
    assert (found, "line 1" in said) == (every[1:], True)
