"""The plan of a training before it begins: parameters, memory, epochs, time and disk.

Letters: N parameters, D training tokens, T tokens of a sequence.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from llm_from_scratch.config import Config, LossConfig
from llm_from_scratch.data.sampler import batch_size_at, sequences_before
from llm_from_scratch.data.shards import id_dtype
from llm_from_scratch.files import existing_parent
from llm_from_scratch.lora import kept_parameters
from llm_from_scratch.model import GPT
from llm_from_scratch.plan.measuring import Measured
from llm_from_scratch.plan.sizes import (
    TOKENS_A_PARAMETER,
    TextSize,
    compute_optimal,
    device_count,
    nearest,
    training_flops,
)
from llm_from_scratch.plan.warnings import GOOD_EPOCHS, warnings
from llm_from_scratch.training.compilation import PAYS, wanted
from llm_from_scratch.training.finetuning import planned_model
from llm_from_scratch.training.memory import (
    VALUE,
    activation_bytes,
    device_bytes,
    logits_bytes,
    micro_batch_size,
    on_gpu,
    state_bytes,
    trained_parameters,
)


def plan(
    config: Config, text: TextSize, measured: Measured | None, *, hours: float | None, presets: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the plan of the run that `config` describes, as values that JSON can hold.

    Args:
        config: the composed configuration of train.py.
        text: the size of the text to train on.
        measured: times of real steps; None leaves out "time" and "optimum". A model that
            `init_from` brings has its size: there is no "optimum".
        hours: the time budget of "optimum"; None: the estimated hours of the run.
        presets: the number of parameters of each `model=` choice, with this vocabulary.
    """
    epochs, config = in_sequences(config, text)
    model = planned_model(config, text.vocab_size)
    N, shape, settings = model.num_parameters(), model.config, config.trainer
    world = device_count(settings)
    batches = config.data.batch_size, config.data.batch_schedule
    a_step, at_first = batches[0] * shape.block_size, batch_size_at(0, *batches) * shape.block_size
    D = sequences_before(settings.max_steps, *batches) * shape.block_size
    flops = training_flops(model)
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))

    memory = _memory(config, model, text.vocab_size)
    result: dict[str, Any] = {
        "model": {
            "parameters": N,
            "trained": trained_parameters(model),
            "embeddings": embeddings,
            "parameters_without_embeddings": N - embeddings,
            "vocab_size": text.vocab_size,
        },
        "data": asdict(text)
        | {"tokens_a_first_step": at_first, "tokens_a_step": a_step}
        | {"tokens": D, "passes": D / max(text.train_tokens, 1) if epochs is None else epochs},
        "memory": memory,
        "compute": {
            "flops_a_token": flops,
            "flops_a_step": flops * a_step,
            "flops": flops * D,
            "tokens_a_parameter": D / N,
            "devices": world,
        },
        "disk": _disk(config, model, memory, text),
    }
    seconds = hours and hours * 3600
    if measured:
        result["time"] = times(config, text, measured, N)
        seconds = seconds or result["time"]["seconds"]
        rate = flops * result["time"]["tokens_per_second"]
        if config.init_from is None:
            result["optimum"] = _optimum(seconds, rate, text.train_tokens, a_step, presets)
    result["unwise"] = list(warnings(config, result, presets))
    return result


