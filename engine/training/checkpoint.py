"""Checkpoints: everything that must survive a restart, in one place, and the proof that it did.

Orbax writes asynchronously and atomically, but does not notice a flipped bit in its data files. So every leaf has a
checksum of our own, taken in memory before saving and checked after restoring.
"""

import copy
import hashlib
import math
import pathlib
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from equipoise.engine import hosts
from equipoise.engine.errors import UserError
from equipoise.engine.rundir import RunFolder
from equipoise.engine.update.state import TrainState


class Damaged(Exception):
    """A checkpoint that cannot be read, or does not hold what was saved."""


def checksums(tree: Any) -> dict[str, str]:
    """A digest of every leaf's dtype, shape and bytes, by path.

    The bytes are those of the whole array in row-major order, so that the digest does not depend on how the array is spread
    over devices and hosts, and every host finds the same. One leaf at a time is held in memory.
    """
    digests = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = hosts.whole(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
        head = f"{array.dtype}{array.shape}".encode()
        digest = hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=16)
        digests[jax.tree_util.keystr(path)] = digest.hexdigest()
    return digests


class Checkpoints:
    """The checkpoints of one run: the newest few, and the best by a validation metric.

    With the state goes ``extra``, a small JSON dictionary: whatever the loop must know to go on as if it had never stopped.
    As a context manager it closes itself.

    Attributes:
      folder: where they are.
    """

    def __init__(
        self, workdir: pathlib.Path, *, keep: int = 2, higher_is_better: bool = True, read_only: bool = False
    ):
        self._run = RunFolder(pathlib.Path(workdir).absolute())
        self.folder = self._run.checkpoints
        self._sign = 1 if higher_is_better else -1
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
        preserve = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                policies.BestN(get_metric_fn=self._goodness, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        verbosity = logging.get_verbosity()
        if read_only:
            logging.set_verbosity(logging.ERROR)  # Orbax warns that a read-only manager writes nothing
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else preserve,
                best_fn=self._goodness,  # without it Orbax stores no metric, and a restart forgets which was best
                read_only=read_only,
                create=False,
                enable_async_checkpointing=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
        )
        logging.set_verbosity(verbosity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _goodness(self, metrics: dict[str, Any]) -> float:
        value = metrics.get("best")
        return -math.inf if value is None or math.isnan(value) else self._sign * value

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, extra: dict[str, Any], best: float | None) -> None:
        """Starts saving, and returns once state and ``extra`` are copied: the caller may then change both.

        Args:
          state: the state to save, under its own step.
          extra: JSON values.
          best: the validation metric at this step; None where it was not evaluated.

        Raises:
          UserError: when this or the previous write failed (a full disk, most often).
        """
        step = int(state.step)
        meta = {"checksums": checksums(state), "extra": copy.deepcopy(extra)}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
                metrics={"best": best},
                force=True,
            )
        except Exception as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Returns when every save is on disk.

        Raises:
          UserError: when one failed.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._write_error(error) from error

    def _write_error(self, error: Exception) -> UserError:
        whole = [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()]
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "Run the same command again with --debug to see more"
        if "No space left" in str(error):
            reason, remedy = "no space left on device", "Free some space and run the same command again"
        last = (
            f"the last whole checkpoint is step {max(whole)}" if whole else "no checkpoint was written before"
        )
        return UserError(f"could not write a checkpoint to {self.folder}: {reason}; {last}. {remedy}.")

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Restores one step onto this run's shardings.

        Args:
          abstract: shapes, dtypes and shardings (:meth:`equipoise.engine.mesh.JitRunner.abstract`).
          step: the step to restore.

        Raises:
          Damaged: when a file is missing, truncated, or any leaf differs from what was saved.
        """
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
                ),
            )
            state, meta = restored["state"], restored["meta"]
            saved, read = meta["checksums"], checksums(state)
        except Exception as error:
            reason = str(error).strip().split(" [", 1)[0].split("\n", 1)[0][:200]
            raise Damaged(f"step {step} does not read: {type(error).__name__}: {reason}") from error
        wrong = sorted(path for path in saved.keys() | read.keys() if saved.get(path) != read.get(path))
        if wrong:
            raise Damaged(
                f"step {step} fails its checksum in {len(wrong)} of {len(saved)} arrays, e.g. {wrong[0]}"
            )
        return state, meta["extra"]

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest sound checkpoint, and sets damaged ones aside with a warning.

        Returns:
          (state, extra); None when there is no checkpoint.

        Raises:
          UserError: when checkpoints exist and not one is sound.
        """
        damaged = 0
        for step in reversed(self.steps()):
            try:
                return self.restore(abstract, step)
            except Damaged as error:
                damaged += 1
                aside = self._run.damaged
                name = f"{step}"
                while (aside / name).exists():
                    name += "_"
                logging.warning("checkpoint %s; set aside in %s, trying the one before", error, aside / name)
                if hosts.is_main():
                    aside.mkdir(exist_ok=True)
                    (self.folder / str(step)).rename(aside / name)
                hosts.wait(f"set aside {step}")
                self._manager.reload()
        if damaged:
            raise UserError(
                f"not one of {damaged} checkpoint(s) in {self.folder} is sound (set aside in 'damaged'). "
                "Run the same command again to start from step 0."
            )
        return None

    def forget_after(self, step: int) -> None:
        """Deletes checkpoints newer than ``step``."""
        for newer in [saved for saved in self.steps() if saved > step]:
            self._manager.delete(newer)

    def close(self) -> None:
        """Waits for writes and frees threads.

        Raises:
          UserError: when a write failed.
        """
        try:
            self._manager.close()
        except Exception as error:
            raise self._write_error(error) from error
