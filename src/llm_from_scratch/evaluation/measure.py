"""Measurement of run folders: run folders -> an `Evaluation`, which `report` presents.

    text -> likelihood of each run -> continuations -> minimal pairs -> baselines

The result is a function of the run folders, the text and the seed alone, not of the clock. A
figure that cannot be measured, such as for a missing library or file, adds a line to `left_out`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from llm_from_scratch.config import Config, DataConfig
from llm_from_scratch.data.prepare import Prepared, prepare
from llm_from_scratch.data.prepared import Conversations, Preferences, Stories, document_start, find_prepared
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation import baselines, continuations, pairs, references
from llm_from_scratch.evaluation.answers import answers_or_reason
from llm_from_scratch.evaluation.likelihood import encode, likelihood, sentence_nats, token_bytes
from llm_from_scratch.evaluation.overlap import SearchableText
from llm_from_scratch.evaluation.results import Baseline, Evaluation, RunResult, Sample, Sampling, UsedSettings
from llm_from_scratch.evaluation.scoring import mean_probability
from llm_from_scratch.evaluation.tales import GENERATED, tales_or_reason
from llm_from_scratch.evaluation.texts import Text, UnitNats, first_characters, other_text
from llm_from_scratch.machine import pick_device
from llm_from_scratch.pretrained import find_model
from llm_from_scratch.registry import PUBLISHED
from llm_from_scratch.run import RunFolder, data_fingerprint
from llm_from_scratch.weights import LoadedModel

log = logging.getLogger(__name__)
SHOWN = 3  # samples of each run
Need = Literal["required", "optional", "unused"]  # of a run's own text
UNKNOWN_TEXT = (
    "it does not say which text it was trained on (version 0.1, no checkpoint): its tokenizer alone was compared"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `evaluate`: the text, and the figures to measure.

    `data` None is each run's own split. Any other None leaves its figure out, except that `pairs`
    takes the project's own files for `crows` and `blimp`.
    """

    split: str = "val"
    data: str | None = None
    overlap: float = 0.0
    batch_size: int = 32
    device: str = "auto"
    ensemble: bool = False
    baselines: bool = False
    gpt2: Sequence[Path] = ()
    generate: int = 0  # passages to continue
    stories: int = GENERATED  # stories that a run on told stories writes
    seed: int = 1337
    against: str | None = None
    bertscore: Path | None = None
    entailment: Path | None = None
    faithfulness: bool = False
    pairs: bool = False
    crows: Path | None = None
    blimp: Path | None = None


@dataclass(frozen=True)
class RunWithData:
    """A run folder, its model, and the run's prepared text.

    `text` is None where it is not needed or not at hand; `lacks` is the reason for the latter.
    """

    folder: Path
    run: LoadedModel
    text: Prepared | None
    lacks: str = ""
    config: Config | None = None  # None: it is no run

    @property
    def prepared(self) -> Prepared:
        """Returns the prepared text of a run that was opened with it."""
        assert self.text is not None
        return self.text


def open_model(name: str, device: str) -> tuple[Path, Config | None, LoadedModel]:
    """Opens the model to evaluate: its path, its settings, and the model with its tokenizer.

    The settings name the training text; None: it is no run, and no training text is known of it.

    Raises:
        UserError: when there is no such model, or a file of it is damaged.
    """
    source = find_model(name)
    config = RunFolder(source.path).config() if source.kind == "run" else None
    shown = Path(name) if name in PUBLISHED else source.path
    return shown, config, source.open(pick_device(device), doc_mask=bool(config and config.data.doc_mask))


def open_with_data(name: str, device: str, text: Need = "required") -> RunWithData:
    """Opens a run folder: its model, and the prepared text that it was trained on.

    Args:
        name: as `pretrained.find_model` takes it; `last` for the newest run.
        device: of the model, or auto.
        text: whether the prepared text is opened, and whether a run without it is refused.

    Raises:
        UserError: when the model or a required text is missing or damaged, or the text is not the
            run's.
    """
    folder, config, run = open_model(name, device)
    if text == "unused":
        return RunWithData(folder, run, None, config=config)
    try:
        if config is None:
            raise UserError(f"{folder}: no training text is known of this model: name a text to score with --data")
        prepared = run_text(folder, config, run)
        if config.data.doc_mask:
            # Raises UserError where no end-of-text token separates the documents.
            document_start(prepared)
    except UserError as error:
        if text == "required":
            raise
        return RunWithData(folder, run, None, lacks=str(error), config=config)
    return RunWithData(folder, run, prepared, config=config)