def in_sequences(config: Config, text: TextSize) -> tuple[float | None, Config]:
    """Returns the epochs of a run on pairs of answers, and its settings as of twice the sequences.

    A sequence counts as a whole block: the plan is an upper bound. A run on fresh stories has no
    epochs, 0. Other runs have None, and their own settings.
    """
    data = config.data
    if data.stream == "fresh":
        return 0.0, config
    if config.loss.name != "dpo":
        return None, config
    pairs = sequences_before(config.trainer.max_steps, data.batch_size, data.batch_schedule)
    schedule = None if data.batch_schedule is None else [[end, 2 * size] for end, size in data.batch_schedule]
    micro = None if data.micro_batch_size is None else 2 * data.micro_batch_size
    doubled = replace(data, batch_size=2 * data.batch_size, batch_schedule=schedule, micro_batch_size=micro)
    return pairs / max(1, (text.documents or 0) // 2), replace(config, data=doubled, loss=LossConfig())


def _memory(config: Config, model: GPT, vocab_size: int) -> dict[str, int]:
    """Returns the memory of one process in bytes (by use, in total, available), and the micro-batch
    size that it is for.
    """
    settings, world, gpu = config.trainer, device_count(config.trainer), on_gpu(config.trainer)
    micro = micro_batch_size(config, world)
    shards = world if settings.strategy == "fsdp" else 1
    memory = {name: size // shards for name, size in state_bytes(model, config.optim).items()}
    a_token = activation_bytes(model, recompute=settings.activation_checkpointing, cpu=not gpu)
    memory |= {
        "activations": a_token * micro * model.config.block_size,
        "loss": logits_bytes(vocab_size, cpu=not gpu),
    }
    # The processes of a machine share its memory; every GPU has its own.
    available = device_bytes(settings) // (1 if gpu else max(1, world // settings.num_nodes))
    return memory | {"total": sum(memory.values()), "available": available, "micro_batch_size": micro}


def _disk(config: Config, model: GPT, memory: Mapping[str, int], text: TextSize) -> dict[str, int]:
    """Returns the bytes of a run's checkpoints, of its `model/` and of the text, and those free."""
    # Of a run of adapters neither holds another weight.
    kept = VALUE * sum(parameter.numel() for parameter in kept_parameters(model).values())
    shards = device_count(config.trainer) if config.trainer.strategy == "fsdp" else 1
    return {
        # Weights and moments: two checkpoints are kept while a third is written.
        "checkpoints": 3 * (kept + memory["optimizer"] * shards),
        "model": 2 * kept,  # the best model, and the next one while it is written
        "shards": (text.train_tokens + text.val_tokens) * id_dtype(text.vocab_size).itemsize,
        "free": shutil.disk_usage(existing_parent(Path(config.run_dir))).free,
    }


def _optimum(
    seconds: float, rate: float, train_tokens: int, tokens_a_step: int, presets: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the compute-optimal parameters and tokens for a time, and the largest such model that
    the text supports.

    Args:
        seconds: the training time.
        rate: FLOP/s of all devices together.
        train_tokens: tokens of the training split.
        tokens_a_step: tokens of an optimizer step.
        presets: the number of parameters of each `model=` choice.
    """
    best, tokens = compute_optimal(rate * seconds)
    within = GOOD_EPOCHS * train_tokens
    limit = min(best, within // TOKENS_A_PARAMETER)
    return {
        "hours": seconds / 3600,
        "flops_per_second": rate,
        "parameters": best,
        "tokens": tokens,
        "steps": tokens // tokens_a_step,
        "text_is_short": tokens > within,
        "parameters_for_this_text": limit,
        "model": nearest(limit, presets),
    }


def times(config: Config, text: TextSize, measured: Measured, parameters: int) -> dict[str, Any]:
    """Returns the seconds of a run, a step and a validation, extrapolated from `measured`;
    compiling is included where the run would compile.
    """
    settings, T = config.trainer, config.model.block_size
    world = device_count(settings)
    step = config.data.batch_size / world * measured.seconds_a_sequence + measured.seconds_an_update
    compiled, saved, cost = False, 0.0, 0.0
    sequences = sequences_before(settings.max_steps, config.data.batch_size, config.data.batch_schedule) / world
    training = sequences * measured.seconds_a_sequence + settings.max_steps * measured.seconds_an_update
    if wanted(settings.compile, measured.device, parameters, int(sequences * T)):
        compiled = True
        _, saved, cost = PAYS.get(measured.device, (0, 0.0, 0.0))
    step *= 1 - saved
    # A validation is the forward pass of each window: a third of the work of training on it.
    validations = -(-settings.max_steps // settings.val_check_interval)
    validation = text.val_tokens / T * measured.seconds_a_sequence / 3 / world
    return {
        "seconds": training * (1 - saved) + validations * validation + cost,
        "seconds_a_step": step,
        "seconds_a_validation": validation,
        "tokens_per_second": config.data.batch_size * T / step,
        "compiled": compiled,
        "measured": asdict(measured),
    }


def warnings_at_start(config: Config, text: TextSize) -> list[str]:
    """Returns at most two warnings, without measuring; none for data.overfit=true or for a trial,
    which ends within the warm-up.
    """
    if config.data.overfit or config.trainer.max_steps <= config.optim.warmup_steps:
        return []
    return plan(config, text, None, hours=None, presets={})["unwise"][:2]
