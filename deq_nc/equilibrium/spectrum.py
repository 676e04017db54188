"""The spectral radius of J = df/dz at z*, per example, for complex spectra and defective matrices, with its error.

Letters: J [n, n] of one example, Q [k + 1, n] an orthonormal Krylov basis, h [k + 1, k] its Hessenberg matrix, lambda
the largest eigenvalue of h[:k], x and y unit Ritz vectors of J^T and of J to it, r how far x is from an eigenvector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.hessenberg import eigen
from deq_nc.equilibrium.krylov import Operator, orthogonalise
from deq_nc.equilibrium.rows import EXACT, row_norm
from deq_nc.equilibrium.state import rows_of

PyTree = Any


class Radius(NamedTuple):
    """A spectral radius and how far it may be off, per example [B]; `value` is NaN where J is not finite."""

    value: Array
    error: Array

    @property
    def sure(self) -> Array:
        """True where the side of 1 is known: at 1 or more the plain iteration diverges."""
        return self.error < jnp.abs(self.value - 1)


def spectral_radius(f: Callable, z: PyTree, x: PyTree, theta: PyTree, key: Array, steps: int = 20) -> Array:
    """max |eigenvalue of df/dz| at z, per example [B]; NaN where it is not known on which side of 1 it lies.

    See `measured_radius` for the error of the numbers.
    """
    radius = measured_radius(f, z, x, theta, key, steps)
    return jnp.where(radius.sure, radius.value, jnp.nan)


def measured_radius(
    f: Callable, z: PyTree, x: PyTree, theta: PyTree, key: Array, steps: int = 20, cycles: int = 8
) -> Radius:
    """max |eigenvalue of df/dz| at z with its error, per example [B].

    `steps` Arnoldi products with J^T and as many with J, exact once steps >= n; examples whose error reaches across 1
    start again from what was found, at most `cycles` times. error = 2 r / |y.x| + rounding + how far the two estimates
    are apart: 1 / |y.x| is the condition of lambda in J, where h alone takes a non-normal J for a harmless one.
    Source: Saad 2011, Numerical Methods for Large Eigenvalue Problems, ch. 3 and 6.
    """
    flat, j, jt = row_products(f, z, x, theta)
    batch, n = flat.shape
    k = min(steps, n)

    class Carry(NamedTuple):
        starts: tuple[Array, Array]
        value: Array
        error: Array
        cycle: Array
        open: Array

    def body(c: Carry) -> Carry:
        (q_left, h_left), (q, h) = (arnoldi(a, start, k) for a, start in zip((jt, j), c.starts))
        # Side by side, so that the rows of a device stay its rows.
        both = jnp.stack([h_left, h], axis=1)[:, :, :k].reshape(2 * batch, k, k)
        values, vectors, weights = (a.reshape(batch, 2, *a.shape[1:]) for a in (*eigen(both), _dominant(both)))
        value, error = _estimate((values[:, 0], vectors[:, 0], h_left, q_left), (values[:, 1], vectors[:, 1], q))
        better = c.open & ~(error >= c.error)
        value, error = jnp.where(better, value, c.value), jnp.where(better, error, c.error)
        starts = (_combine(weights[:, 0], q_left), _combine(weights[:, 1], q))
        go = c.open & jnp.isfinite(error) & ~Radius(value, error).sure
        return Carry(starts, value, error, c.cycle + 1, go)

    # Two starts: what one space happens to miss, the other finds.
    left, right = (jax.random.normal(k, flat.shape, flat.dtype) for k in (key, jax.random.fold_in(key, 1)))
    nothing = jnp.full((batch,), jnp.nan, flat.dtype)
    carry = Carry((left, right), nothing, nothing, jnp.zeros((), jnp.int32), jnp.ones((batch,), bool))
    c = lax.while_loop(lambda c: jnp.any(c.open) & (c.cycle < cycles), body, carry)
    return Radius(c.value, c.error)


def _estimate(left: tuple[Array, Array, Array, Array], right: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """(|lambda|, error) [B] from the eigenvalues and eigenvectors of h, h and Q of J^T, and those of J."""
    values, vectors, h, q = left
    others, their_vectors, their_q = right
    eps = float(jnp.finfo(h.dtype).eps)
    top = jnp.argmax(jnp.abs(values), axis=1)
    value = take(values, top)
    distance = jnp.abs(others - value[:, None])
    near = jnp.argmin(distance, axis=1)
    s = take(vectors, top)
    x, y = _combine(s, q), _combine(take(their_vectors, near), their_q)
    k, n = s.shape[1], q.shape[2]
    condition = 1 / jnp.maximum(jnp.abs(jnp.sum(x * y, axis=1)), eps)  # not conjugated: both belong to lambda itself
    r = h[:, k, k - 1] * jnp.abs(s[:, k - 1])
    size = jnp.sqrt(jnp.sum(h * h, axis=(1, 2)))
    # Rounding moves an eigenvalue by its condition times eps, a defective one of order n by eps^(1/n) and not more.
    rounding = jnp.minimum(4 * eps * condition * size, eps ** (1 / n) * size / k**0.5)
    missed = jnp.maximum(jnp.max(jnp.abs(others), axis=1) - jnp.abs(value), 0)
    error = 2 * r * condition + rounding + jnp.maximum(take(distance, near), missed)
    return jnp.abs(value), error


def take(a: Array, i: Array) -> Array:
    """a[b, ..., i_b] for each example; as a sum, since a gather would cross devices."""
    here = i.reshape(-1, *[1] * (a.ndim - 1)) == jnp.arange(a.shape[-1]).reshape(*[1] * (a.ndim - 1), -1)
    return jnp.sum(jnp.where(here, a, 0), axis=-1)


def _combine(weights: Array, q: Array) -> Array:
    """sum_i weights_i q_i [B, n] of weights [B, k] and a basis [B, k + 1, n]."""
    return jnp.einsum("bk,bkn->bn", weights, q[:, : weights.shape[1]].astype(weights.dtype), precision=EXACT)


def _dominant(h: Array) -> Array:
    """The first column of h^64, normalised: a start that keeps of the Krylov space what grows fastest, [B, k]."""
    first = power(h, 6)[1][:, :, 0]
    size = jnp.max(jnp.abs(first), axis=1, keepdims=True)
    # Of a nilpotent h nothing is left; its radius is 0 and what it starts from again does not matter.
    return jnp.where(size > 0, first / jnp.where(size > 0, size, 1), 1)


def power(matrix: Array, squarings: int) -> tuple[Array, Array]:
    """(||P||^(2^-s), P), P = M^(2^s) of matrix [B, k, k] rescaled after each of s squarings; NaN where M is not finite.

    For symmetric M and s = 24 the largest |eigenvalue| to the last two or three digits, and its projector.
    """
    log = jnp.zeros(matrix.shape[:1], matrix.dtype)
    for s in range(squarings + 1):
        matrix = matrix if s == 0 else jnp.einsum("bij,bjk->bik", matrix, matrix, precision=EXACT)
        size = jnp.sqrt(jnp.sum(matrix * matrix, axis=(1, 2)))
        log = log + jnp.log(size) * 2.0**-s
        matrix = matrix / jnp.where(size == 0, 1, size)[:, None, None]
    return jnp.exp(log), matrix


def row_products(f: Callable, z: PyTree, x: PyTree, theta: PyTree) -> tuple[Array, Operator, Operator]:
    """(z as rows [B, n], v -> J v, u -> J^T u).

    J v is the transpose of u -> J^T u, so that cells with a custom reverse rule (models/conv) work as well.
    """
    rows = rows_of(z)
    flat = rows.flatten(z)
    _, vjp = jax.vjp(lambda v: rows.flatten(f(rows.unflatten(v), x, theta)), flat)

    def jt(u: Array) -> Array:
        return vjp(u)[0]

    transpose = jax.linear_transpose(jt, flat)
    return flat, lambda v: transpose(v)[0], jt


def arnoldi(product: Operator, start: Array, steps: int) -> tuple[Array, Array]:
    """(Q [B, steps + 1, n], h [B, steps + 1, steps]) of `product` on rows [B, n]: product(Q_j) = sum_i h_ij Q_i.

    An invariant subspace found early leaves zero columns, which add nothing to the spectrum.
    """
    batch, n = start.shape

    def body(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        q, h = carry
        w = product(lax.dynamic_index_in_dim(q, j, 1, keepdims=False))
        w, column = orthogonalise(q, w, j)
        return lax.dynamic_update_index_in_dim(q, w, j + 1, 1), lax.dynamic_update_index_in_dim(h, column, j, 2)

    q = jnp.zeros((batch, steps + 1, n), start.dtype).at[:, 0].set(start / row_norm(start)[:, None])
    return lax.fori_loop(0, steps, body, (q, jnp.zeros((batch, steps + 1, steps), start.dtype)))
