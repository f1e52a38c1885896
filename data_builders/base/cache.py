"""Decoded scans on disk, so that slow preprocessing is done once and continues after it was stopped.

A TFDS build that is stopped starts again from the beginning. A cohort whose scans take long to decode therefore fills a
:class:`DecodedCache` first, in parallel. Every decoded scan is a file of its own, and a second start decodes only the scans
that are missing. The name of a file is a digest of the identity of the raw files (resolved path, bytes, time of change) and
of the preprocessing settings, so that a changed file or setting is decoded again and no name shows a path.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import rich.progress
import rich.text

from equipoise.data_builders.base.readers import Pixels, UnreadableScan
from equipoise.engine import files

Item = TypeVar("Item")
_FORMAT = 2  # of the files; format 1 had no affine. Files of another format are never read: their scans are decoded again


class _Speed(rich.progress.ProgressColumn):
    """A column of a progress bar: scans per second."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        speed = task.finished_speed or task.speed
        return rich.text.Text(f"{speed:.1f} scans/s" if speed else "")


def progress() -> rich.progress.Progress:
    """Returns a progress bar with the count, scans per second, and the time that is left."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _Speed(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )


def tracked(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yields ``items`` while a progress bar counts them."""
    with progress() as bar:
        yield from bar.track(items, total, description=description)


def in_parallel(
    function: Callable[[Item], Any], items: Iterable[Item], threads: int
) -> Iterator[tuple[Item, Any]]:
    """Yields ``(item, function(item))`` in order; no more than four results per thread wait in memory."""
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while chunk := list(itertools.islice(items, 4 * threads)):
            yield from zip(chunk, pool.map(function, chunk), strict=True)


class DecodedCache:
    """Decoded scans under one folder, one file each."""

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any]):
        """Opens the cache without writing anything.

        Args:
          folder: of the cache; it may hold other files, which are left alone.
          settings: of the preprocessing, JSON values; other settings never read the same file.
        """
        self.folder = pathlib.Path(folder)
        self._settings = json.dumps(settings, sort_keys=True)

    def path(self, files: Sequence[pathlib.Path]) -> pathlib.Path:
        """Returns the path at which the scan decoded from these raw files is kept.

        Raises:
          UnreadableScan: when one of the raw files is missing.
        """
        identity = []
        for file in files:
            try:
                resolved = file.resolve(strict=True)
                state = resolved.stat()
            except OSError as error:
                raise UnreadableScan("file is missing") from error
            identity.append([str(resolved), state.st_size, state.st_mtime_ns])
        digest = hashlib.sha256(json.dumps([_FORMAT, identity, self._settings]).encode()).hexdigest()
        return self.folder / f"{digest[:40]}.npz"

    def get(self, files: Sequence[pathlib.Path], decode: Callable[[], Pixels]) -> Pixels:
        """Returns the decoded scan: from the cache, or made by ``decode`` and then kept.

        Raises:
          UnreadableScan: as ``decode`` does. The reason is not kept, so that a repaired file is read the next time.
        """
        path = self.path(files)
        pixels = _read(path)
        if pixels is not None:
            return pixels
        pixels = decode()
        _write(path, pixels)
        return pixels

    def fill(
        self,
        scans: Sequence[Item],
        files: Callable[[Item], Sequence[pathlib.Path]],
        decode: Callable[[Item], Pixels],
        description: str,
        threads: int,
    ) -> int:
        """Decodes in parallel the scans that are not in the cache yet, with a progress bar.

        Scans that cannot be read are left out. Loading them later raises the reason.

        Args:
          scans: to decode.
          files: returns the raw files of a scan.
          decode: reads a scan; it is called in several threads.
          description: text beside the bar.
          threads: number of threads that decode.

        Returns:
          The number of scans that were in the cache before.
        """
        num_cached = 0

        def was_cached(scan: Item) -> bool:
            try:
                path = self.path(files(scan))
                if _read(path) is not None:
                    return True
                _write(path, decode(scan))
            except UnreadableScan:
                pass
            return False

        with progress() as bar:
            task = bar.add_task(description, total=len(scans))
            for _, cached in in_parallel(was_cached, scans, threads):
                num_cached += cached
                bar.advance(task)
        return num_cached

    def remove(self) -> None:
        """Deletes the cached scans, and the folder if it is then empty; other files in it stay."""
        for pattern in ("*.npz", ".*.tmp"):
            for entry in self.folder.glob(pattern):
                if len(entry.name.strip(".").split(".")[0]) == 40:
                    entry.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or never made
            self.folder.rmdir()


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes arrays to a file that appears whole or not at all."""
    with files.replacing(path, sync=False) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Reads what :func:`write_arrays` wrote; None where there is no such file, or it is damaged (by its zip checksums)."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # a damaged file raises many kinds of error, and each means: make it again
        return None


def _write(path: pathlib.Path, pixels: Pixels) -> None:
    optional = {"mask": pixels.mask, "affine": pixels.affine}
    given = {name: values for name, values in optional.items() if values is not None}
    write_arrays(path, image=pixels.image, spacing=pixels.spacing, scale=np.asarray(pixels.scale), **given)


def _read(path: pathlib.Path) -> Pixels | None:
    arrays = read_arrays(path)
    if arrays is None or not {"image", "spacing", "scale"} <= arrays.keys():
        return None
    slope, intercept = arrays["scale"].tolist()
    return Pixels(
        arrays["image"], arrays["spacing"], (slope, intercept), arrays.get("mask"), arrays.get("affine")
    )
