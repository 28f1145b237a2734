"""States to resume, as Lightning's loop loads them: compared, verified, read."""

from collections import Counter
from pathlib import Path

import pytest
from small_models import STATE

from llm_from_scratch import checkpoint
from llm_from_scratch.checkpoint import Background, newest_state, save_state
from llm_from_scratch.errors import UserError
from llm_from_scratch.training.states import StateFolders

DATA = {"data": "a" * 64, "tokenizer": "b" * 64}


def test_a_resume_reads_every_byte_to_choose_a_checkpoint_and_to_load_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(STATE, tmp_path / "checkpoints/step_00000010", DATA)
    hashed: Counter[str] = Counter()
    sha256 = checkpoint.sha256

    def counted(path: Path) -> str:
        hashed[path.name] += 1
        return sha256(path)

    monkeypatch.setattr(checkpoint, "sha256", counted)
    state = newest_state(tmp_path)
    assert state is not None
    assert set(hashed.values()) == {1}
    states = StateFolders(DATA, Background())
    states.compare(state)
    assert set(hashed.values()) == {1}  # the manifest has a checksum of its own
    assert states.load_checkpoint(state)["global_step"] == 7
    assert hashed == {"state.json": 2, "tensors.safetensors": 2}


def test_a_checkpoint_of_other_data_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    state = tmp_path / "run/checkpoints/step_00000010"
    save_state(STATE, state, DATA)
    other = StateFolders(DATA | {"data": "c" * 64}, Background())
    for refuse in (other.compare, other.load_checkpoint):
        with pytest.raises(UserError, match="made with the data aaaaaaaaaaaaaaaa, and this run has cccccccccccccccc"):
            refuse(state)
    manifest = state / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"aaaa", b"aaab", 1))
    with pytest.raises(UserError, match=r"manifest\.json: missing or damaged"):
        other.compare(state)


def test_a_checkpoint_that_changes_after_it_was_chosen_is_not_loaded(tmp_path: Path) -> None:
    state = tmp_path / "checkpoints/step_00000010"
    save_state(STATE, state, DATA)
    assert newest_state(tmp_path) == state
    path = state / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    states = StateFolders(DATA, Background())
    states.compare(state)
    with pytest.raises(UserError, match=r"tensors\.safetensors: its bytes have changed"):
        states.load_checkpoint(state)
