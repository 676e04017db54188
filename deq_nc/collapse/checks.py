"""Input checks of `measure`: shapes always, values outside jit."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from deq_nc.geometry import float_type

Numbers = Any  # an array of jax or NumPy, lists of numbers, a PyTorch tensor: what `as_array` reads


def as_array(name: str, x: Numbers) -> Array | np.ndarray:
    """x as a jax or NumPy array of numbers; a PyTorch tensor is detached, and widened where NumPy lacks its dtype.

    Raises ValueError for what is not numbers.
    """
    if isinstance(x, jax.Array):
        return x
    x = x.detach() if hasattr(x, "detach") else x
    try:
        try:
            x = np.asarray(x)
        except TypeError:
            x = np.asarray(x.cpu().float())  # bfloat16, or a tensor on a GPU
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{name}: expected an array of numbers, got {type(x).__name__} ({error}).") from error
    if x.dtype.kind == "f":  # jax knows neither the other byte order nor 80 bits
        x = x.astype(np.float64 if x.itemsize > 8 else x.dtype.newbyteorder("="), copy=False)
    elif not (x.dtype.kind in "biu" or jnp.issubdtype(x.dtype, jnp.floating)):
        raise ValueError(f"{name}: expected an array of numbers, got {x.dtype}. Convert them first.")
    return x


def as_floats(name: str, x: Numbers) -> Array:
    """x as float32, or float64 where it came so under x64; half precision is widened. Raises ValueError otherwise."""
    x = as_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating point numbers, got {x.dtype}. Convert them first.")
    x = jnp.asarray(x)
    return x.astype(float_type(x.dtype))


def as_labels(x: Numbers, num_classes: int) -> Array:
    """Labels as integers that 32 bits hold: what lies beyond becomes -1, it would be wrapped into a valid label."""
    y = as_array("labels", x)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"labels: expected integers 0..{num_classes - 1}, got {y.dtype}. Convert them: labels.astype(int)."
        )
    if isinstance(y, np.ndarray) and y.dtype.itemsize >= 4:
        narrow = y.astype(np.int32)
        y = np.where(narrow == y, narrow, -1).astype(np.int32)
    return jnp.asarray(y)


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


class Inputs(NamedTuple):
    features: Array
    labels: Array
    weights: Array | None
    bias: Array | None
    mask: Array | None
    majority: Array | None


def as_inputs(
    features: Numbers,
    labels: Numbers,
    weights: Numbers | None,
    bias: Numbers | None,
    num_classes: int,
    mask: Numbers | None,
    majority: Numbers | None,
) -> Inputs:
    """The arguments of `measure` as arrays of agreeing shapes and dtypes; ValueError names both shapes otherwise."""
    k = num_classes
    _require(k >= 2, f"num_classes: expected at least 2, got {k}. Collapse compares classes.")
    h = as_floats("features", features)
    _require(h.ndim == 2, f"features: expected shape [N, D], got {list(h.shape)}. Flatten or pool each sample first.")
    n, d = h.shape
    _require(n > 0 and d > 0, f"features: expected at least one row and one column, got {[n, d]}.")
    y = as_labels(labels, k)
    _require(y.shape == (n,), f"labels: expected shape [{n}] beside features [{n}, {d}], got {list(y.shape)}.")
    w = b = m = a = None
    if weights is not None:
        w = as_floats("weights", weights).astype(h.dtype)
        _require(w.shape != (d, k) or d == k, f"weights: got [D, K] = [{d}, {k}], expected [K, D]. Pass weights.T.")
        _require(
            w.shape == (k, d), f"weights: expected [K, D] = [{k}, {d}] for features [{n}, {d}], got {list(w.shape)}."
        )
    if bias is not None:
        _require(weights is not None, "bias: given without weights. Pass weights too.")
        b = as_floats("bias", bias).astype(h.dtype)
        _require(b.shape == (k,), f"bias: expected shape [{k}], got {list(b.shape)}.")
    if mask is not None:
        m = jnp.asarray(as_array("mask", mask))
        _require(m.shape == (n,), f"mask: expected shape [{n}] beside features [{n}, {d}], got {list(m.shape)}.")
        m = m.astype(bool)
    if majority is not None:
        a = jnp.asarray(as_array("majority", majority))
        _require(a.shape == (k,), f"majority: expected {k} booleans, one a class, got shape {list(a.shape)}.")
        _require(a.dtype == bool, f"majority: expected booleans, got {a.dtype}. Mark classes, do not list them.")
    return Inputs(h, y, w, b, m, a)


def refuse_bad_values(given: Inputs, collapse: Any, num_classes: int, labels: Numbers) -> None:
    """ValueError for labels out of range, an empty mask and numbers that are not finite; silent inside jit.

    labels: as they came. The features are read again only when the result is not finite.
    """
    h, y, w, b, m, _ = given
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((given, collapse))):
        return
    used: np.ndarray = np.ones(len(y), np.bool_) if m is None else np.asarray(m)
    if int(collapse.outside):
        rows = np.flatnonzero(used & ((np.asarray(y) < 0) | (np.asarray(y) >= num_classes)))
        came = int(as_array("labels", labels)[rows[0]])
        raise ValueError(
            f"labels: expected 0..{num_classes - 1}, got {came} in row {rows[0]} ({len(rows)} such rows). "
            "Raise num_classes, or mask these rows."
        )
    _require(float(collapse.count.sum()) > 0, "mask: it leaves no sample. Mark at least two classes' rows True.")
    for name, x in (("weights", w), ("bias", b)):
        _require(x is None or bool(jnp.all(jnp.isfinite(x))), f"{name}: not finite. The classifier diverged.")
    if not np.isfinite(float(collapse.variance_class.sum(where=collapse.count > 0))):
        rows = np.flatnonzero(used & ~np.isfinite(np.asarray(h)).all(1))
        if len(rows):
            shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
            raise ValueError(f"features: not finite in {len(rows)} rows ({shown}). Mask them or find their cause.")
