"""Target geometries as K x K Gram matrices, and the distance of a Gram matrix to one of them.

Letters: K classes, n [K] counts, J = I - 11^T/K, G a Gram matrix (of the weights, of the centred means, of logits).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def safe_norm(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """||x||_2 over `axis` (all by default), with gradient 0 instead of NaN at x = 0."""
    square = jnp.sum(x * x, axis)
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def normalised(x: Array) -> Array:
    """x / ||x||_F, and 0 for x = 0."""
    norm = safe_norm(x)
    return x / jnp.where(norm == 0, 1, norm)


def simplex_etf(num_classes: int) -> Float[Array, "K K"]:
    """Gram of the simplex equiangular tight frame at unit Frobenius norm: (I - 11^T/K)/sqrt(K - 1) [K, K].

    Equal norms, every cosine -1/(K - 1): the limit of balanced training. Raises ValueError for K < 2.
    Papyan, Han & Donoho 2020.

    >>> simplex_etf(3).round(4).tolist()
    [[0.47140002..., -0.2357..., -0.2357...], [-0.2357..., 0.4714..., -0.2357...], [-0.2357..., -0.2357..., 0.4714...]]
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}. One class has no geometry.")
    return (jnp.eye(num_classes) - 1 / num_classes) / (num_classes - 1) ** 0.5


def seli(counts: Float[Array, " K"]) -> tuple[Float[Array, "K K"], Float[Array, "K K"]]:
    """Grams (of the weights, of the means) of the simplex-encoded-label interpolation, [K, K] each, for any counts n.

    J = I - 11^T/K, D = diag(n), J D J = V L^2 V^T: G_W = V L V^T, G_H = J V L^-1 V^T J. The geometry of the
    max-margin (small ridge) unconstrained-feature model under imbalance; an ETF when the counts are equal.
    Thrampoulidis, Kini, Vakilian & Behnia 2022.
    """
    n = jnp.asarray(counts)
    n = n.astype(jnp.promote_types(n.dtype, jnp.float32))
    k = n.shape[0]
    centre = jnp.eye(k, dtype=n.dtype) - 1 / k
    square, v = jnp.linalg.eigh((centre * n[None]) @ centre)
    kept = jnp.arange(k) > 0  # eigh sorts upwards; the first belongs to the vector of ones
    length = jnp.sqrt(jnp.where(kept, jnp.abs(square), 1))
    half = centre @ v
    return (v * jnp.where(kept, length, 0)[None]) @ v.T, (half * jnp.where(kept, 1 / length, 0)[None]) @ half.T


def gram_distance(gram: Float[Array, "K K"], target: Float[Array, "K K"]) -> Float[Array, ""]:
    """|| G/||G||_F - T/||T||_F ||_F, in [0, 2]; 0 where the geometries agree up to scale."""
    return safe_norm(normalised(gram) - normalised(target))


def pair_distances(mc: Float[Array, "K D"]) -> Float[Array, "K K"]:
    """||mu_i - mu_j||^2 [K, K] from differences, row by row: the Gram form loses distances below 3e-4 in float32."""
    row = jax.checkpoint(lambda m: jnp.sum((mc - m[None]) ** 2, 1))
    return jax.lax.map(row, mc)
