"""A command's checks before Hydra: each mistake is one line, and no folder."""

import os
import sys
from pathlib import Path

import pytest

from llm_from_scratch.cli import main
from llm_from_scratch.commands import train
from llm_from_scratch.front.program import composed
from llm_from_scratch.front.run_name import RUN_NAME
from llm_from_scratch.places import config_dir


# Fault 21: one line each, with the nearest key.
@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.lrr=1", "optim.lrr: there is no such setting; did you mean optim.lr?"),
        ("+optim.lrr=1", "optim.lrr: there is no such setting; did you mean optim.lr?"),
        ("+typo=1", "typo: there is no such setting"),
        ("model.learning_rate=1", "model.learning_rate: there is no such setting"),
        ("model.lr=1", "model.lr: there is no such setting; did you mean optim.lr?"),
        ("model=tinny", "model=tinny: there is no such choice; did you mean tiny? There are: article, gpt2"),
        ("modle=tiny", "modle: there is no such setting; did you mean model?"),
        ("model.n_layer=two", "model.n_layer: Value 'two'"),
        ("model.n_layer=2.5", "model.n_layer: Value '2.5'"),
        ("model.dropout=nan", "model.dropout"),
        ("optim.lr=nan", "optim.lr=nan: must be a finite number"),
        ("optim.lr=-1", "optim.lr=-1.0: must be above 0"),
        ("optim.lr=", "optim.lr: the value is empty"),
        ("=3", "=3: the name of the setting is missing"),
        ("model.n_head=5", "model.n_head=5 does not divide model.n_embd=128"),
        ("data.file=../../elsewhere", "data.file=../../elsewhere: must be a path below data.dir"),
        ("trainer.max_steps=0", "trainer.max_steps=0: must be above 0"),
        ("data.batch_schedule=[[0,4]]", "data.batch_schedule=[[0, 4]]: must be [[step, sequences], …], all above 0"),
        ("data.batch_schedule=[4]", "data.batch_schedule"),
        (
            "data.batch_schedule=[[9,64]]",
            "data.batch_schedule has 64 sequences, more than data.batch_size=16: change it too",
        ),
        ("debug=overfit data.batch_schedule=[[9,2]]", "data.overfit=true learns one batch of one size"),
        ("data.val_fraction=1", "data.val_fraction=1.0: must be above 0 and below 1"),
        ("optim.lr=1 optim.lr=2", "optim.lr: given twice"),
        ("optim.lr={", "optim.lr={: not a value that Hydra can read"),
        ("tiny", "tiny: settings are written as key=value"),
        ("+trainer.extra.nonsense=1", "trainer.extra.nonsense: lightning.Trainer has no such argument"),
        ("resume=nowhere", "nowhere is no run folder"),
        ("-m optim.lr=1,2 --cfg job", "--cfg and -m: Hydra takes one of them"),
        ("optim=1e-3", "optim=1e-3: there is no such choice. There are: adamw, muon"),
        ("model=3", "model=3: there is no such choice. There are: article, gpt2"),
        ("trainer=true", "trainer=true: there is no such choice. There are: auto"),
        ("model=[tiny,3]", "model=3: there is no such choice. There are: article, gpt2"),
        ("-m model=tiny,3", "model=3: there is no such choice. There are: article, gpt2"),
        ("callbacks=${hydra:job.num}", "callbacks=${hydra:job.num}: there is no such choice"),
        ("tuned=oz_tinny", "tuned=oz_tinny: there is no such choice; did you mean oz_tiny?"),
        ("model=[]", "model=[]: a choice is needed: model= one of article, gpt2"),
        ("hydra/help=3", "the configuration cannot be read: Config group override must be a string"),
        ("optim.lr=${nope}", "optim.lr: Interpolation key 'nope' not found; ${NAME} stands for another setting"),
        ("+callbacks.x=[${nope}]", "callbacks.x[0]: Interpolation key 'nope' not found"),
        ("~task", "run_dir: Interpolation key 'task' not found"),
        ("optim.lr=???", "optim.lr=???: is OmegaConf's mark of a missing value: give another one"),
        ("data.corpora=${model}", "data.corpora={"),
        ("sample.prompt=choice(a,b)", "sample.prompt=choice(a,b): several values: add -m to make one run for each"),
    ],
)
def test_fault_21_a_mistake_costs_one_line(
    override: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_from_scratch.commands import train

    monkeypatch.setattr("sys.argv", ["train.py", *override.split(" ")])
    with pytest.raises(SystemExit) as ended:
        train.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith(f"error: {line}"), printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("word", ["logger=null", "~logger", "logger=[]"])
def test_no_choice_of_a_group_is_written_alike_for_every_command(word: str) -> None:
    assert composed(config_dir(), "train", [word]).logger == {}


def test_a_refused_command_leaves_no_name_for_the_next_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_NAME, raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "optim.lrr=1"])
    with pytest.raises(SystemExit):
        train.main()
    assert RUN_NAME not in os.environ


@pytest.mark.parametrize("command", ["prepare", "inspect", "plan"])
@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("data=chat data.path=rows.jsonl prepare.workers=2", "prepare.workers=2: changes nothing without data.format=text"),
        ("data=preferences data.path=rows.jsonl prepare.engine=ray", "prepare.engine=ray: changes nothing without"),
        ("data=oz data.too_long=skip", "data.too_long=skip: changes nothing without data=chat or data=preferences"),
        ("data=oz finetune.rank=4", "finetune.rank=4: changes nothing without finetune=lora"),
    ],
)  # fmt: skip
def test_other_commands_refuse_a_setting_without_effect_as_train_does(
    command: str,
    words: str,
    needed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([command, *words.split(" ")])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n"), needed in said) == (2, 1, True), said
    assert list(tmp_path.iterdir()) == []
