"""A table of values, one row per case, from folders of predicted and reference masks.

Both folders hold masks of label codes under the same file names, as nnU-Net writes them: NIfTI (``.nii``, ``.nii.gz``), with lengths in
millimetres from the header, or PNG with one channel, with lengths in pixels. A CSV file has one row per case, with the column ``case``
(the file name without its ending) and the attributes. No case is dropped: a mask or row without its counterpart is an error.
"""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence

import nibabel
import numpy as np
import pandas as pd
import rich.progress
from jaxtyping import Float, Int
from PIL import Image

from equipoise.engine.errors import UserError
from equipoise.engine.metrics.formulas import segmentation
from equipoise.engine.metrics.table import reader
from equipoise.engine.metrics.table.table import Table, validate

CASE = "case"
# How often hd95 is undefined says how often a structure is missed.
METRICS = ("dice", "hd95", "hd95_penalised", "nsd", "volume_error")
_ENDINGS = (".nii.gz", ".nii", ".png")
_MM = {"meter": 1000.0, "micron": 0.001}
_DAMAGE = (OSError, EOFError, ValueError, SyntaxError, zlib.error, nibabel.filebasedimages.ImageFileError)
_OFF = 0.1  # grids may differ by this share of a voxel, the rounding of headers in single precision


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask and where its voxels lie.

    Attributes:
      codes: label code of each voxel; 0 is background.
      spacing: distance of voxels along each axis, in mm, or 1 for pixels.
      affine: matrix from voxels to world coordinates in the unit of the file, or None for pixels.
    """

    codes: Int[np.ndarray, "..."] = dataclasses.field(repr=False)
    spacing: Float[np.ndarray, " d"]
    affine: Float[np.ndarray, "4 4"] | None


def read_mask(path: pathlib.Path) -> Mask:
    """Reads a NIfTI or PNG mask.

    Raises:
      UserError: for a damaged file, several channels, or values that are not whole numbers.
    """
    try:
        return _read_png(path) if path.suffix.lower() == ".png" else _read_nifti(path)
    except _DAMAGE as error:
        raise UserError(
            f"{path}: the file is damaged or cut off ({type(error).__name__}): copy or write it again"
        ) from error


def _read_png(path: pathlib.Path) -> Mask:
    with Image.open(path) as image:
        codes = np.asarray(image)
    if codes.ndim != 2:
        raise UserError(f"{path}: {codes.shape[2]} channels: write label codes as one channel")
    return Mask(codes, np.ones(2), None)


def _read_nifti(path: pathlib.Path) -> Mask:
    image = nibabel.load(path)
    codes = np.asanyarray(image.dataobj)
    codes = codes.reshape(codes.shape[:3]) if codes.ndim > 3 and set(codes.shape[3:]) == {1} else codes
    if codes.ndim not in (2, 3):
        raise UserError(f"{path}: {codes.ndim} axes: write label codes as one image of 2 or 3 axes")
    whole = codes if codes.dtype.kind in "iub" else np.rint(codes)
    if codes.dtype.kind not in "iubf" or not (whole == codes).all():
        raise UserError(
            f"{path}: it holds values that are not whole numbers: write label codes, not probabilities"
        )
    unit = _MM.get(image.header.get_xyzt_units()[0], 1.0)
    spacing = nibabel.affines.voxel_sizes(image.affine)[: codes.ndim] * unit
    return Mask(whole.astype(np.int32) if codes.dtype.kind == "f" else codes, spacing, image.affine)


def _check_grid(prediction: Mask, reference: Mask, case: str) -> None:
    """Raises a UserError unless both masks have the same voxels at the same places."""
    shapes = prediction.codes.shape, reference.codes.shape
    if shapes[0] != shapes[1]:
        raise UserError(
            f"case {case}: the prediction has shape {shapes[0]} and the reference {shapes[1]}: resample it"
        )
    if (prediction.affine is None) != (reference.affine is None):
        raise UserError(f"case {case}: one mask is PNG and the other NIfTI: write both in the same format")
    if reference.affine is None:
        return
    lengths = [*shapes[1], 1][:3]
    corners = np.array(np.meshgrid(*([0, n - 1] for n in lengths))).reshape(3, -1)
    off = (prediction.affine - reference.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    if abs(off).max() > _OFF * nibabel.affines.voxel_sizes(reference.affine).min():
        raise UserError(
            f"case {case}: the headers place prediction and reference differently in space: resample the prediction to the "
            "reference, or copy the reference's header if the voxels do match"
        )


def _files(folder: pathlib.Path, flag: str) -> dict[str, pathlib.Path]:
    """Returns case -> its file.

    Raises:
      UserError: if there is no such folder, if it has no mask, or if a case has two files.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"--{flag}: no folder {folder}")
    path_of: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((e for e in _ENDINGS if path.name.lower().endswith(e)), None)
        if ending is None or path.name.startswith("."):
            continue
        case = path.name[: -len(ending)]
        if case in path_of:
            raise UserError(
                f"--{flag}: {path_of[case].name} and {path.name} are the same case: keep one of them"
            )
        path_of[case] = path
    if not path_of:
        raise UserError(f"--{flag}: {folder} has no mask ({', '.join(_ENDINGS)})")
    return path_of


