"""Checks of every file of a run folder; they change and prepare nothing."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_from_scratch.check import check
from llm_from_scratch.checkpoint import checkpoints, verify_state
from llm_from_scratch.config import Config
from llm_from_scratch.data.prepare import SPLITS, Prepared, open_prepared
from llm_from_scratch.data.prepared import Conversations
from llm_from_scratch.data.shards import open_shard
from llm_from_scratch.doctor.findings import Finding, fault, ok, size_of, warning
from llm_from_scratch.environment import FILE, read_environment, summary
from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.files import refuse_links
from llm_from_scratch.places import program
from llm_from_scratch.pretrained import load_run
from llm_from_scratch.reference_model import read_reference, reference_path
from llm_from_scratch.run import data_fingerprint, is_training, line_checksums, parse_rows
from llm_from_scratch.saved_config import read_run, refuse_foreign_code
from llm_from_scratch.terminal import argument, shell
from llm_from_scratch.tokenizer import SentencePieceTokenizer, load_tokenizer
from llm_from_scratch.weights import model_folder

DECODE_BELOW = 20 * 10**6  # bytes; a smaller text is compared with its decoded tokens


class ExaminedRun:
    """A run folder, with cached results that several checks share, such as its checksums."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resume = shell(*program("train"), f"resume={argument(path)}")

    @cached_property
    def settings(self) -> Config | UserError:
        """Returns the settings of config.yaml, or the UserError that reading them raises."""
        try:
            return check(read_run(self.path), Config)
        except UserError as error:
            return error

    @cached_property
    def states(self) -> list[tuple[Path, dict[str, str] | UserError]]:
        """Returns each checkpoint, newest first, with its fingerprints, or the UserError if
        damaged.
        """
        found: list[tuple[Path, dict[str, str] | UserError]] = []
        for folder in checkpoints(self.path):
            try:
                metadata = verify_state(folder)
                step = json.loads((folder / "state.json").read_text(encoding="utf-8"))["global_step"]
                if folder.name != f"step_{step:08d}":
                    raise UserError(f"{folder}: holds step {step}: it has been renamed")
                found.append((folder, metadata))
            except UserError as error:
                found.append((folder, error))
        return found

    @cached_property
    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns step and callback states of the newest intact checkpoint; None without one."""
        folder = next((folder for folder, metadata in self.states if isinstance(metadata, dict)), None)
        if folder is None:
            return None
        return _step(folder), json.loads((folder / "state.json").read_text(encoding="utf-8")).get("callbacks", {})

    @cached_property
    def validated(self) -> bool:
        """Returns whether the newest checkpoint, or else metrics.jsonl, records a validation."""
        if self.newest and "best" in self.newest[1].get("Checkpoints", {}):
            return math.isfinite(self.newest[1]["Checkpoints"]["best"])
        return any(row.get("split") == "val" for row in parse_rows(self.path / "metrics.jsonl")[0])

    @property
    def again(self) -> str:
        """Returns the command that resumes the run, with more steps or past an early stop where
        needed.
        """
        if not (self.newest and isinstance(self.settings, Config)):
            return self.resume
        if self.newest[0] >= self.settings.trainer.max_steps:
            return f"{self.resume} trainer.max_steps={2 * self.settings.trainer.max_steps}"
        return self.resume + self.ended[1]

    @property
    def ended(self) -> tuple[str, str]:
        """Returns the cause of an early stop and the override that lifts it; both are empty without
        one.
        """
        callbacks = self.newest[1] if self.newest else {}
        patience = self.settings.optim.patience if isinstance(self.settings, Config) else None
        waited = callbacks.get("Patience", {}).get("waited", 0)
        if patience and waited >= patience:
            return f"optim.patience={patience}", f" optim.patience={2 * patience}"
        if callbacks.get("Checkpoints", {}).get("stopped"):
            return "one of its callbacks", " callbacks=none"
        return "", ""


def links(run: ExaminedRun) -> Iterator[Finding]:
    """Checks that no link leads out of the run folder, and that it holds no pipe or device."""
    try:
        refuse_links(run.path, run.path)
    except UserError as error:
        yield fault(
            message_of(error), "delete it, or put the file itself in its place: no run goes on in this folder before"
        )


def owner(run: ExaminedRun) -> Iterator[Finding]:
    """Looks for a training that runs in the folder now, and for files that a killed one left."""
    if is_training(run.path):
        # What looks left behind may be a checkpoint that it writes now.
        yield warning(f"{run.path}: a training is running here", "what follows may change while it is read")
        return
    for folder in (run.path, run.path / "checkpoints"):
        for path in sorted([*folder.glob(".building-*"), *folder.glob(".old-*")]):
            if path == model_folder(run.path):
                yield warning(
                    f"{path}: the model of this run, which a kill left under this name; every command reads it here",
                    "keep it: a resume gives it back the name model; or rename it by hand",
                )
            else:
                yield warning(f"{path}: left behind by a kill", "delete it: nothing reads it")


def configuration(run: ExaminedRun) -> Iterator[Finding]:
    """Checks that config.yaml is valid, and warns of foreign code that a resume would refuse."""
    path, settings = run.path / "config.yaml", run.settings
    if isinstance(settings, UserError):
        what = message_of(settings).removeprefix(f"{path}: ")
        yield fault(f"{path}: {what}", "restore it from a copy: nothing can be resumed without it")
    else:
        yield ok(f"{path}: data={settings.data.name}, {settings.trainer.max_steps} steps")
        try:
            refuse_foreign_code(asdict(settings), asdict(Config()))
        except UserError as error:
            yield warning(f"{path}: {message_of(error)}", "look at it before the run is resumed")


def environment(run: ExaminedRun) -> Iterator[Finding]:
    """Reports the code and the libraries that made the run, from environment.json."""
    path = run.path / FILE
    try:
        entries = read_environment(run.path)
    except UserError as error:
        yield warning(message_of(error), "delete it: the next resume writes it again")
        return
    if not entries:
        yield ok(f"{path}: not there; the run was made by version 0.1, or has made no step yet")
        return
    earlier = ", ".join(str(entry["step"]) for entry in entries[:-1][-5:])
    since = f"; others made it from step {earlier} on" if earlier else ""
    yield ok(f"{path}: made by {summary(entries[-1])}{since}")


def states(run: ExaminedRun) -> Iterator[Finding]:
    """Verifies every byte of each checkpoint."""
    for folder, metadata in run.states:
        if isinstance(metadata, UserError):
            one = f"delete {folder}: resuming passes over it"
            yield fault(
                message_of(metadata), one if run.newest else f"restore {folder} from a copy: there is no other one"
            )
        else:
            yield ok(f"{folder}: every byte verified")


def model(run: ExaminedRun) -> Iterator[Finding]:
    """Checks that model/ loads, and that it agrees with config.yaml and metrics.jsonl."""
    folder = model_folder(run.path)
    if not folder.is_dir():
        if run.validated:
            yield fault(
                f"{folder}: missing",
                f"restore it from a copy; {run.again} writes it again at its next validation",
            )
        else:
            yield ok(f"{folder}: not there yet: the first validation writes it")
        return
    try:
        loaded = load_run(run.path)
    except UserError as error:
        yield fault(message_of(error), f"restore it from a copy; {run.again} writes it again at its next validation")
        return
    assert loaded.step is not None  # of a run
    # config.json holds the checksum of the weights and has none of its own: it is compared with
    # config.yaml and metrics.jsonl.
    own, differing = asdict(loaded.model.config), []
    if isinstance(run.settings, Config):
        settings = vars(run.settings.model)
        differing = [name for name, value in settings.items() if name != "dropout" and own[name] != value]
    validations = [row for row in parse_rows(run.path / "metrics.jsonl")[0] if row.get("split") == "val"]
    rows = [row for row in validations if row["step"] == loaded.step]
    newest = run.newest[0] if run.newest else 0
    # A resume repeats a validation after the newest checkpoint, and writes its model again.
    better = [row for row in validations if row["step"] <= newest and row["loss"] < loaded.loss]
    if better and rows and rows[-1]["loss"] == loaded.loss:
        best = min(better, key=lambda row: row["loss"])
        yield fault(
            f"{folder}: of step {loaded.step}, where step {best['step']} had a better validation: a write has failed",
            f"{run.again} writes it again at its next better validation",
        )
    # A resume from `newest` dropped the row of that step, and has not reached the step again.
    dropped = not rows and loaded.step > newest
    if not dropped and (not rows or rows[-1]["loss"] != loaded.loss):
        differing.append(f"loss at step {loaded.step}")
    if differing:
        what = f"{folder / 'config.json'}: not what config.yaml and metrics.jsonl say: {', '.join(differing)}"
        yield fault(what, "restore the file that has changed")
    else:
        parameters = f"{loaded.model.num_parameters():,} parameters"
        prefers = isinstance(run.settings, Config) and run.settings.loss.name == "dpo"
        loss = f"{loaded.loss:.4f} nats a {'pair' if prefers else 'token'}"
        yield ok(f"{folder}: verified; step {loaded.step}, {loss}, {parameters}")


def reference(run: ExaminedRun) -> Iterator[Finding]:
    """Verifies the log-probabilities that a run on preferences goes on with."""
    if not isinstance(run.settings, Config) or run.settings.loss.name != "dpo" or not run.newest:
        return
    path = reference_path(run.path)
    try:
        found = read_reference(path)
        yield ok(f"{path}: verified; {sum(map(len, found.log_probs.values())):,} answers")
    except UserError as error:
        yield fault(message_of(error), f"restore {path} from a copy, or start a new run")


def metrics(run: ExaminedRun) -> Iterator[Finding]:
    """Compares each line of metrics.jsonl and timing.jsonl with its checksum."""
    for path in (run.path / "metrics.jsonl", run.path / "timing.jsonl"):
        if not path.is_file():
            logged = run.settings.trainer.log_every_n_steps if isinstance(run.settings, Config) else 0
            if run.newest and run.newest[0] >= logged:
                yield warning(f"{path}: missing", "restore it from a copy: the curve of the steps made is in it")
            else:
                yield ok(f"{path}: not there yet: the first logged step writes it")
            continue
        rows, bad, missing = parse_rows(path)
        if bad:
            lines = ", ".join(map(str, bad[:10])) + ", …" * (len(bad) > 10)
            yield fault(
                f"{path}: line {lines} cannot be read",
                "restore it from a copy, or go on without: what reads the file leaves damaged lines out",
            )
        elif missing > 0:
            yield fault(
                f"{path}: cut off, {missing} lines or more are missing", "restore it from a copy, or go on without"
            )
        elif missing < 0:
            yield warning(f"{line_checksums(path)}: damaged", f"{run.resume} writes it anew; the rows are kept")
        elif not path.read_bytes().endswith(b"\n") and path.stat().st_size:
            yield warning(f"{path}: its last line is cut off", f"{run.resume} drops it and writes it again")
        else:
            yield ok(f"{path}: {len(rows)} rows")


def samples(run: ExaminedRun) -> Iterator[Finding]:
    """Checks that samples.md is UTF-8."""
    path = run.path / "samples.md"
    if path.is_file():
        try:
            path.read_bytes().decode()
            yield ok(f"{path}: UTF-8")
        except UnicodeDecodeError as error:
            yield warning(
                f"{path}: a damaged byte at {error.start}", "it is a record alone: a resumed run keeps the rest"
            )


def prepared_data(run: ExaminedRun) -> Iterator[Finding]:
    """Verifies every byte of the run's prepared text, which its fingerprints identify."""
    if not isinstance(run.settings, Config):
        return  # config.yaml names their folder
    corpus = Path(run.settings.data.dir) / run.settings.data.name
    metadata = next((metadata for _, metadata in run.states if isinstance(metadata, dict)), {})
    if not metadata:
        try:
            metadata = {"tokenizer": load_tokenizer(model_folder(run.path)).fingerprint}
            metadata |= {"data": known} if (known := data_fingerprint(run.path)) else {}
        except UserError:
            yield warning(f"{corpus}: not checked", "no checkpoint and no model says which of it is this run's")
            return
    again = f"{run.resume} prepares it anew from the text"
    own: list[Prepared] = []
    others: list[Prepared] = []
    damaged: list[Finding] = []
    for folder in sorted(path for path in corpus.glob("prepared-*") if path.is_dir()):
        try:
            prepared = open_prepared(folder)
        except UserError as error:
            damaged.append(fault(message_of(error), f"delete {folder}: {again}"))
            continue
        same_text = metadata.get("data") in (None, prepared.manifest["sha256"])
        same_pieces = metadata["tokenizer"] == prepared.tokenizer.fingerprint
        (own if same_text and same_pieces else others).append(prepared)
    for prepared in own:
        try:
            tokens = _verify(prepared)
            how = "" if "data" in metadata else "; known by its tokenizer alone: the run does not say which text it had"
            yield ok(f"{prepared.folder}: every byte verified, {tokens:,} tokens{how}")
        except UserError as error:
            yield fault(message_of(error), f"delete {prepared.folder}: {again}")
    yield from damaged
    if not own and not damaged:
        found = [f"{other.folder} has the tokenizer {other.tokenizer.fingerprint[:12]}" for other in others]
        yield warning(
            "; ".join([f"{corpus}: no text of this run, whose tokenizer is {metadata['tokenizer'][:12]}", *found]),
            f"run this command in the folder where the training was started; {again}",
        )


