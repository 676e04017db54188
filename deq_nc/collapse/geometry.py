"""Target geometries as K x K Gram matrices, and the distance of a Gram matrix to one of them.

Letters: K classes, n [K] counts, J = I - 11^T/K, G a Gram matrix (of the weights, of the centred means, of logits).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

SMALL = 64  # classes, up to which exactness costs nothing


def float_type(dtype: jnp.dtype) -> jnp.dtype:
    """float64 for float64, float32 for all else; `jnp.promote_types` refuses under strict promotion."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def safe_norm(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """||x||_2 over `axis` (all by default), with gradient 0 instead of NaN at x = 0."""
    square = jnp.sum(x * x, axis)
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def unit(x: Array) -> Array:
    """The power of two that brings the largest |x| into [1/2, 1); 1 for x = 0. A constant under differentiation.

    Products by it are exact, and fourth powers of what it scales stay in range: those of 1e-10 are 0 in float32.
    """
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)))
    exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 0))[1]
    most = jnp.finfo(x.dtype).maxexp - 28  # beyond it the power itself would be subnormal, or its inverse infinite
    return jnp.ldexp(jnp.ones((), x.dtype), -jnp.clip(exponent, -most, most))


def normalised(x: Array) -> Array:
    """x / ||x||_F, and 0 for x = 0; of any scale."""
    x = x * unit(x)
    norm = safe_norm(x)
    return x / jnp.where(norm == 0, 1, norm)


def simplex_etf(num_classes: int) -> Float[Array, "K K"]:
    """Gram of the simplex equiangular tight frame at unit Frobenius norm: (I - 11^T/K)/sqrt(K - 1) [K, K].

    Equal norms, every cosine -1/(K - 1): the limit of balanced training. Raises ValueError for K < 2.
    Papyan, Han & Donoho 2020.

    >>> print(simplex_etf(3).round(4))
    [[ 0.4714 -0.2357 -0.2357]
     [-0.2357  0.4714 -0.2357]
     [-0.2357 -0.2357  0.4714]]
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}. One class has no geometry.")
    return (jnp.eye(num_classes) - 1 / num_classes) / (num_classes - 1) ** 0.5


def seli(counts: Float[Array, " K"]) -> tuple[Float[Array, "K K"], Float[Array, "K K"]]:
    """Grams (of the weights, of the means) of the simplex-encoded-label interpolation, [K, K] each, for any counts n.

    J = I - 11^T/K, D = diag(n), J D J = V L^2 V^T: G_W = V L V^T, G_H = J V L^-1 V^T J. The geometry of the
    max-margin (small ridge) unconstrained-feature model under imbalance; an ETF when the counts are equal. NaN where a
    count is not positive: leave empty classes out.
    Thrampoulidis, Kini, Vakilian & Behnia 2022.

    >>> w, h = seli([10, 10, 1, 1])
    >>> print([f"{x:.3f}" for x in (w / w[0, 0])[0]], [f"{x:.3f}" for x in (h / h[0, 0])[0]])
    ['1.000', '-0.459', '-0.271', '-0.271'] ['1.000', '-0.195', '-0.403', '-0.403']
    """
    n = jnp.asarray(counts)
    n = n.astype(float_type(n.dtype))
    k = n.shape[0]
    centre = jnp.eye(k, dtype=n.dtype) - 1 / k
    square, v = jnp.linalg.eigh((centre * n[None]) @ centre)
    kept = jnp.arange(k) > 0  # eigh sorts upwards; the first belongs to the vector of ones
    length = jnp.sqrt(jnp.where(kept, jnp.abs(square), 1)) * jnp.where(jnp.all(n > 0), 1, jnp.nan).astype(n.dtype)
    half = centre @ v
    return (v * jnp.where(kept, length, 0)[None]) @ v.T, (half * jnp.where(kept, 1 / length, 0)[None]) @ half.T


def gram_distance(gram: Float[Array, "K K"], target: Float[Array, "K K"]) -> Float[Array, ""]:
    """|| G/||G||_F - T/||T||_F ||_F, in [0, 2]; 0 where the geometries agree up to scale."""
    return safe_norm(normalised(gram) - normalised(target))


def orthogonal_frame(num_classes: int) -> Float[Array, "K K"]:
    """Gram of an orthogonal frame of equal lengths at unit Frobenius norm: I/sqrt(K) [K, K].

    The limit without a bias under the squared loss; centring it (`centre_gram`) gives the simplex ETF.
    """
    return jnp.eye(num_classes) / num_classes**0.5


def gof(
    counts: Float[Array, " K"], weight_decay: float, feature_decay: float
) -> tuple[Float[Array, "K K"], Float[Array, "K K"]]:
    """Grams (of the weights, of the uncentred means) of the general orthogonal frame, [K, K] diagonal.

    The optimum of (1/2N) ||W H - Y||_F^2 + (l_W/2) ||W||_F^2 + (l_H/2) ||H||_F^2 without bias, N = sum n_k:
    ||w_k||^2 = (sqrt(n_k l_H/l_W) - N l_H)_+ and ||h_k||^2 = ||w_k||^2 l_W/(n_k l_H): classes with
    n_k <= N^2 l_W l_H vanish. Dang et al. 2023. Compare the means of `measure`, which are centred, with `centre_gram`.
    """
    n = jnp.asarray(counts)
    n = n.astype(float_type(n.dtype))
    w = jnp.maximum(jnp.sqrt(n * feature_decay / weight_decay) - jnp.sum(n) * feature_decay, 0)
    return jnp.diag(w), jnp.diag(w * weight_decay / (n * feature_decay))


def centre_gram(gram: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """J G J: the Gram of the same vectors after subtracting their mean."""
    rows = gram - jnp.mean(gram, 0, keepdims=True)
    return rows - jnp.mean(rows, 1, keepdims=True)


class GramDistance(NamedTuple):
    """Distance of a Gram to a target: total^2 = majority^2 + cross^2 + minority^2, the share of each block."""

    total: Array
    majority: Array
    cross: Array
    minority: Array


def gram_distance_blocks(
    gram: Float[Array, "K K"], target: Float[Array, "K K"], majority: Bool[Array, " K"]
) -> GramDistance:
    """`gram_distance` and its parts over the majority, majority-minority (both triangles) and minority blocks."""
    gap = normalised(gram) - normalised(target)
    a, b = majority[:, None], majority[None]
    parts = [safe_norm(jnp.where(block, gap, 0)) for block in (a & b, a ^ b, ~a & ~b)]
    return GramDistance(safe_norm(gap), *parts)


def pair_distances(mc: Float[Array, "K D"], gram: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """||mu_i - mu_j||^2 [K, K] from differences, row by row, or by the Gram where every distance is safe from it.

    g_ii + g_jj - 2 g_ij loses distances below 3e-4 of the norms in float32; at K = 1000 it is ten times faster.
    """
    k = mc.shape[0]

    def differences(mc: Array) -> Array:
        return jax.lax.map(jax.checkpoint(lambda m: jnp.sum((mc - m[None]) ** 2, 1)), mc)

    if k <= SMALL:
        return differences(mc)
    square = jnp.sum(mc * mc, 1)
    by_gram = square[:, None] + square[None] - 2 * gram
    by_gram = jnp.where(jnp.eye(k, dtype=bool), 0, by_gram)
    least = jnp.min(jnp.where(jnp.eye(k, dtype=bool), jnp.inf, by_gram))
    return jax.lax.cond(least > 1e-2 * jnp.max(square), lambda _: by_gram, differences, mc)
