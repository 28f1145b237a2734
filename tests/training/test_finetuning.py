"""Fine-tuning of a run: what is trained, what is kept, an exact resume, and a base that is watched."""

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import KILLER, REPO, InProcess, run, write_killer
from safetensors.torch import load_file
from small_models import KINDS, V
from smollm2 import path as smollm2_file

from llm_from_scratch.check import check
from llm_from_scratch.cli import main
from llm_from_scratch.config import Config, FinetuneConfig, OptimConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.huggingface.adapters import read_adapters
from llm_from_scratch.lora import attach, merge
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.pretrained import find_model, open_model
from llm_from_scratch.run import RunFolder, read_rows
from llm_from_scratch.training import fit
from llm_from_scratch.training.finetuning import choose_trained, layer_numbers
from llm_from_scratch.training.optimizers import make_optimizer

LORA = ("init_from=run", "finetune=lora", "finetune.rank=2", "finetune.dropout=0.1", "model.dropout=0.1")
WORDS = (
    *("data=text", "data.path=story.txt", "data.batch_size=4", "trainer=cpu", "sample.max_new_tokens=5"),
    *("optim.warmup_steps=1", "optim.schedule=constant", "optim.ema_decay=0.5"),
    *("trainer.val_check_interval=2", "trainer.log_every_n_steps=1"),
)


def small(kind: str = "modern", **settings: object) -> GPT:
    return GPT(GPTConfig(vocab_size=V, n_embd=16, **({"n_head": 4, "block_size": 16} | KINDS[kind] | settings)))


def trained(model: GPT) -> set[str]:
    return {name for name, one in model.named_parameters() if one.requires_grad}


# ------------------------------------------------------------------------------ what is trained
def test_frozen_modules_by_name_and_by_glob() -> None:
    model = small(n_layer=3)
    names = trained(model)
    choose_trained(
        model, FinetuneConfig(method="full", freeze=["token_embedding", "blocks.[0-1]", "blocks.2.attention"])
    )
    assert trained(model) == {
        name for name in names if name.startswith(("blocks.2.attention_norm", "blocks.2.feed", "norm"))
    }


def test_the_head_alone() -> None:
    tied, untied = small(), small(tie_weights=False)
    choose_trained(tied, FinetuneConfig(method="head"))
    choose_trained(untied, FinetuneConfig(method="head"))
    assert (trained(tied), trained(untied)) == ({"token_embedding.weight"}, {"head.weight"})


@pytest.mark.parametrize(
    ("freeze", "words"),
    [(["block.0"], "finetune.freeze: block.0 names no module: use token_embedding, "), (["*"], "no weight is left")],
)
def test_a_list_of_no_module_or_of_all_is_refused(freeze: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        choose_trained(small(), FinetuneConfig(method="full", freeze=freeze))
    assert words in str(error.value)


def test_learning_rates_fall_with_depth() -> None:
    """Of three blocks with decay 1/2: head and norm 1, blocks 1/2, 1/4, 1/8, embeddings 1/16."""
    model = small("gpt2", n_layer=3, tie_weights=False)
    assert layer_numbers(model)["head.weight"] == layer_numbers(model)["norm.bias"] == 0
    rates = {"head": 1.0, "norm": 1.0, "blocks.2": 0.5, "blocks.1": 0.25, "blocks.0": 0.125}
    rates |= {"token_embedding": 0.0625, "position_embedding": 0.0625}
    for name in ("adamw", "muon"):
        optimizer = make_optimizer(model, OptimConfig(name=name, lr=0.5, adamw_lr=0.25), fused=False, layer_decay=0.5)
        found = {id(one): group for group in optimizer.param_groups for one in group["params"]}
        for parameter, one in model.named_parameters():
            group = found.pop(id(one))
            (factor,) = (rate for layer, rate in rates.items() if parameter.startswith(layer + "."))
            peak = 0.5 if name == "adamw" or group["kind"] == "muon" else 0.25
            assert group["lr"] == peak * factor, parameter
            assert group["weight_decay"] == (0.1 if one.dim() >= 2 else 0.0)
        assert not found
    # The last trained layer has the learning rate itself.
    choose_trained(model, FinetuneConfig(method="lora", rank=2))
    groups = make_optimizer(model, OptimConfig(lr=0.5), fused=False, layer_decay=0.5).param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.25, 0.125]


