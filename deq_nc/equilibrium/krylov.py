"""Krylov solvers for A u = b, a system of its own for every row, restarted from the true residual.

Letters: A [B, n] -> [B, n] acts on rows independently, b [B, n], r = b - A u. `refine` is the outer loop: it recomputes
r, keeps the best u, stops rows, and asks an inner method for a correction du of A du = r. What it reports is therefore
never a recurrence: where the inner method breaks down or drifts, the next round starts from what is true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.iterate import Solved
from deq_nc.equilibrium.rows import EXACT, blank, inverse, keep_rows, ratio, row_norm, unit

Operator = Callable[[Array], Array]
Inner = Callable[[Operator, Array, Array, Array], tuple[Array, Array]]  # (A, r, goal [B], budget [B]) -> (du, products)

RESTART = 20  # basis vectors of gmres, all of them in memory


def dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=1)


def divide(a: Array, b: Array) -> Array:
    """a / b, 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def refine(
    A: Operator,
    b: Array,
    u0: Array,
    inner: Inner,
    tol: Array | float,
    max_products: Array | int,
    active: Array | None = None,
) -> Solved:
    """u of A u = b from u0 until ||b - A u|| <= tol ||b|| in each row; `steps` counts products with A per row.

    A is linear: it is solved at the scale where b is near 1, and the inner method at that where r is.
    """
    sane = jnp.all(jnp.isfinite(b) & jnp.isfinite(u0), axis=1)
    size = unit(b)[:, None]
    shrink = inverse(size)
    u0, b = jnp.where(sane[:, None], u0 * shrink, 0), jnp.where(sane[:, None], b * shrink, 0)
    scale = row_norm(b)

    class Carry(NamedTuple):
        u: Array
        best: Array
        residual: Array
        products: Array
        active: Array
        finite: Array

    def body(c: Carry) -> Carry:
        r = b - A(c.u)
        residual = ratio(row_norm(r), scale)
        ok = jnp.isfinite(residual)
        better = c.active & ok & (residual < c.residual)
        products = c.products + jnp.where(c.active, 1, 0)
        # Two products are the least with which any inner method moves.
        go = c.active & ok & (residual > tol) & (products + 2 <= max_products)
        budget = jnp.where(go, max_products - products, 0)
        small = unit(r)
        grow = inverse(small)
        du, spent = inner(A, jnp.where(go[:, None], r * grow[:, None], 0), tol * scale * grow, budget)
        return Carry(
            u=jnp.where(go[:, None], c.u + small[:, None] * du, c.u),
            best=jnp.where(better[:, None], c.u, c.best),
            residual=jnp.where(better, residual, c.residual),
            products=products + jnp.where(go, spent, 0),
            active=go,
            finite=c.finite & (ok | ~c.active),
        )

    start = Carry(
        u=u0,
        best=u0,
        residual=jnp.full_like(scale, jnp.inf),
        products=jnp.zeros_like(scale, jnp.int32),
        active=sane if active is None else sane & active,
        finite=sane,
    )
    c = lax.while_loop(lambda c: jnp.any(c.active), body, start)
    return Solved(c.best * size, c.residual, c.products, c.residual <= tol, c.finite, None)


