"""The form that data sets of the Harvard Ophthalmology AI Lab share: an NPZ file per person with image, mask and attributes.

Each of their data sets is a subclass of :class:`Harvard` that is little more than tables: the keys under which a file may
hold an image, a mask or an attribute, the meaning of the codes of masks and attributes, and the place of published lists.
"""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from equipoise.data_builders.base import cache, settings, splits
from equipoise.data_builders.base.cohort import Cohort
from equipoise.data_builders.base.readers import Pixels, UnreadableScan, read_npz
from equipoise.data_builders.base.schema import Scan, Schema
from equipoise.engine.errors import UserError
from equipoise.engine.vocabulary import UNKNOWN

_UNKNOWN_CODE = -1
_MOST_YEARS = 130  # an age above this is in days
_DAYS_PER_YEAR = 365.25
_ELDERLY = 60  # years; splits are balanced between the two age groups that are usual in this field
_FOLDERS = {
    "training": "train", "train": "train", "validation": "validation", "val": "validation", "test": "test",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Field:
    """A label or an attribute as the files hold it.

    Attributes:
      keys: under which a file may hold it; the first that the file has is read.
      levels: the word of code 0, 1, ...; empty for a number. Code -1 means unknown. Codes without a word are read as
        unknown too, and counted.
      older: codes of an older code table, which the same key once had; files that have no other codes are refused.
    """

    keys: tuple[str, ...]
    levels: tuple[str, ...] = ()
    older: frozenset[int] = frozenset()


# In the order in which splits are balanced.
ATTRIBUTES = {
    "race": Field(("race",), ("Asian", "Black", "White"), frozenset({2, 3, 7})),
    "gender": Field(("gender", "male"), ("Female", "Male")),
    "ethnicity": Field(("ethnicity", "hispanic"), ("Non-Hispanic", "Hispanic")),
    "language": Field(("language",), ("English", "Spanish", "Other")),
    "marital_status": Field(
        ("maritalstatus",), ("Married or partnered", "Single", "Divorced", "Widowed", "Legally separated")
    ),
    "age": Field(("age",)),
}


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class HarvardConfig(tfds.core.BuilderConfig):
    """The settings by which a data set is read.

    Attributes:
      modality: which image of a file is read.
      split: "lists" (published, ``train.txt`` and ``test.txt``), "folders" (``Training``, ``Test``), "own" (7.2 : 0.8 : 2,
        balanced by attributes), or "auto": the first of these that the source folder has.
      lists: folder of the lists, where they are not in the source folder.
      validation_share: share of the training people who are used for validation, where no validation set is published.
      seed: of our own splits.
      age_unit: "years", "days", or "auto": it follows from the ages of the cohort.
    """

    modality: str = "slo"
    split: str = "auto"
    lists: str = ""
    validation_share: float = 0.1
    seed: int = 0
    age_unit: str = "auto"


class Harvard(Cohort):
    """The base builder of these data sets; subclasses fill the tables.

    Attributes:
      IMAGES: modality -> keys of its image [h, w], 8-bit grey.
      MASKS: modality -> keys of its mask; empty for data sets without masks.
      MASK_CLASSES: names of the codes 0, 1, 2, ... or 0, -1, -2, ...
      STRUCTURES: scored structure -> classes whose union it is.
      RATIOS: ratios that are measured between structures (:class:`equipoise.data_builders.Schema`).
      LABELS: labels to be predicted.
      ATTRIBUTES: attributes that define the groups.
      LISTS: folders of the source folder in which the published lists may be.
    """

    IMAGES: Mapping[str, tuple[str, ...]] = {"slo": ("slo_fundus",)}
    MASKS: Mapping[str, tuple[str, ...]] = {}
    MASK_CLASSES: tuple[str, ...] = ()
    STRUCTURES: Mapping[str, Sequence[str]] = {}
    RATIOS: Mapping[str, Mapping[str, Any]] = {}
    LABELS: Mapping[str, Field] = {}
    ATTRIBUTES: Mapping[str, Field] = ATTRIBUTES
    LISTS: tuple[str, ...] = (".",)
    FRACTIONS: ClassVar[dict[str, float]] = {"train": 0.72, "validation": 0.08, "test": 0.2}

    @classmethod
    def configure(cls, config: str, **options: Any) -> HarvardConfig:
        """Makes the configuration of a modality with other settings; a setting is any field of :class:`HarvardConfig`.

        Raises:
          UserError: for a setting that does not exist, or a value that it may not have.
        """
        settings.check_kinds(cls.name, HarvardConfig, options)
        values = {"modality": config or next(iter(cls.IMAGES))} | options
        made = HarvardConfig(name="unnamed", **values)
        choices = {
            "modality": tuple(cls.IMAGES),
            "split": ("auto", "lists", "folders", "own"),
            "age_unit": ("auto", "years", "days"),
        }
        problems = settings.unknown_choices(made, choices) | {
            "validation_share": not 0 < made.validation_share < 1 and "must lie between 0 and 1",
            "lists": bool(made.lists) and made.split not in ("auto", "lists") and "goes with split=lists",
        }
        settings.refuse(cls.name, made, problems)
        usual = HarvardConfig(name="unnamed", modality=made.modality)
        texts = {"lists": settings.fingerprint(*_list_files(made.lists))} if made.lists else {}
        made.name = "_".join([made.modality, *settings.changed(made, usual, texts=texts)])
        return made

    def schema(self) -> Schema:
        """Describes one grey image per person, of any size, with a mask where the modality has one."""
        keys = self.MASKS.get(self.builder_config.modality)
        masked = {
            "mask_classes": list(self.MASK_CLASSES),
            "structures": {k: list(v) for k, v in self.STRUCTURES.items()},
            "ratios": {k: dict(v) for k, v in self.RATIOS.items()},
        }
        return Schema(
            image_shape=(None, None, 1),
            dtype=np.uint8,
            labels={name: field.levels or None for name, field in self.LABELS.items()},
            attributes={name: field.levels or None for name, field in self.ATTRIBUTES.items()},
            positive={name: field.levels[1] for name, field in self.LABELS.items() if len(field.levels) == 2},
            has_mask=bool(keys),
            metadata=masked if keys else {},
        )

    def scans(self) -> Iterable[Scan]:
        """Lists every file, with its attributes; a file that cannot be read, or is in no list, is skipped with the reason.

        Raises:
          UserError: for codes of an older code table, ages in mixed units, or lists that do not fit the files.
        """
        published = self._published()
        files = []
        for file, split in published.items():
            if split is None:
                self._skip_file(file, "is in none of the published splits")
            else:
                files.append(file)
        rows: dict[pathlib.Path, _Row] = {}
        read = cache.in_parallel(self._read_row, files, self.NUM_THREADS)
        for file, row in cache.tracked(read, f"{self.name}: attributes", len(files)):
            if isinstance(row, UnreadableScan):
                self._skip_file(file, str(row))
            else:
                rows[file] = row
        columns = {
            name: self._column(name, list(rows.values())) for name in {**self.LABELS, **self.ATTRIBUTES}
        }
        for index, (file, row) in enumerate(rows.items()):
            values = {name: column[index] for name, column in columns.items()}
            yield Scan(
                scan_id=file.stem,
                subject_id=row.subject,
                labels={name: values[name] for name in self.LABELS},
                attributes={name: values[name] for name in self.ATTRIBUTES},
                stratum=_stratum(values),
                payload=(file, published[file]),
            )

    def _skip_file(self, file: pathlib.Path, reason: str) -> None:
        self._skip(Scan(file.stem, file.stem, {}, {}), reason)

    def _published(self) -> dict[pathlib.Path, str | None]:
        """Finds the published split of every file, and writes the source of the splits into the findings.

        Returns:
          File -> split; "" for all files where no splits are published, and None for a file that published splits leave out.

        Raises:
          UserError: when there is no file, or when the source that ``split`` asks for is not there.
        """
        if self.source_dir is None or not self.source_dir.is_dir():
            raise UserError(f"cohort {self.name!r}: give --source_dir, the folder of its NPZ files")
        files, config = sorted(self.source_dir.rglob("*.npz")), self.builder_config
        folders = [config.lists] if config.lists else [str(self.source_dir / name) for name in self.LISTS]
        lists = next((f for f in folders if all(pathlib.Path(f).is_file() for f in _list_files(f))), None)
        by_folder = {file: _folder_split(file.relative_to(self.source_dir)) for file in files}
        is_there = {
            "lists": lists is not None,
            "folders": {"train", "test"} <= set(by_folder.values()),
            "own": True,
        }
        asked = "lists" if config.lists else config.split
        source = next(name for name in is_there if is_there[name]) if asked == "auto" else asked
        if not is_there[source]:
            what = {
                "lists": f"train.txt and test.txt in {' or '.join(folders)}",
                "folders": f"folders Training and Test in {self.source_dir}",
            }
            raise UserError(f"cohort {self.name!r}, split={source}: there are no {what[source]}")
        if source == "lists":
            assigned = splits.read_lists(pathlib.Path(lists).expanduser(), files)
        else:
            assigned = by_folder if source == "folders" else dict.fromkeys(files, "")
        validated = source == "own" or "validation" in assigned.values()
        self._findings["split_rule"] = {
            "unit": "subject",
            "source": source,
            "validation": "as the rest"
            if validated
            else f"{config.validation_share:g} of train, our own choice",
            "seed": config.seed,
            "balanced_by": [*self.LABELS, *self.ATTRIBUTES],
        }
        return assigned

    def _read_row(self, file: pathlib.Path) -> "_Row | UnreadableScan":
        fields = {**self.LABELS, **self.ATTRIBUTES}
        try:
            arrays = read_npz(file, {"pid", *(key for field in fields.values() for key in field.keys)})
            cells = {name: _first(arrays, field.keys) for name, field in fields.items()}
            values = {name: _number(name, cell) for name, cell in cells.items()}
        except UnreadableScan as reason:
            return reason
        pid = arrays.get("pid", np.empty(0))
        subject = str(pid.item()) if pid.size == 1 and pid.item() is not None else file.stem
        return _Row(subject, values, tuple(name for name, cell in cells.items() if cell is None))

    def _column(self, name: str, rows: Sequence["_Row"]) -> list[Any]:
        """Returns the level or number of every row, None where it is unknown; writes what is unusual into the findings.

        Raises:
          UserError: for codes of an older code table, or ages in mixed units.
        """
        field = {**self.LABELS, **self.ATTRIBUTES}[name]
        values = [row.values[name] for row in rows]
        if missing := sum(name in row.missing for row in rows):
            self._findings.setdefault("files_without_the_key", {})[name] = missing
        if not field.levels:
            return self._years(values) if name == "age" else values
        codes = collections.Counter(value for value in values if value is not None)
        known = set(range(len(field.levels)))
        foreign = {f"{code:g}": codes[code] for code in sorted(set(codes) - known - {_UNKNOWN_CODE})}
        if foreign and not (set(codes) & known) - field.older:
            raise UserError(
                f"cohort {self.name!r}: {name!r} holds the codes {', '.join(f'{code:g}' for code in sorted(codes))}, but the "
                f"release has {', '.join(f'{i} {level}' for i, level in enumerate(field.levels))} and -1 unknown. They are "
                "codes of an older code table, where the same number means another level, or of another data set: download the "
                "current release, or recode the files"
            )
        if foreign:
            self._findings.setdefault("codes_taken_as_unknown", {})[name] = foreign
        return [field.levels[int(value)] if value in known else None for value in values]

    def _years(self, ages: Sequence[float | None]) -> list[float | None]:
        """Converts ages to years; a negative age is unknown.

        Raises:
          UserError: when some ages seem to be in days and others in years.
        """
        known = [age for age in ages if age is not None and age >= 0]
        unit, num_days = self.builder_config.age_unit, sum(age > _MOST_YEARS for age in known)
        if unit == "auto":
            if num_days not in (0, len(known)):
                raise UserError(
                    f"cohort {self.name!r}: {num_days} ages are above {_MOST_YEARS} and {len(known) - num_days} are not, so "
                    "they are neither all in years nor all in days: give --options=age_unit=years or age_unit=days"
                )
            unit = "days" if num_days else "years"
        self._findings["age_unit"] = unit
        divisor = _DAYS_PER_YEAR if unit == "days" else 1.0
        return [None if age is None or age < 0 else age / divisor for age in ages]

    def assign_splits(self, scans: Sequence[Scan]) -> dict[str, str]:
        """Takes the published splits, with validation people of our own choice where none are published; else makes splits.

        Returns:
          Subject -> split.

        Raises:
          UserError: when a person is in two published splits.
        """
        seed, share = self.builder_config.seed, self.builder_config.validation_share
        strata = {scan.subject_id: scan.stratum for scan in reversed(scans)}
        members: dict[str, set[str]] = collections.defaultdict(set)
        for scan in scans:
            members[scan.payload[1]].add(scan.subject_id)
        if "" in members:
            return splits.assign(strata, self.FRACTIONS, seed)
        splits.check_disjoint(members)
        assigned = {subject: split for split, subjects in members.items() for subject in subjects}
        if "validation" not in members:
            train = {subject: strata[subject] for subject in members["train"]}
            assigned |= splits.assign(train, {"train": 1 - share, "validation": share}, seed)
        return assigned

    def load(self, scan: Scan) -> Pixels:
        """Reads one image at its own size, with its mask; the scale brings the 8-bit intensities to the range 0 to 1."""
        modality = self.builder_config.modality
        keys = {"image": self.IMAGES[modality], "mask": self.MASKS.get(modality, ())}
        arrays = read_npz(scan.payload[0], [*keys["image"], *keys["mask"]])
        parts = {part: _first(arrays, keys[part]) for part in keys if keys[part]}
        for part, array in parts.items():
            if array is None:
                raise UnreadableScan(f"has no {part}: none of the keys {', '.join(keys[part])}")
        mask = _classes(parts["mask"], len(self.MASK_CLASSES)) if "mask" in parts else None
        return Pixels(_grey(parts["image"])[..., None], np.ones(2, np.float32), (1 / 255, 0.0), mask)


@dataclasses.dataclass(frozen=True)
class _Row:
    """The content of one file, without its pixels.

    Attributes:
      subject: id of the person.
      values: field -> number; None where it is unknown.
      missing: fields for which the file has no key.
    """

    subject: str
    values: Mapping[str, float | None]
    missing: tuple[str, ...]


def _list_files(folder: str) -> list[str]:
    return [str(pathlib.Path(folder).expanduser() / name) for name in ("train.txt", "test.txt")]


def _folder_split(path: pathlib.PurePath) -> str | None:
    return next((_FOLDERS[part.lower()] for part in path.parts[:-1] if part.lower() in _FOLDERS), None)


def _stratum(values: Mapping[str, Any]) -> str:
    """Returns the stratum in which splits are balanced: all levels, and for an age whether it is below 60."""
    words = []
    for name, value in values.items():
        if name == "age" and value is not None:
            value = "elderly" if value >= _ELDERLY else "younger"
        words.append(value if isinstance(value, str) else UNKNOWN)
    return "/".join(words)


def _first(arrays: Mapping[str, np.ndarray], keys: Iterable[str]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _number(name: str, cell: np.ndarray | None) -> float | None:
    if cell is None or cell.size != 1 or cell.item() is None:
        return None
    try:
        value = float(cell.item())
    except (TypeError, ValueError):
        raise UnreadableScan(f"{name!r} is not a number") from None
    return value if math.isfinite(value) else None


def _grey(image: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """Converts an image of one channel, or of equal channels, that holds whole numbers from 0 to 255, to [h, w] bytes.

    Raises:
      UnreadableScan: for another shape, type or range.
    """
    if image.ndim == 3 and image.shape[-1] and (image == image[..., :1]).all():
        image = image[..., 0]
    if image.ndim != 2:
        raise UnreadableScan(f"image of shape {'x'.join(map(str, image.shape))}, expected one grey channel")
    if image.dtype.kind not in "uif" or not np.isin(image, np.arange(256)).all():
        raise UnreadableScan(f"image of {image.dtype} does not hold whole numbers from 0 to 255 alone")
    return image.astype(np.uint8)


def _classes(mask: np.ndarray, num_classes: int) -> UInt8[np.ndarray, "h w"]:
    """Converts a mask of codes 0, 1, 2, ..., or else of 0, -1, -2, ..., to class indices.

    Raises:
      UnreadableScan: for another shape or type, or for codes of both kinds or beyond the classes.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "uif":
        raise UnreadableScan(
            f"mask of shape {'x'.join(map(str, mask.shape))} and {mask.dtype}, expected [h, w] codes"
        )
    codes = np.unique(mask)
    sign = -1 if codes.min(initial=0) < 0 else 1
    if not np.isin(codes * sign, np.arange(num_classes)).all():
        listed = ", ".join(f"{code:g}" for code in codes[:8])
        positive = ", ".join(map(str, range(num_classes)))
        raise UnreadableScan(
            f"mask holds the codes {listed}{', ...' if len(codes) > 8 else ''}, expected {positive} or their negatives"
        )
    return np.abs(mask).astype(np.uint8)