def _verify(prepared: Prepared) -> int:
    """Verifies a prepared text and its parts; returns the number of tokens in all splits.

    Raises:
        UserError: when a file is damaged; the message names it.
    """
    count = sum(map(_verify, prepared.parts))
    if isinstance(prepared, Conversations):
        for split in SPLITS:
            prepared.learned(split)  # verifies the mask
    for split in SPLITS:
        metadata, text = prepared.manifest["splits"][split], prepared.folder / f"{split}.txt"
        if prepared.has_text and not prepared.parts:
            prepared.verify_text(split)
        lossless = not isinstance(prepared.tokenizer, SentencePieceTokenizer)
        small = prepared.has_text and metadata["text_bytes"] < DECODE_BELOW and lossless
        decoded = hashlib.sha256()
        for name, checksum in metadata["shards"].items():
            fingerprint = prepared.tokenizer.fingerprint
            shard = open_shard(prepared.folder / name, tokenizer=fingerprint, verify=True, index_sha256=checksum)
            count += len(shard.tokens)
            if small:
                decoded.update(prepared.tokenizer.decode_bytes(shard.tokens.tolist()))
        # Version 0.1 wrote no checksum of the text: it is compared with its decoded tokens.
        if small and metadata["shards"] and hashlib.sha256(text.read_bytes()).digest() != decoded.digest():
            raise UserError(f"{text}: other bytes than its tokens stand for")
    return count


