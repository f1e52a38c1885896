"""From a prepared cohort on disk to batches on devices.

A training batch comes about in this order: the whole split is shuffled (anew in each epoch; a method may draw in another
way), the global batch of a step is cut out, each host takes its contiguous part, threads read and decode it, and the parts
are placed on devices. Every batch is a pure function of (seed, step): there is no state of an iterator to save.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from jaxtyping import Int

from equipoise.engine import hosts
from equipoise.engine.config import Data
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.transforms import spatial

MASK = "mask"  # the label of a task whose target is the mask


def open_builder(cohort: str, data_dir: pathlib.Path) -> tfds.core.DatasetBuilder:
    """Opens the newest prepared version of a cohort such as ``"simba/near_4mm"``; the code of its builder is not needed.

    Raises:
      UserError: when it is not prepared there, with the command that prepares it.
    """
    root = pathlib.Path(data_dir) / cohort
    versions = [p.parent for p in root.glob("*.*.*/dataset_info.json")]
    if not versions:
        prepared = sorted(
            {
                str(p.parent.parent.relative_to(data_dir))
                for p in pathlib.Path(data_dir).glob("**/dataset_info.json")
            }
        )
        raise UserError(
            f"cohort {cohort!r} is not prepared in {data_dir}.{did_you_mean(cohort, prepared)} "
            f"Prepare it with `equipoise prepare --cohort={cohort}`, or point --data_dir (or EQUIPOISE_DATA) elsewhere. "
            f"Prepared there: {', '.join(prepared) or 'nothing'}"
        )
    newest = max(versions, key=lambda p: tuple(int(x) for x in p.name.split(".")))
    return tfds.builder_from_directory(newest)


class _Kept:
    """A source that keeps what it has decoded, up to a limit: a small cohort is read once, however many epochs there are."""

    def __init__(self, source: Any, limit: int = 1 << 29):
        """Wraps ``source``; ``limit`` is in bytes of images and masks."""
        self._source, self._left = source, limit
        self._kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._kept.get(index)
        if example is None:
            example = self._source[index]
            size = sum(example[name].nbytes for name in ("image", "mask") if name in example)
            # Two threads that read the same image at once count it twice; then only less is kept.
            if size <= self._left:
                self._left -= size
                self._kept[index] = example
        return example


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a prepared cohort, with random access.

    Attributes:
      cohort: its name, such as ``simba/near_4mm``.
      name: the split's name.
      source: ``source[i]`` reads and decodes example ``i``.
      builder: the prepared cohort.
    """

    cohort: str
    name: str
    source: Any
    builder: tfds.core.DatasetBuilder

    def __len__(self) -> int:
        return len(self.source)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the builder recorded of the cohort: regions, design, positive classes, ..."""
        return dict(self.builder.info.metadata or {})

    def vocabulary(self, group: str) -> dict[str, list[str] | None]:
        """Levels of every label or attribute (``group`` is "labels" or "attributes"); None where it is a number."""
        features = self.builder.info.features
        fields = features[group].items() if group in features else ()
        return {k: list(f.names) if hasattr(f, "names") else None for k, f in fields}

    @functools.cached_property
    def columns(self) -> pd.DataFrame:
        """Everything except pixels, one row per image in storage order: scan_id, subject_id, labels, attributes.

        Levels of attributes are strings; ``label:NAME`` holds labels as the stored numbers.
        """
        features = self.builder.info.features
        skip = {name: tfds.decode.SkipDecoding() for name in ("image", "mask") if name in features}
        without_pixels = self.builder.as_data_source(split=self.name, decoders=skip)
        levels = self.vocabulary("attributes")
        rows = []
        for place in range(len(without_pixels)):
            example = without_pixels[place]
            row = {name: example[name].decode() for name in ("scan_id", "subject_id")}
            row |= {f"label:{name}": value for name, value in example.get("labels", {}).items()}
            for name, value in example.get("attributes", {}).items():
                row[name] = levels[name][value] if levels[name] is not None else float(value)
            rows.append(row)
        return pd.DataFrame(rows)

    def target(self, label: str) -> np.ndarray:
        """[n] the label of every image: a class index or a number; 0 for every mask, since masks count as one class."""
        return np.zeros(len(self), np.int64) if label == MASK else self.columns[f"label:{label}"].to_numpy()

    @property
    def labels(self) -> list[str]:
        """Names of what can be predicted: labels, and ``mask`` where there are masks."""
        return [*self.vocabulary("labels"), *([MASK] if MASK in self.builder.info.features else [])]

    @functools.cached_property
    def image_shape(self) -> tuple[int | None, ...]:
        """[*spatial, channel] as the cohort declares it; None along an axis whose size varies."""
        return tuple(self.builder.info.features["image"].shape)


def open_split(cohort: str, split: str, data_dir: pathlib.Path) -> Split:
    """Opens one split.

    Raises:
      UserError: when the cohort is not prepared or has no such split.
    """
    builder = open_builder(cohort, data_dir)
    if split not in builder.info.splits:
        names = list(builder.info.splits)
        raise UserError(
            f"cohort {cohort!r} has no split {split!r}.{did_you_mean(split, names)} It has: {', '.join(names)}"
        )
    return Split(cohort, split, _Kept(builder.as_data_source(split=split)), builder)


def batch_shape(split: Split, config: Data) -> tuple[int, ...]:
    """[*spatial, channel] of one image as it reaches the model.

    Raises:
      UserError: when sizes vary and ``data.shape`` is not set, or does not fit the number of dimensions.
    """
    stored = split.image_shape
    if config.shape:
        if len(config.shape) != len(stored) - 1:
            raise UserError(f"--config.data.shape={config.shape} for images of {len(stored) - 1} dimensions")
        return (*config.shape, stored[-1])
    if None in stored:
        raise UserError(f"images of {split.cohort!r} differ in size {stored}: set --config.data.shape")
    return stored


def _decode(example: dict[str, Any], label: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays of one stored example that a batch holds. Integers stay integers: they travel four times faster."""
    cut = {"image": example["image"], "scale": example["scale"]}
    if label == MASK:
        cut |= {"mask": example["mask"], "spacing": example["spacing"], "target": np.int32(0)}
    else:
        target = np.asarray(example["labels"][label])
        cut["target"] = target.astype(np.int32 if target.dtype.kind in "iu" else np.float32)
    for name in ("image", "mask"):
        if name in cut and cut[name].shape[: len(shape)] != tuple(shape):
            cut[name] = spatial.crop_or_pad(cut[name], shape)
    return cut


