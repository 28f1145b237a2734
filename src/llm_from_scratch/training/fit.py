"""One training run from text to model: prepared text, model, training loop, results."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from llm_from_scratch.checkpoint import Background, newest_state, state_fingerprints, step_of
from llm_from_scratch.config import Config
from llm_from_scratch.cores import sharing_cores
from llm_from_scratch.data.conversations import ChatStyle
from llm_from_scratch.data.documents import SPLITS
from llm_from_scratch.data.inspection import readable
from llm_from_scratch.data.prepare import prepare, source_fingerprint
from llm_from_scratch.data.prepared import Conversations, Preferences, Prepared, check_doc_mask, document_start
from llm_from_scratch.data.sampler import sequences_before
from llm_from_scratch.errors import UserError, first_line
from llm_from_scratch.huggingface.adapters import adapter_writer
from llm_from_scratch.lora import merged_parameters
from llm_from_scratch.model import GPT, GPTConfig
from llm_from_scratch.plan.estimate import warnings_at_start
from llm_from_scratch.plan.sizes import counted
from llm_from_scratch.pretrained import Source, find_base, find_model, places_of
from llm_from_scratch.study import objective
from llm_from_scratch.tokenizer import Tokenizer, load_tokenizer
from llm_from_scratch.tokenizer.template import render_ids
from llm_from_scratch.training.averaging import WeightAverage
from llm_from_scratch.training.callbacks import Checkpoints, EarlyStopping, Prompt, Samples, Signals
from llm_from_scratch.training.checks import MISFITS
from llm_from_scratch.training.claim import Claim, Ownership
from llm_from_scratch.training.data import TextDataModule
from llm_from_scratch.training.explaining import Explain
from llm_from_scratch.training.finetuning import choose_trained
from llm_from_scratch.training.live import Live
from llm_from_scratch.training.loggers import log_hyperparameters, plain_settings
from llm_from_scratch.training.metrics import Metrics
from llm_from_scratch.training.module import LanguageModel
from llm_from_scratch.training.objects import make_objects, object_class
from llm_from_scratch.training.preferences import PreferenceModel
from llm_from_scratch.training.progress import Opening, Overfitting, ProgressBar
from llm_from_scratch.training.results import best_row, draw_curves, print_results
from llm_from_scratch.training.states import StateFolders
from llm_from_scratch.training.trackers import id_argument, known_ids
from llm_from_scratch.training.trainer import build_trainer, join_again, micro_batches
from llm_from_scratch.training.watch import Watched, WatchedText, prepare_watched
from llm_from_scratch.weights import PICKLES, Base, chat_of, fill, model_folder, read_pickle, saved_settings

log = logging.getLogger(__name__)


def train(
    config: Config,
    claim: Claim,
    prepared: Prepared | None,
    *,
    fetch: bool,
    write: bool,
    announce: Callable[[str], None],
    more: Sequence[Callback] = (),
) -> float:
    """Trains a model on a text, in a run folder that this process has claimed.

    Args:
        config: the settings.
        claim: the claim on the run folder.
        prepared: the prepared text; None: it is opened or prepared here.
        fetch: whether a missing text may be downloaded; False where only a run folder names it.
        write: whether a missing text may be prepared; False where only a run folder names it.
        announce: rank 0 calls it with the run folder when everything is written.
        more: further callbacks; they are called before a checkpoint is saved.

    Returns:
        The value of the best validation, see `study.objective`.
    """
    users, state = make_objects("callbacks", config.callbacks), state_to_resume(config)
    loggers, ids = users_loggers(config, state)

    # The text, as tokens. The frozen weights of adapters are in no checkpoint.
    needed = config.init_from is not None and (state is None or config.finetune.method == "lora")
    origin = load_origin(config, state, fetch=fetch) if needed else None
    given = given_by_weights(config, state, origin)
    prepared = prepared or prepare_text(config, given, fetch=fetch, write=write)
    chat = chat_of_run(prepared, given)
    watched = prepare_watched(config, prepared.tokenizer, chat.chat_template, fetch=fetch, write=write)

    # The model.
    model = build_model(config, prepared, origin)
    module = make_module(config, model, prepared)

    # The loop.
    background = Background()
    base = base_of_adapters(config, origin, model)
    origin = None  # the model has a copy of its weights
    states = StateFolders(fingerprints(prepared, base), background)
    if state:
        states.compare(state)
    prompt = sample_prompt(config, prepared)
    *callbacks, saver = make_callbacks(config, claim, prepared, background, prompt, users, chat, base, watched)
    callbacks += [*more, saver]
    trainer = build_trainer(config, callbacks, loggers, ids, state, states, model.config.n_embd)
    data = TextDataModule(prepared, config, micro_batches(trainer, config, state))
    run_loop(trainer, module, data, state, claim)

    # The results.
    claim.verify()
    claim.start()  # a run that was killed after its last step makes no step that would call it
    if trainer.is_global_zero:
        show_results(config, trainer, model, None if prepared.manifest.get("template") else prompt.text)
        announce(config.run_dir)
    return objective(best_row(Path(config.run_dir)))


def state_to_resume(config: Config) -> Path | None:
    """Returns the newest intact checkpoint of a resumed run; None where the run starts at step 0.

    Raises:
        UserError: when the run has made all its steps.
    """
    if not config.resume:
        return None
    run_dir = Path(config.run_dir)
    state = newest_state(run_dir)
    if state is None:
        log.warning("%s has no checkpoint yet: it starts again at step 0", config.resume)
    step = step_of(state)
    # A run with all its steps and no curves.png was killed before its results were written.
    complete = step == config.trainer.max_steps and (run_dir / "curves.png").exists()
    if complete or step > config.trainer.max_steps:
        raise UserError(f"{config.resume} has made its {step} steps: to go on, add trainer.max_steps={2 * step}")
    return state


def users_loggers(config: Config, state: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Builds the user's own loggers, by their names; a tracker goes on with its run.

    Returns:
        the loggers, and the ids of the run in all its trackers, by the names of the loggers.
    """
    ids = known_ids(Path(config.run_dir), state) if config.resume else {}
    found = {}
    for name, settings in config.logger.items():
        if "_target_" in settings:
            argument = id_argument(object_class("logger", name, settings), settings) if name in ids else None
            found[name] = settings | ({argument: ids[name]} if argument else {})
    return make_objects("logger", found), ids


