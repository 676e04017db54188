"""What the second pass needs of the first: tables of the class means and of the classifier, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .directions import pseudo_inverse
from .geometry import pair_distances
from .moments import ClassMoments


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bounds:
    """How much of a decision is known before its product with every feature is taken, for e = h - mu_y.

    radius [K]: with ||e|| below it both decisions are y. w_k = mean w + a mc_k + r_k, fit = a, lean = ||r_k|| [K]:
    logits from the projection of e on the means are off by at most lean ||the rest of e||. rounding_means,
    rounding_logits [K]: rounding of scores from the projection, in units of ||e||; rounding_square of the squared
    length of the projection, of ||e||^2.
    """

    radius: Array
    fit: Array | None
    lean: Array | None
    rounding_means: Array
    rounding_logits: Array | None
    rounding_square: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Probe:
    """Tables of the second pass, made once from the moments and the classifier.

    mc [K, D] centred means, gram [K, K] = Mc Mc^T, distance [K, K] = ||mu_i - mu_j||^2, inverse T = Mc^+ [D, K],
    half = distance/2 (inf towards absent classes), gram_weights W W^T, gram_logits W Mc^T, table [K, K] = logits at the
    class means (row: mean), rank of Mc. The tables of the classifier are None without weights.
    """

    moments: ClassMoments
    mc: Array
    gram: Array
    distance: Array
    inverse: Array
    rank: Array
    half: Array
    weights: Array | None
    gram_weights: Array | None
    gram_logits: Array | None
    table: Array | None
    bounds: Bounds


def make_probe(
    moments: ClassMoments, weights: Float[Array, "K D"] | None = None, bias: Float[Array, " K"] | None = None
) -> Probe:
    """Tables of the second pass; without weights the logits are unknown and `correct` and `agree` are NaN."""
    mc = moments.centred()
    gram = mc @ mc.T
    inverse, rank = pseudo_inverse(mc)
    distance = pair_distances(mc, gram)
    half = jnp.where(moments.present[None], jax.lax.stop_gradient(distance) / 2, jnp.inf)
    gram_weights = gram_logits = table = None
    if weights is not None:
        gram_weights, gram_logits = weights @ weights.T, weights @ mc.T
        # The logits at mu_G are rounded once for all samples; only mu_y - mu_G and e vary.
        centre = weights @ moments.reference + weights @ moments.global_shift
        table = gram_logits.T + (centre if bias is None else centre + bias)[None]
    fixed = jax.lax.stop_gradient((mc, gram, inverse, half, weights, gram_weights, gram_logits, table))
    bounds = _bounds(*fixed)
    return Probe(moments, mc, gram, distance, inverse, rank, half, weights, gram_weights, gram_logits, table, bounds)


def _bounds(mc, gram, inverse, half, weights, gram_weights, gram_logits, table) -> Bounds:
    """radius = min_k d_yk/2 and min_k margin_yk/||w_y - w_k||, less 0.1 %; fit a, lean = ||w_k - mean w - a mc_k||.

    The part of w_k outside the span of the means is no longer than w_k minus any multiple of mc_k; the mean of the
    weights moves all logits alike. a is the least-squares fit of W to Mc: with self-duality nothing is left.
    """
    other = ~jnp.eye(half.shape[0], dtype=bool)
    near = jnp.min(jnp.where(other, jnp.sqrt(half / 2), jnp.inf), 1)
    eps = jnp.finfo(mc.dtype).eps
    rounding = eps * (64 + 2 * mc.shape[1] ** 0.5) * jnp.linalg.norm(inverse)
    rounding_square = rounding * jnp.linalg.norm(mc)
    rounding_means = rounding * jnp.linalg.norm(gram, axis=1)
    if weights is None:
        return Bounds(0.999 * near, None, None, rounding_means, None, rounding_square)
    apart = jnp.sqrt(pair_distances(weights, gram_weights))
    margin = jnp.diagonal(table)[:, None] - table
    linear = jnp.min(jnp.where(other & (apart > 0), margin / jnp.where(apart > 0, apart, 1), jnp.inf), 1)
    linear = jnp.where(jnp.any(other & (margin <= 0), 1), 0, linear)
    square = jnp.trace(gram)
    fit = jnp.trace(gram_logits) / jnp.where(square > 0, square, 1)
    lean = jnp.linalg.norm(weights - jnp.mean(weights, 0, keepdims=True) - fit * mc, axis=1)
    rounding_logits = rounding * jnp.linalg.norm(gram_logits, axis=1)
    return Bounds(0.999 * jnp.minimum(linear, near), fit, lean, rounding_means, rounding_logits, rounding_square)