def _group(group: Int[np.ndarray, " n"] | None, row: int) -> dict[str, np.ndarray]:
    """The entry ``group`` of one row; empty where there are no groups."""
    return {} if group is None else {"group": np.int32(group[row])}


def read(
    split: Split, rows: list[int], config: Data, label: str, group: Int[np.ndarray, " n"] | None = None
) -> dict[str, np.ndarray]:
    """Reads a batch of chosen rows at once, without threads.

    Args:
      split: the split to read.
      rows: the rows of the batch.
      config: shape of the images.
      label: which label is the target.
      group: [n] the group of every row of the split, which the batch then holds as ``group`` [b].
    """
    shape = batch_shape(split, config)[:-1]
    examples = [_decode(split.source[row], label, shape) | _group(group, row) for row in rows]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def shuffled(rows: Int[np.ndarray, " n"], seed: int) -> grain.MapDataset:
    """An endless order of rows: each row once per epoch, each epoch in another order."""
    return grain.MapDataset.source(rows).seed(seed).shuffle().repeat()


class _HostPart(grain.MapDataset):
    """(position in the global batch, row) of this host's contiguous part of every global batch, in order."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, host: int, num_hosts: int):
        super().__init__(parent)
        self._batch, self._host, self._part = batch_size, host, batch_size // num_hosts

    def __len__(self) -> int:
        return len(self._parent) // self._batch * self._part

    def __getitem__(self, index: int) -> tuple[int, Any]:
        step, place = divmod(index, self._part)
        position = self._host * self._part + place
        return position, self._parent[step * self._batch + position]


class TrainBatches:
    """The endless, shuffled stream of training batches of this host.

    ``batches.at(step)`` is a pure function of (seed, step); :meth:`iterate` yields the same batches, read ahead.
    """

    def __init__(
        self,
        split: Split,
        config: Data,
        label: str,
        seed: int,
        host: int | None = None,
        num_hosts: int | None = None,
        *,
        order: grain.MapDataset | None = None,
        group: Int[np.ndarray, " n"] | None = None,
    ):
        """Describes the stream; reads nothing yet.

        Args:
          split: the split to read.
          config: size of the global batch, shape of the images, threads.
          label: which label is the target.
          seed: the run's seed.
          host: index of this process; by default the real one.
          num_hosts: how many processes there are; by default the real number.
          order: the row that draw ``step * batch_size + place`` gives; by default :func:`shuffled`.
          group: [n] the group of every row of the split, which batches then hold as ``group`` [b].

        Raises:
          UserError: for an empty split, a missing label, or a batch that does not divide among hosts.
        """
        host, num_hosts = (hosts.index() if host is None else host), (num_hosts or hosts.count())
        check_label(split, label)
        if not len(split):
            raise UserError(f"split {split.name!r} of {split.cohort!r} is empty")
        if config.batch_size % num_hosts:
            raise UserError(
                f"--config.data.batch_size={config.batch_size} does not divide among {num_hosts} hosts"
            )
        shape = batch_shape(split, config)[:-1]
        order = shuffled(np.arange(len(split)), seed) if order is None else order
        part = _HostPart(order, config.batch_size, host, num_hosts)

        def read_example(item: tuple[int, int]) -> dict[str, np.ndarray]:
            position, row = item
            arrays = _decode(split.source[row], label, shape) | _group(group, row)
            return arrays | {"position": np.int32(position), "weight": np.float32(1)}

        self._batches = part.map(read_example).batch(config.batch_size // num_hosts)
        self._options = grain.ReadOptions(
            num_threads=config.num_threads, prefetch_buffer_size=config.prefetch
        )

    def at(self, step: int) -> dict[str, np.ndarray]:
        """The batch of update ``step`` (counted from 0)."""
        return self._batches[step]

    def iterate(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from update ``start`` on, decoded by threads ahead of use."""
        return iter(self._batches[start:].to_iter_dataset(self._options))


