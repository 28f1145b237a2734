"""State folders and model folders: what goes in comes out, and what is damaged is refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from llm_from_scratch.checkpoint import (
    Background,
    last_run,
    load_model,
    load_state,
    newest_state,
    save_model,
    save_state,
)
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import CharTokenizer

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
