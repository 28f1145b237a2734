"""What a training will take, before it begins: parameters, memory, passes over the text, time, disk, and what is unwise about it.

Letters: N parameters, D training tokens, B sequences a step, T tokens of a sequence, C channels, L layers, V vocabulary.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from llm_from_scratch.config import Config, TrainerConfig
from llm_from_scratch.data.corpus import estimated_tokens, plan_corpus
from llm_from_scratch.data.prepare import prepare
from llm_from_scratch.data.prepared import Prepared, open_prepared
from llm_from_scratch.data.sampler import batch_size_at, sequences_before
from llm_from_scratch.errors import UserError
from llm_from_scratch.machine import cores, has_cuda, has_mps
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.tokenizer import Tokenizer, open_gpt2
from llm_from_scratch.training.compilation import PAYS, wanted
from llm_from_scratch.training.memory import (
    activation_bytes,
    device_bytes,
    logits_bytes,
    micro_batch_size,
    on_gpu,
    state_bytes,
)
from llm_from_scratch.training.optimizers import make_optimizer
from llm_from_scratch.training.trainer import precision

GOOD_PASSES = 4  # so often read, a text is worth nearly as much as new text (Muennighoff et al. 2023)
REGULARISED = (0.1, 1.0)  # dropout and weight decay with which a text can be read up to a hundred times (docs/log.md)
USELESS_PASSES = 16  # beyond, further passes are worth next to nothing (the same)
TOKENS_A_PARAMETER = 20  # where a given number of FLOPs gives the lowest loss (Hoffmann et al. 2022)
SECONDS = 4.0  # of measuring
GPT2_VOCABULARY = 50_257  # pieces of tokenizer=gpt2, end-of-text included (Radford et al. 2019)
CHARACTERS = 256  # distinct characters of a text that is not at hand


# ------------------------------------------------------------------------------------------------------------ numbers
def on_paper(config: GPTConfig) -> GPT:
    """The model without memory for its weights: what its shapes are, whatever its size."""
    with torch.device("meta"):
        return GPT(config)


def training_flops(model: GPT) -> int:
    """FLOPs of one token in training: 6 a weight in a matrix product, and 12 L H D T for attention without regard to its mask.

    Chowdhery et al. 2022, appendix B. A layer that is used several times counts so often; the look-up of an embedding is none.
    """
    config = model.config
    blocks = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, nn.Linear))
    weights = blocks * config.n_layer // config.unique_layers + config.vocab_size * config.n_embd
    return 6 * weights + 12 * config.n_layer * config.n_head * config.head_dim * config.block_size


def compute_optimal(flops: float) -> tuple[int, int]:
    """Parameters and training tokens that give the lowest loss for so many FLOPs: 6 N D = FLOPs with D = 20 N."""
    parameters = math.sqrt(flops / (6 * TOKENS_A_PARAMETER))
    return round(parameters), round(TOKENS_A_PARAMETER * parameters)


@dataclass(frozen=True)
class TextSize:
    """What there is to train on and to validate with; `estimated` from the sizes of files that are not prepared yet."""

    train_tokens: int
    val_tokens: int
    train_bytes: int
    vocab_size: int
    estimated: bool
    documents: int | None = None


def text_size(config: Config, reuse: Tokenizer | None = None) -> TextSize:
    """A text that is small or prepared is counted (a small one is prepared first); of another the files' sizes tell.

    Of a run folder, which may be a stranger's, nothing is downloaded or written.

    UserError: as `prepare`.
    """
    own = not config.resume
    if config.data.mix is not None:
        return counted(prepare(config.data, config.tokenizer, tokenizer=reuse, fetch=own, write=own))
    corpus = plan_corpus(config.data, config.tokenizer, reuse, fetch=own, write=False)
    if corpus.folder.exists():
        return counted(open_prepared(corpus.folder))
    if corpus.keep_text:
        return counted(prepare(config.data, config.tokenizer, tokenizer=reuse, fetch=own, write=own))
    vocab_size = corpus.tokenizer.vocab_size if corpus.tokenizer else config.tokenizer.vocab_size or 10_000
    tokens = estimated_tokens(corpus, corpus.tasks, config.tokenizer.kind, vocab_size)
    val = int(tokens * config.data.val_fraction)
    return _estimate(config, tokens - val, val, vocab_size)


def assumed_text(config: Config, train_tokens: int) -> TextSize:
    """A text of which nothing is at hand but a number of training tokens; the vocabulary is the one that the tokenizer will have.

    UserError: the tokenizer has no size, or the files of tokenizer.path are no vocabulary.
    """
    settings = config.tokenizer
    vocab_size = settings.vocab_size
    if vocab_size is None and settings.kind == "gpt2":
        vocab_size = GPT2_VOCABULARY if settings.path is None else open_gpt2(settings.path).vocab_size
    elif vocab_size is None and settings.kind == "char":
        vocab_size = CHARACTERS
    elif vocab_size is None:
        raise UserError("tokenizer.vocab_size=null: tokenizer=bpe needs a number of pieces, such as 1024")
    return _estimate(config, train_tokens, int(train_tokens * config.data.val_fraction), vocab_size)


def _estimate(config: Config, train_tokens: int, val_tokens: int, vocab_size: int) -> TextSize:
    bytes_a_token = 1 if config.tokenizer.kind == "char" else 3 if vocab_size < 4096 else 4.5
    return TextSize(train_tokens, val_tokens, int(train_tokens * bytes_a_token), vocab_size, True)


def counted(prepared: Prepared) -> TextSize:
    """The counts of a manifest. With data.stream=text the training text has no tokens yet: as many to a byte as in the other split."""
    train, val = (prepared.manifest["splits"][split] for split in ("train", "val"))
    tokens = train.get("tokens") or round(train["text_bytes"] * val["tokens"] / val["text_bytes"])
    size = prepared.tokenizer.vocab_size
    return TextSize(tokens, val["tokens"], train["text_bytes"], size, "tokens" not in train, train["documents"])


def devices(settings: TrainerConfig) -> int:
    """How many take part."""
    here = torch.cuda.device_count() if settings.devices == "auto" and on_gpu(settings) else settings.devices
    return (here if isinstance(here, int) else 1) * settings.num_nodes


# ---------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Measured:
    """Steps of the real model on this machine's device, not compiled."""

    device: str
    precision: str
    sequences: int  # of the micro-batch that was measured
    seconds_a_sequence: float  # forward and backward
    seconds_an_update: float  # clipping and the optimizer
    peak_bytes: int | None  # of a GPU's memory


