"""Figures as small PNG files that are the same at every drawing, for light and dark pages."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

DPI = 120


@dataclass(frozen=True)
class Theme:
    """Colours of a page; `suffix` ends the names of its figures' files."""

    suffix: str
    back: str
    text: str
    line: str

    @contextmanager
    def used(self) -> Iterator[None]:
        """Draws the figures of a `with` block in these colours."""
        style: dict[Any, Any] = {"axes.edgecolor": self.line, "grid.color": self.line}
        style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), self.text)
        style |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.back)
        with matplotlib.rc_context(style):
            yield


def drawn(figure: Figure, dpi: int = DPI) -> Image.Image:
    """Draws a figure without the upper and the right edge of its axes."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    # Without matplotlib's version, the same figures give the same bytes.
    figure.savefig(png, dpi=dpi, metadata={"Software": None})
    return Image.open(png).convert("RGB")


def save(image: Image.Image, path: Path, colours: int = 128) -> None:
    """Writes a picture as PNG, in so many colours: a third of the size, without a visible loss.

    Raises:
        OSError: when the file cannot be written.
    """
    image.quantize(colours).save(path, optimize=True)