def run_text(folder: Path, config: Config, run: LoadedModel) -> Prepared:
    """Returns the prepared text that a run was trained on.

    The text is found by the run's fingerprint, else prepared again from its source without a
    download. For a run without a fingerprint only the tokenizers are compared, with a warning.

    Raises:
        UserError: when the source is missing, or gives another text now.
    """
    prepared = own_text(folder, config)
    if prepared is None:
        # The tokenizer's files may be gone: the run's own copy is used.
        given = config.init_from or config.tokenizer.kind == "gpt2"
        prepared = prepare(
            config.data,
            config.tokenizer,
            tokenizer=run.tokenizer if given else None,
            template=run.chat_template,
            fetch=False,
            write=config.data.dir == DataConfig().dir,
        )
    require_text(folder, prepared)
    if prepared.tokenizer.fingerprint != run.tokenizer.fingerprint:
        raise UserError(
            f"the text has changed since the run: the run's tokenizer is {run.tokenizer.fingerprint[:12]},"
            f" that of the text is now {prepared.tokenizer.fingerprint[:12]}"
        )
    return prepared


def own_text(folder: Path, config: Config) -> Prepared | None:
    """Returns the prepared text with the run's fingerprint; None where either is missing."""
    known = data_fingerprint(folder)
    return find_prepared(Path(config.data.dir) / config.data.name, known) if known else None


def require_text(folder: Path, prepared: Prepared) -> None:
    """Raises UserError where a prepared text is not the one that a run was trained on.

    Their fingerprints are compared. A run that has none gets a warning instead.
    """
    known, found = data_fingerprint(folder), prepared.manifest["sha256"]
    if known is None:
        log.warning("%s: %s", folder, UNKNOWN_TEXT)
    elif found != known:
        raise UserError(
            f"{folder}: the text has changed since the run: it was trained on {known[:12]}, and {prepared.folder} is"
            f" {found[:12]}: put the text back as it was, or name one to score with --data PATH"
        )


def measure(names: Sequence[str], settings: Settings) -> Evaluation:
    """Measures everything that `settings` request of the runs.

    Raises:
        UserError: when options, files or runs are unfit; most are checked before anything slow.
    """
    _check(settings)
    asked = _read_asked(settings)
    needs: Need = "required"
    if settings.data:
        needs = "optional" if settings.baselines or settings.generate else "unused"
    opened = [open_with_data(name, settings.device, _need(name, needs)) for name in names]
    text = other_text(settings.data) if settings.data else _shared_text(opened, settings.split)
    _check_together(opened, text, settings)
    evaluation = Evaluation(
        text=text.info(None if settings.data else settings.split),
        settings=UsedSettings(overlap=settings.overlap, seed=settings.seed),
        runs=[],
        bias_limits=pairs.BIAS_LIMITS if asked.bias else None,
        grammar_limits=pairs.GRAMMAR_LIMITS if asked.grammar else None,
        left_out=[f"{one.folder}: {UNKNOWN_TEXT}" for one in opened if one.text and not data_fingerprint(one.folder)],
    )
    chosen = _passages(text, settings, evaluation.left_out) if settings.generate else []
    training = _training_texts(opened) if chosen or settings.baselines else [None] * len(opened)
    first = next(filter(None, training), None)
    if chosen:
        _add_truth(evaluation, chosen, _comparison(first, asked, settings))
    nats = []
    for one, train in zip(opened, training, strict=True):
        log.info("measuring %s", one.folder)
        result, own_nats = _run_result(one, text, settings)
        if chosen:
            _add_generated(result, one, chosen, _comparison(train, asked, settings), settings.seed, evaluation.left_out)
        result.bias = _preferences(one.run, asked.bias, f"{one.folder}: bias", evaluation.left_out)
        result.grammar = _preferences(one.run, asked.grammar, f"{one.folder}: grammar", evaluation.left_out)
        evaluation.runs.append(result)
        nats.append(own_nats)
    rows = [_ensemble(text, opened[0].run, nats)] if settings.ensemble else []
    if settings.baselines:
        log.info("measuring the baselines")
        rows += _baselines(text, first, opened, evaluation.left_out)
        evaluation.article = list(baselines.ARTICLE)
    place = settings.overlap, settings.batch_size, pick_device(settings.device)
    rows += references.causal_models(settings.gpt2, text, *place, evaluation.left_out)
    text.compare([*evaluation.runs, *rows])
    if not settings.data:
        asked_runs = [(str(one.folder), one.config, one.run) for one in opened]
        evaluation.answers = answers_or_reason(asked_runs, settings.batch_size, evaluation.left_out)
        told = [(str(one.folder), one.config, one.run, one.text) for one in opened]
        evaluation.tales = tales_or_reason(
            told, settings.stories, settings.seed, settings.batch_size, evaluation.left_out
        )
    evaluation.baselines = rows or None
    if settings.baselines and not settings.gpt2:
        evaluation.left_out.append(
            "GPT-2: it needs the folder of a model, --gpt2 FOLDER (or several, a fine-tuned one too)"
        )
    return evaluation


