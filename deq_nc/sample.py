"""A few rows that stand for all: even over the order of a set, whatever that order is."""

from __future__ import annotations

import numpy as np


def even_sample(size: int, count: int) -> np.ndarray:
    """Sorted distinct indices int64 [min(count, size)] into 0..size-1, one out of each of `count` equal stretches.

    In a set sorted by class, every class gets its share to within two. The place within a stretch is drawn, with a
    fixed seed: evenly spaced rows of classes in rotation (0, 1, 2, 0, 1, 2) might all be of one class.
    """
    if count >= size:
        return np.arange(size)
    edges = np.arange(count + 1) * size // max(count, 1)
    return edges[:-1] + (np.random.default_rng(0).random(count) * np.diff(edges)).astype(np.int64)
