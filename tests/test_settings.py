"""Every setting is in effect or refused in one line, on a new run, on resume and in a sweep; a
refused command writes nothing.
"""

import csv
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import REPO, SMALL, InProcess, Process, story
from filelock import FileLock
from torch.optim.lr_scheduler import LambdaLR

from llm_from_scratch.check import check, check_given
from llm_from_scratch.checkpoint import checkpoints, load_state
from llm_from_scratch.config import Config, OptimConfig, leaves
from llm_from_scratch.errors import UserError
from llm_from_scratch.run import read_rows


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, and every folder's name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"(folder)"
        for path in folder.rglob("*")
    }


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, train_here: InProcess) -> InProcess:
    """`program(folder, *overrides)` is `train_here` in a folder."""

    def start(folder: Path, *overrides: str) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        return train_here(*overrides)

    return start


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A folder with a run of 60 steps, to change."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


# ---------------------------------------------------------------------------- the schema, on resume
# Each setting with a value that the run `finished` does not have. These are refused in one line.
REFUSED = {
    "task": "other",
    "run_dir": "other",
    "init_from": "run",
    "model.block_size": "64",
    "model.n_layer": "3",
    "model.n_unique_layer": "1",
    "model.n_head": "4",
    "model.n_kv_head": "1",
    "model.n_embd": "64",
    "model.n_inner": "64",
    "model.head_size": "8",
    "model.qkv_bias": "true",
    "model.rope_scaling": "{rope_type:linear,factor:2}",
    "model.norm": "layernorm",
    "model.norm_position": "post",
    "model.position": "learned",
    "model.activation": "gelu",
    "model.qk_norm": "false",
    "model.bias": "true",
    "model.tie_weights": "false",
    "model.rope_base": "500",
    "model.norm_eps": "1e-5",
    "model.init_std": "0.1",
    "tokenizer.kind": "char",
    "tokenizer.vocab_size": "300",
    "tokenizer.path": "elsewhere",
    "data.name": "other",
    "data.file": "other.txt",
    "data.url": "http://localhost/other.txt",
    "data.sha256": "00",
    "data.must_contain": "other",
    "data.column": "other",
    "data.encoding": "cp1252",
    "data.separator": "x",
    "data.on_error": "skip",
    "data.val_fraction": "0.2",
    "data.batch_size": "4",
    "data.batch_schedule": "[[3,2]]",
    "data.stream": "text",
    "data.subword_dropout": "0.1",
    "data.level": "2",
    "data.stories": "30",
    "data.val_stories": "30",
    "data.layouts": "[other]",
    "data.published": "other",
    "data.download": "other",
    "data.downloads": "{other:{files:a}}",
    "data.connections": "2",
    "data.documents": "2",
    "data.max_docs": "2",
    "data.fraction": "0.5",
    "data.subset_seed": "2",
    "data.min_chars": "2",
    "data.language": "en",
    "data.quality": "[gopher]",
    "data.dedup": "exact",
    "data.keep_text": "true",
    "data.shard_bytes": "1000",
    "data.doc_mask": "true",
    "data.format": "chat",
    "data.template": "elsewhere.jinja",
    "data.too_long": "skip",
    "data.val_path": "elsewhere.jsonl",
    "data.generator": "sentiment",
    "data.metric": "label",
    "data.mix": "{a:1}",
    "data.corpora": "{a:{path:b}}",
    "data.overfit": "true",
    "prepare.engine": "ray",
    "prepare.workers": "2",
    "prepare.task": "1",
    "optim.name": "muon",
    "optim.adamw_lr": "1e-2",
    "optim.momentum": "0.5",
    "optim.custom": "{_target_:os.system}",
    "optim.decay_fraction": "0.5",
    "optim.plateau_factor": "0.1",
    "loss.name": "dpo",
    "loss.beta": "0.2",
    "loss.label_smoothing": "0.1",
    "loss.length_normalised": "true",
    "finetune.method": "full",
    "finetune.freeze": "[norm]",
    "finetune.layer_decay": "0.5",
    "finetune.rank": "4",
    "finetune.alpha": "4",
    "finetune.dropout": "0.5",
    "finetune.targets": "[attention.qkv]",
    # In effect where the machine and the batch have room for them.
    "trainer.devices": "3",
    "trainer.num_nodes": "3",
    "trainer.strategy": "nonsense",
}
# Changed all at once, since each is seen by itself.
TOGETHER = {
    "print_config": "true",
    "data.dir": "moved",
    "data.path": "texts/story.txt",
    "data.micro_batch_size": "4",
    "optim.lr": "3e-3",
    "optim.patience": "7",
    "optim.weight_decay": "0.5",
    "optim.beta1": "0.8",
    "optim.beta2": "0.9",
    "optim.ema_decay": "0.9",
    "optim.skip_bad_steps": "3",
    "trainer.accelerator": "auto",
    "trainer.precision": "64-true",
    "trainer.compile": "true",
    "trainer.activation_checkpointing": "true",
    "trainer.max_steps": "64",
    "trainer.val_check_interval": "2",
    "trainer.log_every_n_steps": "1",
    "trainer.progress": "false",
    "trainer.threads": "2",
    "trainer.profile": "true",
    "trainer.extra": "+trainer.extra.max_time='01:00:00:00'",
    "sample.prompt": "Toto",
    "sample.max_new_tokens": "5",
    "sample.temperature": "0",
    "sample.show": "true",
    "logger": "logger=[tensorboard,csv]",
    "callbacks": "callbacks=early_stopping",
}
# Changed one by one: each gives other losses, other learning rates or other weights than a
# resumption without it.
ALONE = {
    "seed": "7",
    "model.dropout": "0.3",
    "optim.schedule": "linear",
    "optim.min_lr_ratio": "0.9",
    "optim.warmup_steps": "1000",
    "trainer.gradient_clip_val": "0.01",
}


