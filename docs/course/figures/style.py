"""The look of all figures of the course, and how they are saved.

    from style import BLUE, new, save

    figure, axes = new(width=7, height=3.5)
    axes.plot(steps, losses, color=BLUE)
    save(figure, "10_schedules")  # docs/course/images/10_schedules.png

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart. Neighbours of
`COLOURS` differ in lightness as well; lines and bars also differ by marker or hatch where a reader
must tell more than three of them apart in grey.
"""

import io
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

# The test of the scripts names another folder.
IMAGES = Path(os.environ.get("COURSE_IMAGES", Path(__file__).resolve().parents[1] / "images"))
WIDEST = 1400  # pixels
LARGEST = 120_000  # bytes
DPI = 170

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
GREY = "#6B6B6B"  # for what is not the subject: baselines, guides, notes
# In this order for the series of one plot; yellow is too pale for a line on white.
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
SEQUENTIAL = "cividis_r"  # of matrices of weights: from pale (0) to dark, even for the colour-blind
DIVERGING = "PuOr"  # of matrices with a sign: white is 0

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
        "axes.prop_cycle": plt.cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.6,
        "image.cmap": SEQUENTIAL,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "course",
    }
)


def new(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 3.6, **options: Any
) -> tuple[Figure, Any]:
    """Returns a figure and its axes, as `plt.subplots` does.

    Args:
        rows: of axes.
        columns: of axes.
        width: inches, at most 8.2: text of 10 points is then readable on a phone.
        height: inches.
        options: further arguments of `plt.subplots`.
    """
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), **options)
    return figure, axes


def save(figure: Figure, name: str) -> Path:
    """Writes `docs/course/images/NAME.png` with at most 256 colours, and closes the figure.

    Raises:
        ValueError: for a name that does not begin with the chapter's number, and for a picture
            that is wider than WIDEST or larger than LARGEST.
    """
    if not (name[:2].isdigit() and name[2:3] == "_"):
        raise ValueError(f"{name}: a picture's name begins with its chapter's number, as in 05_attention")
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=DPI)
    plt.close(figure)
    picture = Image.open(raw).convert("RGB")
    if picture.width > WIDEST:
        raise ValueError(
            f"{name}: {picture.width} pixels wide, above {WIDEST}: width={WIDEST / DPI:.1f} inches is the most"
        )
    few = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    optimised = io.BytesIO()
    few.save(optimised, format="png", optimize=True)
    if optimised.tell() > LARGEST:
        raise ValueError(f"{name}: {optimised.tell():,} bytes, above {LARGEST:,}: draw less, or smaller")
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"{name}.png"
    path.write_bytes(optimised.getvalue())
    print(f"{path.name}: {few.width} x {few.height} pixels, {optimised.tell():,} bytes")
    return path
