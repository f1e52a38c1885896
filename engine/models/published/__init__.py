"""Parameters that others trained and published, for our models to start from.

:mod:`~equipoise.engine.models.published.files` reads a file; each publisher has a module with its ``LAYOUT``: how its names
become ours. A new publisher is such a module, and one entry of :data:`LAYOUTS`.
"""

import pathlib
from typing import Any

from equipoise.engine.errors import UserError
from equipoise.engine.models.published import sam, vit
from equipoise.engine.models.published.files import read
from equipoise.engine.models.published.layout import Layout, fill

__all__ = ["LAYOUTS", "Layout", "load", "read"]

LAYOUTS = (sam.LAYOUT, vit.LAYOUT)


def load(path: str | pathlib.Path, variables: Any) -> Any:
    """Fresh variables with the parameters of a published file in their places.

    Args:
      path: ``.pth`` or ``.safetensors`` of SAM or MedSAM, or ``.npz`` of a vision transformer.
      variables: ``{"params": ..., "batch_stats": ...}`` of the model.

    Raises:
      UserError: for a file that does not read or is of no known publisher; for one that does not fit the model, with every
        parameter that it lacks, that has no place in the model, or has another shape.
    """
    path = pathlib.Path(path)
    arrays = read(path)
    for layout in LAYOUTS:
        if layout.is_of(arrays):
            return fill(layout, arrays, variables, source=str(path))
    publishers = " nor ".join(layout.publisher for layout in LAYOUTS)
    raise UserError(f"{path} is neither {publishers}; it begins with {', '.join([*arrays][:3])}")