def test_the_walk_knows_every_setting() -> None:
    # A text is watched from a resume on in tests/training/test_watch.py.
    named = [*REFUSED, *TOGETHER, *ALONE, "resume", "watch"]
    assert sorted(named) == sorted(key for key, _ in leaves(Config()))


def test_what_a_resumed_run_cannot_change_is_refused_and_nothing_is_written(copy: Path, program: InProcess) -> None:
    before = bytes_below(copy)
    for key, value in REFUSED.items():
        status, said = program(copy, "resume=run", "trainer.max_steps=64", f"{key}={value}")
        assert (status, said.count("\n")) == (2, 1), (key, said)
        assert said.startswith("error: "), said
        assert key.split(".")[-1] in said or key in ("trainer.devices", "trainer.num_nodes"), (key, said)
        assert bytes_below(copy) == before, key


def test_what_a_resumed_run_changes_is_in_effect(
    copy: Path, program: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning import Trainer

    from llm_from_scratch.training.progress import ProgressBar

    seen: dict[str, Any] = {}
    fit = Trainer.fit

    def watched(trainer: Trainer, module: Any, *arguments: Any, **settings: Any) -> None:
        seen.update(trainer=trainer, module=module)
        fit(trainer, module, *arguments, **settings)

    def compiled(model: Any, setting: Any, **_: Any) -> tuple[bool, Any]:
        seen["compile"] = setting
        return False, model.loss

    (copy / "texts").mkdir()
    (copy / "story.txt").rename(copy / "texts" / "story.txt")
    monkeypatch.setattr(Trainer, "fit", watched)
    monkeypatch.setattr("llm_from_scratch.training.module.compile_model", compiled)
    monkeypatch.setattr("llm_from_scratch.training.progress.ProgressBar.__init__", told(ProgressBar.__init__, seen))
    threads = torch.get_num_threads()
    try:
        words = [value if value.startswith(("+", f"{key}=")) else f"{key}={value}" for key, value in TOGETHER.items()]
        status, said = program(copy, "resume=run", *words)
    finally:
        torch.set_num_threads(threads)
    assert status == 0, said
    run, state = copy / "run", load_state(checkpoints(copy / "run")[0])
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["step"] > 60]
    (group, rest), callbacks = state["optimizer_states"][0]["param_groups"], json.dumps([*state["callbacks"]])
    samples = (run / "samples.md").read_text(encoding="utf-8")
    effects = {
        "print_config": "├── print_config: true\n" in said,
        "data.dir": any((copy / "moved" / "text").glob("prepared-*/manifest.json")),
        "data.path": not (copy / "story.txt").exists(),
        "data.micro_batch_size": state["layout"]["micro_batch_size"] == 4,
        "optim.lr": group["initial_lr"] == 3e-3 and rows[0]["lr"] > 3e-4,
        "optim.patience": "Patience" in callbacks and seen["trainer"].callbacks is not None,
        "optim.weight_decay": (group["weight_decay"], rest["weight_decay"]) == (0.5, 0.0),
        "optim.beta1": group["betas"][0] == 0.8,
        "optim.beta2": rest["betas"][1] == 0.9,
        "optim.ema_decay": "WeightAverage" in callbacks and any(row["split"] == "val_raw" for row in rows),
        "optim.skip_bad_steps": seen["module"].optim.skip_bad_steps == 3,
        "trainer.accelerator": seen["trainer"].accelerator is not None,
        "trainer.precision": next(seen["module"].parameters()).dtype == torch.float64,
        "trainer.compile": seen["compile"] is True,
        "trainer.activation_checkpointing": seen["module"].model.recompute is True,
        "trainer.max_steps": state["global_step"] == 64,
        "trainer.val_check_interval": [row["step"] for row in rows if row["split"] == "val"] == [62, 64],
        "trainer.log_every_n_steps": [row["step"] for row in rows if row["split"] == "train"] == [61, 62, 63, 64],
        "trainer.progress": seen["bar"] is False,
        "trainer.threads": state["layout"]["threads"] == 2,
        "trainer.profile": any((run / "tensorboard").glob("*.pt.trace.json")),
        "trainer.extra": "Timer" in callbacks,
        "sample.prompt": "\n    Toto" in samples.split("## Step 62")[1],
        "sample.max_new_tokens": len(samples.split("## Step 64")[1]) < 80,
        "sample.temperature": samples.count("## Step 6") == 3,
        "sample.show": said.count("\n    Toto") == 2,
        "logger": any((run / "csv").rglob("metrics.csv"))
        and [logger.name for logger in seen["trainer"].loggers] == ["", "csv", "user"],
        "callbacks": "EarlyStopping" in callbacks,
    }
    assert effects.keys() == TOGETHER.keys()
    assert all(effects.values()), [key for key, held in effects.items() if not held]
    assert said.count("the learning rate jumps from") == 1


