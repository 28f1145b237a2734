"""Run folders -> one plain dictionary with everything that is known about how good they are; `report` shows it.

    text -> likelihood of each run -> baselines -> continuations -> minimal pairs

All of it is a function of the run folders, the text and the seed: nothing depends on the clock. What an absent library or file
leaves out is said in `left_out`, a line each.
"""

import codecs
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_from_scratch.config import Config, DataConfig
from llm_from_scratch.data.prepare import Prepared, document_start, prepare
from llm_from_scratch.data.prepared import find_prepared
from llm_from_scratch.errors import UserError
from llm_from_scratch.evaluation import baselines, continuations, huggingface, pairs
from llm_from_scratch.evaluation.intervals import mean_interval
from llm_from_scratch.evaluation.scoring import Scorer, mean_probability, score, scorer, text_nats, windows
from llm_from_scratch.evaluation.texts import Text, first_characters, other_text, token_starts
from llm_from_scratch.machine import pick_device
from llm_from_scratch.run import MODEL, RunFolder, data_fingerprint
from llm_from_scratch.weights import LoadedModel

log = logging.getLogger(__name__)
PASSAGE = 240  # bytes of the passages shown
SHOWN = 3  # passages of each end, samples of each run
UNKNOWN_TEXT = (
    "it does not say which text it was trained on (version 0.1, no checkpoint): its tokenizer alone was compared"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, as the options of `evaluate` say."""

    split: str = "val"
    data: str | None = None
    overlap: float = 0.0
    batch_size: int = 32
    device: str = "auto"
    ensemble: bool = False
    baselines: bool = False
    gpt2: Sequence[Path] = ()
    generate: int = 0  # passages to continue
    seed: int = 1337
    against: str | None = None
    bertscore: Path | None = None
    entailment: Path | None = None
    pairs: bool = False
    crows: Path | None = None
    blimp: Path | None = None


@dataclass(frozen=True)
class RunWithData:
    """A run folder with its model, and with its text where that is needed."""

    folder: Path
    run: LoadedModel
    text: Prepared | None

    @property
    def prepared(self) -> Prepared:
        """The text of a run that was opened with it."""
        assert self.text is not None
        return self.text


def open_with_data(name: str, device: str, *, with_text: bool = True) -> RunWithData:
    """A run folder (or `last`), its model and the prepared text it was trained on.

    Args:
        name: a path, or `last`.
        device: of the model, or auto.
        with_text: False where another text is scored, so that the run's own need not be at hand.

    Raises:
        UserError: one of them is missing or damaged, or the text is another than the run's.
    """
    folder = RunFolder.find(name, holding=MODEL)
    config = folder.config()
    run = folder.model(pick_device(device), doc_mask=config.data.doc_mask)
    text = run_text(folder.path, config, run) if with_text else None
    if config.data.doc_mask and text:
        document_start(text)  # refuses a text whose documents have no end
    return RunWithData(folder.path, run, text)


def run_text(folder: Path, config: Config, run: LoadedModel) -> Prepared:
    """The prepared text that a run was trained on: the one of its fingerprint where it lies, else prepared from its source.

    Nothing is downloaded for it. A run without a fingerprint is held against the tokenizer alone, with a warning.

    Raises:
        UserError: the source gives another text by now, or there is none.
    """
    prepared = own_text(folder, config)
    if prepared is None:
        given = config.init_from or config.tokenizer.kind == "gpt2"  # whose files may be elsewhere by now
        prepared = prepare(
            config.data,
            config.tokenizer,
            tokenizer=run.tokenizer if given else None,
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
    """The prepared text that a run was trained on, by its fingerprint; None where it lies there no more, or the run tells none."""
    known = data_fingerprint(folder)
    return find_prepared(Path(config.data.dir) / config.data.name, known) if known else None


def require_text(folder: Path, prepared: Prepared) -> None:
    """Refuses a prepared text that is another than the one a run was trained on: its split would be another, too.

    Raises:
        UserError: by the fingerprints; a run that has none is told of in a warning.
    """
    known, found = data_fingerprint(folder), prepared.manifest["sha256"]
    if known is None:
        log.warning("%s: %s", folder, UNKNOWN_TEXT)
    elif found != known:
        raise UserError(
            f"{folder}: the text has changed since the run: it was trained on {known[:12]}, and {prepared.folder} is"
            f" {found[:12]}: put the text back as it was, or name one to score with --data PATH"
        )


def measure(names: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Everything that `settings` ask of the runs, in JSON's types.

    UserError in one line for what the user can mend, before anything slow is begun.
    """
    if not 0 <= settings.overlap < 1:
        raise UserError(f"--overlap {settings.overlap}: must be at least 0 and below 1")
    if min(settings.generate, settings.seed) < 0 or settings.batch_size < 1:
        raise UserError("--generate and --seed must be 0 or more, --batch-size 1 or more")
    if settings.split == "train" and not settings.data and (settings.baselines or settings.generate):
        raise UserError("--split train: baselines and generated text are measured on text held out; use --split val")
    folders = [("--bertscore", settings.bertscore), ("--entailment", settings.entailment)]
    for option, path in [("--gpt2", path) for path in settings.gpt2] + folders:
        if path and not path.is_dir():
            raise UserError(f"{option} {path}: there is no such folder (models are read from the disk alone)")
    bias = pairs.read_crows(settings.crows or pairs.BIAS) if settings.pairs or settings.crows else []
    grammar = pairs.read_blimp(settings.blimp or pairs.GRAMMAR) if settings.pairs or settings.blimp else []
    against = _read_against(settings.against) if settings.against else None

    own = not settings.data or settings.baselines or bool(settings.generate)
    opened = [open_with_data(name, settings.device, with_text=own) for name in names]
    text = other_text(settings.data) if settings.data else _held_out(opened[0], settings.split)
    for other in opened[1:]:
        if not settings.data and _held_out(other, settings.split).documents != text.documents:
            raise UserError(
                f"{other.folder} holds out another text than {opened[0].folder}: name one text for all with --data"
            )
    if settings.ensemble and (len(opened) < 2 or len({one.run.tokenizer.fingerprint for one in opened}) > 1):
        raise UserError(
            "--ensemble: name several runs that have one tokenizer, such as those of a sweep over seed=1,2,3"
        )
    left_out = [f"{one.folder}: {UNKNOWN_TEXT}" for one in opened if one.text and not data_fingerprint(one.folder)]
    report: dict[str, Any] = {
        "text": text.facts() | {"split": None if settings.data else settings.split},
        "settings": {"overlap": settings.overlap, "seed": settings.seed},
        "runs": [],
    }
    chosen = _passages(text, settings, left_out) if settings.generate else []
    if chosen:
        truth = [passage.continuation for passage in chosen]
        train = "".join(training_text(opened[0]))
        report["truth"] = continuations.described(
            truth, chosen, train, against, None, left_out, compared=False, entailment_folder=settings.entailment
        )
        sampling = continuations.SAMPLING
        report["settings"]["sampling"] = {
            "passages": len(chosen),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
    counted: dict[str, tuple[str, LoadedModel]] = {}
    nats = []
    for one in opened:
        log.info("measuring %s", one.folder)
        row: dict[str, Any] = {
            "run": str(one.folder),
            "step": one.run.step,
            "parameters": one.run.model.num_parameters(),
            "tokenizer": f"{one.run.tokenizer.kind}, {one.run.tokenizer.vocab_size:,}",
        }
        row |= likelihood(one.run, text, settings)
        nats.append(row.pop("nats"))
        counted.setdefault(one.run.tokenizer.fingerprint, (row["tokenizer"], one.run))
        if chosen:
            row |= _written(one, chosen, settings, against, left_out)
        for name, asked in (("bias", bias), ("grammar", grammar)):
            if asked:
                row[name] = _preferences(one.run, asked, f"{one.folder}: {name}", left_out)
        report["runs"].append(row)
    if bias:
        report["bias_limits"] = pairs.BIAS_LIMITS
    if grammar:
        report["grammar_limits"] = pairs.GRAMMAR_LIMITS
    if settings.ensemble:
        lengths = _lengths(opened[0].run, encode(opened[0].run, text.documents, text.whole))
        row = {"name": f"{len(nats)} runs together", "kind": "ensemble"}
        row |= text.figures(mean_probability(nats), token_starts(lengths)) | {"note": "the mean of their probabilities"}
        report["baselines"] = [row]
    if settings.baselines:
        log.info("measuring the baselines")
        report.setdefault("baselines", []).extend(_baselines(text, training_text(opened[0]), list(counted.values())))
    for folder in settings.gpt2:
        log.info("measuring %s", folder)
        try:
            device = pick_device(settings.device)
            row = huggingface.causal_model(folder, text, settings.overlap, settings.batch_size, device)
            report.setdefault("baselines", []).append(row)
        except ValueError as error:
            left_out.append(str(error))
    text.compare(report["runs"] + report.get("baselines", []))
    if settings.baselines and not settings.gpt2:
        left_out.append("GPT-2: it needs the folder of a model, --gpt2 FOLDER (or several, a fine-tuned one too)")
    if settings.baselines:
        report["article"] = [dict(row) for row in baselines.ARTICLE]
    return report | {"left_out": left_out}


def likelihood(run: LoadedModel, text: Text, settings: Settings) -> dict[str, Any]:
    """The figures of one run over the whole text, by position in the context, its worst and best passages, `nats` (N,) of the tokens."""
    ids = encode(run, text.documents, text.whole)
    nats, places = _nats(run, ids, settings.overlap, settings.batch_size)
    lengths = _lengths(run, ids)
    starts = token_starts(lengths)
    figures: dict[str, Any] = text.figures(nats, starts)
    if settings.overlap:  # what an overlap leaves at the first places is the first window's alone
        by_place, places = _nats(run, ids, 0.0, settings.batch_size)
    else:
        by_place = nats
    figures["positions"] = []
    first = 0
    while first < run.model.config.block_size:
        last = min(max(2 * first - 1, 0), run.model.config.block_size - 1)  # counted from 1: 1, 2, 3-4, 5-8, …
        inside = (places >= first) & (places <= last)
        if inside.any():
            mean, low, high = mean_interval(by_place[inside])
            row = {"first": first + 1, "last": last + 1, "loss": mean, "low": low, "high": high}
            figures["positions"].append(row)
        first = last + 1
    return figures | {"passages": _extremes(run, ids, nats, lengths), "nats": nats}


def training_text(opened: RunWithData) -> list[str]:
    """The documents that the run was trained on, the first ones where they are very long."""
    return first_characters(opened.prepared.documents("train"))


def encode(run: LoadedModel, documents: Sequence[str], whole: bool) -> np.ndarray:
    """(N,) ids of the documents one behind the other, as they were trained on."""
    end = np.full(int(whole), run.tokenizer.eot_id, dtype=np.int32)
    parts = [part for document in documents for part in (run.tokenizer.encode_array(document).astype(np.int32), end)]
    return np.concatenate(parts) if parts else end


def sentence_nats(run: LoadedModel) -> Callable[[str], float]:
    """-ln p of a whole sentence behind an end-of-text."""
    model = run_scorer(run)
    return lambda sentence: text_nats(model, run.tokenizer.encode(sentence))


def run_scorer(run: LoadedModel) -> Scorer:
    """The scorer of a run's model."""
    return scorer(run.model, run.tokenizer.eot_id)


def _held_out(opened: RunWithData, split: str) -> Text:
    documents = tuple(opened.prepared.documents(split))
    if not (ids := opened.prepared.shards(split)):
        raise UserError(f"{opened.folder}: its {split} split has no tokens at hand (data.stream=text); use --split val")
    # Whole documents end with the end-of-text piece; those that the split has cut have no end.
    whole = bool(len(ids[-1].tokens)) and int(ids[-1].tokens[-1]) == opened.run.tokenizer.eot_id
    return Text(f"{opened.prepared.manifest.get('name', 'text')}, {split} split", documents, whole)


def _passages(text: Text, settings: Settings, left_out: list[str]) -> list[continuations.Passage]:
    try:
        chosen = continuations.passages(text.joined, settings.generate, settings.seed)
    except ValueError as error:
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


def _written(
    one: RunWithData,
    chosen: Sequence[continuations.Passage],
    settings: Settings,
    against: tuple[str, str] | None,
    left_out: list[str],
) -> dict[str, Any]:
    written = [
        continuations.write(one.run, passage.prompt, continuations.CONTINUATION, settings.seed + i)
        for i, passage in enumerate(chosen)
    ]
    train = "".join(training_text(one))
    shown = zip(chosen[:SHOWN], written, strict=False)
    return {
        "generated": continuations.described(
            *(written, chosen, train, against, settings.bertscore, left_out), entailment_folder=settings.entailment
        ),
        "samples": [asdict(passage) | {"written": own} for passage, own in shown],
    }


def _read_against(name: str) -> tuple[str, str]:
    return Path(name).name, other_text(name, "--against").joined


def _nats(run: LoadedModel, ids: np.ndarray, overlap: float, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    model = run_scorer(run)
    nats, places = zip(*score(model, windows([ids], model, overlap, batch_size)), strict=True)
    return np.concatenate(nats).astype(np.float64), np.concatenate(places)


def _lengths(run: LoadedModel, ids: np.ndarray) -> np.ndarray:
    """(N,) bytes of each token."""
    table = np.array([len(run.tokenizer.decode_bytes([i])) for i in range(run.tokenizer.vocab_size)], dtype=np.int64)
    return table[ids]


def _baselines(text: Text, train: list[str], runs: list[tuple[str, LoadedModel]]) -> list[dict[str, Any]]:
    rows = baselines.characters(text, "".join(train))
    for label, run in runs:
        before, after = encode(run, train, text.whole), encode(run, text.documents, text.whole)
        of = f"tokens ({label})" if len(runs) > 1 else "tokens"
        rows += baselines.counting(text, before, after, _lengths(run, after), run.tokenizer.vocab_size, of)
    return rows + baselines.compressors(text, "".join(train))


def _preferences(run: LoadedModel, asked: Sequence[pairs.Pair], what: str, left_out: list[str]) -> list[dict[str, Any]]:
    known = []
    for pair in asked:
        try:
            run.tokenizer.encode(pair.first + pair.second)
            known.append(pair)
        except ValueError:  # a tokenizer of characters has no id for one
            continue
    if len(known) < len(asked):
        left_out.append(f"{what}: {len(asked) - len(known)} pairs with characters that the tokenizer does not know")
    return [asdict(row) for row in pairs.prefer(known, sentence_nats(run))] if known else []


def _pieces(run: LoadedModel, ids: np.ndarray, nats: np.ndarray) -> Iterator[tuple[str, float]]:
    """Text and bits of each token; those that are parts of a character together."""
    decoder, bits = codecs.getincrementaldecoder("utf-8")("replace"), 0.0
    for i, value in zip(ids.tolist(), (nats / np.log(2)).tolist(), strict=True):
        bits += value
        piece = decoder.decode(run.tokenizer.decode_bytes([i]))
        if piece:
            yield piece, bits
            bits = 0.0


def _cut(ids: np.ndarray, size: int = 2**20) -> Iterator[np.ndarray]:
    """Parts of so many, for what makes a Python object of each."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _extremes(
    run: LoadedModel, ids: np.ndarray, nats: np.ndarray, lengths: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """The passages of about `PASSAGE` bytes with the most and the fewest bits a byte; `pieces` of each are [text, bits].

    A passage ends at the first token behind a multiple of `PASSAGE` that ends a character. `lengths` (N,) are the tokens' bytes.
    """
    ends = np.cumsum(lengths)  # (N,) the byte at which each token ends
    text = np.concatenate([np.frombuffer(run.tokenizer.decode_bytes(part.tolist()), np.uint8) for part in _cut(ids)])
    inside = np.append(text & 0xC0 == 0x80, False)[ends]  # the byte that follows goes on with a character
    last = np.flatnonzero((lengths > 0) & ~inside)  # (P,) the token that each piece ends with
    starts = np.append(0, ends[last])[:-1]  # (P,) the byte at which each begins
    # (S,) the passages that hold a piece, in order, each from one token up to another.
    first_piece = np.flatnonzero(np.diff(starts // PASSAGE, prepend=-1))
    stops = np.append(last[first_piece[1:] - 1], last[-1]) + 1
    begins = np.append(0, stops[:-1])
    sizes = np.add.reduceat(lengths, begins)
    bits = np.add.reduceat(nats[: stops[-1]], begins) / np.log(2)
    long_enough = np.flatnonzero(sizes >= PASSAGE // 2)  # not the rest at the end
    order = long_enough[np.argsort(-bits[long_enough] / sizes[long_enough], kind="stable")]

    def shown(chosen: np.ndarray) -> list[dict[str, Any]]:
        rows = []
        for passage in chosen.tolist():
            part = slice(begins[passage], stops[passage])
            pieces = [[piece, round(value, 3)] for piece, value in _pieces(run, ids[part], nats[part])]
            rows.append({"bits_per_byte": float(bits[passage] / sizes[passage]), "pieces": pieces})
        return rows

    return {"worst": shown(order[:SHOWN]), "best": shown(order[-SHOWN:][::-1])}
