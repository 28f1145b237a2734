"""All checks of the doctor; each is independent of the success of the others."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from llm_from_scratch.doctor.findings import Finding, fault
from llm_from_scratch.doctor.machine import bfloat16, compiler, corpora, disk, processors, versions
from llm_from_scratch.doctor.run import (
    ExaminedRun,
    configuration,
    environment,
    links,
    metrics,
    model,
    owner,
    prepared_data,
    resume,
    samples,
    space,
    states,
)
from llm_from_scratch.errors import UserError, message_of


def examine(run: Path | None = None) -> Iterator[Finding]:
    """Yields the findings of all checks of this machine and, unless `run` is None, of that run
    folder.

    Raises:
        UserError: when `run` is not a folder.
    """
    if run is not None and not run.is_dir():
        raise UserError(f"{run}: there is no such folder; name a run, such as one of outputs/*/*, or last")
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
                ("metrics", metrics),
                ("samples", samples),
                ("prepared data", prepared_data),
                ("resume", resume),
                ("space", space),
            )
        ]
    for name, one in checks:
        try:
            yield from one()
        except Exception as error:  # becomes a finding; the other checks still run
            yield fault(
                f"{name}: {type(error).__name__}: {message_of(error)}", "this check could not be made; the others were"
            )
