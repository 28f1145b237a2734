"""Warnings about a training before it begins: one line each, with advice."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from llm_from_scratch.config import Config
from llm_from_scratch.data.sampler import sequences_before
from llm_from_scratch.machine import cores, has_cuda
from llm_from_scratch.plan.sizes import (
    CHARACTERS,
    GPT2_VOCABULARY,
    TOKENS_A_PARAMETER,
    device_count,
    nearest,
    on_cpu,
    training_flops,
)
from llm_from_scratch.plan.table import count, duration
from llm_from_scratch.training.finetuning import planned_model

# Epochs up to which a repeated text is worth nearly as much as new text (Muennighoff et al. 2023).
GOOD_EPOCHS = 4
# Dropout and weight decay from which on 100 epochs of a text are tolerated (docs/log.md).
REGULARISED = (0.1, 1.0)
# Epochs beyond which repetition is worth next to nothing (Muennighoff et al. 2023).
USELESS_EPOCHS = 16
# FLOP/s of training per CPU core, roughly: 1.5e10 to 5e10 were measured, depending on the width of
# the model.
CPU_RATE = 2.5e10
LONG = 2 * 3600  # seconds from which on a training on a CPU gets a warning


def warnings(config: Config, result: Mapping[str, Any], presets: Mapping[str, int]) -> Iterable[str]:
    """Yields one line for each expected problem of a run, with advice.

    Args:
        config: the configuration of the run.
        result: its plan, as `estimate.plan` makes it.
        presets: the number of parameters of each `model=` choice, with this vocabulary.
    """
    yield from _of_epochs(config, result, presets)
    yield from _of_sizes(config, result)
    yield from _of_settings(config, result)
    yield from _of_time(config, result)


def _of_epochs(config: Config, result: Mapping[str, Any], presets: Mapping[str, int]) -> Iterable[str]:
    """Warns of a model that is too large for the text or for the number of steps."""
    if config.data.format == "preferences":
        return  # they change a model that has learned from another text
    data, N, brought = result["data"], result["model"]["parameters"], config.init_from is not None
    D, train, epochs = data["tokens"], data["train_tokens"], data["passes"]
    regularised = config.model.dropout >= REGULARISED[0] and config.optim.weight_decay >= REGULARISED[1]
    if epochs > GOOD_EPOCHS and regularised and epochs <= 100:
        pass
    elif epochs > GOOD_EPOCHS:
        smaller = nearest(GOOD_EPOCHS * train // TOKENS_A_PARAMETER, presets)
        advice = ["more text"]
        if smaller and presets[smaller] < N and not brought:
            advice.append(f"model={smaller} ({count(presets[smaller], ' parameters')})")
        best = USELESS_EPOCHS if epochs > USELESS_EPOCHS else GOOD_EPOCHS
        steps = best * train // data["tokens_a_step"]
        if steps and (brought or best == USELESS_EPOCHS):
            advice.append(f"trainer.max_steps={steps} ({best} passes)")
        if not brought:  # a model that has learned from much text loses by dropout and weight decay
            advice.append("model.dropout=0.2 with optim.weight_decay=1.0")
        will = (
            "it will overfit"
            if best == USELESS_EPOCHS
            else f"each beyond {GOOD_EPOCHS} is worth less, and it may overfit"
        )
        yield (
            f"{count(data['train_bytes'], 'B')} of text for {count(N, ' parameters')}: {epochs:.3g} passes, {will}: use "
            + _either(advice)
        )
    elif brought:
        return  # its parameters have learned from other tokens
    elif D < TOKENS_A_PARAMETER / 4 * N:
        wanted_steps = TOKENS_A_PARAMETER * N // data["tokens_a_step"]
        fits = nearest(D // TOKENS_A_PARAMETER, presets)
        # More steps help while epochs are few; a small text that is repeated many times calls for a
        # smaller model.
        steps = [f"trainer.max_steps={wanted_steps}"] if GOOD_EPOCHS * train >= TOKENS_A_PARAMETER * N else []
        models = [f"model={fits} ({count(presets[fits])})"] if fits and presets[fits] < N else []
        if steps or models:
            yield (
                f"{D / N:.2g} training tokens a parameter: a smaller model learns more in that time "
                f"({TOKENS_A_PARAMETER} are best): use {' or '.join(steps + models)}"
            )


def _either(advice: list[str]) -> str:
    return ", ".join([*advice[:-1], f"or {advice[-1]}" if len(advice) > 1 else advice[-1]])


def _of_sizes(config: Config, result: Mapping[str, Any]) -> Iterable[str]:
    """Warns of a large share of embeddings, of too little memory and of too little disk space."""
    model, data, memory, disk = (result[name] for name in ("model", "data", "memory", "disk"))
    N = model["parameters"]
    brought = config.init_from is not None
    if model["embeddings"] > N / 2 and model["vocab_size"] > 1024 and not brought:
        yield (
            f"embeddings are {model['embeddings'] / N:.0%} of the parameters: use a smaller tokenizer.vocab_size than "
            f"{model['vocab_size']:,}, or a wider model"
        )
    if memory["total"] > memory["available"]:
        whole = model["trained"] == N
        advice = ["data.micro_batch_size=1", "trainer.activation_checkpointing=true"]
        advice += ["finetune=lora"] if brought and whole else []
        advice += ["trainer=fsdp on several GPUs"]
        yield (
            f"{count(memory['total'], 'B')} of memory are needed and a device has {count(memory['available'], 'B')}: use "
            + _either([*advice, "a smaller model"])
        )
    written = disk["checkpoints"] + disk["model"] + (disk["shards"] if data["estimated"] else 0)
    if written > disk["free"]:
        yield (
            f"{count(written, 'B')} will be written and {count(disk['free'], 'B')} are free on the disk: free some, "
            "or set run_dir and data.dir on another"
        )


def _of_settings(config: Config, result: Mapping[str, Any]) -> Iterable[str]:
    """Warns of a long warm-up, a validation split shorter than a block, and short documents."""
    data, steps = result["data"], config.trainer.max_steps
    # Fine-tuning takes few steps, and pretrained weights are not to be moved far by the first ones.
    if config.optim.warmup_steps > steps / (2 if config.init_from else 4):
        yield (
            f"the warm-up takes {config.optim.warmup_steps} of {steps} steps: use optim.warmup_steps={max(1, steps // 20)}"
        )
    if config.data.format != "text":  # conversations are packed, and parted by their own mask
        return
    if data["val_tokens"] < config.model.block_size:
        yield (
            f"{data['val_tokens']} tokens to validate with, fewer than a block of {config.model.block_size}: use a larger "
            "data.val_fraction or more text"
        )
    mean = data["train_tokens"] / max(data["documents"] or 0, 1)
    short = (data["documents"] or 0) > 100 and mean < config.model.block_size / 2
    if short and not config.data.doc_mask:
        yield (
            f"documents have {mean:.0f} tokens on average, and a block has {config.model.block_size}: "
            "use data.doc_mask=true, or a smaller model.block_size"
        )


def _of_time(config: Config, result: Mapping[str, Any]) -> Iterable[str]:
    """Warns of slow validations, an unused GPU and a run of over a week, from measured steps."""
    if "time" not in result:
        return
    steps, settings = config.trainer.max_steps, config.trainer
    seconds, validation = result["time"]["seconds"], result["time"]["seconds_a_validation"]
    validating = -(-steps // settings.val_check_interval) * validation
    if validating > seconds / 4 and seconds > 60:
        yield (
            f"validations take {validating / seconds:.0%} of the time: use a larger trainer.val_check_interval than "
            f"{settings.val_check_interval}"
        )
    if settings.accelerator == "cpu" and has_cuda():
        yield "this machine has a CUDA GPU and the run does not use it: use trainer=gpu"
    if seconds > 7 * 86400:
        yield f"it takes {duration(seconds)}: use fewer trainer.max_steps, a smaller model or more devices"


def cpu_seconds(config: Config, vocab_size: int | None = None) -> float:
    """Estimates the seconds of a run's steps on this machine's CPU within a factor of two, without
    measuring.

    `vocab_size` is that of the model in `init_from`; None: the settings choose the tokenizer.
    """
    vocabulary = {"gpt2": GPT2_VOCABULARY, "char": CHARACTERS}.get(config.tokenizer.kind, 1024)
    vocab_size = vocab_size or config.tokenizer.vocab_size or vocabulary
    model = planned_model(config, vocab_size)
    data, settings = config.data, config.trainer
    tokens = sequences_before(settings.max_steps, data.batch_size, data.batch_schedule) * config.model.block_size
    busy = min(cores(), device_count(settings) * (settings.threads or torch.get_num_threads()))
    return training_flops(model) * tokens / (CPU_RATE * busy)


def too_much(
    config: Config, recipes: Callable[[], Mapping[str, Config]], vocab_size: int | None = None
) -> Iterable[str]:
    """Warns of two hours or more on this CPU, and of more processes or threads than cores.

    Args:
        config: the configuration of the run.
        recipes: returns the configuration of each experiment, by its name.
        vocab_size: as in `cpu_seconds`.
    """
    settings = config.trainer
    if not on_cpu(settings):
        return
    here, asked = cores(), settings.devices if isinstance(settings.devices, int) else 1
    cores_here = "1 core" if here == 1 else f"{here} cores"
    if asked > here:
        yield (
            f"trainer.devices={asked}: so many processes take turns on the {cores_here} of this machine, which is slower"
            " than one process: use trainer.devices=1"
        )
    if (settings.threads or 1) > here:
        yield (
            f"trainer.threads={settings.threads}: this machine has {cores_here}: leave it out, and torch takes as many"
        )
    seconds = cpu_seconds(config, vocab_size)
    if seconds < LONG or config.resume:
        return
    gpu = "trainer=gpu" if has_cuda() else "a machine with a GPU"
    hours = seconds / 3600
    time_here = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
    takes = f"this training takes about {time_here} on this CPU ({cores_here}): use {gpu}, or"
    if config.init_from is not None:
        yield f"{takes} fewer trainer.max_steps"
        return
    times = {
        name: cpu_seconds(recipe)
        for name, recipe in recipes().items()
        if recipe.data.name == config.data.name and config.data.path is None and on_cpu(recipe.trainer)
    }
    short = sorted((name for name, one in times.items() if one < LONG), key=lambda name: times[name])[-2:]
    instead = " or ".join(f"experiment={name}" for name in short) or "model=tiny with fewer trainer.max_steps"
    yield f"{takes} {instead}"
