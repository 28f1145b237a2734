"""Trains a GPT: text -> tokens -> model -> run folder. `python train.py --help` lists the choices.

Imports stand where they are needed: `--help` and a mistake in a setting need neither torch nor Lightning.
"""

from llm_from_scratch import signals

if __name__ == "__main__":
    signals.catch(end_with_reader=False)  # a training outlives the reader of its last line

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.files import refuse_links
from llm_from_scratch.overrides import (
    command,
    experiments,
    final_config,
    given_settings,
    job_overrides,
    may_fetch,
    run_folder,
)
from llm_from_scratch.places import config_dir
from llm_from_scratch.terminal import for_stream, note, quote

if TYPE_CHECKING:
    from llm_from_scratch.config import Config
    from llm_from_scratch.training.trainer import Claim

log = logging.getLogger(__name__)


def settle(composed: DictConfig, job: Sequence[str]) -> "Config":
    """The settings of one job, each of which is in effect.

    Args:
        composed: what a job runs with, as Hydra composed it or as the resumed run has it.
        job: its overrides.
    """
    from llm_from_scratch.config import Config, check_given
    from llm_from_scratch.config import check as check_settings

    config = check_settings(composed, Config)
    check_given(config, given_settings(job))
    return config


def check(composed: DictConfig, job: Sequence[str]) -> None:
    """What must hold before any job starts: nothing has been written yet, and nothing is. Says what will take too long."""
    config = settle(composed, job)

    from llm_from_scratch.data.prepare import check_text, is_first_rank
    from llm_from_scratch.training.trainer import check_trainer, require_device

    refuse_links(Path(config.run_dir), Path(config.run_dir))
    require_device(config.trainer)
    check_trainer(config)
    check_text(config.data, given_settings(job))
    there = next(
        folder for folder in (Path(config.run_dir), *Path(config.run_dir).absolute().parents) if folder.exists()
    )
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"run_dir={config.run_dir}: {there} cannot be written; choose another folder")
    held = [*Path(config.run_dir).glob("config.yaml"), *Path(config.run_dir).glob("[!.]*/config.yaml")]
    if held and not config.resume and is_first_rank():  # which may have begun this very run before the others look
        raise UserError(
            f"run_dir={config.run_dir} holds a run already: choose another folder, or go on with"
            f" {quote(f'resume={config.run_dir}')}"
        )

    from llm_from_scratch.plan import too_much

    for line in too_much(config, recipes):
        note(line)


def recipes() -> dict[str, "Config"]:
    """The experiments by their names."""
    from llm_from_scratch.config import Config
    from llm_from_scratch.config import check as check_settings

    return {name: check_settings(composed, Config) for name, composed in experiments()}


@command(config_dir(), "train", check, starting="starting: torch and Lightning are being loaded")
def main(composed: DictConfig) -> float:
    """One run; returns its best validation loss (nats a token), which Hydra's sweepers minimise."""
    from llm_from_scratch.data.prepare import is_first_rank
    from llm_from_scratch.training.trainer import Claim, check_trainer, separate_processes

    job = job_overrides()
    final = final_config(composed, job)
    config = settle(final, job)
    config.run_dir = str(run_folder(composed))
    check_trainer(config)  # what a sweeper draws has not been before the front
    with Claim(config, owner=is_first_rank()) as claim, separate_processes():
        return train(
            config,
            claim,
            fetch=may_fetch(final, composed, job),
            write=not config.resume or config.data.dir == composed.data.dir,
        )


def make_callbacks(config: "Config") -> dict[str, Any]:
    """The user's callbacks by their names, each made from its settings.

    Raises:
        UserError: one does not take its settings.
    """
    from hydra.utils import instantiate

    from llm_from_scratch.training.trainer import callback_class

    made = {}
    for name, settings in config.callbacks.items():
        callback_class(name, settings)
        try:
            made[name] = instantiate(settings)
        except Exception as error:  # hydra wraps what the callback raises
            raise UserError(f"callbacks.{name}: {first_line(error.__cause__ or error)}") from None
    return made