def told(function: Callable[..., None], seen: dict[str, Any]) -> Callable[..., None]:
    """The constructor of ProgressBar, which also notes whether a bar was asked for."""

    def init(self: Any, metrics: Any, show_bar: bool) -> None:
        seen["bar"] = show_bar
        function(self, metrics, show_bar)

    return init


def test_each_of_these_changes_the_numbers_of_a_resumed_run(finished: Path, tmp_path: Path, program: InProcess) -> None:
    results = {}
    for key in (None, *ALONE):
        folder = tmp_path / str(key)
        shutil.copytree(finished, folder)
        changed = [f"{key}={ALONE[key]}"] if key else []
        status, said = program(folder, "resume=run", "trainer.max_steps=62", "sample.max_new_tokens=0", *changed)
        assert status == 0, said
        results[key] = [row for row in read_rows(folder / "run/metrics.jsonl") if row["step"] > 60]
    for key in ALONE:
        assert [row["step"] for row in results[key]] == [62, 62]
        assert results[key] != results[None], key


def test_muon_follows_its_new_settings() -> None:
    from llm_from_scratch.model import GPT, GPTConfig
    from llm_from_scratch.training.module import LanguageModel
    from llm_from_scratch.training.optimizers import make_optimizer

    model = GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=1, n_embd=8))
    old = make_optimizer(model, OptimConfig(name="muon", lr=0.5, momentum=0.9), fused=False)
    scheduled = LambdaLR(old, lambda step: 1.0)
    new = OptimConfig(
        name="muon",
        lr=0.1,
        adamw_lr=0.2,
        momentum=0.8,
        beta1=0.7,
        beta2=0.6,
        weight_decay=0.3,
        schedule="constant",
        warmup_steps=4,
    )
    module = LanguageModel(model, Config(optim=new), val_bytes=1)
    module._trainer = SimpleNamespace(precision="32-true", global_step=1, is_global_zero=True)  # type: ignore[assignment]
    made: dict[str, Any] = dict(module.configure_optimizers())
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    optimizer.load_state_dict(old.state_dict())
    schedule.load_state_dict(scheduled.state_dict() | {"last_epoch": 1})
    module._trainer.optimizers = [optimizer]  # type: ignore[union-attr]
    module._trainer.lr_scheduler_configs = [SimpleNamespace(scheduler=schedule)]  # type: ignore[union-attr]
    module.follow_settings()
    muon, *adamw = optimizer.param_groups
    # Step 1 of a warm-up of 4
    assert (muon["momentum"], muon["weight_decay"], muon["lr"]) == (0.8, 0.3, 0.05)
    assert all((group["betas"], group["lr"]) == ((0.7, 0.6), 0.1) for group in adamw)
    assert schedule.base_lrs == [0.1, *[0.2] * len(adamw)]


