"""One training, from its text to its model: text -> tokens -> model -> run folder."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from llm_from_scratch.checkpoint import (
    PICKLES,
    Background,
    fill,
    load_model,
    load_weights,
    model_folder,
    newest_state,
)
from llm_from_scratch.config import Config
from llm_from_scratch.data.datamodule import TextDataModule
from llm_from_scratch.data.prepare import document_start, prepare
from llm_from_scratch.data.prepared import Prepared
from llm_from_scratch.data.sampler import sequences_before
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.plan import counted, warnings_at_start
from llm_from_scratch.tokenizer import load_tokenizer
from llm_from_scratch.training.averaging import WeightAverage
from llm_from_scratch.training.callbacks import Checkpoints, EarlyStopping, Samples, Signals
from llm_from_scratch.training.checks import MISFITS, object_class
from llm_from_scratch.training.claim import Claim, Ownership
from llm_from_scratch.training.loggers import log_hyperparameters, plain_settings
from llm_from_scratch.training.metrics import Metrics
from llm_from_scratch.training.module import LanguageModel
from llm_from_scratch.training.progress import Opening, Overfitting, ProgressBar
from llm_from_scratch.training.results import best_row, draw_curves, print_results
from llm_from_scratch.training.states import StateFolders
from llm_from_scratch.training.trainer import build_trainer, micro_batches

log = logging.getLogger(__name__)


def make_objects(group: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The user's callbacks or loggers by their names, each made from its settings.

    Raises:
        UserError: one does not take its settings.
    """
    made = {}
    for name, one in settings.items():
        kind = object_class(group, name, one)
        try:
            made[name] = instantiate(one)
        except Exception as error:  # hydra wraps what the object raises
            raise UserError(f"{group}.{name}: {first_line(error.__cause__ or error)}") from None
        if not isinstance(made[name], kind):  # settings of Hydra's own make something else of it
            raise UserError(f"{group}.{name}: comes to no {kind.__name__}: leave out _partial_")
    return made


