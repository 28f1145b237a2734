"""Trains a GPT: text -> tokens -> model -> run folder. `python train.py --help` lists the choices.

Imports stand where they are needed: `--help` and a mistake in a setting need neither torch nor Lightning.
"""

from llm_from_scratch import signals

if __name__ == "__main__":
    signals.catch(end_with_reader=False)  # a training outlives the reader of its last line

import logging
import os
from pathlib import Path

from omegaconf import DictConfig

from llm_from_scratch.errors import UserError
from llm_from_scratch.overrides import command, final_config, job_overrides, run_folder

log = logging.getLogger(__name__)


def check(composed: DictConfig) -> None:
    """What must hold before any job starts."""
    from llm_from_scratch.config import Config
    from llm_from_scratch.config import check as check_settings

    config = check_settings(composed, Config)

    from llm_from_scratch.data.prepare import is_first_rank
    from llm_from_scratch.training.trainer import require_device

    require_device(config.trainer)
    there = next(
        folder for folder in (Path(config.run_dir), *Path(config.run_dir).absolute().parents) if folder.exists()
    )
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"run_dir={config.run_dir}: {there} cannot be written; choose another folder")
    held = [*Path(config.run_dir).glob("config.yaml"), *Path(config.run_dir).glob("[!.]*/config.yaml")]
    if held and not config.resume and is_first_rank():  # which may have begun this very run before the others look
        raise UserError(
            f"run_dir={config.run_dir} holds a run already: choose another folder, or go on with resume={config.run_dir}"
        )


@command(Path(__file__).resolve().parent / "configs", "train", check)
def main(composed: DictConfig) -> float:
    """One run; returns its best validation loss (nats a token), which Hydra's sweepers minimise."""
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
    from llm_from_scratch.config import check as check_settings
    from llm_from_scratch.data.datamodule import TextDataModule
    from llm_from_scratch.data.prepare import document_start, has_company, is_first_rank, prepare
    from llm_from_scratch.data.sampler import sequences_before
    from llm_from_scratch.model import GPT, GPTConfig
    from llm_from_scratch.tokenizer import load_tokenizer
    from llm_from_scratch.training.averaging import WeightAverage
    from llm_from_scratch.training.callbacks import Checkpoints, Metrics, Patience, ProgressLine, Samples, Signals
    from llm_from_scratch.training.module import LanguageModel
    from llm_from_scratch.training.results import best_row, draw_curves, print_results
    from llm_from_scratch.training.trainer import (
        StateFolders,
        build_trainer,
        log_hyperparameters,
        micro_batches,
        open_run,
    )

    # The run folder: one owner, its configuration first.
    config = check_settings(final_config(composed, job_overrides()), Config)
    config.run_dir = str(run_folder(composed))
    run_dir = Path(config.run_dir)
    if is_first_rank():
        open_run(config)

    # The text, as tokens. A run that starts from another's weights speaks that one's tokens; one that goes on has all it needs.
    state = newest_state(run_dir) if config.resume else None
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
        wait=has_company(),
        how=config.prepare,
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
    first_step = int(state.name.split("_")[1]) if state else 0
    if config.resume and not state:
        log.warning("%s has no checkpoint yet: it starts again at step 0", config.resume)
    if first_step >= config.trainer.max_steps and (run_dir / "curves.png").exists():  # else its last words are missing
        raise UserError(
            f"{config.resume} has made its {first_step} steps: to go on, add trainer.max_steps={2 * first_step}"
        )
    facts = {"tokenizer": prepared.tokenizer.fingerprint, "data": prepared.manifest["sha256"]}
    metrics = Metrics(run_dir, config.trainer.log_every_n_steps)
    background = Background()
    users = {name: instantiate(callback) for name, callback in config.callbacks.items()}
    saver = Checkpoints(run_dir, prepared.tokenizer, background, users, config.callbacks)
    prompt = config.sample.prompt or first_words(next(prepared.documents("val")))
    samples = []
    if config.sample.max_new_tokens:
        samples = [Samples(run_dir, prepared.tokenizer, prompt, config.sample, config.seed)]
    average = [WeightAverage(config.optim.ema_decay)] if config.optim.ema_decay is not None else []
    patience = [Patience(config.optim)] if config.optim.patience else []
    callbacks = [
        Signals(saver),
        metrics,
        ProgressLine(metrics, config.trainer.progress),
        *average,
        *samples,
        *patience,
        *users.values(),
        saver,
    ]
    trainer = build_trainer(config, run_dir, callbacks, first_step, StateFolders(facts, background))
    micro = micro_batches(trainer, config)
    data = TextDataModule(
        prepared,
        block_size=config.model.block_size,
        batch_size=batch_size,
        batch_schedule=config.data.batch_schedule,
        micro_batch_size=micro,
        seed=config.seed,
        stream=config.data.stream,
        overfit=config.data.overfit,
        subword_dropout=config.data.subword_dropout,
    )
    if trainer.is_global_zero:
        (run_dir / "curves.png").unlink(missing_ok=True)  # drawn last: a sign that a run is complete
    trainer.fit(module, data, ckpt_path=state)

    # What a person looks at.
    best = best_row(run_dir)
    if trainer.is_global_zero:
        log_hyperparameters(trainer, config, best)
        draw_curves(run_dir)
        print_results(run_dir, model.num_parameters(), prompt)
        print(f"run: {config.run_dir}", flush=True)
    return float(best["loss"])


def first_words(text: str, characters: int = 40) -> str:
    """The beginning of the first whole paragraph, up to a space: a split may begin in mid-word."""
    paragraph = text.partition("\n\n")[2].lstrip() or text
    return paragraph[:characters].rsplit(" ", 1)[0]


if __name__ == "__main__":
    main()