def _require(cases: Iterable[str], known: Iterable[str], problem: str, remedy: str) -> None:
    """Raises a UserError that names the cases that are not among the known ones."""
    missing = sorted(set(cases) - set(known))
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(f"{len(missing)} {problem} ({shown}): {remedy}")


def name_structures(words: Sequence[str]) -> dict[str, int]:
    """Reads ``["1:disc", "2:cup"]`` as ``{"disc": 1, "cup": 2}``.

    Raises:
      UserError: for another form, or a code or name that is there twice.
    """
    pairs = [word.partition(":")[::2] for word in words]
    codes = [code for code, _ in pairs]
    names = [name for _, name in pairs]
    if not all(code.isdecimal() and int(code) and name for code, name in pairs):
        raise UserError(
            f"--structures={','.join(words)}: write CODE:NAME, such as 1:disc,2:cup; 0 is background"
        )
    if len({*codes}) < len(codes) or len({*names}) < len(names):
        raise UserError(f"--structures={','.join(words)}: a code or name is there twice")
    return {name: int(code) for code, name in pairs}


@dataclasses.dataclass(frozen=True)
class _ComparedCase:
    """The comparison of one case.

    Attributes:
      values: label code -> name of a value -> value.
      predicted: label codes of the prediction.
      referred: label codes of the reference.
      in_mm: whether lengths are in mm, and not in pixels.
    """

    values: dict[int, dict[str, float]]
    predicted: set[int]
    referred: set[int]
    in_mm: bool


def _evaluate(
    case: str, paths: tuple[pathlib.Path, pathlib.Path], codes: Sequence[int], tolerance: float
) -> _ComparedCase:
    prediction, reference = map(read_mask, paths)
    _check_grid(prediction, reference, case)
    predicted, referred = ({*map(int, np.unique(m.codes[m.codes != 0]))} for m in (prediction, reference))
    wanted = {code: code for code in codes or sorted(predicted | referred)}
    try:
        values = segmentation.evaluate_case(
            prediction.codes, reference.codes, reference.spacing, wanted, tolerance
        )
    except UserError as error:
        raise UserError(f"case {case}: {error}") from error
    return _ComparedCase(values, predicted, referred, reference.affine is not None)


def _evaluate_all(
    cases: Sequence[str],
    pairs: Mapping[str, tuple[pathlib.Path, pathlib.Path]],
    codes: Sequence[int],
    tolerance: float,
    workers: int | None,
) -> list[_ComparedCase]:
    """Compares cases on several threads, as reading and distances release Python's lock; returns them in order."""
    pool = concurrent.futures.ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8))
    jobs = [pool.submit(_evaluate, case, pairs[case], codes, tolerance) for case in cases]
    try:
        with rich.progress.Progress(transient=True) as progress:
            bar = progress.add_task("comparing masks", total=len(jobs))
            for _ in concurrent.futures.as_completed(jobs):
                progress.advance(bar)
                failed = next((job for job in jobs if job.done() and job.exception()), None)
                if failed:
                    break
        return [job.result() for job in jobs] if failed is None else [failed.result()]
    finally:
        pool.shutdown(cancel_futures=True)