def train(
    config: Config,
    claim: Claim,
    prepared: Prepared | None,
    *,
    fetch: bool,
    write: bool,
    announce: Callable[[str], None],
) -> float:
    """From a text to a trained model, in a run folder that is this process's own.

    Args:
        config: the settings.
        claim: the run folder.
        prepared: its text, where that needs no preparation.
        fetch: whether a missing text may be downloaded; an address that a run folder alone names is not asked.
        write: whether a missing text may be prepared; a folder that a run folder alone names is not written to.
        announce: the first process calls it with the run folder when everything is written.

    Returns:
        The best validation loss, in nats a token.
    """
    run_dir = Path(config.run_dir)
    users = make_objects("callbacks", config.callbacks)
    own = {name: settings for name, settings in config.logger.items() if "_target_" in settings}
    loggers = make_objects("logger", own)

    # The text, as tokens. A run that starts from another's weights speaks that one's tokens; one that goes on has all it needs.
    state = newest_state(run_dir) if config.resume else None
    first_step = int(state.name.split("_")[1]) if state else 0
    if config.resume and not state:
        log.warning("%s has no checkpoint yet: it starts again at step 0", config.resume)
    # Else its last words are missing.
    complete = first_step == config.trainer.max_steps and (run_dir / "curves.png").exists()
    if complete or first_step > config.trainer.max_steps:
        raise UserError(
            f"{config.resume} has made its {first_step} steps: to go on, add trainer.max_steps={2 * first_step}"
        )
    weights = Path(config.init_from) if config.init_from else None
    speaks = weights is not None and weights.suffix not in PICKLES
    origin = load_model(weights) if weights and speaks and not state else None
    reuse = origin.tokenizer if origin else None
    if state and (speaks or config.tokenizer.kind == "gpt2"):
        reuse = load_tokenizer(model_folder(run_dir))
    prepared = prepared or prepare(
        config.data,
        config.tokenizer,
        tokenizer=reuse,
        wait=True,
        settings=config.prepare,
        fetch=fetch,
        write=write,
    )

    # The model.
    torch.manual_seed(config.seed)
    model = GPT(
        GPTConfig(vocab_size=prepared.tokenizer.vocab_size, **vars(config.model)),
        eot_id=document_start(prepared) if config.data.doc_mask else None,
        recompute=config.trainer.activation_checkpointing,
    )
    if weights and origin:
        fill(model, dict(origin.model.named_parameters()), weights)
    elif weights and not state:
        load_weights(model, weights)
    batch_size = config.data.batch_size
    module = LanguageModel(
        model,
        config.optim,
        max_steps=config.trainer.max_steps,
        batches=lambda step: sequences_before(step, batch_size, config.data.batch_schedule) / batch_size,
        batch_tokens=batch_size * config.model.block_size,
        seed=config.seed,
        val_bytes=prepared.text_bytes("val"),
        compiles=config.trainer.compile,
    )

    # The loop.
    background = Background()
    facts = {"tokenizer": prepared.tokenizer.fingerprint, "data": prepared.manifest["sha256"]}
    states = StateFolders(facts, background)
    if state:
        states.compare(state)
    metrics = Metrics(run_dir, config.trainer.log_every_n_steps, plain_settings(config))
    saver = Checkpoints(run_dir, prepared.tokenizer, background, facts["data"], users, config.callbacks)
    if config.sample.prompt:
        prepared.tokenizer.encode(config.sample.prompt)  # or it says now which character it lacks
    prompt = config.sample.prompt or first_words(next(prepared.documents("val")))
    progress = ProgressBar(metrics, config.trainer.progress)
    samples = []
    if config.sample.max_new_tokens:
        samples = [Samples(run_dir, prepared.tokenizer, prompt, config.sample, config.seed, progress)]
    average = [WeightAverage(config.optim.ema_decay)] if config.optim.ema_decay is not None else []
    patience = [EarlyStopping(config.optim)] if config.optim.patience else []

    def passes(step: int) -> float:
        sequences = sequences_before(step, batch_size, config.data.batch_schedule)
        return sequences * config.model.block_size / max(1, text.train_tokens)

    text = counted(prepared)
    by_heart = config.data.overfit or config.optim.patience is not None
    overfitting = [] if by_heart else [Overfitting(run_dir, config, passes, progress.say)]
    unwise = warnings_at_start(config, text)
    callbacks = [
        Ownership(claim),
        Signals(saver, progress.close),
        metrics,
        Opening(config, passes(config.trainer.max_steps), unwise),
        progress,
        *overfitting,
        *average,
        *samples,
        *patience,
        *users.values(),
        saver,
    ]
    trainer = build_trainer(config, run_dir, callbacks, loggers, first_step, states)
    micro = micro_batches(trainer, config, state)
    data = TextDataModule(
        prepared,
        block_size=config.model.block_size,
        batch_size=batch_size,
        batch_schedule=config.data.batch_schedule,
        micro_batch_size=micro,
        micro_batch_chosen=config.data.micro_batch_size is None,
        seed=config.seed,
        stream=config.data.stream,
        overfit=config.data.overfit,
        subword_dropout=config.data.subword_dropout,
    )
    try:
        trainer.fit(module, data, ckpt_path=state)
    except MISFITS as error:  # of a callback that does not fit this run
        raise error if claim.started else UserError(f"Lightning refuses these settings: {first_line(error)}") from None

    # What a person looks at. The curves are drawn last: they tell that a run is complete.
    claim.verify()
    claim.start()  # where a kill had left these words alone to do, no step came first
    best = best_row(run_dir)
    if trainer.is_global_zero:
        log_hyperparameters(trainer, config, model.num_parameters(), best)
        draw_curves(run_dir)
        print_results(
            run_dir,
            model.num_parameters(),
            prompt,
            board="tensorboard" in config.logger,
            overfit=config.data.overfit,
        )
        announce(config.run_dir)
    return float(best["loss"])


def first_words(text: str, characters: int = 40) -> str:
    """The beginning of the first whole paragraph, or else line, up to a space: a split may begin in mid-word."""
    paragraph = text.partition("\n\n")[2].lstrip() or text.partition("\n")[2].lstrip() or text
    line = paragraph.partition("\n")[0]
    return line if len(line) <= characters else line[:characters].rsplit(" ", 1)[0]