def bicgstab(A: Operator, r0: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
    """Two products a step, seven vectors of memory. Source: van der Vorst 1992."""

    def body(c: tuple) -> tuple:
        du, r, p, rho, products, active = c
        v = A(p)
        alpha = divide(rho, dot(r0, v))[:, None]
        s = r - alpha * v
        t = A(s)
        omega = divide(dot(t, s), dot(t, t))[:, None]
        du_next = du + alpha * p + omega * s
        r_next = s - omega * t
        rho_next = dot(r0, r_next)
        beta = divide(rho_next, rho)[:, None] * divide(alpha, omega)
        p_next = r_next + beta * (p - omega * v)
        products = products + jnp.where(active, 2, 0)
        size = row_norm(r_next)
        keep = active & jnp.isfinite(size)
        go = keep & (row_norm(p_next) > 0) & (size > goal) & (products + 2 <= budget)
        return *keep_rows(keep, (du_next, r_next, p_next, rho_next), (du, r, p, rho)), products, go

    start = (jnp.zeros_like(r0), r0, r0, dot(r0, r0), jnp.zeros_like(budget), (budget >= 2) & (row_norm(r0) > 0))
    out = lax.while_loop(lambda c: jnp.any(c[-1]), body, start)
    return out[0], out[4]


def normal_cg(A: Operator, r0: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
    """Conjugate gradients on A^T A du = A^T r: two products a step and the square of A's condition number."""
    transpose = jax.linear_transpose(A, r0)

    def body(c: tuple) -> tuple:
        du, r, p, gamma, products, active = c
        q = A(p)
        alpha = divide(gamma, dot(q, q))[:, None]
        du_next, r_next = du + alpha * p, r - alpha * q
        s = transpose(r_next)[0]
        gamma_next = dot(s, s)
        p_next = s + divide(gamma_next, gamma)[:, None] * p
        products = products + jnp.where(active, 2, 0)
        keep = active & jnp.isfinite(gamma_next)
        go = keep & (row_norm(r_next) > goal) & (gamma_next > 0) & (products + 2 <= budget)
        return *keep_rows(keep, (du_next, r_next, p_next, gamma_next), (du, r, p, gamma)), products, go

    s = transpose(r0)[0]
    start = (jnp.zeros_like(r0), r0, s, dot(s, s), jnp.ones_like(budget), (budget >= 3) & (dot(s, s) > 0))
    out = lax.while_loop(lambda c: jnp.any(c[-1]), body, start)
    return out[0], out[4]


def gmres(A: Operator, r0: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
    """One cycle of at most RESTART products, smallest residual over the Krylov space. Source: Saad and Schultz 1986."""
    n = r0.shape[1]
    m = min(RESTART, n)
    size = row_norm(r0)

    class Carry(NamedTuple):
        j: Array
        q: Array  # [B, m + 1, n] orthonormal basis
        triangle: Array  # [B, m, m] rotated Hessenberg matrix
        turn: Array  # [B, m + 1, m + 1] the accumulated rotations
        products: Array
        active: Array

    def body(c: Carry) -> Carry:
        w = A(lax.dynamic_index_in_dim(c.q, c.j, 1, keepdims=False))
        w, column = orthogonalise(c.q, w, c.j)
        column = jnp.einsum("bij,bj->bi", c.turn, column, precision=EXACT)
        a, b = _at(column, c.j), _at(column, c.j + 1)
        radius = jnp.sqrt(a * a + b * b)
        cos, sin = jnp.where(radius > 0, divide(a, radius), 1), divide(b, radius)
        top, low = _at(c.turn, c.j), _at(c.turn, c.j + 1)
        turn = lax.dynamic_update_index_in_dim(c.turn, cos[:, None] * top + sin[:, None] * low, c.j, 1)
        turn = lax.dynamic_update_index_in_dim(turn, cos[:, None] * low - sin[:, None] * top, c.j + 1, 1)
        column = jnp.where(jnp.arange(m)[None] == c.j, radius[:, None], column[:, :m])
        column = jnp.where(jnp.arange(m)[None] <= c.j, column, 0)
        keep = c.active & (radius > 0) & jnp.isfinite(radius)
        products = c.products + jnp.where(c.active, 1, 0)
        estimate = size * jnp.abs(_at(turn[:, :, 0], c.j + 1))
        triangle = lax.dynamic_update_index_in_dim(c.triangle, column, c.j, 2)
        triangle, turn = keep_rows(keep, (triangle, turn), (c.triangle, c.turn))
        q = lax.dynamic_update_index_in_dim(c.q, w, c.j + 1, 1)
        return Carry(c.j + 1, q, triangle, turn, products, keep & (estimate > goal) & (products < budget))

    eye = jnp.eye(m + 1, dtype=r0.dtype)
    start = Carry(
        j=jnp.zeros((), jnp.int32),
        q=jnp.concatenate([(r0 / jnp.where(size > 0, size, 1)[:, None])[:, None], blank(r0, m, n)], axis=1),
        triangle=blank(r0, m, m) + eye[None, :m, :m],
        turn=blank(r0, m + 1, m + 1) + eye[None],
        products=jnp.zeros_like(budget),
        active=(budget >= 1) & (size > 0),
    )
    c = lax.while_loop(lambda c: (c.j < m) & jnp.any(c.active), body, start)
    # Columns a row never reached are those of the identity; its right-hand side is zero there.
    used = jnp.arange(m)[None] < c.products[:, None]
    rhs = jnp.where(used, c.turn[:, :m, 0] * size[:, None], 0)
    y = back_substitute(c.triangle, rhs)
    return jnp.einsum("bm,bmn->bn", y, c.q[:, :m], precision=EXACT), c.products


def back_substitute(triangle: Array, b: Array) -> Array:
    """y [B, m] of an upper triangular system [B, m, m], from the last row up; LAPACK hangs on several CPU devices."""
    m = b.shape[1]

    def row(step: Array, y: Array) -> Array:
        i = m - 1 - step
        line = _at(triangle, i)
        rest = _at(b, i) - jnp.sum(line * y, axis=1)  # y is still zero at i and before
        return lax.dynamic_update_index_in_dim(y, rest / _at(line, i), i, 1)

    return lax.fori_loop(0, m, row, jnp.zeros_like(b))


def _at(a: Array, j: Array) -> Array:
    return lax.dynamic_index_in_dim(a, j, 1, keepdims=False)


def orthogonalise(q: Array, w: Array, j: Array) -> tuple[Array, Array]:
    """w [B, n] against the basis q [B, k, n], twice, then to unit length: (w, column [B, k] with its norm at j + 1).

    A remainder at rounding level becomes exactly zero, so an invariant subspace ends in zeros and not in noise.
    """
    size = row_norm(w)
    column = jnp.zeros_like(q[:, :, 0])
    for _ in range(2):
        c = jnp.einsum("bkn,bn->bk", q, w, precision=EXACT)
        w = w - jnp.einsum("bk,bkn->bn", c, q, precision=EXACT)
        column = column + c
    norm = row_norm(w)
    norm = jnp.where(norm > 10 * float(jnp.finfo(q.dtype).eps) * size, norm, 0)
    w = jnp.where(norm[:, None] > 0, w / jnp.where(norm > 0, norm, 1)[:, None], 0)
    return w, column + jnp.where(jnp.arange(q.shape[1])[None] == j + 1, norm[:, None], 0)
