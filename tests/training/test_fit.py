"""A training that starts from somebody's model: its first loss is the model's, a stop changes
nothing, and the run serves as any other.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from byte_level import stranger
from conftest import InProcess, story

from llm_from_scratch import registry
from llm_from_scratch.check import check
from llm_from_scratch.cli import main
from llm_from_scratch.config import Config
from llm_from_scratch.data.prepared import open_prepared
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation.scoring import scorer, total_nats, windows
from llm_from_scratch.front.inherit import tokenizer_of_origin
from llm_from_scratch.pretrained import open_model
from llm_from_scratch.run import read_rows

TEXT = ("data=text", "data.path=story.txt", "data.batch_size=4", "trainer=cpu", "sample.max_new_tokens=5")
# A learning rate at which no weight changes in float32
STILL = ("optim.lr=1e-30", "trainer.max_steps=2", "trainer.val_check_interval=1")


def first_loss(run: Path) -> float:
    return float(next(row["loss"] for row in read_rows(run / "metrics.jsonl") if row["split"] == "val"))


def loss_of(name: str, folder: Path, block_size: int | None = None) -> float:
    """The origin's loss on the validation split that the run was prepared with."""
    origin = open_model(name, block_size=block_size)
    (prepared,) = (
        one
        for one in map(open_prepared, sorted(path for path in folder.glob("data/text/prepared-*") if path.is_dir()))
        if one.tokenizer.fingerprint == origin.tokenizer.fingerprint
    )
    tokens = [shard.tokens for shard in prepared.shards("val")]
    model = scorer(origin.model, origin.tokenizer.eot_id)
    nats, count = total_nats(model, windows(tokens, model, 0.0, 8))
    return nats / count


@pytest.mark.parametrize(("to", "name", "options"), [("hf", "out", ()), ("gguf", "out/model.gguf", ("--dtype", "f32"))])
def test_an_exported_run_goes_on_at_its_loss(
    to: str,
    name: str,
    options: tuple[str, ...],
    finished_here: Path,
    train_here: InProcess,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["export", "run", "out", "--to", to, *options])
    main(["evaluate", "run", "--json", "--device", "cpu"])
    loss = json.loads(capsys.readouterr().out.splitlines()[-1])["loss"]
    status, said = train_here(*TEXT, *STILL, f"init_from={name}", "run_dir=new")
    assert status == 0, said
    assert first_loss(finished_here / "new") == pytest.approx(loss, abs=1e-4)
    assert open_model("new").model.config.block_size == 32