def test_muon_takes_the_parts_of_a_fused_layers_adapter_apart() -> None:
    """Of width 16: 4 heads and 2 of keys and values, 4 channels each; SwiGLU has two halves."""
    model = small("modern")
    choose_trained(model, FinetuneConfig(method="lora", rank=2))
    (group,) = make_optimizer(model, OptimConfig(name="muon"), fused=False).param_groups
    names = [name for name, one in model.named_parameters() if one.requires_grad]
    rows = dict(zip(names, group["rows"], strict=True))
    assert rows["blocks.0.attention.qkv.lora_B"] == [16, 8, 8]
    up = model.get_parameter("blocks.0.feed_forward.up.lora_B")
    assert rows["blocks.0.feed_forward.up.lora_B"] == [len(up) // 2] * 2
    assert rows["blocks.0.attention.qkv.lora_A"] == [2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"finetune": {"method": "lora"}}, "finetune=lora: there is no model to fine-tune: name one, init_from=MODEL"),
        ({"finetune": {"method": "lora"}, "init_from": "w.pt"}, "init_from=w.pt is weights"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        check(settings, Config)
    assert words in str(error.value)


# -------------------------------------------------------------------------------- a run of adapters
def test_a_run_of_adapters(finished_here: Path, train_here: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = train_here(*WORDS, *LORA, "trainer.max_steps=4", "run_dir=whole")
    assert status == 0, said
    assert " of them trained (" in said
    # The last line counts the weights that all commands find in model/.
    assert f"\n{open_model('run').model.num_parameters():,} parameters;" in said
    # A checkpoint holds the adapters, two moments and an average of each, and no other weight.
    layers = {
        "attention.qkv": (96, 32),
        "attention.out": (32, 32),
        "feed_forward.up": (256, 32),
        "feed_forward.out": (32, 128),
    }
    numbers = 2 * sum(2 * (rows + columns) for rows, columns in layers.values())
    tensors = load_file("whole/checkpoints/step_00000004/tensors.safetensors")
    weights = {name.removeprefix("/state_dict/model.") for name in tensors if "/state_dict/" in name}
    assert weights == {f"blocks.{i}.{name}.lora_{matrix}" for i in (0, 1) for name in layers for matrix in "AB"}
    assert sum(one.numel() for name, one in tensors.items() if one.dim() == 2) == 4 * numbers
    names = {path.name for path in Path("whole/model").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json"} <= names
    assert "model.safetensors" not in names

    # The plan of it says so beforehand.
    capsys.readouterr()
    main(["plan", "--json", "--no-measuring", *WORDS, *LORA, "trainer.max_steps=4"])
    planned = json.loads(capsys.readouterr().out)
    assert planned["model"]["trained"] == numbers
    assert planned["disk"]["checkpoints"] == 3 * sum(one.nbytes for one in tensors.values() if one.dim() == 2)
    # PEFT has an A for each part of a fused layer.
    parts = load_file("whole/model/adapter_model.safetensors").values()
    assert planned["disk"]["model"] == pytest.approx(2 * sum(one.nbytes for one in parts), rel=0.2)

    # Every command opens it by its base, which is unchanged.
    best = RunFolder(Path("whole")).best()
    assert best is not None
    capsys.readouterr()
    main(["evaluate", "whole", "--json", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["loss"] == pytest.approx(best["loss"], abs=1e-5)
    base, merged = open_model("run"), open_model("whole")
    assert (merged.step, merged.loss) == (best["step"], best["loss"])
    ids = torch.tensor([base.tokenizer.encode("The Lion looked at")])
    unmerged = open_model("run").model
    attach(unmerged, read_adapters(Path("whole/model"), unmerged.config))
    torch.testing.assert_close(unmerged.eval()(ids), merged.model(ids), rtol=0, atol=1e-5)
    assert (merged.model(ids) - base.model(ids)).abs().max() > 1e-3

    # Exported whole, and as an adapter of the exported base.
    main(["export", "whole", "merged", "--to", "hf"])
    torch.testing.assert_close(open_model("merged").model(ids), merged.model(ids), rtol=0, atol=1e-5)
    main(["export", "whole", "adapter", "--to", "peft"])
    assert {path.name for path in Path("adapter").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    assert find_model("adapter").kind == "peft"
    torch.testing.assert_close(open_model("adapter").model(ids), merged.model(ids), rtol=0, atol=1e-5)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["export", "run", "none", "--to", "peft"])
    assert "run holds no adapters" in capsys.readouterr().err

    # Trained on, in a shorter context
    words = ("init_from=adapter", "model.block_size=16", "trainer.max_steps=1", "run_dir=next")
    status, said = train_here(*WORDS, *words)
    assert status == 0, said
    assert open_model("next").model.config.block_size == 16


def test_the_weights_that_a_run_starts_from_are_in_memory_once(
    finished_here: Path, train_here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[weakref.ref[torch.Tensor]] = []
    load, loop = fit.load_origin, fit.run_loop

    def load_origin(*arguments: Any, **settings: Any) -> fit.Origin:
        origin = load(*arguments, **settings)
        read.extend(weakref.ref(weight) for weight in origin.weights.values())
        return origin

    def run_loop(*arguments: Any) -> None:
        assert read
        assert not [one for one in read if one() is not None]
        loop(*arguments)

    monkeypatch.setattr(fit, "load_origin", load_origin)
    monkeypatch.setattr(fit, "run_loop", run_loop)
    for words in (LORA, LORA[:1]):
        status, said = train_here(*WORDS, *words, "trainer.max_steps=1", f"run_dir=of_{len(words)}")
        assert status == 0, said


def test_a_stop_changes_nothing_and_another_base_is_refused(finished_here: Path, train_here: InProcess) -> None:
    assert train_here(*WORDS, *LORA, "trainer.max_steps=4", "run_dir=whole")[0] == 0
    assert train_here(*WORDS, *LORA, "trainer.max_steps=2", "run_dir=stopped")[0] == 0
    Path("run").rename("away")
    status, said = train_here("resume=stopped", "trainer.max_steps=4")
    assert (status, len(said.splitlines())) == (2, 1), said
    assert "run is no run folder" in said
    with pytest.raises(UserError, match=r"^stopped: the base of its adapters, run, is gone: run is no run folder"):
        open_model("stopped")
    shutil.copytree("away", "run")
    status, said = train_here("resume=stopped", "trainer.max_steps=4")
    assert status == 0, said
    for name in ("metrics.jsonl", "model/adapter_model.safetensors", "model/config.json"):
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes(), name
    newest = "checkpoints/step_00000004/tensors.safetensors"
    assert Path("stopped", newest).read_bytes() == Path("whole", newest).read_bytes()
    # A run of the same settings with other weights
    assert train_here(*WORDS, "init_from=away", "trainer.max_steps=2", "run_dir=other")[0] == 0
    shutil.rmtree("run")
    shutil.copytree("other", "run")
    status, said = train_here("resume=stopped", "trainer.max_steps=6")
    assert (status, len(said.splitlines())) == (2, 1), said
    assert "stopped: the base of its adapters, run, is another one than it was trained on" in said
    with pytest.raises(UserError, match="the base of its adapters, run, is another one than it was trained on"):
        open_model("stopped")
    status, said = train_here("resume=stopped", "trainer.max_steps=6", "finetune.rank=4")
    assert (status, "finetune.rank=4: the resumed run has 2" in said) == (2, True), said


def test_the_base_is_looked_for_above_the_runs_own_folder(
    finished_here: Path, train_here: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every command alike: another run of the same name in the present folder is none of it."""
    assert train_here(*WORDS, *LORA, "trainer.max_steps=2", "run_dir=stopped")[0] == 0
    assert train_here(*WORDS, "init_from=run", "trainer.max_steps=2", "run_dir=other")[0] == 0
    elsewhere = finished_here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    texts = ("data.dir=../data", "data.path=../story.txt")
    for steps in (4, 6):
        status, said = train_here("resume=../stopped", *texts, f"trainer.max_steps={steps}")
        assert status == 0, said
        assert open_model("../stopped").step is not None
        if steps == 4:
            shutil.copytree("../other", "run")
    # Stopped before its first validation: no model names the base yet.
    shutil.rmtree("run")
    shutil.rmtree("../stopped/model")
    status, said = train_here("resume=../stopped", *texts, "trainer.max_steps=8")
    assert status == 0, said
    (finished_here / "run").rename(finished_here / "away")
    status, said = train_here("resume=../stopped", *texts, "trainer.max_steps=10")
    assert (status, len(said.splitlines())) == (2, 1), said
    assert "../stopped: the base of its adapters, run, is gone: run is no run folder" in said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_run_killed_three_times_ends_as_an_undisturbed_one(finished_here: Path) -> None:
    """Killed in steps 11, 23 and 33 of 40, which no checkpoint has."""
    write_killer(finished_here)
    words = (*WORDS, *LORA, "trainer.max_steps=40", "finetune.layer_decay=0.8")
    words += (KILLER,)

    def process(*overrides: str, kill_at: int | None = None) -> int:
        environment = os.environ | {"PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{finished_here}", "KILL_AT": str(kill_at)}
        return subprocess.run([sys.executable, REPO / "train.py", *overrides], env=environment, check=False).returncode

    assert process(*words, "run_dir=whole") == 0
    assert process(*words, "run_dir=killed", kill_at=11) == -signal.SIGKILL
    for step in (23, 33):
        assert process("resume=killed", kill_at=step) == -signal.SIGKILL
    assert process("resume=killed") == 0
    for name in ("metrics.jsonl", "model/adapter_model.safetensors", "checkpoints/step_00000040/tensors.safetensors"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_train_the_adapters_of_one(finished_here: Path) -> None:
    words = [word for word in (*WORDS, *LORA) if word != "trainer=cpu" and not word.startswith("optim.ema")]
    words += ["trainer.max_steps=4", "data.micro_batch_size=1"]
    assert run([str(REPO / "train.py"), *words, "trainer=cpu", "run_dir=one"], finished_here).returncode == 0
    done = run([str(REPO / "train.py"), *words, "trainer=ddp_cpu", "trainer.devices=2", "run_dir=two"], finished_here)
    assert done.returncode == 0, done.stderr
    one, two = (read_rows(finished_here / run / "metrics.jsonl") for run in ("one", "two"))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)


@pytest.mark.slow
def test_adapters_of_smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpora: Path) -> None:
    smollm2_file()
    words = (
        *("init_from=smollm2", "finetune=lora", "data=oz", "tuned=none", "trainer=cpu", "model.block_size=64"),
        *("data.batch_size=2", "data.val_fraction=0.01", "trainer.max_steps=3", "trainer.val_check_interval=3"),
        *("optim.warmup_steps=1", "trainer.log_every_n_steps=1", "sample.max_new_tokens=0", "run_dir=run"),
    )
    done = run([str(REPO / "train.py"), *words], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2,027,520 of them trained (1.48%)" in " ".join(done.stderr.split())
    size = sum(path.stat().st_size for path in (tmp_path / "run/checkpoints/step_00000003").iterdir())
    assert size < 25_000_000  # of 136,542,528 weights and their moments 1.6 GB
    monkeypatch.chdir(tmp_path)
    merged = open_model("run").model
    unmerged = find_model("smollm2").open_within(64).model
    ids = torch.tensor([open_model("run").tokenizer.encode("Dorothy lived in the midst of the great Kansas prairies")])
    attach(unmerged, read_adapters(Path("run/model"), unmerged.config))
    before = unmerged(ids)
    # Float32 rounds logits of this size by 1e-5 and more: relative to the largest.
    assert (merged(ids) - before).abs().max() < 1e-5 * before.abs().max()
    merge(unmerged)
    assert torch.equal(unmerged(ids), merged(ids))
