"""The report of a study: its records -> `Results` -> blocks -> terminal, JSON, one HTML page."""

from pathlib import Path
from tempfile import TemporaryDirectory

from llm_from_scratch.errors import UserError
from llm_from_scratch.files import write_file
from llm_from_scratch.pages import html_page
from llm_from_scratch.rating.blocks import blocks
from llm_from_scratch.rating.statistics.analysis import Records, analyse
from llm_from_scratch.rating.statistics.metrics import read_evaluation
from llm_from_scratch.rating.statistics.results import Results
from llm_from_scratch.rating.store import Study


def records_of(study: Study, evaluation: Path | None = None) -> Records:
    """Returns the records of a study; `evaluation`: a report.json of `evaluate`, for its metrics.

    Raises:
        UserError: when `evaluation` cannot be read, or has none of the study's runs.
    """
    plan = study.plan
    scales = plan.design == "scales"
    return Records(
        title=plan.title,
        design=plan.design,
        systems=plan.names,
        questions=[question.name for question in plan.questions] if scales else [],
        ratings=study.ratings() if scales else [],
        preferences=[] if scales else study.preferences(),
        checks=study.checks(),
        texts=study.texts,
        items=study.items,
        of_systems=read_evaluation(evaluation, plan.systems) if evaluation else {},
        closed=study.closed,
    )


def results_of(folder: Path, evaluation: Path | None = None) -> Results:
    """Opens the study of a folder, and analyses it.

    Raises:
        UserError: when there is no study, or no rating yet.
    """
    with Study.open(folder) as study:
        records = records_of(study, evaluation)
    return analyse(records)


def write_page(results: Results, path: Path) -> None:
    """Writes the report as one HTML page that needs no network.

    Raises:
        UserError: when the file cannot be written.
    """
    from llm_from_scratch.rating.figures import draw

    with TemporaryDirectory() as folder:
        page = html_page(blocks(results, draw(results, Path(folder))), Path(folder))
    try:
        write_file(path, page)
    except OSError as error:
        raise UserError(f"--html {path} cannot be written ({error.strerror}): name another file") from None
