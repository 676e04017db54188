"""Encoded images to one uint8 array; what is done to them beyond decoding is counted, and said in notes."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deq_nc.data.source import DataError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP"}
MODES = {1: "L", 3: "RGB"}
GREY = ("1", "L", "LA")
EIGHT_BITS = (*GREY, "P", "PA", "RGB", "RGBA", "CMYK")
GROUND = 255  # white, on which black icons and drawings stay visible
ORIENTATION = 0x0112  # its tag in EXIF
MAX_PIXELS = 89_478_485  # of one image: 256 MB of RGB, Pillow's own line to decompression bombs
MAX_BYTES = 512 << 20  # of one file: the above as 32-bit BMP, and room

TURNED = "turned as EXIF says"
UNSAID = "with EXIF that cannot be read, not turned"
FRAMES = "of several frames, the first taken"
INKS = "converted from CMYK"
LAID = "transparent in places, laid on white"
FLAT = "white throughout once laid on white: what they showed was in their transparency alone"


def header(file: IO[bytes], formats: Iterable[str]) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its height and width before EXIF turns it. Raises as `decode`."""
    with _quiet(), _open(file, formats) as image:
        return image.mode in GREY, (image.height, image.width)


def decode(
    data: bytes, channels: int, size: int | None, seen: Counter[str], formats: Iterable[str] = FORMATS.values()
) -> np.ndarray:
    """One image uint8 [H, W, C], C = 1 or 3: turned as EXIF says, laid on white, cut square and resized if asked.

    data: the whole file, of one of the formats. What was done is counted in `seen`. Raises an Exception of any type
    for what is no such image, is cut short, has more than 8 bits a channel or more than MAX_PIXELS.
    """
    with _quiet(), _open(io.BytesIO(data), formats) as image:
        if image.format == "PNG":
            _check_png(data)
        image.load()
        picture = _laid(_turned(image, seen), seen).convert(MODES[channels])
        if size is not None and picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        out = np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)
        seen[INKS] += image.mode == "CMYK"
        seen[FRAMES] += getattr(image, "is_animated", False)  # last: it moves the file to another frame
        return out


def notes(seen: Counter[str], name: str) -> tuple[str, ...]:
    """A sentence for each thing done to images of the set."""
    return tuple(f"{name}: {count:,} image{'s' * (count > 1)} {what}" for what, count in seen.items() if count)


def _quiet() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore")  # of large sizes, which are refused here, and of odd EXIF


def _open(file: IO[bytes], formats: Iterable[str]) -> Image.Image:
    """The image, its pixels not decoded yet: of these formats, since Pillow knows fifty and runs a program for one."""
    formats = list(formats)
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        raise ValueError(f"its content is no {' or '.join(formats)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width:,} x {image.height:,} pixels; at most {MAX_PIXELS:,} are decoded")
    if image.mode not in EIGHT_BITS:
        raise ValueError(f"more than 8 bits a channel, mode {image.mode}: convert it to 8 bits")
    return image


def _check_png(data: bytes) -> None:
    """Pillow takes the checksums of pixel chunks on trust, and cuts 16 bits a channel to 8 without a word."""
    place, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if struct.unpack_from(">I", data, end)[0] != zlib.crc32(memoryview(data)[place + 4 : end]):
            raise ValueError(f"the checksum of its chunk {kind.decode('ascii', 'replace')} is wrong")
        if kind == b"IHDR" and data[place + 16] > 8:
            raise ValueError("more than 8 bits a channel: convert it to 8 bits")
        place = end + 4


def _turned(image: Image.Image, seen: Counter[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises what it likes for EXIF that is garbage; the pixels may be sound
        seen[UNSAID] += 1
        return image
    if orientation not in range(2, 9):
        return image
    seen[TURNED] += 1
    return ImageOps.exif_transpose(image)


def _laid(image: Image.Image, seen: Counter[str]) -> Image.Image:
    """alpha * colour + (1 - alpha) * white, rounded; opaque images come back as they are, to the last bit."""
    if not image.has_transparency_data:
        return image
    layers = np.asarray(image.convert("LA" if image.mode in GREY else "RGBA"), np.uint16)  # 255 * 255 + 127 fits
    colour, alpha = layers[..., :-1], layers[..., -1:]
    if (alpha == 255).all():
        return image
    out = ((colour * alpha + GROUND * (255 - alpha) + 127) // 255).astype(np.uint8)
    lost = (out == GROUND).all() and np.ptp(layers, axis=(0, 1)).any()
    seen[FLAT if lost else LAID] += 1
    return Image.fromarray(out[..., 0] if out.shape[-1] == 1 else out)


def stack(images: Iterable[np.ndarray], count: int, describe: Callable[[int], str]) -> np.ndarray:
    """uint8 [N, H, W, C] of `count` images, filled in place. Raises DataError at the first of another shape."""
    out = None
    for i, image in enumerate(images):
        if out is None:
            out = _room((count, *image.shape))
        if image.shape != out.shape[1:]:
            raise different_sizes(describe(0), out.shape[1:], describe(i), image.shape)
        out[i] = image
    return np.empty((0, 1, 1, 1), np.uint8) if out is None else out


def _room(shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except (MemoryError, ValueError) as error:
        raise DataError(
            f"{shape[0]:,} images of {shape[1]} x {shape[2]} do not fit into memory. Set data.image_size (for example "
            "32) to cut them square and resize them."
        ) from error


def different_sizes(first: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"Images must share one size: {first} is {shape[0]} x {shape[1]}, {other} is {other_shape[0]} x "
        f"{other_shape[1]}. Set data.image_size to cut them square and resize them: --data.image-size 32."
    )