def resume(run: ExaminedRun) -> Iterator[Finding]:
    """Reports the step from which a resume would continue, and its command."""
    if not isinstance(run.settings, Config):
        return  # no run resumes without its settings
    steps = run.settings.trainer.max_steps
    sound = next((folder for folder, metadata in run.states if isinstance(metadata, dict)), None)
    if sound:
        step = _step(sound)
        why, words = run.ended
        if step < steps and why:
            go_on = f"{run.resume}{words}"
            yield ok(f"{run.path}: was ended by {why} at step {step} of {steps}; to go on all the same: {go_on}")
        elif step < steps:
            yield ok(f"{run.path}: can go on from step {step} of {steps}: {run.resume}")
        else:
            yield ok(f"{run.path}: has made its {steps} steps; to go on: {run.resume} trainer.max_steps={2 * steps}")
    elif run.states:
        start = shell(*program("train"), f"init_from={argument(run.path)}")
        advice = f"start a new run from the weights in model/: {start}"
        try:
            load_run(run.path)
        except UserError:
            advice = "restore one from a copy; model/ has no sound weights to start from either"
        yield fault(f"{run.path}: every checkpoint is damaged", advice)
    else:
        yield warning(f"{run.path}: no checkpoint yet", f"{run.resume} starts again at step 0")


def _step(folder: Path) -> int:
    return int(folder.name.split("_")[1])


def space(run: ExaminedRun) -> Iterator[Finding]:
    """Checks disk space for the next checkpoint, written before the oldest is deleted."""
    sizes = [sum(path.stat().st_size for path in folder.glob("*")) for folder in checkpoints(run.path)]
    if not sizes:
        return
    free, needed = shutil.disk_usage(run.path).free, max(sizes)
    what = f"{run.path}: a checkpoint takes {size_of(needed)}, and {size_of(free)} are free"
    if free < needed + 2**20:
        yield fault(what, "make room before going on: the next checkpoint cannot be saved")
    elif free < 3 * needed + 2**20:
        yield warning(what, "make room: two checkpoints are kept, and a third is written beside them")
    else:
        yield ok(what)