# ------------------------------------------------------------------- settings that need another one
@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("optim.momentum=0.5", "optim=muon"),
        ("optim.adamw_lr=1e-3", "optim=muon"),
        ("optim.decay_fraction=0.5", "optim.schedule=wsd"),
        ("optim.plateau_factor=0.1", "optim.schedule=plateau"),
        ("optim.schedule=constant optim.min_lr_ratio=0.5", "an optim.schedule that falls"),
        ("model.position=learned model.rope_base=500", "model.position=rotary"),
        ("data.subset_seed=3", "data.fraction below 1"),
        ("data.connections=2", "data.download"),
        ("data.metric=label", "data.format=chat and held-out rows"),
        ("data=chat data.path=a.jsonl data.metric=label", "data.format=chat and held-out rows"),
        ("data=sentiment data.path=a.jsonl", "no data.generator"),
        ("data=sentiment data.generator=feelings", "must be one of"),
        ("data.documents=2", "data.download"),
        ("data.url=http://localhost", "data.file"),
        ("data.sha256=00", "data.file"),
        ("data.layouts=[a]", "data.path"),
        ("data.corpora.a.path=b", "data=mix"),
        ("data.column=body", "these files have no columns"),
        ("data.shard_bytes=1000", "is for a large corpus"),
        ("data.keep_text=false", "keeps its text"),
        ("prepare.workers=2", "is for a large corpus"),
        ("prepare.task=0", "llm_from_scratch prepare"),
        ("tokenizer.path=a", "tokenizer=gpt2"),
        ("sample.max_new_tokens=0 sample.temperature=1", "sample.max_new_tokens above 0"),
        ("init_from=run model.init_std=0.1", "a model of its own"),
        ("init_from=run tokenizer.vocab_size=300", "brings its own tokenizer, of 320"),
        ("init_from=nowhere", "nowhere is no run folder"),
        ("init_from=nowhere.pt", "init_from=nowhere.pt: cannot be read (No such file or directory)"),
        ("init_from=broken.pt data.val_fraction=0.3", "broken.pt: cannot be read as weights"),
        ("task=a run_dir=b", "leave one of them out"),
        ("trainer.extra.accumulate_grad_batches=4", "data.micro_batch_size=N"),
        ("trainer.extra.max_steps=4", "use trainer.max_steps"),
        ("trainer.extra.limit_val_batches=4", "data.val_fraction=X"),
        ("trainer.extra.gradient_clip_algorithm=value", "trainer.gradient_clip_val=X"),
        ("trainer.precision=fp16", "write trainer.precision=16-mixed"),
        ("trainer.precision=16-mixed", "use trainer.precision=bf16-mixed"),
        ("trainer.strategy=nonsense", "invalid strategy name"),
        ("data.micro_batch_size=3", "data.micro_batch_size=3 does not divide"),
        ("logger=wandb", "pip install -e '.[wandb]'"),
        ("logger.wandb.project=a", "logger.wandb.project: changes nothing without logger=wandb"),
        ("logger.csv.every_n_rows=5", "logger.csv.every_n_rows: changes nothing without logger=csv"),
        ("logger=csv logger.tensorboard.max_queue=5", "max_queue: changes nothing without logger=tensorboard"),
        ("logger=csv logger.csv.every_n_row=5", "did you mean logger.csv.every_n_rows?"),
        ("logger=csv logger.csv.every_n_rows=0", "must be a whole number above 0"),
        ("+logger.csv.other=5", "logger.csv.other: there is no such setting; it has every_n_rows"),
        ("logger.mine.a=b", "a logger of your own is written as +logger.mine._target_=MODULE.CLASS"),
        ("+logger.mine.a=b", "tensorboard, csv, wandb or mlflow, each with its settings, or NAME with a _target_"),
        ("+logger.mine._target_=os.system", "is no lightning.pytorch.loggers.Logger"),
        ("+logger.mine._target_=nowhere.Nothing", "cannot be loaded"),
        ("callbacks.a._target_=os.system", "is no lightning.pytorch.callbacks.Callback"),
        ("callbacks.a._target_=nowhere.Nothing", "cannot be loaded"),
        ("callbacks.a.b=c", "write callbacks.a._target_"),
        ("data.path=nowhere", "there is no such file or folder"),
        ("optim.lr=1e-3,3e-3", "add -m to make one run for each"),
        ("-m optim.lr=1e-3,3e-3 data.path=a.txt,b.txt", "data.path='choice(a.txt,b.txt)'"),
        ("sweep=optuna", "pip install -e '.[sweep]'"),
        ("-m hydra/launcher=joblib optim.lr=1e-3,3e-3", "pip install -e '.[sweep]'"),
        ("-m hydra/launcher=submitit_local optim.lr=1e-3,3e-3", "pip install -e '.[sweep]'"),
        ("sweep=lr optim.lr=1e-3", "the sweep has values for it"),
        ("resume=run -m trainer.max_steps=70,80", "init_from=run"),
        ("resume=run sweep=lr", "init_from=run"),
        ("resume=run trainer.max_steps=50", "has made its 60 steps"),
        ("resume=run data.path=nowhere", "there is no such file or folder"),
        ("resume=run debug=overfit", "the resumed run has"),
        ("resume=run trainer.max_steps=70 data.path=other.txt", "made with the data"),
        ("resume=run ~optim", "a choice is needed: optim= one of adamw, muon"),
        ("resume=run trainer.threads=1000000", "at most 1024"),
        ("trainer.num_nodes=2", "start them with torchrun or srun"),
        ("trainer.max_steps=5 trainer.extra.min_steps=9", "is more than trainer.max_steps=5"),
        ("trainer.extra.detect_anomaly=3", "must be true or false"),
        ("callbacks=early_stopping callbacks.early_stopping.monitor=a", "must be one of val/loss"),
        ("callbacks.a._target_=lightning.pytorch.callbacks.ModelCheckpoint", "keeps its checkpoints itself"),
        ("callbacks.a._target_=lightning.pytorch.callbacks.RichProgressBar", "shows its progress itself"),
        (
            "callbacks.a={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/loss,_partial_:true}",
            "_partial_",
        ),
        ("logger=none callbacks.a._target_=lightning.pytorch.callbacks.LearningRateMonitor", "logger=none"),
        ("tokenizer.kind=char", "with tokenizer=char the text decides it"),
        ("hydra.run.dir=elsewhere", "name its folder with run_dir=PATH"),
        ("-m optim.lr=interval(1e-4,1e-3)", "add sweep=optuna"),
        ("-m hydra.sweeper.params={seed:1}", "write -m and the values of each setting"),
        ("data.dir=story.txt", "data.dir=story.txt: story.txt/text cannot be written"),
        ("data.val_fraction=0.99999", "the train split is empty"),
    ],
)
def test_a_refused_command_writes_nothing(
    finished: Path, tmp_path: Path, program: InProcess, words: str, needed: str
) -> None:
    if "wandb" in words and find_spec("wandb"):
        pytest.skip("wandb is installed")
    if "optuna" in words and find_spec("optuna"):
        pytest.skip("Optuna is installed")
    if "launcher" in words and find_spec("hydra_plugins"):
        pytest.skip("plugins of Hydra are installed")
    before = bytes_below(finished)
    plus = ("trainer.extra.", "callbacks.a", "data.corpora.")
    for name in ("other.txt", "broken.pt"):
        if name in words:
            (finished / name).write_text(story(30_000, seed=1), encoding="utf-8")
            before = bytes_below(finished)
    given = [f"+{word}" if word.startswith(plus) else word for word in words.split(" ")]
    new = "resume=run" not in given
    shared = [word for word in SMALL if new and word.partition("=")[0] not in {one.partition("=")[0] for one in given}]
    status, said = program(finished, *shared, *given)
    assert (status, said.count("\n")) == (2, 1), said
    assert needed in said
    assert bytes_below(finished) == before