@dataclass(frozen=True)
class Origin:
    """The weights that a run starts from, by parameter name; a file of weights has no tokenizer.

    `source` is where the model lies; None for such a file.
    """

    path: Path
    weights: dict[str, Tensor]
    given: "Given"
    source: Source | None = None


@dataclass(frozen=True)
class Given:
    """What comes with a model's weights: its tokenizer, its chat template, the ids of its ends."""

    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    end_ids: tuple[int, ...] = ()


def load_origin(config: Config, state: Path | None, *, fetch: bool) -> Origin:
    """Reads the weights of the model or of the .pt, .pth or .ckpt file that `init_from` names.

    A resumed run looks for it above its own folder, too, as whatever opens the run does.

    Args:
        config: the settings; their `model` is that of the origin.
        state: the checkpoint that a resumed run goes on from; it records the base of adapters.
        fetch: whether a model of the hub may be downloaded.

    Raises:
        UserError: when it is missing or damaged.
    """
    name, run = str(config.init_from), Path(config.run_dir)
    if Path(name).suffix in PICKLES:
        found = places_of(run, name) if config.resume else [name]
        path = Path(next((place for place in found if Path(place).exists()), name))
        return Origin(path, read_pickle(path), Given())
    if config.resume:
        recorded = state_fingerprints(state).get("base") if state else None
        what = "the base of its adapters" if config.finetune.method == "lora" else "the model that it starts from"
        source = find_base(run, name, recorded, what=what, fetch=fetch)
    else:
        source = find_model(name, "init_from", fetch=fetch)
    loaded = source.open_within(config.model.block_size)
    given = Given(loaded.tokenizer, loaded.chat_template, loaded.end_ids)
    return Origin(source.path, dict(loaded.model.named_parameters()), given, source)


def base_of_adapters(config: Config, origin: Origin | None, model: GPT) -> Base | None:
    """Returns the base of a run of adapters: name, checksum, writer; None for another run."""
    if config.finetune.method != "lora":
        return None
    assert origin is not None
    assert origin.source is not None
    name, finetune = str(config.init_from), config.finetune
    write = adapter_writer(model.config, name, rank=finetune.rank, alpha=finetune.alpha, p=finetune.dropout)
    return Base(name, origin.source.checksum(), write)