def check_label(split: Split, label: str) -> None:
    """Raises UserError when the cohort has no such label."""
    if label not in split.labels:
        raise UserError(
            f"cohort {split.cohort!r} has no label {label!r}.{did_you_mean(label, split.labels)} "
            f"It has: {', '.join(split.labels) or 'none'}"
        )


def check_classes(split: Split, label: str, classes: tuple[str, ...]) -> None:
    """Raises UserError when a cohort's label does not have the classes that a model was trained on, in that order."""
    check_label(split, label)
    known = split.metadata.get("mask_classes") if label == MASK else split.vocabulary("labels")[label]
    if tuple(known or ()) != tuple(classes):
        raise UserError(
            f"label {label!r} is {known} in {split.cohort!r}, but the run was trained on {list(classes)}"
        )


def eval_batches(
    split: Split,
    config: Data,
    label: str,
    multiple: int,
    host: int | None = None,
    num_hosts: int | None = None,
    *,
    group: Int[np.ndarray, " n"] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of batches that hold every example once; the last batch is padded.

    Args:
      split: the split to read.
      config: size of a batch in evaluation, shape of the images, threads.
      label: which label is the target.
      multiple: batches hold a multiple of this many examples (the number of devices).
      host: index of this process; by default the real one.
      num_hosts: how many processes there are; by default the real number.
      group: [n] the group of every row of the split, which batches then hold as ``group`` [b].

    Yields:
      Batches as in training, with ``index`` [b], the row of each example; in padding ``index`` is -1 and ``weight`` 0.
    """
    host, num_hosts = (hosts.index() if host is None else host), (num_hosts or hosts.count())
    check_label(split, label)
    shape = batch_shape(split, config)[:-1]
    size = -(-min(config.eval_batch_size, len(split)) // multiple) * multiple
    count = -(-len(split) // size)

    def read_example(item: tuple[int, int]) -> dict[str, np.ndarray]:
        position, row = item
        is_real, row = row < len(split), min(row, len(split) - 1)
        arrays = _decode(split.source[row], label, shape) | _group(group, row)
        return arrays | {
            "index": np.int32(row if is_real else -1),
            "position": np.int32(position),
            "weight": np.float32(is_real),
        }

    part = _HostPart(grain.MapDataset.range(count * size), size, host, num_hosts)
    dataset = part.map(read_example).batch(size // num_hosts)
    options = grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=config.prefetch)
    return iter(dataset.to_iter_dataset(options))


class Waiting:
    """Wraps an iterator and counts the seconds that its consumer has waited for it.

    Attributes:
      seconds: waited so far.
    """

    def __init__(self, iterator: Iterator[Any]):
        self._iterator, self.seconds = iterator, 0.0

    def __iter__(self) -> "Waiting":
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            self.seconds += time.perf_counter() - start
