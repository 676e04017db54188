"""Mistakes found before a solve, and failures raised after it; nothing here runs inside a loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.config import ConfigError
from deq_nc.equilibrium.adjoint import Adjoint
from deq_nc.equilibrium.errors import CellError, NotConvergedError
from deq_nc.equilibrium.iterate import Step
from deq_nc.equilibrium.state import Rows, SolveStats

PyTree = Any


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree)


def _describe(tree: PyTree) -> list[str]:
    return [f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(tree)]


def check_cell(f: Callable, z0: PyTree, x: PyTree, theta: PyTree) -> None:
    """CellError unless f(z0, x, theta) has the structure, shapes and dtypes of z0 and captures no traced value."""
    jaxpr, out = jax.make_jaxpr(f, return_shape=True)(z0, x, theta)
    if _structure(out) != _structure(z0):
        raise CellError(
            f"f: expected the structure of z0, {jax.tree.structure(z0)}, got {jax.tree.structure(out)}. "
            "Return the state alone; statistics are taken in a separate application at z*."
        )
    if _describe(out) != _describe(z0):
        came, expected = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (out, z0))
        what = "shape" if came != expected else "dtype"
        raise CellError(
            f"f changes the {what} of the state: expected {_describe(z0)}, got {_describe(out)}. "
            "Make z0 what f returns, or end f with .astype(z.dtype)."
        )
    captured = [c for c in jaxpr.consts if isinstance(c, jax.core.Tracer)]
    if captured:
        raise CellError(
            f"f captures {len(captured)} traced value(s), {_describe(captured)}, whose gradient would be lost. "
            "Pass them through x (per example) or theta (shared): f(z, x, theta) takes what it uses as arguments."
        )


def check_own(name: str, part: Any, rows: Rows) -> None:
    """ConfigError unless a solver or adjoint of the user's returns the shapes and dtypes that the loops carry."""
    if type(part).__module__.startswith("deq_nc."):
        return

    def once() -> tuple:
        z, row = jnp.zeros((rows.batch, rows.size), rows.dtype), jnp.ones((rows.batch,), rows.dtype)
        if isinstance(part, Adjoint):
            budget = row.astype(jnp.int32)
            return (z, budget), part.correct(lambda u: u / 2, z, row, budget)
        memory = part.start(z)
        return (z, memory), part.update(memory, Step(jnp.int32(0), z, z, z, row, row < 1))

    expected, came = jax.eval_shape(once)
    if _structure(came) != _structure(expected) or _describe(came) != _describe(expected):
        method, what = ("correct", "(du, products)") if isinstance(part, Adjoint) else ("update", "(z_next, memory)")
        raise ConfigError(
            f"{name}: expected {what} of {_describe(expected)} from {type(part).__name__}.{method}, got "
            f"{_describe(came)}. Return what the loop carries, the memory in the form that `start` gives it."
        )


def check_fewer_rows(f: Callable, z0: PyTree, x: PyTree, theta: PyTree, rows: int) -> None:
    """CellError unless every leaf of x has the examples of z0 and f maps the first `rows` of them as well."""
    batch = jax.tree.leaves(z0)[0].shape[0]
    shared = [v for v in jax.tree.leaves(x) if jnp.ndim(v) == 0 or jnp.shape(v)[0] != batch]
    if shared:
        raise CellError(
            f"compact=True: expected leaves [{batch}, ...] in x, got {_describe(shared)}. Pass what the examples share "
            "through theta, or leave compact off."
        )

    def first(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda v: jax.ShapeDtypeStruct((rows, *jnp.shape(v)[1:]), jnp.result_type(v)), tree)

    cause, expected = None, _describe(first(z0))
    try:
        came: Any = _describe(jax.eval_shape(f, first(z0), first(x), theta))
    except (TypeError, ValueError) as error:
        cause, came = error, f"{type(error).__name__}: {error}"
    if came != expected:
        raise CellError(
            f"compact=True: expected f to map {rows} of the {batch} examples to {expected}, got {came}. "
            "Take the batch size from z inside f, or leave compact off."
        ) from cause


