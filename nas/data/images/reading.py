"""How the content of an image file becomes pixels: one rule for folders, shards, data sets and single files.

Formats: whatever Pillow decodes by itself, recognised by the file's content. Not EPS and the like, for which Pillow
would start another program. Of several frames, the first.

Colours: RGB, or grey for a network of one channel; transparency is dropped.

More than 8 bits: whole numbers are shifted down from the fewest bits (8, 10, 12, 14, 16, ...) that hold the image's
largest value, so that 10- and 12-bit pictures in 16-bit files keep their brightness. Floating-point values count as
0..1 where they lie within that, else as 0..255 where they lie within that; all others, and whole numbers below 0, are
stretched from the smallest to the largest. `nas prepare` lists such files with their values.

EXIF orientation: a data set is seen as others who read it see it. Class folders and shards stay as they are stored, as
in torchvision and timm; images of `hf:` are turned upright, as the package `datasets` does; and so is a file that is
given to `nas predict`. `nas prepare` lists files with an orientation.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from nas.base.errors import UserError

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise for damaged files."""
OTHER_PROGRAMS = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow leaves to Ghostscript, to plugins that others bring, or to Windows."""


class DataError(UserError):
    """Images that are absent, unreadable, or not as expected; the message names the place."""


@cache
def formats() -> tuple[str, ...]:
    """Names of the formats that are read."""
    Image.init()
    return tuple(name for name in Image.ID if name in Image.OPEN and name not in OTHER_PROGRAMS)


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of image files, in lower case with their dot."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats())


def open_image(file: Path | str | io.BytesIO) -> Image.Image:
    """The image of a file, whose pixels are not decoded yet. Raises those of UNREADABLE."""
    return Image.open(file, formats=formats())


def is_image(path: Path | str) -> bool:
    """Whether a file begins as an image does; its pixels are not looked at."""
    try:
        with open_image(path):
            return True
    except UNREADABLE:
        return False


def read_image(
    path: Path | str,
    shorter_side: int | None = None,
    content: io.BytesIO | None = None,
    *,
    upright: bool = False,
    channels: int = 3,
) -> Image.Image:
    """Decode one image file, or its `content`, to RGB, or to grey for one channel.

    With a `shorter_side`, a JPEG is decoded at the smallest scale that keeps so many pixels, which is faster.
    `upright` turns it as its EXIF orientation says. Raises DataError that names the file.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        with open_image(path if content is None else content) as image:
            if shorter_side is not None:
                image.draft(mode, (shorter_side, shorter_side))
            found = Image.fromarray(eight_bits(np.asarray(image))) if is_deep(image) else image
            if upright and (turn := orientation(image)) != 1:
                found = found.transpose(TURNS[turn])
            return found.convert(mode)
    except UNREADABLE as error:
        raise DataError(f"{path}: unreadable image ({str(error) or type(error).__name__})") from None


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 (upright) where it has none or an impossible one."""
    try:
        found: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE:
        return 1
    return found if found in TURNS else 1


def is_deep(image: Image.Image) -> bool:
    """Whether the values of an image take more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def num_bits(values: np.ndarray) -> int:
    """The fewest bits of 8, 10, 12, ... that hold the largest of some whole numbers, none below 0."""
    return max(8, -(-int(values.max()).bit_length() // 2) * 2)


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Whole or floating-point numbers [H, W] as uint8; see above. NaN and infinite values become black."""
    if np.issubdtype(values.dtype, np.integer) and values.min() >= 0:
        return (values >> (num_bits(values) - 8)).astype(np.uint8)
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(values[finite].min()), float(values[finite].max())
    start, span = low, high - low
    if low >= 0 and high <= 255:
        start, span = 0.0, 1.0 if high <= 1 else 255.0
    scaled = np.where(finite, (values - start) * (255 / span if span else 0.0), 0)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def centre_square(
    image: Image.Image,
    side: int,
    shorter_side: int | None = None,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """Resize the shorter side to `shorter_side` (absent: `side`) and cut the centre square out.

    Rounded as torchvision's Resize and CenterCrop do, which timm's validate.py uses.
    """
    short = shorter_side or side
    width, height = (short if size == min(image.size) else int(short * size / min(image.size)) for size in image.size)
    resized = image if image.size == (width, height) else image.resize((width, height), resampling)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return resized.crop((left, top, left + side, top + side))


def resized_side(side: int, crop: float) -> int:
    """What the shorter side is resized to, of which the square of `side` pixels is the share `crop`; as in timm."""
    return math.floor(side / crop)
