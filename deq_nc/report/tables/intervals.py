"""Means over seeds and how sure they are: mean +- t_{n-1, .975} s / sqrt(n)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
BAND_SEEDS = 3  # with two seeds the interval is 12.7 standard errors wide and hides the plot: tables only


@dataclass(frozen=True)
class Interval:
    """Mean of n values and the half width of its 95 % t-interval (None for n = 1)."""

    mean: float
    half: float | None
    n: int

    def excludes_zero(self, comparisons: int = 1) -> bool:
        """Whether 0 lies outside; `comparisons` m > 1 widens to the level 1 - .05 / m (Bonferroni).

        False without a half width, and for a half width of 0: equal values leave nothing to estimate a spread from.
        """
        if not self.half or math.isnan(self.half):
            return False
        wider = stdtrit(self.n - 1, 1 - (1 - CONFIDENCE) / 2 / comparisons) / stdtrit(self.n - 1, 0.5 + CONFIDENCE / 2)
        return bool(abs(self.mean) > self.half * wider)


def interval(values: Iterable[float]) -> Interval | None:
    """Student's t-interval for the mean of independent values; None for no value, NaN where a value is NaN."""
    x = np.asarray(list(values), dtype=np.float64)
    if x.size == 0:
        return None
    half = None
    if x.size > 1:
        spread = 0.0 if x.min() == x.max() else x.std(ddof=1)  # the rounded mean of equal values would leave 1e-18
        half = float(stdtrit(x.size - 1, 0.5 + CONFIDENCE / 2) * spread / math.sqrt(x.size))
    return Interval(float(x.mean()), half, x.size)


@dataclass(frozen=True)
class Curve:
    """A quantity per epoch: each seed's own line, their mean, and the band where BAND_SEEDS seeds or more have it."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: tuple[tuple[np.ndarray, np.ndarray], ...]


def curve(histories: Sequence[Sequence[Mapping[str, Any]]], key: str, *, log: bool = False) -> Curve | None:
    """`key` per epoch over seeds; with `log`, mean and interval of the logarithm (values <= 0 are left out)."""
    lines = []
    for history in histories:
        points = [(row["epoch"], row[key]) for row in history if isinstance(row.get(key), int | float)]
        points = [(epoch, value) for epoch, value in points if not log or value > 0]
        if points:
            when, what = zip(*points)
            lines.append((np.asarray(when, np.float64), np.asarray(what, np.float64)))
    if not lines:
        return None
    # An epoch that one seed alone measured (the start of its terminal phase) would make the mean jump to that seed.
    epochs = np.unique(np.concatenate([line[0] for line in lines]))
    shared = [all(epoch in when for when, _ in lines if when[-1] >= epoch) for epoch in epochs]
    epochs = epochs[shared] if any(shared) else epochs
    table = []
    for epoch in epochs:
        at = [float(value[when == epoch][0]) for when, value in lines if epoch in when]
        if found := interval(np.log(at) if log else at):
            half = found.half if found.half is not None and found.n >= BAND_SEEDS else math.nan
            table.append((found.mean, found.mean - half, found.mean + half))
    mean, low, high = np.asarray(table).T
    if log:
        mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
    return Curve(epochs, mean, low, high, tuple(lines))