def own_leaves(f: Callable, z: PyTree, x: PyTree, theta: PyTree) -> list[bool]:
    """Leaf by leaf of x: does it hold a row for each example, or is it shared by all and merely of that length?

    Told by shapes alone: f is asked for several times as many examples, with some of the leaves left as they are. What
    may be left so is shared; an example's own leaf no longer fits. An f that takes one batch size only tells nothing:
    then whatever has B rows counts as the examples' own.
    """
    batch = jax.tree.leaves(z)[0].shape[0]
    leaves, tree = jax.tree.flatten(x)
    own = [jnp.ndim(v) > 0 and jnp.shape(v)[0] == batch for v in leaves]
    if not isinstance(batch, int) or batch == 1:  # a symbolic batch is the examples' by its name; one row fits any
        return own
    sizes = {size for v in jax.tree.leaves((z, x, theta)) for size in jnp.shape(v)}
    more = next(k * batch for k in range(2, len(sizes) + 3) if k * batch not in sizes)

    def grown(v: Any, grow: bool) -> jax.ShapeDtypeStruct:
        shape = jnp.shape(v)
        return jax.ShapeDtypeStruct((more, *shape[1:]) if grow else shape, jnp.result_type(v))

    def fits(kept: tuple[int, ...]) -> bool:
        some = [grown(v, mine and i not in kept) for i, (v, mine) in enumerate(zip(leaves, own))]
        try:
            came = jax.eval_shape(f, jax.tree.map(lambda v: grown(v, True), z), jax.tree.unflatten(tree, some), theta)
        except Exception:  # whatever f raises at shapes that do not fit
            return False
        return all(v.shape[:1] == (more,) for v in jax.tree.leaves(came))

    mine = [i for i, v in enumerate(own) if v]
    subsets = (kept for size in range(len(mine) + 1) for kept in itertools.combinations(mine, size))
    must = next((kept for kept in itertools.islice(subsets, 64) if fits(kept)), None)
    if must is not None:
        own = [v and i not in must and not fits((*must, i)) for i, v in enumerate(own)]
    return own


def require_converged(stats: SolveStats, worst: int = 5) -> None:
    """NotConvergedError naming the `worst` examples unless every example converged; only outside jit."""
    if isinstance(stats.residual, jax.core.Tracer):
        raise CellError(
            "strict=True: expected concrete values, got traced ones. Inside jit nothing can be raised: "
            "return the statistics and call require_converged(stats) on them."
        )
    residual, converged = np.asarray(stats.residual), np.asarray(stats.converged)
    if converged.all():
        return
    order = [int(i) for i in np.argsort(-np.where(converged, -1.0, residual)) if not converged[i]][:worst]
    listed = ", ".join(
        f"{i}: residual {residual[i]:.2e} after {int(stats.steps[i])} steps"
        + ("" if stats.finite[i] else " (met NaN or Inf)")
        for i in order
    )
    raise NotConvergedError(
        f"{int((~converged).sum())} of {converged.size} examples did not converge. Worst: {listed}. "
        "Raise max_steps or tol, or measure spectral_radius: at 1 or more no iteration of f can converge."
    )


def check_rows_independent(f: Callable, z0: PyTree, x: PyTree, theta: PyTree, tol: float = 1e-3) -> None:
    """CellError if changing every second example of (z, x) changes f on the others by more than tol, or f(z0) is NaN.

    Outside jit only (inside it there is nothing to compare); a batch of one has nobody to mix with.
    """
    leaves = jax.tree.leaves((z0, x, theta))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return
    batch = jax.tree.leaves(z0)[0].shape[0]
    out = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(f(z0, x, theta))]
    bad = [b for b in range(batch) if any(not np.isfinite(leaf[b]).all() for leaf in out)]
    if bad:
        raise CellError(f"f(z0, x, theta) is NaN or Inf on examples {bad[:10]}. Look at their x and at theta.")
    own = jax.tree.unflatten(jax.tree.structure(x), own_leaves(f, z0, x, theta))
    rng = np.random.default_rng(0)
    for parity in range(min(batch, 2)):
        moved = np.arange(batch) % 2 == parity

        def shift(leaf: Any, mine: bool = True) -> Any:
            if not mine or not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            noise = jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
            return jnp.where(moved.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf + noise, leaf)  # noqa: B023

        other = jax.tree.leaves(f(jax.tree.map(shift, z0), jax.tree.map(shift, x, own), theta))
        for before, after in zip(out, other):
            change = np.abs(np.asarray(after, np.float64) - before)[~moved]
            if change.size and change.max() > tol * (1e-30 + np.abs(before).max()):
                raise CellError(
                    f"f mixes examples: changing some moved the others by up to {change.max():.2e}. "
                    "Batch statistics belong outside the solve: use GroupNorm or LayerNorm inside f, or pass fixed "
                    "BatchNorm statistics through theta."
                )
