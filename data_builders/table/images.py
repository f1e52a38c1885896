"""Pictures and volumes of a user's table: their headers, and the one form to which they are brought."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from equipoise.data_builders.base.readers import (
    Pixels,
    UnreadableScan,
    crop_or_pad_pixels,
    read_nifti,
    read_picture,
    resample,
)
from equipoise.data_builders.base.readers.resample import resampled_shape, round_to_type
from equipoise.engine.errors import UserError

_PICTURES = (".png", ".jpg", ".jpeg")
_VOLUMES = (".nii", ".nii.gz")
_NUM_SPATIAL = {"picture": 2, "volume": 3}
_FITS = {"picture": "resize", "volume": "crop_or_pad"}
_INTEGERS = (
    "uint8",
    "int8",
    "uint16",
    "int16",
)  # stored as they are; other types become float32 in real units


@dataclasses.dataclass(frozen=True)
class Header:
    """The properties of an image that are known before its pixels are read.

    Attributes:
      shape: [*spatial]; the axes of volumes run to the right, anterior, superior.
      channels: 1 or 3.
      dtype: of stored values.
      spacing: mm; ones for pictures.
    """

    shape: tuple[int, ...]
    channels: int
    dtype: str
    spacing: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Form:
    """The one form that every image of a cohort has.

    Attributes:
      kind: "picture" (2D) or "volume" (3D).
      size: [*spatial] as stored.
      fit: how an image of another shape is brought to ``size``: "none" (it is an error), "resize" (pictures: bilinear,
        the proportions change), "crop_or_pad" (volumes: about the centre, padded with the least value).
      spacing: voxel size in mm to which volumes are resampled (linearly, and smoothed first where the new voxels are
        larger); None keeps the voxel size of each volume.
      channels: 1 or 3; pictures with the other number are converted.
      dtype: of stored values; float32 holds real units.
    """

    kind: str
    size: tuple[int, ...]
    fit: str = "none"
    spacing: tuple[float, ...] | None = None
    channels: int = 1
    dtype: str = "uint8"

    def __post_init__(self):
        num = _NUM_SPATIAL.get(self.kind)
        if num is None:
            raise UserError(f"kind {self.kind!r} is none of {', '.join(_NUM_SPATIAL)}")
        if self.fit not in ("none", _FITS[self.kind]):
            raise UserError(f"fit {self.fit!r} of a {self.kind} is none of none, {_FITS[self.kind]}")
        if len(self.size) != num or min(self.size) < 1:
            raise UserError(f"size {list(self.size)} must be {num} whole numbers above 0 for a {self.kind}")
        if self.spacing is not None and (num == 2 or len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise UserError(
                f"spacing {list(self.spacing)} must be three numbers of mm above 0, and is for volumes only"
            )
        if self.channels not in ((1, 3) if num == 2 else (1,)):
            raise UserError(f"channels {self.channels} must be 1{' or 3' if num == 2 else ' for volumes'}")
        if self.dtype not in (*_INTEGERS, "float32"):
            raise UserError(f"dtype {self.dtype!r} is none of {', '.join(_INTEGERS)}, float32")

    @property
    def is_slow(self) -> bool:
        """Whether it takes longer to make an image than to read a copy of it."""
        return self.kind == "volume" or self.fit != "none"

    def shape_of(self, header: Header) -> tuple[int, ...]:
        """Returns [*spatial] of an image after resampling, before it is brought to ``size``."""
        return resampled_shape(header.shape, header.spacing, self.spacing)


def kind_of(files: Iterable[pathlib.Path]) -> str:
    """Returns "picture" or "volume", the kind of all files by their names.

    Raises:
      UserError: for another kind of file, or both kinds in one cohort.
    """
    counts: collections.Counter[str] = collections.Counter()
    for file in files:
        name = file.name.lower()
        if name.endswith(_VOLUMES):
            counts["volume"] += 1
        elif name.endswith(_PICTURES):
            counts["picture"] += 1
        else:
            raise UserError(
                f"images end in {file.suffix or 'nothing'!r}: a table's images are PNG or JPEG (2D) or NIfTI (3D); "
                "convert them first (DICOM: dcm2niix)"
            )
    if len(counts) != 1:
        listed = " and ".join(f"{count} {kind}s" for kind, count in sorted(counts.items()))
        raise UserError(f"the image column names {listed or 'no file'}: a cohort holds one kind")
    return next(iter(counts))


def read_header(file: pathlib.Path) -> Header:
    """Reads the header of an image.

    Raises:
      UnreadableScan: for a file that is missing or no image.
    """
    if not file.exists():
        raise UnreadableScan("file is missing")
    try:
        return _nifti_header(file) if file.name.lower().endswith(_VOLUMES) else _picture_header(file)
    except UnreadableScan:
        raise
    except Exception as error:
        raise UnreadableScan(f"header is not readable ({type(error).__name__})") from error


def _picture_header(file: pathlib.Path) -> Header:
    from PIL import Image

    with Image.open(file) as picture:
        deep = picture.mode.startswith("I")
        channels = 1 if deep or picture.mode in ("L", "1", "LA") else 3
        return Header(picture.size[::-1], channels, "uint16" if deep else "uint8", (1.0, 1.0))


def _nifti_header(file: pathlib.Path) -> Header:
    import nibabel as nib

    volume = nib.load(file)
    axes = np.argsort(nib.orientations.io_orientation(volume.affine)[:, 0])
    shape = volume.shape[:3] if volume.shape[3:] == (1,) else volume.shape
    if len(shape) != 3:
        raise UnreadableScan("not a 3D volume")
    zooms = np.asarray(volume.header.get_zooms()[:3], float)
    return Header(
        tuple(int(shape[a]) for a in axes), 1,
        volume.get_data_dtype().newbyteorder("=").name, tuple(round(float(zooms[a]), 4) for a in axes),
    )  # fmt: skip


def propose(
    kind: str,
    headers: Sequence[Header],
    size: tuple[int, ...] | None = None,
    spacing: tuple[float, ...] | None = None,
) -> Form:
    """Proposes the form that fits the images and the command line.

    Args:
      kind: of all images.
      headers: of the images that can be read.
      size: given with ``--size``.
      spacing: given with ``--spacing``, mm; one number stands for three.

    Raises:
      UserError: when shapes differ and no size is given, or when pictures of 8 and 16 bits are mixed.
    """
    if spacing is not None and len(spacing) == 1 and kind == "volume":
        spacing = spacing * 3
    dtypes = {h.dtype for h in headers}
    if kind == "picture" and len(dtypes) > 1:
        raise UserError(
            f"pictures of 8 and of 16 bits are mixed ({_counts(h.dtype for h in headers)}): bring them to one depth: "
            "nobody can tell from the files which grey of the one is grey 255 of the other"
        )
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    channels = collections.Counter(h.channels for h in headers).most_common()
    form = Form(
        kind=kind,
        size=size or headers[0].shape,
        fit=_FITS[kind] if size else "none",
        spacing=spacing,
        channels=max(k for k, count in channels if count == channels[0][1]),
        dtype=dtype if dtype in _INTEGERS else "float32",
    )
    if not size:
        shapes = collections.Counter(form.shape_of(h) for h in headers)
        form = dataclasses.replace(form, size=shapes.most_common(1)[0][0])
    check_shapes(form, headers)
    return form


def check_shapes(form: Form, headers: Iterable[Header]) -> None:
    """Checks that images have the shape of the cohort, where they are not brought to it.

    Raises:
      UserError: with the shapes of the images, and the flags that bring them to one shape.
    """
    if form.fit != "none":
        return
    shapes = [form.shape_of(h) for h in headers]
    if any(shape != form.size for shape in shapes):
        largest = ",".join(str(max(axis)) for axis in zip(*shapes, strict=True))
        volume = form.kind == "volume"
        rule = (
            "cropped or padded about the centre" if volume else "resized, which changes their proportions if need be"
        )  # fmt: skip
        first = " (and --spacing=MM first, where voxel sizes differ)" if volume and not form.spacing else ""
        raise UserError(
            f"images have different shapes: {_counts(_text(s) for s in shapes)}; the cohort's is {_text(form.size)}. "
            f"Give --size, e.g. --size={largest}, to which all are {rule}{first}, or leave the odd ones out of the table"
        )


def describe(form: Form, headers: Sequence[Header], skipped: Iterable[str]) -> list[str]:
    """Returns lines that say what the images are, and what will be made of them."""
    stored = f"stored as {_text(form.size)}, {form.channels} channel{'s' * (form.channels > 1)}, {form.dtype}"
    lines = [f"{len(headers)} {form.kind}s of {_counts(_text(h.shape) for h in headers)}, {stored}"]
    if form.fit != "none":
        lines.append(f"images of another shape: {form.fit}")
    if form.kind == "volume":
        spacings = _counts(f"{_text(h.spacing)} mm" for h in headers)
        is_uniform = len({h.spacing for h in headers}) == 1
        how = f", resampled to {_text(form.spacing)} mm" if form.spacing else ""
        lines.append(
            f"voxel size {spacings}{how or ('' if is_uniform else '; --spacing=MM makes it the same for all')}"
        )
    converted = sum(h.channels != form.channels for h in headers)
    if converted:
        lines.append(f"{converted} of them {'colour, made grey' if form.channels == 1 else 'grey, made RGB'}")
    if form.dtype == "float32" and {h.dtype for h in headers} != {"float32"}:
        lines.append(f"values of {_counts(h.dtype for h in headers)} become float32 in real units")
    skipped = list(skipped)
    if skipped:
        lines.append(f"{len(skipped)} cannot be used and will be skipped: {_counts(skipped)}")
    return lines


def load(form: Form, image: pathlib.Path, mask: pathlib.Path | None) -> Pixels:
    """Reads an image, and its mask, and brings them to the form of the cohort.

    Raises:
      UnreadableScan: when one of them cannot be used.
    """
    pixels = _read(image)
    if mask is not None:
        try:
            pixels = dataclasses.replace(pixels, mask=_mask_values(_read(mask), pixels.image.shape[:-1]))
        except UnreadableScan as reason:
            raise UnreadableScan(f"mask: {reason}") from reason
    pixels = _typed(pixels, form)
    if form.kind == "picture":
        pixels = _converted(pixels, form.channels)
        return _resized(pixels, form.size) if form.fit != "none" else pixels
    return _fitted(resample(pixels, form.spacing) if form.spacing else pixels, form)


def _read(file: pathlib.Path) -> Pixels:
    return read_nifti(file) if file.name.lower().endswith(_VOLUMES) else read_picture(file)


def _mask_values(mask: Pixels, shape: tuple[int, ...]) -> np.ndarray:
    values = mask.image
    if values.shape != (*shape, 1):
        raise UnreadableScan(f"shape {_text(values.shape)}, expected {_text((*shape, 1))}")
    real = values[..., 0] * mask.scale[0] + mask.scale[1]
    if (real != np.round(real)).any() or real.min() < 0 or real.max() > 255:
        raise UnreadableScan("values are not whole numbers from 0 to 255")
    return real.astype(np.uint8)


def _typed(pixels: Pixels, form: Form) -> Pixels:
    if form.dtype == "float32":
        slope, intercept = pixels.scale
        real = (pixels.image.astype(np.float64) * slope + intercept).astype(np.float32)
        return dataclasses.replace(pixels, image=real, scale=(1.0, 0.0))
    return pixels


def _converted(pixels: Pixels, channels: int) -> Pixels:
    from PIL import Image

    image = pixels.image
    if image.shape[-1] == channels:
        return pixels
    if channels == 3:
        image = np.repeat(image, 3, axis=-1)
    else:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return dataclasses.replace(pixels, image=image)


def _resized(pixels: Pixels, size: tuple[int, ...]) -> Pixels:
    """Resizes a picture: bilinear, and averaged over the pixels that are covered where it shrinks; masks take the nearest."""
    from PIL import Image

    def resize(plane: np.ndarray, how: Any) -> np.ndarray:
        return np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size[::-1], how))

    planes = [resize(plane, Image.Resampling.BILINEAR) for plane in np.moveaxis(pixels.image, -1, 0)]
    mask = pixels.mask
    if mask is not None:
        mask = resize(mask, Image.Resampling.NEAREST).astype(np.uint8)
    image = round_to_type(np.stack(planes, -1), pixels.image.dtype)
    return dataclasses.replace(pixels, image=image, mask=mask)


def _fitted(pixels: Pixels, form: Form) -> Pixels:
    if form.fit == "none":
        return pixels
    return crop_or_pad_pixels(pixels, form.size, float(pixels.image.min()))


def _text(shape: Sequence[float]) -> str:
    return "x".join(f"{n:g}" for n in shape)


def _counts(texts: Iterable[str]) -> str:
    """Returns ``8x8 (12), 9x8 (3)``: the six most frequent texts, the most frequent first."""
    counted = collections.Counter(texts).most_common()
    listed = ", ".join(f"{name} ({count})" for name, count in counted[:6])
    return listed + (f" and {len(counted) - 6} more" if len(counted) > 6 else "")
