"""The look of the report's figures: colours, markers, labels, and how a drawing becomes PNG, SVG and PDF.

The colours are Okabe and Ito's, which people with any colour vision can tell apart; groups also differ in marker and line.
"""

import base64
import functools
import io
import re
from collections.abc import Sequence

import matplotlib
import matplotlib.font_manager
import matplotlib.ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from equipoise.engine.report.page.page import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.")
INK, SOFT, LINE = "#1b1f24", "#57606a", "#d5dae0"
WIDTH = 5.0  # inches; at 400 px the text still reads
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "equipoise",  # equal reports are equal bytes
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # journals refuse fonts of type 3
}


def finish(
    canvas: Canvas, name: str, alt: str, caption: str, *, pixels: bool = False, is_wide: bool = False, paper: bool = False
) -> Figure:  # fmt: skip
    """Saves a drawing as a figure of the page.

    Args:
      canvas: the drawing.
      name: name of its files, without their ending.
      alt: description for readers who cannot see the figure.
      caption: text below the figure.
      pixels: whether the page holds the PNG instead of vectors, as for images.
      is_wide: whether the figure takes the page's full width.
      paper: whether a PDF is written as well.
    """
    png, shown, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
    canvas.savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    if pixels:
        source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    else:
        canvas.set_layout_engine("none")  # everything is in its place already
        canvas.savefig(shown, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
        source = f"data:image/svg+xml;base64,{base64.b64encode(shown.getvalue()).decode()}"
        if paper:
            canvas.savefig(
                pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
            )
    return Figure(name, alt, caption, png.getvalue(), source, is_wide, shown.getvalue(), pdf.getvalue())


def style() -> matplotlib.rc_context:
    """The settings that all figures share, as a context to draw and save in."""
    return matplotlib.rc_context(_STYLE)


def name_rows(axes: Axes, positions: Sequence[float], names: Sequence[str], texts: Sequence[str]) -> None:
    """Writes names left of a forest plot and numbers right of it.

    Args:
      axes: panel of the plot.
      positions: vertical positions of its rows.
      names: text left of each row.
      texts: text right of each row.
    """
    axes.set_yticks(positions, names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    for y, text in zip(positions, texts, strict=True):
        axes.annotate(
            text,
            (1, y),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )


def file_name(text: str) -> str:
    """The name of an attribute, metric or model as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", text.replace("*", "_x_").replace("|", "_by_")).strip("_")


@functools.cache
def _font() -> matplotlib.ft2font.FT2Font:
    return matplotlib.font_manager.get_font(matplotlib.font_manager.findfont("DejaVu Sans"))


def label(text: str, most: int = 26) -> str:
    """The text as Matplotlib can draw it: no mathematics, lines of at most ``most`` characters, ``‹5317›`` for one that its font lacks."""
    shown = "\n".join(line if len(line) <= most else line[: most - 1] + "…" for line in text.split("\n"))
    drawn = (c if c == "\n" or _font().get_char_index(ord(c)) else f"‹{ord(c):X}›" for c in shown)
    return "".join(drawn).replace("$", r"\$")