@pytest.fixture
def gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random GPT-2 of transformers, with a byte-level tokenizer of the library tokenizers."""
    transformers = pytest.importorskip("transformers")
    folder = stranger("gpt2", tmp_path / "theirs")
    torch.manual_seed(3)
    # Rows beyond the tokenizer pad the vocabulary.
    config = transformers.GPT2Config(vocab_size=640, n_embd=32, n_layer=2, n_head=2, n_positions=32, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    (tmp_path / "story.txt").write_text(story(20_000), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_model_of_transformers_is_trained_on(
    gpt2: Path, tmp_path: Path, train_here: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = train_here(*TEXT, *STILL, "init_from=theirs", "run_dir=new")
    assert status == 0, said
    assert first_loss(tmp_path / "new") == pytest.approx(loss_of("theirs", tmp_path), abs=1e-4)
    run = open_model("new")
    assert run.tokenizer.kind == "bytes"
    assert run.model.config.vocab_size == run.tokenizer.vocab_size < 640
    # The run is one as any other: evaluated, exported, an origin itself.
    main(["evaluate", "new", "--json", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["loss"] == pytest.approx(run.loss, abs=1e-4)
    main(["export", "new", "again", "--to", "hf"])
    ids = torch.tensor([run.tokenizer.encode("The cat")])
    assert torch.equal(open_model("again").model(ids), run.model(ids))
    capsys.readouterr()
    main(["inspect", *TEXT, "init_from=new", "--json"])
    assert json.loads(capsys.readouterr().out)["tokenizer"]["kind"] == "bytes"


def test_a_stop_changes_nothing(gpt2: Path, tmp_path: Path, train_here: InProcess) -> None:
    """Its tokenizer is that of the run folder: the origin may be gone."""
    words = (*TEXT, "init_from=theirs", "optim.warmup_steps=1", "optim.schedule=constant")
    words += ("trainer.val_check_interval=2", "trainer.log_every_n_steps=1")
    assert train_here(*words, "trainer.max_steps=4", "run_dir=whole")[0] == 0
    assert train_here(*words, "trainer.max_steps=2", "run_dir=stopped")[0] == 0
    shutil.rmtree("theirs")
    shutil.rmtree("data")
    status, said = train_here("resume=stopped", "trainer.max_steps=4")
    assert status == 0, said
    rows, whole = (read_rows(tmp_path / run / "metrics.jsonl") for run in ("stopped", "whole"))
    assert rows == whole
    status, said = train_here("resume=stopped", "trainer.max_steps=6", "tokenizer.kind=bpe")
    assert (status, len(said.splitlines())) == (2, 1)
    assert "tokenizer.kind=bpe: the resumed run has bytes" in said


def test_sizes_without_weights(gpt2: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_from_scratch.huggingface.read._filled", None)  # which loads them
    main(["plan", *TEXT, "init_from=theirs", "--no-measuring", "--json"])
    planned = json.loads(capsys.readouterr().out)["model"]
    vocabulary = tokenizer_of_origin(check({"init_from": "theirs"}, Config)).vocab_size  # type: ignore[union-attr]
    layers = 2 * (12 * 32**2 + 13 * 32)
    assert planned["vocab_size"] == vocabulary
    assert planned["parameters"] == (vocabulary + 32) * 32 + layers + 2 * 32
    main(["plan", "--tokens", "1e6", "trainer=cpu", "init_from=theirs", "--no-measuring", "--json"])
    assert json.loads(capsys.readouterr().out)["model"]["vocab_size"] == vocabulary
    main(["prepare", *TEXT, "init_from=theirs"])
    folder = Path(capsys.readouterr().out.removeprefix("prepared: ").strip())
    assert open_prepared(folder).tokenizer.kind == "bytes"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("tokenizer.kind=bytes",), "comes with a model of others: name it (init_from=MODEL)"),
        (("tokenizer.kind=sentencepiece", "tokenizer.vocab_size=null"), "comes with a model of others"),
        (("tokenizer.kind=bytes", "init_from=w.pt"), "init_from=w.pt brings weights alone: name the model"),
        (("tokenizer=char", "init_from=theirs"), "init_from=theirs brings its own tokenizer, of bytes"),
        (("model.n_layer=3", "init_from=theirs"), "init_from=theirs brings its own model, of 2: leave it out"),
        (("model.block_size=16", "init_from=theirs"), "brings its own model, of 32"),  # a learned table
        (("init_from=none.gguf",), "none.gguf: cannot be read"),
        (("init_from=hub:x",), "must be hub:OWNER/NAME"),
    ],
)
def test_what_does_not_fit_is_one_line(words: tuple[str, ...], line: str, gpt2: Path, train_here: InProcess) -> None:
    torch.save({}, "w.pt")
    status, said = train_here(*TEXT, *words, "run_dir=new")
    assert status == 2
    assert line in said
    assert len(said.splitlines()) == 1, said
    assert not Path("new").exists()


@pytest.mark.slow
def test_smollm2_is_trained_on(tmp_path: Path, train_here: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        registry.find("smollm2")
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(story(6_000), encoding="utf-8")
    status, said = train_here(
        *(*TEXT, *STILL, "data.val_fraction=0.3", "init_from=smollm2", "model.block_size=64", "run_dir=new"),
        "trainer.precision=32-true",  # it is compared with a loss in float32, and some processors would take bfloat16
    )
    assert status == 0, said
    assert first_loss(tmp_path / "new") == pytest.approx(loss_of("smollm2", tmp_path, 64), abs=1e-4)
    assert open_model("new").tokenizer.vocab_size == 49_152
