"""What a run ends with: curves that can be read, and what one batch learned by heart says."""

from pathlib import Path

import matplotlib.figure
import pytest

from llm_from_scratch.run import append_row
from llm_from_scratch.training.results import draw_curves, learned_by_heart, print_results


def rows(run: Path, losses: list[float | None], validation: dict[int, float]) -> Path:
    """A run folder's metrics.jsonl: a training row a step, validations at their steps."""
    run.mkdir(exist_ok=True)
    for step, loss in enumerate(losses, start=1):
        append_row(run / "metrics.jsonl", {"step": step, "split": "train", "loss": loss, "lr": 1e-3, "grad_norm": 1.0})
        if step in validation:
            figures = {"loss": validation[step], "bits_per_byte": validation[step] / 2, "perplexity": 9.0}
            append_row(run / "metrics.jsonl", {"step": step, "split": "val"} | figures)
    return run


@pytest.mark.parametrize(
    ("losses", "validation", "scale"),
    [
        # One batch, learned by heart
        ([7.0 * 0.9**step for step in range(200)], {200: 9.57}, "log"),
        ([6.9 - 0.01 * step for step in range(400)], {200: 5.0, 400: 3.2}, "linear"),
        ([6.9 - 0.01 * step for step in range(400)], {10: 5.0, 400: 6.2}, "linear"),
    ],
)
def test_curves_fill_their_axes_and_words_stay_inside(
    losses: list[float | None],
    validation: dict[int, float],
    scale: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    save = matplotlib.figure.Figure.savefig

    def saved(figure: matplotlib.figure.Figure, *arguments: object, **settings: object) -> None:
        save(figure, *arguments, **settings)  # type: ignore[arg-type]
        loss, lr = figure.axes
        course, place = loss.lines[1].get_xydata(), loss.get_window_extent()
        pixels = loss.transData.transform(course)[:, 1]
        drawn.append((loss.get_yscale(), (pixels.max() - pixels.min()) / place.height))
        (words,) = loss.texts
        extent = words.get_window_extent()
        assert place.y0 <= extent.y0 < extent.y1 <= place.y1 + 1
        assert place.x0 <= extent.x0 < extent.x1 <= place.x1 + 1
        assert lr.get_ylim()[0] == 0

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", saved)
    draw_curves(rows(tmp_path, losses, validation))
    ((found, share),) = drawn
    assert found == scale
    assert share > 0.5  # of the height


def test_one_batch_says_whether_it_was_learned_by_heart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = rows(tmp_path / "learned", [6.9, None, 1.0, 0.0123, None], {5: 9.5})
    assert learned_by_heart(learned).startswith(
        "One batch was learned by heart: its loss went from 6.9 to 0.0123 nats a token."
    )
    stuck = rows(tmp_path / "stuck", [6.9, 3.0, 2.5], {3: 9.5})
    assert learned_by_heart(stuck).startswith(
        "One batch was not learned by heart: its loss went from 6.9 to 2.5 nats a token, and should come below 0.1."
    )
    print_results(stuck, 10, "Dorothy", board=True, overfit=True)
    assert capsys.readouterr().err.splitlines()[-1] == learned_by_heart(stuck)
    print_results(stuck, 10, "Dorothy", board=True)
    assert "by heart" not in capsys.readouterr().err