def test_machines_that_are_started_by_hand_need_one_run_dir(
    finished: Path, program: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.1")
    status, said = program(finished, *SMALL, "trainer.num_nodes=2")
    assert (status, said.count("\n")) == (2, 1), said
    assert "give all of them one run_dir=PATH" in said


def test_a_default_that_is_written_out_asks_for_nothing() -> None:
    check_given(check({}, Config), [key for key, _ in leaves(Config()) if key not in ("task", "run_dir")])
    with pytest.raises(UserError, match="optim.momentum=0.5: changes nothing without optim=muon"):
        check_given(check({"optim": {"momentum": 0.5}}, Config), ["optim.momentum"])
    with pytest.raises(UserError, match="of the whole mixture"):
        check_given(check({"data": {"corpora": {"a": {"path": "b", "batch_size": 3}}}}, Config), ["data.corpora"])


def test_a_run_goes_on_without_its_text(finished: Path, tmp_path: Path, program: InProcess) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "story.txt").unlink()
    # A limit of time that the run was given is no stranger's.
    status, said = program(tmp_path, "resume=run", "trainer.max_steps=61", "+trainer.extra.max_time=01:00:00:00")
    assert status == 0, said
    assert "data.path=story.txt: there is no such file or folder in " in said
    assert ": the run goes on with its prepared text" in said
    status, said = program(tmp_path, "resume=run", "trainer.max_steps=62", "logger=[]")
    assert status == 0, said


