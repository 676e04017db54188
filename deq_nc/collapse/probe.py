"""What the second pass needs of the first: tables of the class means and of the classifier, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from .directions import CUTOFF, pseudo_inverse
from .geometry import pair_distances, unit
from .moments import ClassMoments


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bounds:
    """How much of a decision is known before its product with every feature is taken, for e = h - mu_y, x = T^T e.

    Both decisions are y where ||e|| < radius, and where ||x|| steep + ||e|| lift < 1, [K] each.
    w_k = mean w + a mc_k + r_k, fit = a, lean = ||r_k|| [K]: logits from x are off by at most lean times the length of
    e outside the means. In units of ||e|| or its square: rounding of x, rounding_means of any mean's score from x,
    rounding_logits [K] of the logits from x, rounding_square of the squared length of e inside the means.
    fit, lean, rounding_logits: None without weights.
    """

    radius: Array
    steep: Array
    lift: Array
    fit: Array | None
    lean: Array | None
    rounding: Array
    rounding_means: Array
    rounding_logits: Array | None
    rounding_square: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Probe:
    """Tables of the second pass, made once from the moments and the classifier.

    scale, scale_weights: powers of two, c = `unit` of the centred means and c_W of the weights. All else but `moments`
    is of c H and c_W W, so that metrics are the same at every scale of features and weights.
    mc [K, D] centred means, gram [K, K] = Mc Mc^T, distance [K, K] = ||mu_i - mu_j||^2, inverse T = Mc^+ [D, K],
    half = distance/2 (inf towards absent classes), gram_weights W W^T, gram_logits W Mc^T, table [K, K] = logits at the
    class means (row: mean), rank of Mc. The tables of the classifier are None without weights.
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
    scale = scale_weights = unit(mc)
    mc = mc * scale
    gram = mc @ mc.T
    inverse, rank = pseudo_inverse(mc)
    distance = pair_distances(mc, gram)
    half = jnp.where(moments.present[None], jax.lax.stop_gradient(distance) / 2, jnp.inf)
    gram_weights = gram_logits = table = None
    if weights is not None:
        scale_weights = unit(weights)
        weights = weights * scale_weights
        gram_weights, gram_logits = weights @ weights.T, weights @ mc.T
        # The logits at mu_G are rounded once for all samples; only mu_y - mu_G and e vary.
        centre = weights @ (moments.reference * scale) + weights @ (moments.global_shift * scale)
        if bias is not None:
            most = jnp.finfo(mc.dtype).max / 4  # where the bias is all, its differences stay finite
            centre = centre + jnp.clip(bias * scale * scale_weights, -most, most)
        table = gram_logits.T + centre[None]
    fixed = jax.lax.stop_gradient((mc, gram, inverse, half, weights, gram_weights, gram_logits, table))
    bounds = _bounds(*fixed)
    tables = mc, gram, distance, inverse, rank, half, weights, gram_weights, gram_logits, table
    return Probe(moments, scale, scale_weights, *tables, bounds)


def _bounds(mc, gram, inverse, half, weights, gram_weights, gram_logits, table) -> Bounds:
    """Cauchy-Schwarz against d_yk^2/2 and against the logit margin at mu_y, for ||e|| and for ||x|| with ||e||.

    G = Mc Mc^T, w_k = mean w + a mc_k + r_k: e.(mc_k - mc_y) = x.(G_k - G_y), but for directions `pseudo_inverse` took
    for rounding, and (w_k - w_y).e = a x.(G_k - G_y) + (r_k - r_y).e. a is the least-squares fit of W to Mc: with
    self-duality nothing is left of r_k. All less 0.1 %.
    """
    d = mc.shape[1]
    eps = jnp.finfo(mc.dtype).eps
    size = jnp.linalg.norm(mc)
    dropped = 2 * CUTOFF * eps * size
    rounding = eps * (64 + 2 * d**0.5) * jnp.linalg.norm(inverse)
    rounding_square, rounding_means = rounding * size, rounding * jnp.max(jnp.linalg.norm(gram, axis=1))
    radius = 0.999 * _least(jnp.sqrt(half / 2))
    turn = _apart(gram @ gram.T, jnp.sum(gram * gram, 1), len(gram))
    steep, lift = _most(turn / half), _most(dropped / half)
    if weights is None:
        return Bounds(radius, steep, lift, None, None, rounding, rounding_means, None, rounding_square)
    margin = jnp.maximum(jnp.diagonal(table)[:, None] - table, 0)
    fit = jnp.trace(gram_logits) / jnp.where(size > 0, size, 1) ** 2
    rest = weights - jnp.mean(weights, 0, keepdims=True) - fit * mc
    # r_k + mean w, from Grams at hand: a product of `rest` with itself costs 20 ms at K = 1000, D = 2048.
    gram_rest = gram_weights - fit * (gram_logits + gram_logits.T) + fit**2 * gram
    square = jnp.diagonal(gram_weights)
    apart_rest = _apart(gram_rest, 2 * (square + fit**2 * jnp.diagonal(gram)), d)
    return Bounds(
        jnp.minimum(radius, 0.999 * _least(margin / _apart(gram_weights, square, d))),
        jnp.maximum(steep, _most(jnp.abs(fit) * turn / margin)),
        jnp.maximum(lift, _most((apart_rest + jnp.abs(fit) * dropped) / margin)),
        fit,
        jnp.linalg.norm(rest, axis=1),
        rounding,
        rounding_means,
        rounding * jnp.linalg.norm(gram_logits, axis=1),
        rounding_square,
    )


def _least(values: Float[Array, "K K"]) -> Float[Array, " K"]:
    """The least of each row without its diagonal."""
    return jnp.min(jnp.where(jnp.eye(len(values), dtype=bool), jnp.inf, values), 1)


def _most(values: Float[Array, "K K"]) -> Float[Array, " K"]:
    """The largest of each row without its diagonal, and 0.1 %."""
    return 1.001 * jnp.max(jnp.where(jnp.eye(len(values), dtype=bool), 0, values), 1)


def _apart(gram: Float[Array, "K K"], size: Float[Array, " K"], terms: int) -> Float[Array, "K K"]:
    """||row_i - row_j|| from the rows' Gram, not less: what sums of `terms` products may have rounded away is added.

    size [K]: the squared lengths of the rows, or of what the Gram is a difference of. Positive.
    """
    eps, tiny = jnp.finfo(gram.dtype).eps, jnp.finfo(gram.dtype).tiny
    both = size[:, None] + size[None]
    square = jnp.diagonal(gram)
    return jnp.sqrt(
        jnp.maximum(square[:, None] + square[None] - 2 * gram, 0) + (64 + 2 * terms**0.5) * eps * both + tiny
    )
