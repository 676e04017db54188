"""The geometry of K vectors by their Gram matrix: targets, distances to them, cosines by block of classes.

Letters: K classes, n [K] counts, J = I - 11^T/K, G [K, K] a Gram matrix (of the weights, of the means, of logits).
NumPy arrays are computed with in NumPy, float64 where they are, all else in jax.numpy, jitted and differentiated alike.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

Array = Any  # of jax or of NumPy: what comes out is of the kind that went in


def module(x: Any) -> ModuleType:
    """The array module that computes with x."""
    return np if isinstance(x, np.ndarray) else jnp


def float_type(dtype: Any) -> np.dtype:
    """float64 for float64, float32 for all else; `jnp.promote_types` refuses under strict promotion."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def safe_norm(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """||x||_2 over `axis` (all by default), with gradient 0 instead of NaN at x = 0."""
    xp = module(x)
    square = xp.sum(x * x, axis)
    return xp.sqrt(xp.where(square == 0, 1, square)) * (square != 0).astype(x.dtype)


def unit(x: Array) -> Array:
    """The power of two that brings the largest |x| into [1/2, 1); 1 for x = 0. A constant under differentiation.

    Products by it are exact, and fourth powers of what it scales stay in range: those of 1e-10 are 0 in float32.
    """
    xp = module(x)
    largest = xp.max(xp.abs(x))
    exponent = xp.frexp(xp.where(xp.isfinite(largest), largest, 0))[1]  # an integer: no derivative passes
    most = xp.finfo(x.dtype).maxexp - 28  # beyond it the power itself would be subnormal, or its inverse infinite
    return xp.ldexp(xp.ones((), x.dtype), -xp.clip(exponent, -most, most))


def normalised(x: Array) -> Array:
    """x / ||x||_F, and 0 for x = 0; of any scale."""
    x = x * unit(x)
    norm = safe_norm(x)
    return x / module(x).where(norm == 0, 1, norm)


def mean_where(x: Array, where: Array) -> Array:
    """Mean of the selected entries; NaN when none is selected."""
    xp = module(x)
    total = xp.sum(where.astype(x.dtype))
    return xp.where(total > 0, xp.sum(xp.where(where, x, 0)) / xp.maximum(total, 1), xp.nan)


def simplex(present: Float[Array, " K"]) -> Float[Array, "K K"]:
    """Gram of the simplex ETF over the classes with a 1, 0 elsewhere; J for ones, its scale is left to distances."""
    return module(present).diag(present) - present[:, None] * present[None] / present.sum()


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
    return simplex(jnp.ones(num_classes)) / (num_classes - 1) ** 0.5


def seli(counts: Float[Array, " K"]) -> tuple[Float[Array, "K K"], Float[Array, "K K"]]:
    """Grams (of the weights, of the means) of the simplex-encoded-label interpolation, [K, K] each, for any counts n.

    D = diag(n), J D J = V L^2 V^T: G_W = V L V^T, G_H = J V L^-1 V^T J. The geometry of the
    max-margin (small ridge) unconstrained-feature model under imbalance; an ETF when the counts are equal. NaN where a
    count is not positive: leave empty classes out.
    Thrampoulidis, Kini, Vakilian & Behnia 2022.

    >>> w, h = seli([10, 10, 1, 1])
    >>> print([f"{x:.3f}" for x in (w / w[0, 0])[0]], [f"{x:.3f}" for x in (h / h[0, 0])[0]])
    ['1.000', '-0.459', '-0.271', '-0.271'] ['1.000', '-0.195', '-0.403', '-0.403']
    """
    xp = module(counts)
    n = xp.asarray(counts)
    n = n.astype(float_type(n.dtype))
    centre = simplex(xp.ones_like(n))
    square, v = xp.linalg.eigh((centre * n[None]) @ centre)
    kept = xp.arange(len(n)) > 0  # eigh sorts upwards; the first belongs to the vector of ones
    length = xp.sqrt(xp.where(kept, xp.abs(square), 1)) * xp.where(xp.all(n > 0), 1, xp.nan).astype(n.dtype)
    half = centre @ v
    return (v * xp.where(kept, length, 0)[None]) @ v.T, (half * xp.where(kept, 1 / length, 0)[None]) @ half.T


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
    xp = module(counts)
    n = xp.asarray(counts)
    n = n.astype(float_type(n.dtype))
    w = xp.maximum(xp.sqrt(n * feature_decay / weight_decay) - xp.sum(n) * feature_decay, 0)
    return xp.diag(w), xp.diag(w * weight_decay / (n * feature_decay))


def centre_gram(gram: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """J G J: the Gram of the same vectors after subtracting their mean."""
    rows = gram - gram.mean(0, keepdims=True)
    return rows - rows.mean(1, keepdims=True)


def gram_distance(gram: Float[Array, "K K"], target: Float[Array, "K K"]) -> Float[Array, ""]:
    """|| G/||G||_F - T/||T||_F ||_F, in [0, 2]; 0 where the geometries agree up to scale, 1 where one is all 0."""
    return safe_norm(normalised(gram) - normalised(target))


def shape_distance(a: Float[Array, "K D"], b: Float[Array, "K D"]) -> Float[Array, ""]:
    """`gram_distance`, of any two matrices, but NaN where one of them is 0 and has no shape."""
    xp = module(a)
    return gram_distance(a, b) * xp.where(xp.any(a != 0) & xp.any(b != 0), 1, xp.nan).astype(a.dtype)


def nc2(gram: Float[Array, "K K"]) -> Float[Array, ""]:
    """Distance of a Gram to the simplex ETF, ||G/||G||_F - J/sqrt(K - 1)||_F; NaN for G = 0."""
    return shape_distance(gram, simplex(module(gram).ones(len(gram), gram.dtype)))


def nc2_floor(num_classes: Any, dim: int) -> Float[Array, ""]:
    """The least `nc2` of the centred means of K >= 2 classes in d dimensions: sqrt(2 - 2 sqrt(min(d/(K-1), 1))).

    A Gram of rank d lies no nearer to the ETF: its best is d equal eigenvalues.
    """
    xp = module(num_classes)
    return xp.sqrt(2 - 2 * xp.sqrt(xp.minimum(dim / xp.maximum(num_classes - 1, 1), 1)))


def nc3(weights: Float[Array, "K D"], means: Float[Array, "K D"]) -> Float[Array, ""]:
    """Self-duality ||W/||W||_F - Mc/||Mc||_F||_F, Mc the means about their mean; NaN where W or Mc is 0."""
    return shape_distance(weights, means - means.mean(0, keepdims=True))


class GramDistance(NamedTuple):
    """Distance of a Gram to a target: total^2 = majority^2 + cross^2 + minority^2, the share of each block."""

    total: Array
    majority: Array
    cross: Array
    minority: Array


def block_masks(majority: Bool[Array, " K"]) -> list[Bool[Array, "K K"]]:
    """The pairs of classes [K, K] in each block: both of the majority, one of each group, both of the minority."""
    a, b = majority[:, None], majority[None]
    return [a & b, a ^ b, ~a & ~b]


def gram_distance_blocks(
    gram: Float[Array, "K K"], target: Float[Array, "K K"], majority: Bool[Array, " K"]
) -> GramDistance:
    """`gram_distance` and its parts over the majority, majority-minority (both triangles) and minority blocks."""
    gap = normalised(gram) - normalised(target)
    parts = [safe_norm(module(gap).where(block, gap, 0)) for block in block_masks(majority)]
    return GramDistance(safe_norm(gap), *parts)


def cosines(
    gram: Float[Array, "K K"], norm: Float[Array, " K"], solid: Bool[Array, " K"]
) -> tuple[Float[Array, "K K"], Bool[Array, "K K"]]:
    """(cosines, 0 where undefined; the pairs i != j that have one); solid: the vectors that have a direction."""
    xp = module(gram)
    scale = xp.where(solid, 1 / xp.where(solid, norm, 1), 0)
    return gram * scale[:, None] * scale[None], solid[:, None] & solid[None] & ~xp.eye(len(gram), dtype=bool)


def block_cosines(gram: np.ndarray, majority: np.ndarray, guard: float = 1e-6) -> dict[str, float]:
    """Mean cosine over the pairs of each block: 'majority', 'cross', 'minority'; NaN where it has no pair.

    Vectors shorter than `guard` times the longest are left out: the direction of a vanished vector is noise.
    """
    norm = np.sqrt(np.diag(gram).clip(0))
    cosine, pairs = cosines(gram, norm, norm > guard * norm.max())
    means = [float(mean_where(cosine, pairs & block)) for block in block_masks(majority)]
    return dict(zip(("majority", "cross", "minority"), means))