def train(config: "Config", claim: "Claim", *, fetch: bool, write: bool) -> float:
    """From a text to a trained model, in a run folder that is this process's own.

    Args:
        config: the settings.
        claim: the run folder.
        fetch: whether a missing text may be downloaded; an address that a run folder alone names is not asked.
        write: whether a missing text may be prepared; a folder that a run folder alone names is not written to.
    """
    import torch

    from llm_from_scratch.checkpoint import (
        PICKLES,
        Background,
        fill,
        load_model,
        load_weights,
        model_folder,
        newest_state,
    )
    from llm_from_scratch.data.datamodule import TextDataModule
    from llm_from_scratch.data.prepare import document_start, prepare
    from llm_from_scratch.data.sampler import sequences_before
    from llm_from_scratch.model import GPT, GPTConfig
    from llm_from_scratch.plan import counted, warnings_at_start
    from llm_from_scratch.tokenizer import load_tokenizer
    from llm_from_scratch.training.averaging import WeightAverage
    from llm_from_scratch.training.callbacks import Checkpoints, Metrics, Patience, ProgressLine, Samples, Signals
    from llm_from_scratch.training.module import LanguageModel
    from llm_from_scratch.training.progress import Opening, Overfitting
    from llm_from_scratch.training.results import best_row, draw_curves, print_results
    from llm_from_scratch.training.trainer import (
        Ownership,
        StateFolders,
        build_trainer,
        log_hyperparameters,
        micro_batches,
    )

    run_dir = Path(config.run_dir)
    users = make_callbacks(config)

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
    prepared = prepare(
        config.data,
        config.tokenizer,
        reuse=reuse,
        wait=True,
        how=config.prepare,
        fetch=fetch,
        write=write,
    )

    # The model.
    torch.manual_seed(config.seed)
    model = GPT(GPTConfig(vocab_size=prepared.tokenizer.vocab_size, **vars(config.model)))
    if weights and origin:
        fill(model, dict(origin.model.named_parameters()), weights)
    elif weights and not state:
        load_weights(model, weights)
    if config.data.doc_mask:
        model.eot_id = document_start(prepared)
    model.recompute = config.trainer.activation_checkpointing
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
    metrics = Metrics(run_dir, config.trainer.log_every_n_steps)
    saver = Checkpoints(run_dir, prepared.tokenizer, background, facts["data"], users, config.callbacks)
    if config.sample.prompt:
        prepared.tokenizer.encode(config.sample.prompt)  # or it says now which character it lacks
    prompt = config.sample.prompt or first_words(next(prepared.documents("val")))
    progress = ProgressLine(metrics, config.trainer.progress)
    samples = []
    if config.sample.max_new_tokens:
        samples = [Samples(run_dir, prepared.tokenizer, prompt, config.sample, config.seed, progress)]
    average = [WeightAverage(config.optim.ema_decay)] if config.optim.ema_decay is not None else []
    patience = [Patience(config.optim)] if config.optim.patience else []

    def passes(step: int) -> float:
        sequences = sequences_before(step, batch_size, config.data.batch_schedule)
        return sequences * config.model.block_size / max(1, text.train_tokens)

    text = counted(prepared)
    by_heart = config.data.overfit or config.optim.patience is not None
    overfitting = [] if by_heart else [Overfitting(run_dir, config, passes, progress.say)]
    unwise = warnings_at_start(config, text)
    callbacks = [
        Ownership(claim),
        Signals(saver),
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
    trainer = build_trainer(config, run_dir, callbacks, first_step, states)
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
    trainer.fit(module, data, ckpt_path=state)

    # What a person looks at. The curves are drawn last: they tell that a run is complete.
    claim.verify()
    claim.start()  # where a kill had left these words alone to do, no step came first
    best = best_row(run_dir)
    if trainer.is_global_zero:
        log_hyperparameters(trainer, config, best)
        draw_curves(run_dir)
        print_results(run_dir, model.num_parameters(), prompt)
        print(for_stream(f"run: {config.run_dir}", sys.stdout), flush=True)
    return float(best["loss"])


def first_words(text: str, characters: int = 40) -> str:
    """The beginning of the first whole paragraph, up to a space: a split may begin in mid-word."""
    paragraph = text.partition("\n\n")[2].lstrip() or text
    return paragraph[:characters].rsplit(" ", 1)[0]


if __name__ == "__main__":
    main()