def given_by_weights(config: Config, state: Path | None, origin: Origin | None) -> Given:
    """Returns what comes with the initial weights; no tokenizer where the settings choose it.

    A new run has no checkpoint (`state`), and `origin` only with `init_from`.
    """
    if origin:
        return origin.given
    if not state:
        return Given()
    run = Path(config.run_dir)
    folder = model_folder(run)
    from_a_model = config.init_from is not None and Path(config.init_from).suffix not in PICKLES
    if not folder.is_dir():  # stopped before its first validation
        return load_origin(config, state, fetch=False).given if from_a_model else Given()
    metadata = saved_settings(run)
    end_ids, template = chat_of(metadata, metadata["model"]["vocab_size"], folder)
    own = from_a_model or config.tokenizer.kind == "gpt2"
    return Given(load_tokenizer(folder) if own else None, template, end_ids)


def prepare_text(config: Config, given: Given, *, fetch: bool, write: bool) -> Prepared:
    """Prepares or opens the text of a run, with the tokenizer and the chat template of its weights.

    The other arguments are those of `prepare`, which other ranks of the run may call as well.
    """
    return prepare(
        config.data,
        config.tokenizer,
        tokenizer=given.tokenizer,
        template=given.chat_template,
        wait=True,
        settings=config.prepare,
        fetch=fetch,
        write=write,
    )


def chat_of_run(prepared: Prepared, given: Given) -> Given:
    """Returns the chat template of a run's model, and the ids that end its answers.

    They are those that its conversations were rendered by, else those of the model it starts from.
    """
    template = prepared.manifest.get("template")
    if template is None:
        return given
    end_ids = ChatStyle(template, prepared.tokenizer).end_ids()
    return Given(prepared.tokenizer, template, tuple(dict.fromkeys((*end_ids, *given.end_ids))))


def build_model(config: Config, prepared: Prepared, origin: Origin | None) -> GPT:
    """Returns a GPT for the vocabulary of a prepared text: random, or with the weights of `origin`.

    The weights that are not trained are frozen, and adapters are in their places.

    Raises:
        UserError: when `data.doc_mask` does not fit the text, the weights do not fit the model, or
            a setting of `finetune` names no module.
    """
    if config.data.doc_mask and not config.resume:  # a resumed run keeps its setting
        check_doc_mask(prepared)
    torch.manual_seed(config.seed)
    model = GPT(
        GPTConfig(vocab_size=prepared.tokenizer.vocab_size, **vars(config.model)),
        eot_id=document_start(prepared) if config.data.doc_mask else None,
        recompute=config.trainer.activation_checkpointing,
    )
    if origin:
        fill(model, origin.weights, origin.path)
    choose_trained(model, config.finetune)
    return model


def make_module(config: Config, model: GPT, prepared: Prepared) -> LanguageModel:
    """Returns the LightningModule of the loss that the settings choose."""
    block_size = config.model.block_size
    if isinstance(prepared, Preferences):
        pairs = {split: prepared.pairs(split, config.data, block_size) for split in SPLITS}
        return PreferenceModel(model, config, pairs=pairs, data=prepared.manifest["sha256"])
    return LanguageModel(model, config, val_bytes=prepared.scored_bytes(config.data, block_size))


def fingerprints(prepared: Prepared, base: Base | None = None) -> dict[str, str]:
    """Returns the checksums that a checkpoint records of the tokenizer, the data and its source.

    Of a run of adapters it records that of their base, too.
    """
    return {
        **({"base": base.sha256} if base else {}),
        "tokenizer": prepared.tokenizer.fingerprint,
        "data": prepared.manifest["sha256"],
        "source": source_fingerprint(prepared),  # can be compared before a text is prepared again
    }


def sample_prompt(config: Config, prepared: Prepared) -> Prompt:
    """Returns the prompt of the samples: `sample.prompt`, or where it is null held-out text.

    It is the first words of the validation split, or the prompt of its first conversation. With a
    chat template `sample.prompt` is a user's message.

    Raises:
        UserError: when the tokenizer lacks a character of `sample.prompt`.
    """
    asked, tokenizer, template = config.sample.prompt, prepared.tokenizer, prepared.manifest.get("template")
    if asked and template is not None:
        messages = [{"role": "user", "content": asked}]
        return Prompt(asked, render_ids(template, messages, tokenizer, add_generation_prompt=True))
    if asked:
        tokenizer.encode(asked)
        return Prompt(asked)
    if isinstance(prepared, Conversations):
        ids, _ = next(prepared.prompts("val"))
        return Prompt(readable(ids, tokenizer), ids)
    return Prompt(first_words(next(prepared.documents("val"))))


