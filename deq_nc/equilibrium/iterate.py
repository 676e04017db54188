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

from deq_nc.equilibrium.errors import CellError
from deq_nc.equilibrium.state import blank, inverse, ratio, square_norm, unit


class Rule(NamedTuple):
    """An update: `start(z) -> memory`, `update(memory, k, z, g, r, size, jumped) -> (z_next, memory)`; by rows.

    `size` [B] is a power of two at which the numbers of z and g live: what is squared is divided by it before.
    `jumped` [B] marks rows whose residual has grown so much that what the memory knows of them should be forgotten.
    """

    start: Callable[[Array], Any]
    update: Callable[[Any, Array, Array, Array, Array, Array, Array], tuple[Array, Any]]


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


def narrower(batch: int) -> int:
    """Rows of the next narrower batch, 0 if there is none; CellError where the batch is a symbol."""
    if not isinstance(batch, int):
        raise CellError(f"compact=True: expected a known batch size, got {batch}. Leave compact off in exports.")
    return batch // SHRINK if batch // SHRINK >= LEAST else 0


def measured(z: Array, g: Array, size: Array) -> tuple[Array, Array, Array, Array]:
    """(residual ||g - z|| / ||g||, size of the next step, known, ok), each [B], from squares of z / size and g / size.

    Where those leave the type's range, or r could vanish beside them, nothing is known and the next step looks again at
    another scale. ok is false where z or g is not finite. The difference is taken after the division: near the bottom
    of the range it would vanish.
    """
    z, g, size = lax.stop_gradient((z, g, size))
    info = jnp.finfo(z.dtype)
    least, most = 2.0**info.minexp, 2.0 ** (info.maxexp - 2)
    far, low = 2.0 ** (info.maxexp // 2 - 4), 2.0 ** -(info.maxexp // 4)
    shrink = inverse(size)[:, None]
    g = g * shrink
    norm, norm_g = square_norm(g - z * shrink), square_norm(g)
    top = jnp.maximum(norm, norm_g)
    known = ((top > low) | (size == least)) & (top < jnp.inf)
    ok = (top < jnp.inf) | ((top == jnp.inf) & (size < most))
    drifted = (top * top < low) | (top > far**0.25)
    factor = jnp.where(top == 0, 1 / far, jnp.where(top < jnp.inf, unit(top[:, None]), far))
    size_next = jnp.where(drifted, jnp.clip(size * factor, least, most), size)
    return jnp.where(known, ratio(norm, norm_g), jnp.inf), size_next, known, ok


def relative(z: Array, g: Array) -> tuple[Array, Array, Array]:
    """||g_b - z_b|| / ||g_b||, the power of two at their largest entry, and whether all of them are finite, each [B].

    Subtracted after the division: near the bottom of the type's range the difference itself would vanish.
    """
    z, g = lax.stop_gradient((z, g))
    size_g = unit(g)
    size = jnp.maximum(size_g, unit(z))
    shrink = inverse(size)[:, None]
    r, g = square_norm(g * shrink - z * shrink), square_norm(g * inverse(size_g)[:, None])
    return ratio(r, g) * (size * inverse(size_g)), size, jnp.isfinite(r) & jnp.isfinite(g)


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

    residual = ||F(z) - z|| / scale, scale [B] or, if None, ||F(z)||; who gives a scale has brought the rows near 1.
    `max_steps` updates at most, hence one evaluation more. `active` [B] marks the rows to work on. `trace` > 0 keeps
    that many residuals per row. `unroll` (static) makes the loop a scan of that many updates through which reverse-mode
    differentiation passes. `narrow(index)` is F of the rows index [S] alone; with it rows that have stopped are no
    longer evaluated once the others fit a quarter batch.
    """
    batch = z0.shape[0]
    sane = jnp.all(jnp.isfinite(z0), axis=1)
    z0 = jnp.where(sane[:, None], z0, 0)

    def body(c: _Carry, F: Callable[[Array], Array] = F, scale: Array | None = scale) -> _Carry:
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
        z, memory = rule.update(c.memory, c.k, c.z, g, r, size, jumped)
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
        size=blank(z0, value=1),
        memory=rule.start(z0),
        best=z0,
        residual=blank(z0, value=jnp.inf),
        steps=blank(z0, dtype=jnp.int32),
        active=sane if active is None else active & sane,
        finite=sane,
        trace=blank(z0, trace, value=jnp.nan) if trace else None,
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
    return Rule(lambda z: (), lambda memory, k, z, g, r, size, jumped: (g if damping == 1 else z + damping * r, memory))