def read(
    pred_dir: pathlib.Path,
    ref_dir: pathlib.Path,
    attributes: pathlib.Path,
    roles: reader.Roles,
    *,
    structures: Mapping[str, int] | None = None,
    tolerance: float = 1.0,
    metrics: Sequence[str] = METRICS,
    workers: int | None = None,
) -> Table:
    """Compares the masks of two folders and reads the attributes of their cases.

    Args:
      pred_dir: folder of predicted masks.
      ref_dir: folder of reference masks under the same names.
      attributes: CSV file with a column ``case``.
      roles: which column of ``attributes`` plays which part; its task and models are replaced by those of the values.
      structures: name -> label code; by default every code but 0 that any reference has, named by its number.
      tolerance: tolerance of the normalised surface Dice, in mm, or in pixels for PNG.
      metrics: names of values, of :data:`segmentation.VALUES`.
      workers: number of threads; by default one per core, at most 8.

    Returns:
      The table of values with one row per case, in the order of ``attributes``. Each value of each structure has a column such as
      ``dice_cup``, which is NaN where the value is undefined.

    Raises:
      UserError: for a case without one of its masks or its row, a damaged file, masks on different grids, a wrong label code.
    """
    people = _read_attributes(attributes, roles)
    predictions, references = _files(pred_dir, "pred_dir"), _files(ref_dir, "ref_dir")
    cases, name = people.frame["scan_id"].tolist(), pathlib.Path(attributes).name
    _require(
        references,
        predictions,
        "references without a prediction",
        "predict them, as a missing case must not count as a perfect one",
    )
    _require(
        predictions,
        references,
        "predictions without a reference",
        "add their references, or move them elsewhere",
    )
    _require(
        cases, references, f"rows of {name} without masks", f"{CASE} is the file name without its ending"
    )
    _require(
        references, cases, f"cases without a row in {name}", "add the row; an attribute may be left empty"
    )
    pairs = {case: (predictions[case], references[case]) for case in cases}
    compared = _evaluate_all(cases, pairs, sorted((structures or {}).values()), tolerance, workers)
    codes = dict(
        structures or {str(code): code for code in sorted(set().union(*(c.referred for c in compared)))}
    )
    if not codes:
        raise UserError(
            f"--ref_dir: no reference in {pathlib.Path(ref_dir).name} has a label code other than 0"
        )
    never = segmentation.evaluate(np.zeros((2, 2)), np.zeros((2, 2)), (1.0, 1.0), tolerance)
    values = {
        f"{metric}_{structure}": [case.values.get(code, never)[metric] for case in compared]
        for structure, code in codes.items()
        for metric in metrics
    }
    return _with_values(people, values, pathlib.Path(pred_dir).name, _notes(compared, codes, tolerance))


def _read_attributes(path: pathlib.Path, roles: reader.Roles) -> Table:
    """Reads the rows of the cases, as a table that has no values yet."""
    if pathlib.Path(path).suffix.lower() in (".parquet", ".pq"):
        raise UserError(f"--attributes={pathlib.Path(path).name}: give a CSV file, not Parquet")
    return reader.read(
        path, dataclasses.replace(roles, task="values", target=(), models={}, scan=roles.scan or CASE)
    )


def _with_values(
    people: Table, values: Mapping[str, Sequence[float]], cohort: str, notes: Sequence[str]
) -> Table:
    """Returns the table of the cases with the values as its scores."""
    twice = sorted(set(values) & set(people.frame))
    if twice:
        raise UserError(f"column {twice[0]!r} of the attributes has the name of a value: rename it")
    models = {column: (column,) for column in values}
    schema = dataclasses.replace(people.schema, label="segmentation", scores=tuple(values), models=models)
    frame = people.frame.assign(cohort=cohort).join(pd.DataFrame(values))
    return Table(validate(frame, schema, cohort), schema, (*people.notes, *notes))


def _notes(compared: Sequence[_ComparedCase], codes: Mapping[str, int], tolerance: float) -> list[str]:
    """Returns what a reader must know about how the masks were compared.

    Raises:
      UserError: if some lengths are in mm and others in pixels, or if a structure is in no mask.
    """
    kinds = collections.Counter(case.in_mm for case in compared)
    if len(kinds) > 1:
        raise UserError(
            "some cases are NIfTI, with lengths in mm, and some are PNG, with lengths in pixels: write all in the same format"
        )
    unit = "mm" if kinds[True] else "pixels"
    predicted, referred = (set().union(*(getattr(c, k) for c in compared)) for k in ("predicted", "referred"))
    for name, code in codes.items():
        if code not in predicted | referred:
            raise UserError(
                f"--structures: no mask has the label code {code} of {name!r}; the references have {sorted(referred)}"
            )
    notes = [
        f"Surfaces count as equal (nsd) within {tolerance:g} {unit}. A structure that is in neither mask has no value."
    ]
    notes.append(
        "Distances are in mm; volume errors are in ml, of single slices in mm²."
        if kinds[True]
        else "PNG files have no spacing: distances are in pixels, and volume errors are areas in square pixels."
    )
    unknown = sorted(predicted - referred - {*codes.values()})
    if unknown:
        notes.append(f"Predictions hold label codes that no reference has; these are not judged: {unknown}.")
    return notes