# ------------------------------------------------------------------------------------------- checks
@dataclass(frozen=True)
class _Asked:
    """The contents of the files that the settings name."""

    bias: Sequence[pairs.Pair]
    grammar: Sequence[pairs.Pair]
    against: tuple[str, str] | None  # name and text of another author; None: not given


def _check(settings: Settings) -> None:
    if not 0 <= settings.overlap < 1:
        raise UserError(f"--overlap {settings.overlap}: must be at least 0 and below 1")
    if min(settings.generate, settings.seed, settings.stories) < 0 or settings.batch_size < 1:
        raise UserError("--generate, --stories and --seed must be 0 or more, --batch-size 1 or more")
    if settings.split == "train" and not settings.data and (settings.baselines or settings.generate):
        raise UserError("--split train: baselines and generated text are measured on text held out; use --split val")
    if settings.faithfulness and not settings.generate:
        raise UserError("--faithfulness is of generated text: add --generate N")
    folders = [("--bertscore", settings.bertscore), ("--entailment", settings.entailment)]
    for option, path in [("--gpt2", path) for path in settings.gpt2] + folders:
        if path and not path.is_dir():
            raise UserError(f"{option} {path}: there is no such folder (models are read from the disk alone)")


def _read_asked(settings: Settings) -> _Asked:
    against = settings.against
    return _Asked(
        bias=pairs.read_crows(settings.crows or pairs.BIAS) if settings.pairs or settings.crows else [],
        grammar=pairs.read_blimp(settings.blimp or pairs.GRAMMAR) if settings.pairs or settings.blimp else [],
        against=(Path(against).name, other_text(against, "--against").joined) if against else None,
    )


def _check_together(opened: Sequence[RunWithData], text: Text, settings: Settings) -> None:
    with_text = [one for one in opened if one.text]
    for other in with_text[1:]:
        if not settings.data and _held_out(other, settings.split).documents != text.documents:
            raise UserError(
                f"{other.folder} holds out another text than {with_text[0].folder}: name one text for all with --data"
            )
    if settings.ensemble and (len(opened) < 2 or len({one.run.tokenizer.fingerprint for one in opened}) > 1):
        raise UserError(
            "--ensemble: name several runs that have one tokenizer, such as those of a sweep over seed=1,2,3"
        )


def _need(name: str, of_a_run: Need) -> Need:
    """Returns whether a model's training text is needed: of one trained elsewhere none is known."""
    return "optional" if of_a_run == "required" and find_model(name).kind != "run" else of_a_run


