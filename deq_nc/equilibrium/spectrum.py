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
from deq_nc.equilibrium.krylov import orthogonalise
from deq_nc.equilibrium.state import row_norm, rows_of

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
    h = arnoldi(lambda u: vjp(u)[0], start, min(steps, z.shape[1]))
    if jax.default_backend() == "cpu":
        return jnp.max(jnp.abs(jnp.linalg.eigvals(h)), axis=1)
    return gelfand(h)


def arnoldi(product: Callable[[Array], Array], start: Array, steps: int) -> Array:
    """Hessenberg matrices h [B, steps, steps] of `product` on rows [B, n].

    An invariant subspace found early leaves zero columns, which add nothing to the spectrum.
    """
    batch, n = start.shape

    def body(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        q, h = carry
        w = product(lax.dynamic_index_in_dim(q, j, 1, keepdims=False))
        w, column = orthogonalise(q, w, j)
        return lax.dynamic_update_index_in_dim(q, w, j + 1, 1), lax.dynamic_update_index_in_dim(h, column, j, 2)

    q = jnp.zeros((batch, steps + 1, n), start.dtype).at[:, 0].set(start / row_norm(start)[:, None])
    _, h = lax.fori_loop(0, steps, body, (q, jnp.zeros((batch, steps + 1, steps), start.dtype)))
    return h[:, :steps]


def gelfand(matrix: Array, squarings: int = 24) -> Array:
    """Spectral radius [B] of matrix [B, k, k] as ||M^(2^s)||^(2^-s), rescaled after each squaring.

    Products only, so it runs where no nonsymmetric eigensolver does (TPU). Symmetric and diagonalisable matrices keep
    every digit but the last two or three; a Jordan block of size 3 is 1 to 2 % high in float32, one of size 6 20 %,
    which LAPACK's eigenvalues on CPU are not (0.1 and 6 %).
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
