"""One masked loop for every fixed-point iteration, forward and adjoint: z <- rule(z, F(z)) until each row has stopped.

Letters: F [B, n] -> [B, n] the map, k the update about to be made, g = F(z), r = g - z.
Each row has its own residual, its own stop and its own best iterate; nothing but one `any` crosses rows. A row that has
stopped is still evaluated (the batch is one array) but never written again, unless the loop is told how to narrow: then
what still moves goes on in a smaller batch once it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.state import row_norm


class Rule(NamedTuple):
    """An update: `start(z) -> memory`, `update(memory, k, z, g, r, jumped) -> (z_next, memory)`; rows independent.

    `jumped` [B] marks rows whose residual has grown so much that what the memory knows of them should be forgotten.
    """

    start: Callable[[Array], Any]
    update: Callable[[Any, Array, Array, Array, Array, Array], tuple[Array, Any]]


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
    memory: Any
    best: Array
    residual: Array
    steps: Array
    active: Array
    finite: Array
    trace: Array | None


JUMP = 10.0  # growth over the best residual at which a row's memory is dropped
SHRINK, LEAST = 4, 8  # a narrower batch is a quarter, of no fewer rows than 8: each is a compiled loop of its own


def narrower(batch: int) -> int:
    """Rows of the next narrower batch, 0 if there is none."""
    return batch // SHRINK if batch // SHRINK >= LEAST else 0


def relative(r: Array, scale: Array) -> Array:
    """||r_b|| / scale_b -> [B], 0 where both vanish."""
    norm = row_norm(r)
    return jnp.where(norm == 0, norm, norm / scale)


def iterate(
    F: Callable[[Array], Array],
    z0: Array,
    rule: Rule,
    tol: Array | float,
    max_steps: Array | int,
    *,
    scale: Array | None = None,
    active: Array | None = None,
    round: Callable[[Array], Array] = lambda z: z,
    trace: int = 0,
    unroll: int | None = None,
    narrow: Callable[[Array], Callable[[Array], Array]] | None = None,
) -> Solved:
    """Solve z = F(z) row by row, z0 [B, n].

    residual = ||F(z) - z|| / scale, scale [B] or, if None, ||F(z)||. `max_steps` updates at most, hence one evaluation
    more. `active` [B] marks the rows to work on. `trace` > 0 keeps that many residuals per row. `unroll` (static) makes
    the loop a scan of that many updates through which reverse-mode differentiation passes. `narrow(index)` is F of the
    rows index [S] alone; with it rows that have stopped are no longer evaluated once the others fit a quarter batch.
    """
    batch = z0.shape[0]
    alive = jnp.ones((batch,), bool) if active is None else active
    sane = jnp.all(jnp.isfinite(z0), axis=1)
    z0 = jnp.where(sane[:, None], z0, 0)

    def body(c: _Carry, F: Callable[[Array], Array] = F, scale: Array | None = scale) -> _Carry:
        g = F(c.z)
        r = g - c.z
        fixed_r, fixed_g = lax.stop_gradient((r, g))
        residual = relative(fixed_r, row_norm(fixed_g) if scale is None else scale)
        ok = jnp.isfinite(residual)
        better = c.active & ok & (residual < c.residual)
        go = c.active & ok & (residual > tol) & (c.k < max_steps)
        jumped = residual > JUMP * c.residual
        z, memory = rule.update(c.memory, c.k, c.z, g, r, jumped)
        return _Carry(
            k=c.k + 1,
            z=jnp.where(go[:, None], round(z), c.z),
            memory=memory,
            best=jnp.where(better[:, None], c.z, c.best),
            residual=jnp.where(better, residual, c.residual),
            steps=jnp.where(c.active, c.k, c.steps),
            active=go,
            finite=c.finite & (ok | ~c.active),
            trace=c.trace if c.trace is None else _record(c.trace, c.k, jnp.where(c.active, residual, jnp.nan)),
        )

    def run(c: _Carry, index: Array, F: Callable[[Array], Array], scale: Array | None) -> _Carry:
        few = narrower(index.size) if narrow else 0
        more = (lambda c: jnp.sum(c.active) > few) if few else (lambda c: jnp.any(c.active))
        c = lax.while_loop(more, lambda c: body(c, F, scale), c)
        if not few:
            return c
        rows = jnp.argsort(~c.active)[:few]  # those that still move, filled up with some that have stopped
        part = jax.tree.map(lambda v: v[rows] if v.ndim else v, c)
        part = run(part, index[rows], narrow(index[rows]), None if scale is None else scale[rows])
        return jax.tree.map(lambda v, p: v.at[rows].set(p) if v.ndim else p, c, part)

    start = _Carry(
        k=jnp.zeros((), jnp.int32),
        z=z0,
        memory=rule.start(z0),
        best=z0,
        residual=jnp.full((batch,), jnp.inf, z0.dtype),
        steps=jnp.zeros((batch,), jnp.int32),
        active=alive & sane,
        finite=sane,
        trace=jnp.full((batch, trace), jnp.nan, z0.dtype) if trace else None,
    )
    if unroll is None:
        c = run(start, jnp.arange(batch), F, scale)
    else:
        c, _ = lax.scan(lambda c, _: (body(c), None), start, length=unroll + 1)
    return Solved(c.best, c.residual, c.steps, c.residual <= tol, c.finite, c.trace)


def _record(trace: Array, k: Array, value: Array) -> Array:
    """value [B] into column k; a budget raised at run time beyond the columns is not recorded."""
    column = jax.lax.broadcasted_iota(jnp.int32, trace.shape, 1)
    return jnp.where(column == k, value[:, None], trace)


def picard(damping: float) -> Rule:
    """z_next = z + beta r, beta = damping."""
    return Rule(lambda z: (), lambda memory, k, z, g, r, jumped: (g if damping == 1 else z + damping * r, memory))