# ---------------------------------------------------------------------------------- new run folders
def test_a_broken_text_leaves_no_run_folder(tmp_path: Path, program: InProcess) -> None:
    (tmp_path / "story.txt").write_bytes(b"\xff\xfe broken \xc3\x28" * 50)
    given = (*SMALL, "trainer.max_steps=1", "run_dir=runs/first")
    status, said = program(tmp_path, *given)
    assert status == 2, said
    assert [path.name for path in tmp_path.iterdir()] == ["story.txt"]
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/mine.txt").write_text("kept")
    status, said = program(tmp_path, *given)
    assert (status, [path.name for path in (tmp_path / "runs/first").iterdir()]) == (2, ["mine.txt"])
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    status, said = program(tmp_path, *given)
    assert status == 0, said
    assert (tmp_path / "runs/first/model/model.safetensors").exists()


def test_a_resumed_run_of_another_text_is_left_as_it_was(copy: Path, program: InProcess) -> None:
    (copy / "story.txt").write_text(story(30_000, seed=1), encoding="utf-8")
    before = bytes_below(copy / "run")
    status, said = program(copy, "resume=run", "trainer.max_steps=62", "optim.lr=1")
    assert status == 2, said
    assert bytes_below(copy / "run") == before


def test_a_group_changes_what_its_file_sets_and_no_more(copy: Path, program: InProcess) -> None:
    status, said = program(copy, "resume=run", "debug=profile", "trainer.max_steps=62", "callbacks=none")
    assert status == 0, said
    assert "task: text" in (copy / "run/config.yaml").read_text(encoding="utf-8")
    assert any((copy / "run/tensorboard").glob("*.pt.trace.json"))


