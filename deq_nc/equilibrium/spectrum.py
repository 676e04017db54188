"""The spectral radius of J = df/dz at z*, per example, for complex spectra and defective matrices alike.

Letters: J [n, n] of one example, Q [steps + 1, n] an orthonormal Krylov basis of J^T, h its Hessenberg matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.anderson import EXACT
from deq_nc.equilibrium.state import rows_of

PyTree = Any


def spectral_radius(f: Callable, z: PyTree, x: PyTree, theta: PyTree, key: Array, steps: int = 20) -> Array:
    """max |eigenvalue of df/dz| at z, per example [B], from `steps` Arnoldi products with J^T (same spectrum as J).

    Power iteration returns 0 or nonsense on a rotation; Arnoldi holds complex pairs and Jordan blocks, and is exact
    once steps >= n. At 1 or more the plain iteration diverges. Source: Saad 2011, Numerical Methods for Large
    Eigenvalue Problems, ch. 6.
    """
    rows = rows_of(z)
    z = rows.flatten(z)
    _, vjp = jax.vjp(lambda v: rows.flatten(f(rows.unflatten(v), x, theta)), z)
    start = jax.random.normal(key, z.shape, z.dtype)
    return gelfand(arnoldi(lambda u: vjp(u)[0], start, min(steps, z.shape[1])))


def arnoldi(product: Callable[[Array], Array], start: Array, steps: int) -> Array:
    """Hessenberg matrices h [B, steps, steps] of `product` on rows [B, n], orthogonalised twice.

    An invariant subspace found early leaves zero columns: the remaining basis vectors are zero, not noise.
    """
    batch, n = start.shape

    def body(j, carry):
        q, h = carry
        w = product(lax.dynamic_index_in_dim(q, j, 1, keepdims=False))
        size = jnp.sqrt(jnp.sum(w * w, axis=1))
        column = jnp.zeros((batch, steps + 1), q.dtype)
        for _ in range(2):
            c = jnp.einsum("bkn,bn->bk", q, w, precision=EXACT)
            w = w - jnp.einsum("bk,bkn->bn", c, q, precision=EXACT)
            column = column + c
        w, norm = _normalise(w, 10 * float(jnp.finfo(q.dtype).eps) * size)
        q = lax.dynamic_update_index_in_dim(q, w, j + 1, 1)
        column = column + jnp.where(jnp.arange(steps + 1)[None] == j + 1, norm[:, None], 0)
        return q, lax.dynamic_update_index_in_dim(h, column, j, 2)

    first, _ = _normalise(start, jnp.zeros((batch,), start.dtype))
    q = jnp.zeros((batch, steps + 1, n), start.dtype).at[:, 0].set(first)
    h = jnp.zeros((batch, steps + 1, steps), start.dtype)
    _, h = lax.fori_loop(0, steps, body, (q, h))
    return h[:, :steps]


def _normalise(v: Array, floor: Array) -> tuple[Array, Array]:
    norm = jnp.sqrt(jnp.sum(v * v, axis=1))
    norm = jnp.where(norm > floor, norm, 0)
    return jnp.where(norm[:, None] > 0, v / jnp.where(norm > 0, norm, 1)[:, None], 0), norm


def gelfand(matrix: Array, squarings: int = 24) -> Array:
    """Spectral radius [B] of matrix [B, k, k] as ||M^(2^s)||^(2^-s), rescaled after each squaring.

    Elementwise and matmul only, so it runs where no nonsymmetric eigensolver exists (GPU, TPU); at s = 24 the factor of
    a Jordan block of size 64 is below 1 + 2e-5.
    """
    log = jnp.zeros(matrix.shape[:1], matrix.dtype)
    power = matrix
    for s in range(squarings):
        size = jnp.sqrt(jnp.sum(power * power, axis=(1, 2)))
        safe = jnp.where(size > 0, size, 1)
        log = log + jnp.where(size > 0, jnp.log(safe), -jnp.inf) * 2.0**-s
        power = power / safe[:, None, None]
        power = jnp.einsum("bij,bjk->bik", power, power, precision=EXACT)
    return jnp.exp(log)
