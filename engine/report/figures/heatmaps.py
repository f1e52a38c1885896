"""Heat maps: a score in every cell of two crossed attributes."""

from collections.abc import Sequence

import matplotlib.patches
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure as Canvas

from equipoise.engine.report.figures.style import INK, WIDTH, finish, label, style
from equipoise.engine.report.page.page import Figure


def heat(
    values: Float[np.ndarray, "r c"],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    name: str,
    heading: str,
    caption: str,
) -> Figure:
    """Draws a score in every cell of two crossed attributes; cells without a score are hatched.

    Args:
      values: score of each cell; NaN where there is none to show.
      texts: text of each cell.
      rows: levels of the first attribute.
      columns: levels of the second attribute.
      name: name of the figure.
      heading: what the colour means.
      caption: caption of the figure.
    """
    with style():
        size = (max(WIDTH, 1.3 * len(columns) + 1.6), 0.62 * len(rows) + 1.2)
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.subplots()
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        axes.set_facecolor("#eceff2")
        image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            is_dark = np.isfinite(value) and (value - low) / (high - low) < 0.55
            if not np.isfinite(value):
                axes.add_patch(
                    matplotlib.patches.Rectangle(
                        (j - 0.5, i - 0.5), 1, 1, fill=False, hatch="///", ec="#b4bcc5", lw=0
                    )
                )
            axes.text(
                j, i, texts[i][j], ha="center", va="center", fontsize=8.5, color="white" if is_dark else INK,
                bbox=None if np.isfinite(value) else {"fc": "white", "ec": "none", "pad": 1.5},
            )  # fmt: skip
        axes.set_xticks(range(len(columns)), [label(c, 14) for c in columns])
        axes.set_yticks(range(len(rows)), [label(r) for r in rows])
        axes.tick_params(length=0, labelcolor=INK)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(heading, loc="left", fontweight="bold", fontsize=10)
        if len(np.unique(known)) > 1:
            canvas.colorbar(image, ax=axes, shrink=0.8, aspect=18).outline.set_visible(False)
        cells = "; ".join(
            f"{r}, {c}: {texts[i][j]}".replace("\n", " ")
            for i, r in enumerate(rows)
            for j, c in enumerate(columns)
        )
        return finish(canvas, name, f"{heading}. {cells}.", caption)