def _shared_text(opened: Sequence[RunWithData], split: str) -> Text:
    """Returns what the first run holds out; models that were trained elsewhere are scored on it.

    Raises:
        UserError: when none of them is a run.
    """
    for one in opened:
        if one.text:
            return _held_out(one, split)
    raise UserError(opened[0].lacks)


def _held_out(opened: RunWithData, split: str) -> Text:
    documents = tuple(opened.prepared.documents(split))
    if not (ids := opened.prepared.shards(split)):
        raise UserError(
            f"{opened.folder}: its {split} split has no tokens at hand (data.stream=text or fresh); use --split val"
        )
    # Whole documents end with the end-of-text token; documents cut by the split do not.
    whole = bool(len(ids[-1].tokens)) and int(ids[-1].tokens[-1]) == opened.run.tokenizer.eot_id
    parts = ", prompts and answers" if isinstance(opened.prepared, Conversations) else ""
    name = f"{opened.prepared.manifest.get('name', 'text')}, {split} split{parts}"
    pairs, apart = (isinstance(opened.prepared, kind) for kind in (Preferences, Stories))
    return Text(name, documents, whole, pairs=pairs, apart=apart)


# ------------------------------------------------------------------------------------ training text
@dataclass(frozen=True)
class TrainingText:
    """The first `TRAIN_CHARACTERS` characters of a run's training text."""

    documents: list[str]

    @cached_property
    def searchable(self) -> SearchableText:
        """Returns the documents, concatenated, in which copies are found."""
        return SearchableText("".join(self.documents))


def _training_texts(opened: Sequence[RunWithData]) -> list[TrainingText | None]:
    """Reads the training text of each run, once for runs that share it; None: not at hand."""
    read: dict[str, TrainingText] = {}
    found: list[TrainingText | None] = []
    for one in opened:
        if one.text is None:
            found.append(None)
            continue
        fingerprint = one.text.manifest["sha256"]
        if fingerprint not in read:
            read[fingerprint] = TrainingText(training_text(one))
        found.append(read[fingerprint])
    return found


def training_text(opened: RunWithData) -> list[str]:
    """Returns the run's training documents, the first `TRAIN_CHARACTERS` characters of them."""
    return first_characters(opened.prepared.documents("train"))


# --------------------------------------------------------------------------------------- likelihood
def _run_result(one: RunWithData, text: Text, settings: Settings) -> tuple[RunResult, np.ndarray | None]:
    """Returns the run's result, and the nats of each token (N,); None without an ensemble."""
    run, keeps = one.run, settings.ensemble
    found = likelihood(run, text, overlap=settings.overlap, batch_size=settings.batch_size, keep_nats=keeps)
    result = RunResult(
        run=str(one.folder),
        step=run.step,
        parameters=run.model.num_parameters(),
        tokenizer=_tokenizer_name(run),
        positions=found.positions,
        passages=found.passages,
        **found.figures,
    )
    return result, found.nats


def _tokenizer_name(run: LoadedModel) -> str:
    return f"{run.tokenizer.kind}, {run.tokenizer.vocab_size:,}"


def _ensemble(text: Text, run: LoadedModel, nats: Sequence[np.ndarray | None]) -> Baseline:
    """Scores the mean of the probabilities of several runs, which share `run`'s tokenizer."""
    each = [own for own in nats if own is not None]
    units = UnitNats(text)
    units.add(mean_probability(each), token_bytes(run.tokenizer)[encode(run.tokenizer, text.documents, text.whole)])
    note = "the mean of their probabilities"
    return Baseline(name=f"{len(each)} runs together", kind="ensemble", note=note, **units.figures())


