"""`export`: one run in three formats, which other programs read without this package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPO, run
from small_models import small_model

from llm_from_scratch.cli import main
from llm_from_scratch.config import SamplingConfig
from llm_from_scratch.generation import generate
from llm_from_scratch.pretrained import open_model

TRANSFORMERS = """
import sys
from transformers import pipeline

folder = sys.argv[1]
write = pipeline("text-generation", folder, tokenizer=folder)
print(write("abc", max_new_tokens=4, do_sample=False)[0]["generated_text"], end="")
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_model(tmp_path / "run", step=5, qk_norm=False, n_embd=32)
    return tmp_path / "run"


def written(name: str) -> str:
    """The greedy text of a model."""
    model = open_model(name)
    settings = SamplingConfig(temperature=0.0, max_new_tokens=4)
    return "".join(piece for (piece,) in generate(model.model, model.tokenizer, "abc", settings, model.end_ids))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_written_comes_in_again_with_the_same_numbers(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = torch.tensor([[1, 2, 3, 0, 2]])
    ours = open_model(str(trained))
    for words, name in ((["--to", "hf"], "out"), (["--to", "gguf", "--dtype", "f32"], "gguf/model.gguf")):
        folder = name.split("/")[0]
        main(["export", str(trained), folder, *words])
        assert capsys.readouterr().out == f"{folder}\n"
        theirs = open_model(name)
        assert torch.equal(theirs.model(ids), ours.model(ids))
        assert theirs.tokenizer.encode("abc") == ours.tokenizer.encode("abc")
        assert written(name) == written(str(trained))


def test_transformers_writes_our_text_without_our_code(trained: Path) -> None:
    pytest.importorskip("transformers")
    main(["export", str(trained), "out", "--to", "hf"])
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {[p for p in sys.path if 'packages' in p]}\n{TRANSFORMERS}", "out"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )  # fmt: skip
    assert done.stdout == "abc" + written(str(trained))


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["char", "bpe tokenizer.vocab_size=400"])
def test_a_run_on_oz_in_transformers_and_in_again(
    tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty steps on the first chapters: the same logits, and the same greedy text."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    settings = (
        f"data=text data.path={REPO}/tests/fixtures/wizard_of_oz.txt trainer=cpu trainer.max_steps=50 run_dir=run"
    )
    small = "model.n_layer=2 model.n_embd=64 model.n_head=4 model.block_size=64 trainer.val_check_interval=50"
    done = run([str(REPO / "train.py"), *f"{settings} {small} tokenizer={tokenizer}".split()], tmp_path)
    assert done.returncode == 0, done.stderr
    main(["export", "run", "out", "--to", "hf"])
    ours, back = open_model("run"), open_model("out")
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), back.model.parameters(), strict=True))
    oz = (REPO / "tests" / "fixtures" / "wizard_of_oz.txt").read_text(encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained("out")
    assert theirs(oz)["input_ids"] == ours.tokenizer.encode(oz) == back.tokenizer.encode(oz)
    ids = torch.tensor([ours.tokenizer.encode(oz)[:64]])
    twin = transformers.AutoModelForCausalLM.from_pretrained("out")
    with torch.inference_mode():
        torch.testing.assert_close(twin(ids).logits, ours.model(ids), rtol=1e-5, atol=1e-5)
    write = transformers.pipeline("text-generation", "out", tokenizer="out")
    text = write("Dorothy", max_new_tokens=40, do_sample=False)[0]["generated_text"]
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=40)
    assert text == "Dorothy" + "".join(piece for (piece,) in generate(ours.model, ours.tokenizer, "Dorothy", greedy))


@pytest.mark.slow
def test_onnx_comes_with_its_tokenizer(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    tokenizers = pytest.importorskip("tokenizers")
    main(["export", str(trained), "out", "--to", "onnx"])
    ids = tokenizers.Tokenizer.from_file("out/tokenizer.json").encode("abc").ids
    ours = open_model(str(trained))
    assert ids == ours.tokenizer.encode("abc")
    (logits,) = runtime.InferenceSession("out/model.onnx").run(None, {"input_ids": [ids]})
    torch.testing.assert_close(torch.from_numpy(logits), ours.model(torch.tensor([ids])), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_one_line_and_leaves_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(trained.parent.iterdir())
    assert "--dtype q8_0: for --to gguf alone" in refused(capsys, "run", "out", "--to", "hf", "--dtype", "q8_0")
    assert "run is not empty: name a new folder" in refused(capsys, "run", "run", "--to", "hf")
    assert "nowhere is no run folder" in refused(capsys, "nowhere", "out", "--to", "gguf")
    small_model(trained, 5, activation="relu2")
    assert "no model of transformers computes this one: model.activation=relu2" in refused(
        capsys, "run", "out", "--to", "hf"
    )
    assert "relu2" in refused(capsys, "run", "out", "--to", "gguf")
    assert sorted(trained.parent.iterdir()) == before
    config = json.loads((trained / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["activation"] == "relu2"
