"""The pseudo-inverse of the centred class means: exact in float32, differentiable at exact collapse, cheap at large K.

Letters: Mc [K, D] centred class means, S_B = (1/K) Mc^T Mc, T = Mc^+ [D, K], s the singular values of Mc.
tr(S_W S_B^+) = (K/N) sum_i ||T^T (h_i - mu_y)||^2, so that no D x D matrix is formed and no s is squared: a float32
pinv(S_B) loses every direction below sqrt(eps) = 3e-4 of the largest (2.5e-2 with the default cutoff of
jnp.linalg.pinv at D = 512), the SVD below only those below 4e-6.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

CUTOFF = 32.0  # units of rounding of the largest singular value below which a direction is rounding noise
SMALL = 64  # classes: up to here exactness costs nothing; at K = 1000, D = 2048 the SVD takes seconds, Cholesky a tenth
ONE_STEP = 3e-4  # an error from which one Newton-Schulz step reaches 1e-7; from 0.03 a second one is taken


@jax.custom_jvp
def pseudo_inverse(mc: Float[Array, "K D"]) -> tuple[Float[Array, "D K"], Array]:
    """(Mc^+ [D, K], rank of Mc). Means that coincide to rounding (s <= 32 eps s_max) lower the rank.

    Differentiable at constant rank without the 1/(s_i^2 - s_j^2) of an SVD, infinite at an ETF: there all s are equal.
    """
    if min(mc.shape) <= SMALL:
        return _by_svd(mc)
    t, error = _by_cholesky(mc)
    rank = jnp.asarray(min(mc.shape[0] - 1, mc.shape[1]))
    return jax.lax.cond(error < 1e-3, lambda _: (t, rank), _by_svd, mc)  # NaN, as Cholesky may give, is not below


@pseudo_inverse.defjvp
def _pseudo_inverse_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """dT = -T dM T + T T^T dM^T (I - M T) + (I - T M) dM^T T^T T. Golub & Pereyra 1973."""
    (m,), (dm,) = primals, tangents
    t, rank = pseudo_inverse(m)
    left = t @ (t.T @ dm.T)
    right = (dm.T @ t.T) @ t
    dt = -t @ (dm @ t) + left - (left @ m) @ t + right - t @ (m @ right)
    return (t, rank), (dt, jax.custom_derivatives.zero_from_primal(rank, symbolic_zeros=False))


def _by_svd(mc: Float[Array, "K D"]) -> tuple[Float[Array, "D K"], Array]:
    u, s, vt = jnp.linalg.svd(mc, full_matrices=False)
    r = min(mc.shape[0] - 1, mc.shape[1])  # centring takes one direction away
    u, s, vt = u[:, :r], s[:r], vt[:r]
    kept = s > CUTOFF * jnp.finfo(mc.dtype).eps * s[0]
    inverse = jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)
    return (vt.T * inverse[None]) @ u.T, jnp.sum(kept)


def _by_cholesky(mc: Float[Array, "K D"]) -> tuple[Float[Array, "D K"], Array]:
    """A^T (A A^T)^-1 refined by T <- T + T (I - A T), and the error before the last step (its square after it).

    A is Mc, or Mc^T when K > D + 1. A condition number up to some 500 converges; more shows in the error.
    """
    k, d = mc.shape
    centred = k - 1 <= d
    a = mc if centred else mc.T
    n = a.shape[0]
    ones = jnp.full((n, n), 1 / n if centred else 0.0, a.dtype)  # the direction that centring empties
    gram = a @ a.T
    factor = jax.scipy.linalg.cho_factor(gram + (jnp.trace(gram) / n) * ones, lower=True)
    # On K x K, which LAPACK solves on one thread; the product with A takes all.
    t = a.T @ jax.scipy.linalg.cho_solve(factor, jnp.eye(n, dtype=a.dtype))

    def step(t: Array) -> tuple[Array, Array]:
        gap = jnp.eye(n, dtype=a.dtype) - ones - a @ t
        return t + t @ gap, jnp.sqrt(jnp.sum(gap * gap))

    t, error = step(t)
    t, error = jax.lax.cond(error < ONE_STEP, lambda t: (t, error), step, t)
    return t if centred else t.T, error
