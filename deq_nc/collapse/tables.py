"""What the second pass needs of the first: tables of the means and of the classifier, and a radius of certainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from deq_nc.geometry import unit

from .directions import SMALL, pseudo_inverse
from .moments import ClassMoments


class Classifier(NamedTuple):
    """weights W [K, D]; gram [K, K] = W W^T; product [K, K] = W Mc^T; logits [K, K] at the class means (row: mean)."""

    weights: Array
    gram: Array
    product: Array
    logits: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tables:
    """Tables of the second pass, made once from the moments and the classifier.

    scale, scale_weights: powers of two, c = `unit` of the centred means and c_W of the weights. All else but `moments`
    is of c H and c_W W, so that metrics are the same at every scale of features and weights.
    mc [K, D] centred means, gram [K, K] = Mc Mc^T, distance [K, K] = ||mu_i - mu_j||^2, inverse T = Mc^+ [D, K],
    half = distance/2 (inf towards absent classes), rank of Mc, radius [K]: a sample nearer than it to its class mean is
    given its own class by the logits and by the nearest mean.
    """

    moments: ClassMoments
    scale: Array
    scale_weights: Array
    mc: Array
    gram: Array
    distance: Array
    inverse: Array
    rank: Array
    half: Array
    classifier: Classifier | None
    radius: Array


def make_tables(
    moments: ClassMoments, weights: Float[Array, "K D"] | None = None, bias: Float[Array, " K"] | None = None
) -> Tables:
    """Tables of the second pass; without weights the logits are unknown and `correct` and `agree` are NaN."""
    mc = moments.centred()
    scale = scale_weights = unit(mc)
    mc = mc * scale
    gram = mc @ mc.T
    inverse, rank = pseudo_inverse(mc)
    distance = pair_distances(mc, gram)
    half = jnp.where(moments.present[None], jax.lax.stop_gradient(distance) / 2, jnp.inf)
    radius = _least(jnp.sqrt(half / 2))  # half the way to the nearest other mean
    classifier = None
    if weights is not None:
        scale_weights = unit(weights)
        weights = weights * scale_weights
        gram_weights, product = weights @ weights.T, weights @ mc.T
        # The logits at mu_G are rounded once for all samples; only mu_y - mu_G and e vary.
        centre = weights @ (moments.reference * scale) + weights @ (moments.global_shift * scale)
        if bias is not None:
            most = jnp.finfo(mc.dtype).max / 4  # where the bias is all, its differences stay finite
            centre = centre + jnp.clip(bias * scale * scale_weights, -most, most)
        logits = product.T + centre[None]
        # Along w_k - w_y the logits of k and y change by at most its length: the margin at mu_y over it.
        margin = jnp.maximum(jnp.diagonal(logits)[:, None] - logits, 0)
        radius = jnp.minimum(radius, _least(margin / _apart(gram_weights, mc.shape[1])))
        classifier = Classifier(weights, gram_weights, product, logits)
    radius = jax.lax.stop_gradient(0.999 * radius)
    return Tables(moments, scale, scale_weights, mc, gram, distance, inverse, rank, half, classifier, radius)


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


def _least(values: Float[Array, "K K"]) -> Float[Array, " K"]:
    """The least of each row without its diagonal."""
    return jnp.min(jnp.where(jnp.eye(len(values), dtype=bool), jnp.inf, values), 1)


def _apart(gram: Float[Array, "K K"], terms: int) -> Float[Array, "K K"]:
    """||row_i - row_j||, positive, from the rows' Gram; what its sums of `terms` products may have rounded is added."""
    square = jnp.diagonal(gram)
    both = square[:, None] + square[None]
    rounding = (64 + 2 * terms**0.5) * jnp.finfo(gram.dtype).eps * both + jnp.finfo(gram.dtype).tiny
    return jnp.sqrt(jnp.maximum(both - 2 * gram, 0) + rounding)