def measure(config: Config, shape: GPTConfig, micro: int, seconds: float = SECONDS) -> Measured:
    """A few steps on random ids: micro-batches that grow up to `micro` sequences, or to a quarter of `seconds` each."""
    settings, name = config.trainer, precision(config.trainer)
    device = torch.device(
        "cuda" if on_gpu(settings) else "mps" if settings.accelerator in ("auto", "mps") and has_mps() else "cpu"
    )
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high")
    kind, _, mode = name.partition("-")
    dtype = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}.get(kind, torch.float32)
    model = GPT(shape, recompute=settings.activation_checkpointing)
    model = model.to(device, dtype if mode == "true" else torch.float32).train()
    optimizer = make_optimizer(model, config.optim, fused=True)
    weights = list(model.parameters())

    def now() -> float:
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        return time.perf_counter()

    def forward_backward(sequences: int) -> float:
        ids = torch.randint(shape.vocab_size, (sequences, shape.block_size + 1), device=device)
        start = now()
        with torch.autocast(device.type, dtype, enabled=mode == "mixed"):
            loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        return now() - start

    def update() -> float:
        start = now()
        torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip_val or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        return now() - start

    forward_backward(1)
    update()  # which makes the moments
    sequences, until = 1, time.perf_counter() + seconds
    while sequences < micro and forward_backward(sequences) < seconds / 8:
        sequences = min(2 * sequences, micro)
    forward_backward(sequences)
    updates, steps = [update()], [forward_backward(sequences)]
    while len(steps) < 20 and time.perf_counter() + steps[-1] + updates[-1] < until:
        updates.append(update())
        steps.append(forward_backward(sequences))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return Measured(device.type, name, sequences, _median(steps) / sequences, _median(updates), peak)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


