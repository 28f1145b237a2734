"""Classes of the user's: what they are given, and one line where they do not fit."""

import pytest
import torch

from llm_from_scratch.check import check, check_given
from llm_from_scratch.config import Config, OptimConfig
from llm_from_scratch.errors import UserError
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.training.objects import object_class
from llm_from_scratch.training.optimizers import make_optimizer


def optimizer(**custom: object) -> torch.optim.Optimizer:
    model = GPT(GPTConfig(vocab_size=10, n_layer=1, n_embd=8, n_head=2))
    config = OptimConfig(name="custom", lr=0.2, weight_decay=0.3, custom=dict(custom))
    return make_optimizer(model, config, fused=True)


def test_an_optimizer_gets_the_groups_the_peak_and_its_arguments() -> None:
    made = optimizer(_target_="torch.optim.SGD", momentum=0.7)
    assert isinstance(made, torch.optim.SGD)
    assert [(group["lr"], group["momentum"], group["weight_decay"]) for group in made.param_groups] == [
        (0.2, 0.7, 0.3),
        (0.2, 0.7, 0.0),
    ]


@pytest.mark.parametrize(
    ("custom", "words"),
    [
        ({}, r"optim\.custom: write optim\.custom\._target_=MODULE\.CLASS, a subclass of torch\.optim\.Optimizer"),
        ({"_target_": "no_such.Thing"}, r"optim\.custom\._target_=no_such\.Thing: cannot be loaded: No module named"),
        ({"_target_": "os.system"}, r"optim\.custom\._target_=os\.system: is no torch\.optim\.Optimizer"),
        ({"_target_": "torch.optim.SGD", "beta": 1}, r"optim\.custom: .*unexpected keyword argument 'beta'"),
        ({"_target_": "torch.optim.SGD", "momentum": -1}, r"optim\.custom: Invalid momentum value: -1"),
    ],
)
def test_one_that_does_not_fit_is_refused_in_one_line(custom: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=rf"^{words}") as error:
        optimizer(**custom)
    assert "\n" not in str(error.value)


def test_settings_of_the_own_optimizers_are_refused_beside_it() -> None:
    custom = {"name": "custom", "custom": {"_target_": "torch.optim.SGD"}}
    for key, value in (("beta1", 0.5), ("skip_bad_steps", 3), ("momentum", 0.5)):
        with pytest.raises(UserError, match=rf"optim\.{key}={value}: changes nothing without optim"):
            check_given(check({"optim": custom | {key: value}}, Config), [f"optim.{key}"])
    with pytest.raises(UserError, match=r"optim\.custom._target_: changes nothing without optim\.name=custom"):
        check_given(check({"optim": {"custom": custom["custom"]}}, Config), ["optim.custom._target_"])
    with pytest.raises(UserError, match=r"optim\.name=custom needs whole weights"):
        check({"optim": custom, "trainer": {"strategy": "fsdp"}}, Config)


@pytest.mark.parametrize(("group", "kind"), [("callbacks", "callbacks.Callback"), ("logger", "loggers.Logger")])
def test_the_kind_is_named(group: str, kind: str) -> None:
    with pytest.raises(
        UserError, match=rf"^{group}\.x: write {group}\.x\._target_=MODULE\.CLASS, a subclass of .*{kind}"
    ):
        object_class(group, "x", {})
