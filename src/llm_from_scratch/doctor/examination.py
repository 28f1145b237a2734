"""All checks of the doctor; each is independent of the success of the others."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from llm_from_scratch.doctor.findings import Finding, fault
from llm_from_scratch.doctor.machine import bfloat16, compiler, corpora, disk, processors, versions
from llm_from_scratch.doctor.model import ExaminedModel, architecture, files, template, tokenizer, weights
from llm_from_scratch.doctor.run import (
    ExaminedRun,
    configuration,
    environment,
    links,
    metrics,
    model,
    owner,
    prepared_data,
    reference,
    resume,
    samples,
    space,
    states,
)
from llm_from_scratch.errors import UserError, message_of
from llm_from_scratch.pretrained import Source


def examine(run: Path | None = None, foreign: Source | None = None) -> Iterator[Finding]:
    """Yields the findings of all checks of this machine, of a run folder, of a model of others.

    Raises:
        UserError: when `run` is not a folder, or the file of `foreign` is not there.
    """
    if run is not None and not run.is_dir():
        raise UserError(f"{run}: there is no such folder; name a run, such as one of outputs/*/*, or last")
    if foreign is not None and not foreign.path.exists():
        raise UserError(f"{foreign.path}: there is no such file; name a .gguf file, or a folder with config.json")
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", versions),
        ("devices", processors),
        ("bfloat16", bfloat16),
        ("compiler", compiler),
        ("disk", disk),
        ("corpora", corpora),
    ]
    if run is not None:
        folder = ExaminedRun(run)
        checks += [
            (name, partial(of_run, folder))
            for name, of_run in (
                ("links", links),
                ("owner", owner),
                ("configuration", configuration),
                ("environment", environment),
                ("checkpoints", states),
                ("model", model),
                ("reference", reference),
                ("metrics", metrics),
                ("samples", samples),
                ("prepared data", prepared_data),
                ("resume", resume),
                ("space", space),
            )
        ]
    if foreign is not None:
        examined = ExaminedModel(foreign)
        checks += [
            (name, partial(of_model, examined))
            for name, of_model in (
                ("files", files),
                ("architecture", architecture),
                ("weights", weights),
                ("tokenizer", tokenizer),
                ("chat template", template),
            )
        ]
    for name, one in checks:
        try:
            yield from one()
        except Exception as error:  # becomes a finding; the other checks still run
            yield fault(
                f"{name}: {type(error).__name__}: {message_of(error)}", "this check could not be made; the others were"
            )
