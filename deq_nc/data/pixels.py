"""Encoded images (PNG, JPEG) to one uint8 array."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from deq_nc.data.source import DataError

MODES = {1: "L", 3: "RGB"}


def decode(file: Any, channels: int, size: int | None) -> np.ndarray:
    """One image uint8 [H, W, C], C = 1 or 3, from a path or an open file; cut square and resized if asked."""
    with Image.open(file) as image:
        image = image.convert(MODES[channels])
        if size is not None and image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def stack(images: Iterable[np.ndarray], count: int, describe: Callable[[int], str]) -> np.ndarray:
    """uint8 [N, H, W, C] of `count` images, filled in place. Raises DataError at the first of another shape."""
    out = None
    for i, image in enumerate(images):
        if out is None:
            out = np.empty((count, *image.shape), np.uint8)
        if image.shape != out.shape[1:]:
            raise different_sizes(describe(0), out.shape[1:], describe(i), image.shape)
        out[i] = image
    return np.empty((0, 1, 1, 1), np.uint8) if out is None else out


def different_sizes(first: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"Images must share one size: {first} is {shape[0]} x {shape[1]}, {other} is {other_shape[0]} x "
        f"{other_shape[1]}. Set data.image-size (for example 32) to cut them square and resize them."
    )