def first_words(text: str, characters: int = 40) -> str:
    """Returns the first line of the second paragraph (else of the second line, else of the text).

    The start is skipped, as a split may begin within a word. The line is cut between words to at
    most `characters` characters.
    """
    paragraph = text.partition("\n\n")[2].lstrip() or text.partition("\n")[2].lstrip() or text
    line = paragraph.partition("\n")[0]
    return line if len(line) <= characters else line[:characters].rsplit(" ", 1)[0]


def make_callbacks(
    config: Config,
    claim: Claim,
    prepared: Prepared,
    background: Background,
    prompt: Prompt,
    users: dict[str, Callback],
    chat: Given,
    base: Base | None,
    watched: dict[str, WatchedText],
) -> list[Callback]:
    """Returns all callbacks of a run in the order of their calls; checkpoints come last.

    Args:
        config: the settings.
        claim: the claim on the run folder.
        prepared: the prepared text.
        background: the thread that writes checkpoints.
        prompt: the prompt of the samples.
        users: the user's own callbacks, by their names.
        chat: the chat template of the model, and the ids that end its answers.
        base: the base of a run of adapters; None: of another run.
        watched: the watched texts, by their names.
    """
    run_dir, optim, text = Path(config.run_dir), config.optim, counted(prepared)

    def epochs(step: int) -> float:
        sequences = sequences_before(step, config.data.batch_size, config.data.batch_schedule)
        return sequences / max(1.0, prepared.sequences(config.data, config.model.block_size, text.train_tokens))

    metrics = Metrics(run_dir, config.trainer.log_every_n_steps, plain_settings(config), list(config.logger))
    progress = ProgressBar(metrics, config.trainer.progress)
    data = fingerprints(prepared)["data"]
    facts = {"data": data, "end_ids": chat.end_ids, "chat_template": chat.chat_template, "base": base}
    # Pages and images have no part in the training: with them or without, a state is the same.
    stateful = {name: one for name, one in users.items() if not isinstance(one, Live | Explain)}
    for one in users.values():
        if isinstance(one, Explain):
            one.read_with(prepared.tokenizer, prompt.text)
    saver = Checkpoints(run_dir, prepared.tokenizer, background, facts, stateful, config.callbacks)
    opening = Opening(config, epochs(config.trainer.max_steps), warnings_at_start(config, text))
    callbacks = [Ownership(claim), Signals(saver, progress.close), metrics, opening, progress]
    if not config.data.overfit and optim.patience is None:
        callbacks.append(Overfitting(run_dir, config, epochs, progress.say))
    if optim.ema_decay is not None:
        callbacks.append(WeightAverage(optim.ema_decay))
    if watched:
        callbacks.append(Watched(watched, metrics, progress))
    if config.sample.max_new_tokens:
        callbacks.append(
            Samples(run_dir, prepared.tokenizer, prompt, config.sample, config.seed, progress, chat.end_ids)
        )
    if optim.patience:
        callbacks.append(EarlyStopping(optim))
    return [*callbacks, *users.values(), saver]


def run_loop(
    trainer: lightning.Trainer, module: LanguageModel, data: TextDataModule, state: Path | None, claim: Claim
) -> None:
    """Runs Lightning's training loop to the last step.

    It starts from the checkpoint `state`, or at step 0 where that is None.

    Raises:
        UserError: when Lightning refuses a callback before the first step.
    """
    join_again()
    try:
        with sharing_cores():
            trainer.fit(module, data, ckpt_path=state)
    except MISFITS as error:
        raise error if claim.started else UserError(f"Lightning refuses these settings: {first_line(error)}") from None


def show_results(config: Config, trainer: lightning.Trainer, model: GPT, prompt: str | None) -> None:
    """Logs the best validation, draws curves.png and prints the table of results.

    The file curves.png marks a complete run.
    """
    run_dir, parameters = Path(config.run_dir), merged_parameters(model)
    log_hyperparameters(trainer, config, parameters, best_row(run_dir))
    draw_curves(run_dir)
    print_results(
        run_dir,
        parameters,
        prompt,
        board="tensorboard" in config.logger,
        overfit=config.data.overfit,
        resumed=config.resume is not None,
    )
