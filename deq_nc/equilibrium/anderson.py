"""Anderson acceleration, type II in differences, a separate least-squares problem for every row.

z_next = g - (1 - beta) r - sum_j gamma_j (dg_j - (1 - beta) dr_j),   gamma = argmin ||r - sum_j gamma_j dr_j||

Letters: m differences kept, dr_j and dg_j the differences of r and g between successive iterates, beta the damping.
Differences, not iterates: near the solution successive r are almost parallel, and a Gram matrix of the r loses in
float32 what the Gram matrix of the dr keeps; and the ridge then shrinks towards the plain step instead of towards an
average of old iterates. Columns are scaled to unit length before the ridge is added, so the mixing does not depend on
the scale of z. Source: Walker and Ni 2011, Anderson acceleration for fixed-point iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.errors import count, number
from deq_nc.equilibrium.iterate import Solver, Step, plain
from deq_nc.equilibrium.rows import EXACT, blank, inverse


class _Memory(NamedTuple):
    dr: Array  # [B, m, n]
    dg: Array  # [B, m, n]
    r: Array  # [B, n] of the iterate before
    g: Array
    size: Array  # [B] of the iterate before
    gram: Array  # [B, m, m] of dr, one row and column renewed per step
    valid: Array  # [B, m]


@dataclass(frozen=True, kw_only=True)
class Anderson(Solver):
    """m = history differences mixed (an affine map in m dimensions is solved in m + 1 steps); 1 is the plain step."""

    history: int = count(5, least=1)
    ridge: float = number(1e-6)  # of the mixing problem, relative to its scale
    damping: float = number(1.0, most=1)  # step length beta; 1 is undamped

    def start(self, z: Array) -> Any:
        m = self.history
        if m == 1:
            return ()
        zeros = blank(z, m, z.shape[1])
        return _Memory(zeros, zeros, z, z, blank(z, value=1), blank(z, m, m), blank(z, m, dtype=bool))

    def update(self, memory: Any, step: Step) -> tuple[Array, Any]:
        m, c = self.history, memory
        if m == 1:
            return plain(step, self.damping), memory
        k, _, g, r, size, jumped = step
        slot = jnp.arange(m) == (k - 1) % m  # the difference of update k-1; none yet at k = 0
        # A column's own scale drops out of gamma_j dg_j; r enters linearly and needs none.
        shrink = inverse(jnp.maximum(size, c.size))[:, None]
        new = (r - c.r) * shrink
        dr = lax.dynamic_update_index_in_dim(c.dr, new, (k - 1) % m, 1)
        dg = lax.dynamic_update_index_in_dim(c.dg, (g - c.g) * shrink, (k - 1) % m, 1)
        # Stacking the two right-hand sides costs more than reading dr twice (m = 6, n = B = 256: 96 against 2 x 27 us).
        row, rhs = (jnp.einsum("bmn,bn->bm", dr, v, precision=EXACT) for v in (new, r))
        gram = jnp.where(slot[None, :, None], row[:, None, :], jnp.where(slot[None, None, :], row[:, :, None], c.gram))
        valid = ((c.valid | slot[None, :]) & (k > 0)) & ~jumped[:, None]
        gamma = _mix(gram, rhs, valid, self.ridge)
        z_next = g - jnp.einsum("bm,bmn->bn", gamma, dg, precision=EXACT)
        if self.damping != 1:
            z_next = z_next - (1 - self.damping) * (r - jnp.einsum("bm,bmn->bn", gamma, dr, precision=EXACT))
        return z_next, _Memory(dr, dg, r, g, size, gram, valid)


def _mix(gram: Array, rhs: Array, valid: Array, ridge: float) -> Array:
    """gamma [B, m] of (D^-1/2 gram D^-1/2 + ridge) D^1/2 gamma = D^-1/2 rhs over the valid columns, D = diag gram."""
    m = gram.shape[-1]
    square = jnp.diagonal(gram, axis1=1, axis2=2)
    valid = valid & (square > 0)
    inverse = jnp.where(valid, 1 / jnp.sqrt(jnp.where(valid, square, 1)), 0)
    eye = jnp.eye(m, dtype=gram.dtype)[None]
    scaled = gram * inverse[:, :, None] * inverse[:, None, :]
    # In float32 two parallel columns leave a pivot of rounding size: a ridge below 10 eps would divide by noise.
    floor = max(ridge, 10 * float(jnp.finfo(gram.dtype).eps)) if ridge > 0 else 0.0
    matrix = jnp.where(valid[:, :, None] & valid[:, None, :], scaled, 0) + eye * jnp.where(valid, floor, 1)[:, None, :]
    return inverse * solve_spd(matrix, inverse * rhs)


def solve_spd(a: Array, b: Array) -> Array:
    """x [B, m] of a x = b, a [B, m, m] symmetric positive definite, by Gauss-Jordan in m elementwise steps.

    LAPACK and cuSOLVER cost more per call than the whole mixing at m = 5 and B = 32 to 256. A pivot of zero (an exactly
    singular problem with no ridge) drops its column instead of dividing by it.
    """
    m = a.shape[-1]
    tiny = float(jnp.finfo(a.dtype).eps) * m
    diagonal = jnp.diagonal(a, axis1=1, axis2=2).T

    def eliminate(work: Array, i: Array) -> tuple[Array, Array]:
        top = lax.dynamic_index_in_dim(work, i, 0, keepdims=False)
        pivot = lax.dynamic_index_in_dim(top, i, 0, keepdims=False)
        good = pivot > tiny * lax.dynamic_index_in_dim(diagonal, i, 0, keepdims=False)
        row = jnp.where(good, 1 / jnp.where(good, pivot, 1), 0)[None] * top
        column = lax.dynamic_index_in_dim(work, i, 1, keepdims=False) - (jnp.arange(m) == i).astype(a.dtype)[:, None]
        return work - column[:, None] * row[None], good

    def steps(unroll: bool) -> Callable[[Array], tuple[Array, Array]]:
        return lambda work: lax.scan(eliminate, work, jnp.arange(m), unroll=unroll)

    # [m, m + 1, B], rows of the batch innermost. Unrolled, XLA's CPU code computes every step again inside the next.
    work = jnp.concatenate([a, b[:, :, None]], axis=2).transpose(1, 2, 0)
    work, kept = lax.platform_dependent(work, cpu=steps(False), default=steps(True))
    return jnp.where(kept, work[:, m], 0).T