# --------------------------------------------------------------------------------------------------------------- plan
def plan(
    config: Config, text: TextSize, measured: Measured | None, *, hours: float | None, presets: Mapping[str, int]
) -> dict[str, Any]:
    """Everything about the run that `config` describes, in JSON's types.

    Args:
        config: of train.py.
        text: what it trains on.
        measured: without it, there are no times.
        hours: that there are, for the optimum; without it, as many as the run itself takes.
        presets: parameters of each `model=` with this vocabulary, to choose from.
    """
    model = on_paper(GPTConfig(vocab_size=text.vocab_size, **vars(config.model)))
    N, shape, settings = model.num_parameters(), model.config, config.trainer
    world, gpu = devices(settings), on_gpu(settings)
    micro = micro_batch_size(config, world)
    batches = config.data.batch_size, config.data.batch_schedule
    a_step, at_first = batches[0] * shape.block_size, batch_size_at(0, *batches) * shape.block_size
    D = sequences_before(settings.max_steps, *batches) * shape.block_size
    flops = training_flops(model)
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))

    shards = world if settings.strategy == "fsdp" else 1
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    memory = {name: size // shards for name, size in state_bytes(N, config.optim, matrices).items()}
    a_token = activation_bytes(shape, recompute=settings.activation_checkpointing, cpu=not gpu)
    memory |= {
        "activations": a_token * micro * shape.block_size,
        "loss": logits_bytes(text.vocab_size, cpu=not gpu),
    }
    # The processes of a machine share its memory; every GPU has its own.
    available = device_bytes(settings) // (1 if gpu else max(1, world // settings.num_nodes))
    result: dict[str, Any] = {
        "model": {
            "parameters": N,
            "embeddings": embeddings,
            "parameters_without_embeddings": N - embeddings,
            "vocab_size": text.vocab_size,
        },
        "data": asdict(text)
        | {"tokens_a_first_step": at_first, "tokens_a_step": a_step}
        | {"tokens": D, "passes": D / max(text.train_tokens, 1)},
        "memory": memory | {"total": sum(memory.values()), "available": available, "micro_batch_size": micro},
        "compute": {
            "flops_a_token": flops,
            "flops_a_step": flops * a_step,
            "flops": flops * D,
            "tokens_a_parameter": D / N,
            "devices": world,
        },
        "disk": {
            # Weights and the optimizer's numbers; two states are kept while the third is written.
            "checkpoints": 3 * (memory["weights"] + memory["optimizer"]) * shards,
            "model": 2 * 4 * N,  # the best one, and the next beside it
            "shards": (text.train_tokens + text.val_tokens) * (2 if text.vocab_size <= 65_536 else 4),
            "free": shutil.disk_usage(_there(Path(config.run_dir))).free,
        },
    }
    seconds = hours and hours * 3600
    if measured:
        result["time"] = times(config, text, measured, N)
        seconds = seconds or result["time"]["seconds"]
        rate = flops * result["time"]["tokens_per_second"]
        best, tokens = compute_optimal(rate * seconds)
        within = GOOD_PASSES * text.train_tokens
        limit = min(best, within // TOKENS_A_PARAMETER)
        result["optimum"] = {
            "hours": seconds / 3600,
            "flops_per_second": rate,
            "parameters": best,
            "tokens": tokens,
            "steps": tokens // a_step,
            "text_is_short": tokens > within,
            "parameters_for_this_text": limit,
            "model": nearest(limit, presets),
        }
    result["unwise"] = list(unwise(config, result, presets))
    return result


def times(config: Config, text: TextSize, measured: Measured, parameters: int) -> dict[str, Any]:
    """Seconds of the whole run from measured ones: updates, micro-batches, validations; where it pays, compiled."""
    settings, T = config.trainer, config.model.block_size
    world = devices(settings)
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


def nearest(parameters: int, presets: Mapping[str, int]) -> str | None:
    """The model whose size is nearest, as a ratio."""
    return min(presets, key=lambda name: abs(math.log(presets[name] / max(parameters, 1))), default=None)


def unwise(config: Config, result: Mapping[str, Any], presets: Mapping[str, int]) -> Iterable[str]:
    """A line for each thing that will disappoint: what it is, and what to do."""
    model, data, memory, disk = (result[name] for name in ("model", "data", "memory", "disk"))
    N, D, train, passes = model["parameters"], data["tokens"], data["train_tokens"], data["passes"]
    regularised = config.model.dropout >= REGULARISED[0] and config.optim.weight_decay >= REGULARISED[1]
    if passes > GOOD_PASSES and regularised and passes <= 100:
        pass
    elif passes > GOOD_PASSES:
        smaller = nearest(GOOD_PASSES * train // TOKENS_A_PARAMETER, presets)
        advice = ["more text"]
        if smaller and presets[smaller] < N:
            advice.append(f"model={smaller} ({count(presets[smaller], ' parameters')})")
        if passes > USELESS_PASSES:
            steps = USELESS_PASSES * train // data["tokens_a_step"]
            advice += [f"trainer.max_steps={steps} ({USELESS_PASSES} passes)"] if steps else []
            will = "it will overfit"
        else:
            will = f"each beyond {GOOD_PASSES} is worth less, and it may overfit"
        yield (
            f"{count(data['train_bytes'], 'B')} of text for {count(N, ' parameters')}: {passes:.3g} passes, {will}: use "
            + ", ".join([*advice, "or model.dropout=0.2 with optim.weight_decay=1.0"])
        )
    elif D < TOKENS_A_PARAMETER / 4 * N:
        wanted_steps = TOKENS_A_PARAMETER * N // data["tokens_a_step"]
        fits = nearest(D // TOKENS_A_PARAMETER, presets)
        # More steps help while they bring fresh text; a small text read again and again asks for a smaller model.
        steps = [f"trainer.max_steps={wanted_steps}"] if GOOD_PASSES * train >= TOKENS_A_PARAMETER * N else []
        models = [f"model={fits} ({count(presets[fits])})"] if fits and presets[fits] < N else []
        if steps or models:
            yield (
                f"{D / N:.2g} training tokens a parameter: a smaller model learns more in that time "
                f"({TOKENS_A_PARAMETER} are best): use {' or '.join(steps + models)}"
            )
    if model["embeddings"] > N / 2 and model["vocab_size"] > 1024:
        yield (
            f"embeddings are {model['embeddings'] / N:.0%} of the parameters: use a smaller tokenizer.vocab_size than "
            f"{model['vocab_size']:,}, or a wider model"
        )
    if memory["total"] > memory["available"]:
        yield (
            f"{count(memory['total'], 'B')} of memory are needed and a device has {count(memory['available'], 'B')}: use "
            "data.micro_batch_size=1, trainer.activation_checkpointing=true, trainer=fsdp on several GPUs, or a smaller model"
        )
    written = disk["checkpoints"] + disk["model"] + (disk["shards"] if data["estimated"] else 0)
    if written > disk["free"]:
        yield (
            f"{count(written, 'B')} will be written and {count(disk['free'], 'B')} are free on the disk: free some, "
            "or set run_dir and data.dir on another"
        )
    steps, settings = config.trainer.max_steps, config.trainer
    if config.optim.warmup_steps > steps / 4:
        yield (
            f"the warm-up takes {config.optim.warmup_steps} of {steps} steps: use optim.warmup_steps={max(1, steps // 20)}"
        )
    if data["val_tokens"] < config.model.block_size:
        yield (
            f"{data['val_tokens']} tokens to validate with, fewer than a block of {config.model.block_size}: use a larger "
            "data.val_fraction or more text"
        )
    several = data["documents"] and data["documents"] > 100 and train / data["documents"] < config.model.block_size / 2
    if several and not config.data.doc_mask:
        yield (
            f"documents have {train / data['documents']:.0f} tokens on average, and a block has {config.model.block_size}: "
            "use data.doc_mask=true, or a smaller model.block_size"
        )
    if "time" not in result:
        return
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


def warnings_at_start(config: Config, text: TextSize) -> list[str]:
    """At most two lines of `unwise`, of what is known without measuring; none for a trial or for a batch learned by heart."""
    if config.data.overfit or config.trainer.max_steps <= config.optim.warmup_steps:
        return []
    return plan(config, text, None, hours=None, presets={})["unwise"][:2]


# -------------------------------------------------------------------------------------------- too much for this machine
CPU_RATE = (
    2.5e10  # FLOP/s of training that a core reaches, roughly: 1.5e10 to 5e10 were seen, by the width of the model
)
LONG = 2 * 3600  # seconds that nobody expects of a command that he tries


def on_cpu(settings: TrainerConfig) -> bool:
    """Whether the CPU will train."""
    apple = settings.accelerator in ("auto", "mps") and has_mps()
    return not on_gpu(settings) and not apple


def cpu_seconds(config: Config) -> float:
    """What the steps of a run take on this machine's CPU, to within a factor of two; nothing is prepared or tried."""
    vocabulary = {"gpt2": GPT2_VOCABULARY, "char": CHARACTERS}.get(config.tokenizer.kind, 1024)
    model = on_paper(GPTConfig(vocab_size=config.tokenizer.vocab_size or vocabulary, **vars(config.model)))
    data, settings = config.data, config.trainer
    tokens = sequences_before(settings.max_steps, data.batch_size, data.batch_schedule) * config.model.block_size
    busy = min(cores(), devices(settings) * (settings.threads or torch.get_num_threads()))
    return training_flops(model) * tokens / (CPU_RATE * busy)


def too_much(config: Config, recipes: Callable[[], Mapping[str, Config]]) -> Iterable[str]:
    """A line for what takes hours on this machine's CPU, and for more processes or threads than it has cores.

    Args:
        config: of the run.
        recipes: the experiments by their names.
    """
    settings = config.trainer
    if not on_cpu(settings):
        return
    here, asked = cores(), settings.devices if isinstance(settings.devices, int) else 1
    cores_here = f"{here} core{'s' * (here > 1)}"
    if asked > here:
        yield (
            f"trainer.devices={asked}: so many processes take turns on the {cores_here} of this machine, which is slower"
            " than one process: use trainer.devices=1"
        )
    if (settings.threads or 1) > here:
        yield (
            f"trainer.threads={settings.threads}: this machine has {cores_here}: leave it out, and torch takes as many"
        )
    seconds = cpu_seconds(config)
    if seconds < LONG or config.resume:
        return
    times = {
        name: cpu_seconds(recipe)
        for name, recipe in recipes().items()
        if recipe.data.name == config.data.name and config.data.path is None and on_cpu(recipe.trainer)
    }
    short = sorted((name for name, one in times.items() if one < LONG), key=lambda name: times[name])[-2:]
    instead = " or ".join(f"experiment={name}" for name in short) or "model=tiny with fewer trainer.max_steps"
    gpu = "trainer=gpu" if has_cuda() else "a machine with a GPU"
    hours = seconds / 3600
    time_here = f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
    yield f"this training takes about {time_here} on this CPU ({cores_here}): use {gpu}, or {instead}"


def _there(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


# --------------------------------------------------------------------------------------------------------- for a person
def count(number: float, unit: str = "") -> str:
    """1234567 of "B" -> "1.23 MB", of " tokens" -> "1.23 M tokens"."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit.strip()}".rstrip()


def duration(seconds: float) -> str:
    """5400 -> "1.5 hours"."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def show(result: Mapping[str, Any], console: Console) -> None:
    """The same as a table, and the lines of what is unwise."""
    table = Table(title="Plan", title_justify="left", show_header=False)
    model, data, memory, compute, disk = (result[name] for name in ("model", "data", "memory", "compute", "disk"))
    about = "about " if data["estimated"] else ""
    scheduled = data["tokens_a_first_step"] != data["tokens_a_step"]
    at_first = f", {data['tokens_a_first_step']:,} at first" if scheduled else ""
    rows = [
        ("parameters", f"{model['parameters']:,}", f"{model['embeddings']:,} of them embeddings"),
        ("text", f"{about}{count(data['train_tokens'], ' tokens')}", f"{count(data['train_bytes'], 'B')} to train on"),
        ("a step", f"{data['tokens_a_step']:,} tokens{at_first}", count(compute["flops_a_step"], "FLOP")),
        ("the run", f"{count(data['tokens'], ' tokens')}", f"{about}{data['passes']:.3g} passes over the text"),
        ("", count(compute["flops"], "FLOP"), f"{compute['tokens_a_parameter']:.3g} tokens a parameter"),
    ]
    parts = (
        f"{count(memory[name], 'B')} {name}" for name in ("weights", "gradients", "optimizer", "activations", "loss")
    )
    rows.append(
        (
            "memory a device",
            count(memory["total"], "B"),
            f"{', '.join(parts)}; {count(memory['available'], 'B')} are there",
        )
    )
    rows.append(("micro-batch", f"{memory['micro_batch_size']} sequences", f"on each of {compute['devices']} devices"))
    rows.append(
        (
            "disk",
            f"{count(disk['checkpoints'] + disk['model'], 'B')} of checkpoints",
            f"{count(disk['shards'], 'B')} of shards; {count(disk['free'], 'B')} are free",
        )
    )
    if "time" in result:
        spent, optimum = result["time"], result["optimum"]
        how = f"{spent['measured']['device']}, {spent['measured']['precision']}{', compiled' if spent['compiled'] else ''}"
        rows.append(
            (
                "time",
                duration(spent["seconds"]),
                f"{spent['tokens_per_second']:,.0f} tokens/s, {count(optimum['flops_per_second'], 'FLOP/s')} ({how})",
            )
        )
        short = f"; this text is enough for {count(optimum['parameters_for_this_text'], ' parameters')}"
        rows.append(
            (
                f"best for {duration(3600 * optimum['hours'])}",
                f"{count(optimum['parameters'], ' parameters')}",
                f"{count(optimum['tokens'], ' tokens')} (Hoffmann et al. 2022){short if optimum['text_is_short'] else ''}"
                + (f": model={optimum['model']}" if optimum["model"] else ""),
            )
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in result["unwise"]:
        console.print(f"unwise: {line}", soft_wrap=True)