def test_a_folder_that_was_made_anew_is_not_written_to(
    copy: Path, program: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_from_scratch.training.module import LanguageModel

    step = LanguageModel.training_step

    def replaced(self: Any, batch: Any, number: int) -> Any:
        if self.trainer.global_step == 61 and (copy / "run/model").exists():
            shutil.rmtree(copy / "run")
            (copy / "run").mkdir()
            (copy / "run/.lock").touch()
        return step(self, batch, number)

    monkeypatch.setattr(LanguageModel, "training_step", replaced)
    status, said = program(copy, "resume=run", "trainer.max_steps=70", "trainer.log_every_n_steps=1")
    assert (status, said.splitlines()[-1]) == (
        1,
        "error: MachineError: run was deleted or replaced while this run wrote there: it stops (HYDRA_FULL_ERROR=1 shows where)",
    )
    assert [path.name for path in (copy / "run").rglob("*")] == [".lock"]


# ------------------------------------------------------------------------------------------- sweeps
def test_a_failing_run_does_not_end_the_sweep(copy: Path, program: InProcess) -> None:
    given = [word for word in SMALL if not word.startswith("data.path")]
    shutil.copy(copy / "story.txt", copy / "b.txt")
    (copy / "a.txt").write_text("too short a text. " * 10)
    words = ("data.path=choice(a.txt,b.txt)", "run_dir=sweep", "trainer.max_steps=1", "tokenizer.vocab_size=270")
    given = [word for word in given if not word.startswith("tokenizer")]
    status, said = program(copy, "-m", *given, *words)
    assert status == 1, said
    assert said.count("error: ") == 1
    table = said.split("All runs of sweep")[1]
    assert [row.split("│")[1].strip() for row in table.splitlines() if row.startswith("│")][:1] == ["1"]
    assert "0 failed: " in table
    assert (copy / "sweep/1/model/model.safetensors").exists()
    assert not (copy / "sweep/0/config.yaml").exists()


def test_a_diverging_run_stands_in_the_table(copy: Path, program: InProcess) -> None:
    status, said = program(
        copy, "-m", *SMALL, "optim.lr=1e38,1e-3", "optim.warmup_steps=0", "trainer.max_steps=3", "run_dir=sweep"
    )
    assert status == 1, said
    assert "0 failed: FloatingPointError: step" in said
    assert (copy / "sweep/1/curves.png").exists()


def test_a_changed_text_is_refused_before_it_is_prepared(copy: Path, program: InProcess) -> None:
    shutil.rmtree(copy / "data")
    (copy / "story.txt").write_text(story(30_000, seed=1), encoding="utf-8")
    before = bytes_below(copy)
    status, said = program(copy, "resume=run", "trainer.max_steps=70")
    assert (status, said.count("\n"), "made with the data" in said) == (2, 1, True), said
    assert bytes_below(copy) == before


def test_a_run_waits_while_another_process_prepares_its_text(
    copy: Path, program: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prepared,) = (path for path in (copy / "data/text").glob("prepared-*") if path.is_dir())
    shutil.rmtree(prepared)
    held, waits, said_so = threading.Event(), threading.Event(), []

    def info(line: str, *values: Any) -> None:
        said_so.append(line % values)
        waits.set()

    monkeypatch.setattr("llm_from_scratch.data.locks.log", SimpleNamespace(info=info))

    def hold() -> None:
        with FileLock(f"{prepared}.lock"):
            held.set()
            waits.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    status, said = program(copy, *SMALL, "trainer.max_steps=1", "run_dir=other")
    other.join()
    assert status == 0, said
    assert said_so == [f"{prepared.relative_to(copy)} is being prepared by another process: this one waits for it"]


@pytest.mark.slow
def test_runs_that_start_together_wait_for_the_one_that_prepares(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    command = [sys.executable, str(REPO / "train.py"), *SMALL, "trainer.max_steps=1", "logger=none"]
    started = [
        subprocess.Popen([*command, f"run_dir=run{i}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    for process in started:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said


@pytest.mark.slow
def test_a_sweep_of_two_processes_a_run(train: Process, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(story(30_000), encoding="utf-8")
    small = [word for word in SMALL if word != "trainer=cpu"]
    done = train("-m", *small, "trainer=ddp_cpu", "trainer.max_steps=1", "optim.lr=1e-3,2e-3", "run_dir=sweep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run: sweep") == 2


MINE = """
from lightning.pytorch.callbacks import Callback

class Mine(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log("mine/step", float(trainer.global_step))

    def on_validation_epoch_end(self, trainer, pl_module):
        self.log("mine/val", 2.0 * trainer.global_step)
"""


def test_what_a_callback_logs_lands_at_its_step(
    copy: Path, program: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches a step; with loggers of three kinds beside each other."""
    (copy / "of_mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(copy)
    words = ("+callbacks.mine._target_=of_mine.Mine", "data.micro_batch_size=4", "trainer.max_steps=66")
    words += ("trainer.val_check_interval=4", "trainer.log_every_n_steps=2", "sample.max_new_tokens=0")
    words += ("logger=[tensorboard,csv]", "logger.csv.every_n_rows=1", "+logger.third.save_dir=third")
    words += ("+logger.third._target_=lightning.pytorch.loggers.CSVLogger",)
    status, said = program(copy, "resume=run", *words)
    assert status == 0, said
    rows = [row for row in read_rows(copy / "run/metrics.jsonl") if row["split"] == "user"]
    steps = [{"step": step, "split": "user", "mine/step": float(step)} for step in (62, 64, 66)]
    assert [row for row in rows if "mine/step" in row] == steps
    assert [(row["step"], row["mine/val"]) for row in rows if "mine/val" in row] == [(64, 128.0), (66, 132.0)]
    with (copy / "run/csv/version_0/metrics.csv").open(encoding="utf-8", newline="") as file:
        points = [(row["step"], float(row["mine/step"])) for row in csv.DictReader(file) if row["mine/step"]]
    assert points == [("62", 62.0), ("64", 64.0), ("66", 66.0)]
    assert any((copy / "third").rglob("metrics.csv"))
    assert "tensorboard --logdir" in said
    status, said = program(copy, "resume=run", "trainer.max_steps=68")
    assert (status, said.count("\n")) == (2, 1)
    assert "logger.third: a run folder may be a stranger's" in said
    status, said = program(copy, "resume=run", "trainer.max_steps=68", "logger=csv")
    assert status == 0, said
    assert "tensorboard --logdir" not in said
