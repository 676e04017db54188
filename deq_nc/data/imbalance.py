"""Class imbalance: how many images of each class, and which. Pure NumPy.

Letters: K classes, KA of them majority, n_A images in a majority class, n_B in a minority class, R = n_A / n_B >= 1.
`order` [K] lists the classes from most to least images; `available` [K] counts the images there are.
The test set is never thinned: it stays as balanced as it came.
"""

from __future__ import annotations

import numpy as np

from deq_nc.data.source import DataError

_EPSILON = 1e-9  # 11 / 1.1 is 10 - 2e-15 in floats; a count may not depend on that


def class_order(num_classes: int, seed: int | None = None) -> np.ndarray:
    """Permutation [K] of the classes, most images first; None keeps 0..K-1."""
    return np.arange(num_classes) if seed is None else np.random.default_rng(seed).permutation(num_classes)


def balanced_counts(available: np.ndarray, per_class: int | None = None) -> np.ndarray:
    """n_k = per_class, or everything there is. Raises DataError where a class has fewer."""
    available = np.asarray(available)
    return available.copy() if per_class is None else _checked(np.full(len(available), per_class), available, False)


def step_counts(
    available: np.ndarray,
    majority: int,
    ratio: float,
    per_class: int | None = None,
    order: np.ndarray | None = None,
    allow_single: bool = False,
) -> np.ndarray:
    """STEP: n_A for the first KA classes of the order, n_B = floor(n_A / R) for the others; int [K] by class label.

    n_A is per_class, or the size of the smallest class. Raises DataError for KA outside 1..K, a class that would be
    empty (unless allow_single), or one with fewer images than asked.
    """
    available = np.asarray(available)
    order = np.arange(len(available)) if order is None else order
    check_majority(majority, len(available))
    n_a = int(available.min()) if per_class is None else per_class
    counts = np.empty(len(available), np.int64)
    counts[order[:majority]] = n_a
    counts[order[majority:]] = int(n_a / ratio + _EPSILON)
    return _checked(counts, available, allow_single)


def longtail_counts(
    available: np.ndarray,
    ratio: float,
    per_class: int | None = None,
    order: np.ndarray | None = None,
    allow_single: bool = False,
) -> np.ndarray:
    """Long tail: n_k = int(n_max R^(-k/(K-1))) for place k = 0..K-1 of the order; int [K] by class label.

    n_max is per_class, or the size of the smallest class. CIFAR-10 with R = 100 gives 12,406 images in all, CIFAR-100
    gives 10,847 (Cui 2019, Cao 2019). Raises DataError as `step_counts`.
    """
    available = np.asarray(available)
    order = np.arange(len(available)) if order is None else order
    n_max = int(available.min()) if per_class is None else per_class
    exponents = np.arange(len(available)) / max(len(available) - 1, 1)
    counts = np.empty(len(available), np.int64)
    counts[order] = (n_max * ratio**-exponents + _EPSILON).astype(np.int64)
    return _checked(counts, available, allow_single)


def check_majority(majority: int, num_classes: int) -> None:
    """Raises DataError unless 1 <= KA <= K."""
    if not 1 <= majority <= num_classes:
        raise DataError(
            f"data.majority: expected 1 to {num_classes} (the data set has K = {num_classes} classes), got {majority}. "
            "Choose fewer majority classes."
        )


def _checked(counts: np.ndarray, available: np.ndarray, allow_single: bool) -> np.ndarray:
    if (counts < 1).any():
        if not allow_single:
            raise DataError(
                f"The imbalance leaves classes {np.flatnonzero(counts < 1).tolist()} without an image; "
                f"the counts would be {counts.tolist()}. Lower data.ratio, raise data.per_class, or set "
                "data.allow_single to keep one image in each."
            )
        counts = np.maximum(counts, 1)
    _require_available(counts, available)
    return counts


def _require_available(counts: np.ndarray, available: np.ndarray) -> None:
    if (counts > available).any():
        short = np.flatnonzero(counts > available)
        raise DataError(
            f"Classes {short.tolist()} offer {available[short].tolist()} images where {counts[short].tolist()} were "
            f"asked for. Lower data.per_class to at most {int(available.min())}."
        )


def subset(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Sorted indices [sum n_k] of a random choice of n_k images of class k.

    Nested: with the same seed a smaller count chooses among the images of the larger one, whatever the other classes
    do, so that runs of different R differ by left-out images alone. Raises DataError where a class has fewer.
    """
    counts = np.asarray(counts)
    _require_available(counts, np.bincount(labels, minlength=len(counts)))
    chosen = [
        np.random.default_rng([seed, k]).permutation(np.flatnonzero(labels == k))[:count]
        for k, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen))
