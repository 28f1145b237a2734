"""A run folder: found, its rows, what is left alone and what is refused in it."""

import os
from pathlib import Path

import pytest
from small_models import STATE, small_model

from llm_from_scratch.checkpoint import checkpoints, newest_state, prune_states, save_state
from llm_from_scratch.errors import UserError
from llm_from_scratch.files import building_folder, refuse_links
from llm_from_scratch.places import MODEL
from llm_from_scratch.run import (
    RunFolder,
    append_row,
    data_fingerprint,
    last_run,
    line_checksums,
    read_rows,
    remove_leftovers,
)
from llm_from_scratch.weights import load_model

FIXTURE = Path(__file__).parent / "fixtures" / "version_0_1" / "run"


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
    assert last_run(tmp_path, holding=MODEL) == tmp_path / "oz/sweep/0"


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
    # The run folder itself may be reached by one
    (tmp_path / "alias").symlink_to(tmp_path / "other")
    assert load_model(tmp_path / "alias").step == 5


def test_wandbs_links_to_its_own_logs_may_stay(tmp_path: Path) -> None:
    logs = tmp_path / "run/wandb/offline-run-1-abc/logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path / "elsewhere.log")
    refuse_links(tmp_path / "run", tmp_path / "run")
    for name in ("wandb/offline-run-1-abc/files", "wandb/other", "model"):
        link = tmp_path / "run" / name
        link.symlink_to(tmp_path)
        with pytest.raises(UserError, match="leads out of"):
            refuse_links(tmp_path / "run", tmp_path / "run")
        link.unlink()


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
    # A kill between the checksum and its row
    assert read(b"".join(lines[:-1]), sums) == (every[:-1], "")
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


def test_a_run_of_version_0_1_by_its_parts() -> None:
    """It is older than some settings of the model: those have their defaults, and its
    weights load.
    """
    folder = RunFolder(FIXTURE)
    config = folder.config()
    assert (config.model.n_embd, config.model.head_size, config.model.qkv_bias) == (16, None, False)
    assert [row["step"] for row in folder.rows() if row["split"] == "val"] == [10, 20]
    best = folder.best()
    assert best is not None
    loaded = load_model(FIXTURE, doc_mask=True)
    assert (loaded.step, loaded.model.eot_id) == (best["step"], loaded.tokenizer.eot_id)
    assert load_model(FIXTURE).model.eot_id is None
    assert checkpoints(FIXTURE) == [newest_state(FIXTURE)]
    assert len(data_fingerprint(FIXTURE) or "") == 64
