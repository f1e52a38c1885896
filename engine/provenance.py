"""What a prediction table says of where its numbers come from."""

import pandas as pd

from equipoise.engine.config import Run, fingerprint


def stamp(
    frame: pd.DataFrame, config: Run, step: int, threshold: float, threshold_split: str
) -> pd.DataFrame:
    """Adds the provenance of a table's numbers: the threshold and the split it was chosen on, the checkpoint, fingerprints."""
    mark = fingerprint(config)
    where = 1 + max(
        i for i, c in enumerate(frame.columns) if c in ("split", "target") or c.startswith("score")
    )
    stamped = frame.copy()
    provenance = {
        "threshold": threshold,
        "threshold_split": threshold_split,
        "checkpoint_step": step,
        "checkpoint_fingerprint": f"{mark}-{step}",
        "config_fingerprint": mark,
    }
    for offset, (name, value) in enumerate(provenance.items()):
        stamped.insert(where + offset, name, value)
    return stamped
