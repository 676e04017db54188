"""Collapse of features that do not fit in memory: the two passes of `measure`, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .checks import Numbers, as_array, as_floats, as_inputs
from .measure import Collapse, summarise
from .moments import ClassMoments, class_moments, merge
from .residuals import residual_sums
from .sums import lanes_of
from .tables import make_tables

Batches = Callable[[], Iterable[tuple]]


def stream_moments(batches: Iterable[tuple], num_classes: int) -> ClassMoments:
    """Merged `class_moments` of an iterable of (features [B, D], labels [B]) or (features, labels, mask [B]).

    One pass; memory of one batch. Raises ValueError for shapes that disagree, no batch at all, and labels outside
    0..K-1.
    """
    total = None
    for batch in batches:
        h, y, mask = _arrays(batch, num_classes)
        if total is not None and h.shape[1] != total.origin.shape[1]:
            raise ValueError(f"features: batches of {total.origin.shape[1]} and of {h.shape[1]} columns in one stream.")
        total = _with(total, h, y, mask, num_classes=num_classes, lanes=lanes_of(h))
    if total is None:
        raise ValueError("batches: expected at least one (features, labels), got none. Was the iterator used before?")
    if int(total.outside):
        raise ValueError(f"labels: {int(total.outside)} rows outside 0..{num_classes - 1}. Raise num_classes or mask.")
    return total


def measure_stream(
    batches: Batches,
    weights: Numbers | None,
    bias: Numbers | None = None,
    *,
    num_classes: int,
    majority: Numbers | None = None,
) -> Collapse:
    """`measure` over batches: `batches()` gives a fresh iterable of (features, labels) or (features, labels, mask).

    It is called twice, for the moments and for the residuals, and must give the same samples (in any order and in any
    batches) both times; memory of one batch and K x D tables. Equal to `measure` on the concatenation to rounding.
    Raises ValueError as `measure` does, and TypeError where batches is not a function.
    """
    if not callable(batches):
        raise TypeError(
            f"batches: expected a function returning an iterable, got {type(batches).__name__}. Use lambda."
        )
    moments = stream_moments(batches(), num_classes)
    if float(jnp.sum(moments.count)) == 0:
        raise ValueError("mask: it leaves no sample. Mark at least two classes' rows True.")
    if not bool(jnp.all(jnp.isfinite(moments.scatter))):
        _name_bad_rows(batches(), num_classes)
    d = moments.origin.shape[1]
    dtype = moments.origin.dtype
    _, _, w, b, _, a = as_inputs(jnp.zeros((1, d), dtype), np.zeros(1, int), weights, bias, num_classes, None, majority)
    tables = _tables(moments, w, b)
    sums, rows, first = None, jnp.zeros((), int), int(np.asarray(moments.count, np.float64).sum())
    for batch in batches():
        h, y, mask = _arrays(batch, num_classes)
        new = _residuals(h, y, tables, mask, lanes=lanes_of(h))
        sums = new if sums is None else sums + new
        rows = rows + (len(y) if mask is None else jnp.sum(mask))
    if sums is None or int(rows) != first:
        raise ValueError(
            f"batches: {first} samples in the first pass, {int(rows)} in the second. "
            "Return a fresh iterable over the same data each time."
        )
    return _summarise(tables, sums, a)


def _arrays(batch: tuple, num_classes: int) -> tuple[Array, Array, Array | None]:
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise ValueError("batches: expected (features, labels) or (features, labels, mask) a batch.")
    mask = batch[2] if len(batch) == 3 else None
    given = as_inputs(batch[0], batch[1], None, None, num_classes, mask, None)
    return given.features, given.labels, given.mask


def _name_bad_rows(batches: Iterable[tuple], num_classes: int) -> None:
    for i, batch in enumerate(batches):
        finite = np.isfinite(np.asarray(as_floats("features", batch[0]))).all(1)
        rows = np.flatnonzero(~finite & (np.asarray(as_array("mask", batch[2]), bool) if len(batch) == 3 else True))
        if len(rows):
            raise ValueError(f"features: not finite in batch {i}, row {rows[0]} ({len(rows)} such rows). Mask them.")


def _highest(f: Callable, **kwargs: Any) -> Callable:
    def run(*args: Any, **named: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return f(*args, **named)

    return jax.jit(run, **kwargs)


@partial(_highest, static_argnames=("num_classes", "lanes"))
def _with(total: ClassMoments | None, h: Array, y: Array, mask: Array | None, *, num_classes: int, lanes: int) -> Any:
    new = class_moments(h, y, num_classes, mask, lanes=lanes)
    return new if total is None else merge(total, new)


_tables, _summarise = _highest(make_tables), _highest(summarise)
_residuals = _highest(residual_sums, static_argnames="lanes")