def _baselines(
    text: Text, train: TrainingText | None, opened: Sequence[RunWithData], left_out: list[str]
) -> list[Baseline]:
    """Scores n-grams of characters and of each tokenizer's tokens, and compressors.

    A kind that cannot be measured, such as the tokens of a tokenizer that lacks a character of
    `train`, adds a line to `left_out`. All are left out where no training text is at hand.
    """
    rows: list[Baseline] = []
    if train is None:
        left_out.append(f"n-grams and compressors: they learn from a run's training text. {opened[0].lacks}")
        return rows

    def attempt(name: str, kind: Callable[[], list[Baseline]]) -> None:
        try:
            rows.extend(kind())
        except UserError as error:
            left_out.append(f"{name}: {error}")

    attempt("n-grams of characters", lambda: baselines.characters(text, train.searchable.text))
    runs: dict[str, RunWithData] = {}
    for one in opened:
        runs.setdefault(one.run.tokenizer.fingerprint, one)
    for one in runs.values():
        of = f"tokens ({_tokenizer_name(one.run)})" if len(runs) > 1 else "tokens"
        attempt(f"{one.folder}: n-grams of tokens", partial(_token_ngrams, text, train.documents, one.run, of))
    attempt("compressors", lambda: baselines.compressors(text, train.searchable.text))
    return rows


def _token_ngrams(text: Text, train: list[str], run: LoadedModel, of: str) -> list[Baseline]:
    before, after = (encode(run.tokenizer, part, text.whole) for part in (train, text.documents))
    return baselines.counting(text, before, after, token_bytes(run.tokenizer)[after], run.tokenizer.vocab_size, of)


def _preferences(
    run: LoadedModel, asked: Sequence[pairs.Pair], name: str, left_out: list[str]
) -> list[pairs.Preference] | None:
    if not asked:
        return None
    known = []
    for pair in asked:
        try:
            run.tokenizer.encode(pair.first + pair.second)
            known.append(pair)
        except UserError:  # a character tokenizer has no id for one of them
            continue
    if len(known) < len(asked):
        left_out.append(f"{name}: {len(asked) - len(known)} pairs with characters that the tokenizer does not know")
    return pairs.prefer(known, sentence_nats(run)) if known else []


# ----------------------------------------------------------------------------------- generated text
def _passages(text: Text, settings: Settings, left_out: list[str]) -> list[continuations.Passage]:
    try:
        chosen = continuations.passages(text.joined, settings.generate, settings.seed)
    except UserError as error:
        left_out.append(str(error))
        return []
    if len(chosen) < settings.generate:
        left_out.append(
            f"{len(chosen)} passages continued, not {settings.generate}: the text holds no more that do not overlap"
        )
    if not settings.against:
        left_out.append("Burrows's Delta: it needs another author's text, --against FILE")
    if not settings.bertscore:
        left_out.append("BERTScore: it needs the folder of a model, --bertscore FOLDER")
    if not settings.entailment:
        left_out.append("Entailment: it needs the folder of a model, --entailment FOLDER")
    return chosen


def _comparison(train: TrainingText | None, asked: _Asked, settings: Settings) -> continuations.Comparison:
    return continuations.Comparison(
        train=train.searchable if train else None,
        against=asked.against,
        bertscore=settings.bertscore,
        entailment=settings.entailment,
        faithfulness=settings.faithfulness,
    )


def _add_truth(
    evaluation: Evaluation, chosen: Sequence[continuations.Passage], comparison: continuations.Comparison
) -> None:
    truth = [passage.continuation for passage in chosen]
    evaluation.truth = continuations.generation_metrics(truth, chosen, comparison, evaluation.left_out, true=True)
    sampling = continuations.SAMPLING
    evaluation.settings.sampling = Sampling(
        passages=len(chosen), temperature=sampling.temperature, top_p=sampling.top_p
    )


def _add_generated(
    result: RunResult,
    one: RunWithData,
    chosen: Sequence[continuations.Passage],
    comparison: continuations.Comparison,
    seed: int,
    left_out: list[str],
) -> None:
    written = [
        continuations.write(one.run, passage.prompt, continuations.CONTINUATION, seed + i)
        for i, passage in enumerate(chosen)
    ]
    result.generated = continuations.generation_metrics(written, chosen, comparison, left_out)
    if comparison.train is None:
        left_out.append(f"{one.folder}: copies of its training text and Burrows's Delta to it. {one.lacks}")
    shown = zip(chosen[:SHOWN], written, strict=False)
    result.samples = [Sample(**asdict(passage), written=own) for passage, own in shown]
