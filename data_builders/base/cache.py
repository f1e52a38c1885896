"""Decoded scans on disk, so that slow preprocessing is paid once and goes on after a kill.

A TFDS build starts again when it is cut short. A cohort whose scans take long to decode therefore fills a
:class:`DecodedCache` first, in parallel; every finished scan is a file of its own, and a second start decodes only what
is not there. Files are named by a digest of the identity of the raw files (resolved path, bytes, time of change) and of
the preprocessing settings, so that a changed file or setting is decoded anew and no name tells a path.
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
_FORM = 2  # of entries; 1 had no affine. Entries of another form are never met, and made anew


class _Speed(rich.progress.ProgressColumn):
    """Scans per second."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        speed = task.finished_speed or task.speed
        return rich.text.Text(f"{speed:.1f} scans/s" if speed else "")


def progress() -> rich.progress.Progress:
    """A bar with count, scans per second, and the time that is left."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _Speed(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )


def tracked(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yields ``items`` while the bar counts them."""
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
        """Names the cache; nothing is written yet.

        Args:
          folder: of the cache; it may hold other files, which are left alone.
          settings: of the preprocessing, JSON values; other settings never meet the same entry.
        """
        self.folder = pathlib.Path(folder)
        self._settings = json.dumps(settings, sort_keys=True)

    def path(self, files: Sequence[pathlib.Path]) -> pathlib.Path:
        """Where the scan made of these raw files is kept.

        Raises:
          UnreadableScan: when one of them is missing.
        """
        identity = []
        for file in files:
            try:
                found = file.resolve(strict=True)
                state = found.stat()
            except OSError as error:
                raise UnreadableScan("file is missing") from error
            identity.append([str(found), state.st_size, state.st_mtime_ns])
        digest = hashlib.sha256(json.dumps([_FORM, identity, self._settings]).encode()).hexdigest()
        return self.folder / f"{digest[:40]}.npz"

    def get(self, files: Sequence[pathlib.Path], decode: Callable[[], Pixels]) -> Pixels:
        """The decoded scan, from the cache or else made by ``decode`` and kept.

        Raises:
          UnreadableScan: as ``decode`` does; a reason is not kept, so that a mended file is read the next time.
        """
        path = self.path(files)
        kept = _read(path)
        if kept is not None:
            return kept
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
        """Decodes in parallel what is not there yet, with a progress bar.

        Scans that cannot be read are passed over: whoever loads them hears the reason.

        Args:
          scans: to decode.
          files: the raw files of a scan.
          decode: reads a scan; called in several threads.
          description: beside the bar.
          threads: that decode.

        Returns:
          How many scans were already there.
        """
        found = 0

        def one(scan: Item) -> bool:
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
            for _, was_there in in_parallel(one, scans, threads):
                found += was_there
                bar.advance(task)
        return found

    def remove(self) -> None:
        """Deletes the entries, and the folders that are then empty; files of others stay."""
        for pattern in ("*.npz", ".*.tmp"):
            for entry in self.folder.glob(pattern):
                if len(entry.name.strip(".").split(".")[0]) == 40:
                    entry.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or never made
            self.folder.rmdir()


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Keeps arrays in a file that appears whole or not at all."""
    with files.replacing(path, sync=False) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """What :func:`write_arrays` kept, or None where there is none or its checksums (of the zip format) do not hold."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # damage shows in a dozen ways, and each means: make it again
        return None


def _write(path: pathlib.Path, pixels: Pixels) -> None:
    optional = {"mask": pixels.mask, "affine": pixels.affine}
    given = {name: values for name, values in optional.items() if values is not None}
    write_arrays(path, image=pixels.image, spacing=pixels.spacing, scale=np.asarray(pixels.scale), **given)


def _read(path: pathlib.Path) -> Pixels | None:
    found = read_arrays(path)
    if found is None or not {"image", "spacing", "scale"} <= found.keys():
        return None
    slope, intercept = found["scale"].tolist()
    return Pixels(
        found["image"], found["spacing"], (slope, intercept), found.get("mask"), found.get("affine")
    )
