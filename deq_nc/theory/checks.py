"""What every function here refuses, and the float64 it computes in.

A message says what was expected, what came, and the next move; it is raised before anything is compiled.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from deq_nc import geometry


def require(ok: Any, name: str, expected: str, came: Any, do: str) -> None:
    """Raise ValueError unless every entry of `ok` is true: 'name: expected ..., got .... next move'."""
    if not np.all(ok):
        raise ValueError(f"{name}: expected {expected}, got {came!r}. {do}")


def require_one_of(name: str, came: Any, choices: tuple[str, ...]) -> None:
    """One of the names. Raises ValueError."""
    require(came in choices, name, "one of " + ", ".join(choices), came, "Choose one of these.")


def _finite(x: Any) -> Any:
    return np.isfinite(np.asarray(x, dtype=float))


def require_classes(num_classes: Any) -> None:
    """K >= 2, an integer. Raises ValueError."""
    k = np.asarray(num_classes)
    ok = _finite(k) & (k >= 2) & (k == np.floor(k))
    require(ok, "num_classes", "an integer K >= 2", num_classes, "One class has no geometry; pass at least two.")


def require_scale(scale: Any) -> None:
    """s = sqrt(E_W E_H) > 0 and finite. Raises ValueError."""
    require_positive("scale", scale, "It is s = sqrt(E_W E_H), the root of the two norm budgets per class; try 2.236.")


def require_gain(gain: Any) -> None:
    """0 <= g < 1. Raises ValueError."""
    ok = _finite(gain) & (np.asarray(gain) >= 0) & (np.asarray(gain) < 1)
    do = "At 1 the equilibrium (I - V)^-1 h need not exist; try 0.8."
    require(ok, "gain", "a number in [0, 1)", gain, do)


def require_positive(name: str, value: Any, do: str) -> None:
    """A finite number > 0. Raises ValueError."""
    require(_finite(value) & (np.asarray(value) > 0), name, "a finite number > 0", value, do)


def require_step(majority: Any, minority: Any, ratio: Any = 1.0) -> None:
    """KA >= 1 and KB >= 1 classes (integers), R = n_A / n_B >= 1. Raises ValueError."""
    for name, came in (("majority", majority), ("minority", minority)):
        x = np.asarray(came)
        ok = _finite(x) & (x >= 1) & (x == np.floor(x))
        do = "It counts the classes of that group; for equal counts call balanced_optimum(K, s)."
        require(ok, name, "an integer >= 1", came, do)
    ok = _finite(ratio) & (np.asarray(ratio) >= 1)
    do = "R = n_A / n_B, majority over minority; if yours is below 1, swap the two groups and pass 1/R."
    require(ok, "ratio", "a finite number >= 1", ratio, do)


def require_counts(counts: Any) -> np.ndarray:
    """Samples per class [K], K >= 2, each > 0, as float64. Raises ValueError."""
    n = np.asarray(counts, dtype=np.float64)
    require(n.ndim == 1, "counts", "one number a class, shape [K]", n.shape, "Pass a flat list.")
    require_classes(n.size)
    do = "A class without samples has no column in the program; drop it and lower K."
    require(_finite(n) & (n > 0), "counts", "every count > 0", list(np.asarray(counts).tolist()), do)
    return n


def nc2_floor(num_classes: int, dim: int) -> float:
    """`deq_nc.geometry.nc2_floor` of K centred means in dimension d. Raises ValueError for K < 2 or d < 1."""
    require_classes(num_classes)
    require(dim >= 1, "dim", "an integer >= 1", dim, "It is the feature dimension d.")
    return float(geometry.nc2_floor(np.asarray(num_classes), dim))


def require_dim(num_classes: int, dim: int | None) -> None:
    """d >= K - 1, so that a simplex ETF exists; None means 'large enough'. Raises ValueError with the best possible."""
    if dim is None:
        return
    floor = nc2_floor(num_classes, dim)
    best = f"no simplex ETF exists there: NC2 stays >= {floor:.6f}, "
    # K > d + 1 unit vectors cannot all have negative inner products (Rankin 1955).
    best += "and some pair of classes has cosine >= 0, where the ETF has " + f"{-1 / (num_classes - 1):.4f}"
    do = f"Raise d to K - 1 = {num_classes - 1}, or lower K to d + 1 = {dim + 1}; in d = {dim} {best}."
    require(dim >= num_classes - 1, "dim", f"d >= K - 1 = {num_classes - 1}", dim, do)


def float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run `function` with 64-bit JAX on the CPU, whatever the caller's flags and default device.

    The optima here are stated to 1e-10 and losses go below 1e-20; accelerators without float64 cannot hold them.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.enable_x64(True))
            stack.enter_context(jax.numpy_dtype_promotion("standard"))
            stack.enter_context(jax.default_matmul_precision("highest"))
            with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave the CPU out; a GPU has float64 too
                stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
            return function(*args, **kwargs)

    return run
