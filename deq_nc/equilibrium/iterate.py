"""One masked loop for every fixed-point iteration, forward and adjoint: z <- update(z, F(z)) until each row stops.

Letters: F [B, n] -> [B, n] the map, k the update about to be made, g = F(z), r = g - z.
Each row has its own residual, its own stop and its own best iterate; nothing but one `any` crosses rows. A row that has
stopped is still evaluated (the batch is one array) but never written again, unless the loop is told how to narrow: then
what still moves goes on in a smaller batch once it fits.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.errors import CellError, Part, count, number
from deq_nc.equilibrium.rows import blank, measured, ratio, square_norm, unit

PyTree = Any


class Step(NamedTuple):
    """What an update sees, by rows: z [B, n] after k updates, g = F(z) and r = g - z.

    `size` [B] is a power of two at which the numbers of z and g live: what is squared is divided by it before.
    `jumped` [B] marks rows whose residual has grown so much that what the memory knows of them should be forgotten.
    """

    k: Array
    z: Array
    g: Array
    r: Array
    size: Array
    jumped: Array


@dataclass(frozen=True, kw_only=True)
class Solver(Part, abc.ABC):
    """An iteration for z = F(z), row by row. Subclass it with a frozen dataclass that has `start` and `update`.

    Stops, residuals, best iterates and NaN are the loop's business: `update` only says where to go next.
    """

    tol: float = number(1e-4)  # relative residual ||f(z) - z|| / ||f(z)||
    max_steps: int = count(50)
    differences: ClassVar[bool] = True  # divides by differences of iterates: Unrolled() stops before they are rounding

    @abc.abstractmethod
    def start(self, z: Array) -> PyTree:
        """The memory at z [B, n]: a pytree of arrays [B, ...] and scalars, made from z so that it lies where z lies."""

    @abc.abstractmethod
    def update(self, memory: PyTree, step: Step) -> tuple[Array, PyTree]:
        """(z_next [B, n], memory), each row from its own rows alone."""


@dataclass(frozen=True, kw_only=True)
class FixedPoint(Solver):
    """z_next = z + beta r, beta = damping."""

    damping: float = number(1.0, most=1)
    differences: ClassVar[bool] = False

    def start(self, z: Array) -> PyTree:
        return ()

    def update(self, memory: PyTree, step: Step) -> tuple[Array, PyTree]:
        return plain(step, self.damping), memory


def plain(step: Step, damping: float) -> Array:
    return step.g if damping == 1 else step.z + damping * step.r


class Solved(NamedTuple):
    z: Array  # [B, n] the best finite iterate
    residual: Array  # [B] relative, at that z
    steps: Array  # [B] updates made
    converged: Array
    finite: Array
    trace: Array | None


class _Carry(NamedTuple):
    k: Array
    z: Array
    size: Array
    memory: Any
    best: Array
    residual: Array
    steps: Array
    active: Array
    finite: Array
    trace: Array | None


JUMP = 10.0  # growth over the best residual at which a row's memory is dropped
SHRINK, LEAST = 4, 8  # a narrower batch is a quarter, of no fewer rows than 8: each is a compiled loop of its own


def widths(batch: Any) -> list[int]:
    """Rows of the narrower batches, largest first; CellError where the batch is a symbol."""
    if not isinstance(batch, int):
        raise CellError(f"compact=True: expected a known batch size, got {batch}. Leave compact off in exports.")
    few = batch // SHRINK
    return [few, *widths(few)] if few >= LEAST else []


def iterate(
    F: Callable[[Array], Array],
    z0: Array,
    solver: Solver,
    tol: Array | float,
    max_steps: Array | int,
    *,
    scale: Array | None = None,
    round: Callable[[Array], Array] = lambda z: z,
    trace: int = 0,
    unroll: int | None = None,
    narrow: Callable[[Array], Callable[[Array], Array]] | None = None,
) -> Solved:
    """Solve z = F(z) row by row, z0 [B, n].

    residual = ||F(z) - z|| / scale, scale [B] or, if None, ||F(z)||; who gives a scale has brought the rows near 1.
    `max_steps` updates at most, hence one evaluation more. `trace` > 0 keeps that many residuals per row. `unroll`
    (static) makes the loop a scan of that many updates through which reverse-mode differentiation passes.
    `narrow(index)` is F of the rows index [S] alone; with it rows that have stopped are no longer evaluated once the
    others fit a quarter batch.
    """
    batch = z0.shape[0]
    sane = jnp.all(jnp.isfinite(z0), axis=1)
    z0 = jnp.where(sane[:, None], z0, 0)

    def body(c: _Carry, F: Callable[[Array], Array], scale: Array | None) -> _Carry:
        g = F(c.z)
        r = g - c.z
        size = c.size
        if scale is None:
            # A pass for the largest entries costs as much as the norms; what a row's norm was tells the next scale.
            size = lax.cond(c.k == 0, lambda: jnp.maximum(unit(c.z), unit(g)), lambda: size)
            residual, size_next, known, ok = measured(c.z, g, size)
        else:
            residual = ratio(square_norm(r), scale)
            size_next, known = size, jnp.isfinite(residual)
            ok = known
        better = c.active & known & (residual < c.residual)
        go = c.active & ok & ~(known & (residual <= tol)) & (c.k < max_steps)
        jumped = residual > JUMP * c.residual
        z, memory = solver.update(c.memory, Step(c.k, c.z, g, r, size, jumped))
        return _Carry(
            k=c.k + 1,
            z=jnp.where(go[:, None], round(z), c.z),
            size=size_next,
            memory=memory,
            best=jnp.where(better[:, None], c.z, c.best),
            residual=jnp.where(better, residual, c.residual),
            steps=jnp.where(c.active, c.k, c.steps),
            active=go,
            finite=c.finite & (ok | ~c.active),
            trace=c.trace if c.trace is None else _record(c.trace, c.k, jnp.where(c.active, residual, jnp.nan)),
        )

    def settle(c: _Carry, F: Callable[[Array], Array], scale: Array | None, few: int = 0) -> _Carry:
        """The carry once at most `few` rows still move."""
        more = (lambda c: jnp.sum(c.active) > few) if few else (lambda c: jnp.any(c.active))
        return lax.while_loop(more, lambda c: body(c, F, scale), c)

    start = _Carry(
        k=jnp.zeros((), jnp.int32),
        z=z0,
        size=blank(z0, value=1),
        memory=solver.start(z0),
        best=z0,
        residual=blank(z0, value=jnp.inf),
        steps=blank(z0, dtype=jnp.int32),
        active=sane,
        finite=sane,
        trace=blank(z0, trace, value=jnp.nan) if trace else None,
    )
    if unroll is not None:
        c, _ = lax.scan(lambda c, _: (body(c, F, scale), None), start, length=unroll + 1)
        return _solved(c, tol)
    c, index, wider = start, jnp.arange(batch), []
    if narrow is not None:
        for few in widths(batch):
            c = settle(c, F, scale, few)
            rows = jnp.argsort(~c.active)[:few]  # those that still move, filled up with some that have stopped
            wider.append((c, rows))
            index, scale, c = index[rows], None if scale is None else scale[rows], _cut(c, rows)
            F = narrow(index)
    c = settle(c, F, scale)
    for whole, rows in reversed(wider):
        c = _put(whole, rows, c)
    return _solved(c, tol)


def _cut(c: _Carry, rows: Array) -> _Carry:
    return jax.tree.map(lambda v: v[rows] if v.ndim else v, c)


def _put(whole: _Carry, rows: Array, part: _Carry) -> _Carry:
    return jax.tree.map(lambda v, p: v.at[rows].set(p) if v.ndim else p, whole, part)


def _solved(c: _Carry, tol: Array | float) -> Solved:
    return Solved(c.best, c.residual, c.steps, c.residual <= tol, c.finite, c.trace)


def _record(trace: Array, k: Array, value: Array) -> Array:
    """value [B] into column k; a budget raised at run time beyond the columns is not recorded."""
    column = jax.lax.broadcasted_iota(jnp.int32, trace.shape, 1)
    return jnp.where(column == k, value[:, None], trace)
