"""The second pass: what every sample's deviation from its class mean says, summed per class; additive over batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from .directions import pseudo_inverse
from .geometry import pair_distances
from .moments import ClassMoments, class_sums
from .rows import sum_rows


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["whitened", "square", "correct", "nearest", "agree"],
    meta_fields=[],
)
@dataclass(frozen=True)
class ResidualSums:
    """Sums over the samples of each class, [K] each; add two of them to merge disjoint batches.

    whitened: ||T^T e||^2, e = h - mu_y and T = Mc^+; square: ||e||^2; correct: argmax of the logits is y;
    nearest: the nearest class mean is mu_y; agree: these two decisions are the same class.
    """

    whitened: Array
    square: Array
    correct: Array
    nearest: Array
    agree: Array

    def __add__(self, other: ResidualSums) -> ResidualSums:
        return jax.tree.map(jnp.add, self, other)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["moments", "mc", "distance", "inverse", "half", "weights", "table", "radius", "rank"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Probe:
    """Tables of the second pass, made once from the moments and the classifier.

    mc [K, D] centred means, distance [K, K] = ||mu_i - mu_j||^2, inverse T = Mc^+ [D, K], half = distance/2 (inf
    towards absent classes), table [K, K] = logits at the class means, rank of Mc.
    radius [K]: a sample nearer than this to its class mean is decided for its class by the means and by the classifier,
    so that a block of such samples needs neither product (collapsed features: 2 of 3 matmuls saved).
    """

    moments: ClassMoments
    mc: Array
    distance: Array
    inverse: Array
    half: Array
    weights: Array | None
    table: Array | None
    radius: Array
    rank: Array


def make_probe(
    moments: ClassMoments, weights: Float[Array, "K D"] | None = None, bias: Float[Array, " K"] | None = None
) -> Probe:
    """Tables of the second pass; without weights the logits are unknown and `correct` and `agree` are NaN."""
    mc = moments.centred()
    inverse, rank = pseudo_inverse(mc)
    distance = pair_distances(mc)
    fixed = jax.lax.stop_gradient
    table = None
    if weights is not None:
        # The common part reference @ W^T is rounded once for all samples; only mu_y - reference and e vary.
        away = (moments.origin - moments.reference[None]) + moments.shift
        table = away @ weights.T + (weights @ moments.reference)[None]
        table = table if bias is None else table + bias[None]
    half = jnp.where(moments.present[None], fixed(distance) / 2, jnp.inf)
    return Probe(
        moments,
        mc,
        distance,
        inverse,
        half,
        weights,
        table,
        _sure_radius(half, fixed(weights), fixed(table)),
        rank,
    )


def _sure_radius(half: Array, weights: Array | None, table: Array | None) -> Array:
    """[K] distances from mu_y within which both decisions are y: min_k d_yk/2 and min_k margin_yk/||w_y - w_k||.

    0.1 % is left for rounding.
    """
    other = ~jnp.eye(half.shape[0], dtype=bool)
    near = jnp.min(jnp.where(other, jnp.sqrt(half / 2), jnp.inf), 1)
    if weights is None:
        return 0.999 * near
    apart = jnp.sqrt(pair_distances(weights))
    margin = jnp.diagonal(table)[:, None] - table
    linear = jnp.min(jnp.where(other & (apart > 0), margin / jnp.where(apart > 0, apart, 1), jnp.inf), 1)
    linear = jnp.where(jnp.any(other & (margin <= 0), 1), 0, linear)
    return 0.999 * jnp.minimum(linear, near)


def residual_sums(
    features: Float[Array, "N D"], labels: Int[Array, " N"], probe: Probe, mask: Bool[Array, " N"] | None = None
) -> ResidualSums:
    """Second pass over one batch: features [N, D], labels [N], mask [N] (False rows do not count)."""
    k = probe.mc.shape[0]
    labels = labels.astype(jnp.int32)
    origin, shift = probe.moments.origin, probe.moments.shift
    inside = (labels >= 0) & (labels < k)
    inside = inside if mask is None else inside & mask
    slot = jnp.where(inside, labels, k)
    fixed = jax.lax.stop_gradient

    def decide(e: Array, row: Array) -> Array:
        own = jnp.arange(k)[None] == row[:, None]
        # ||h - mu_k||^2 - ||h - mu_y||^2 = d_yk^2 - 2 e.(mu_k - mu_y): no square of a feature, no cancellation.
        near = e @ fixed(probe.mc).T - probe.half[row]
        near = near >= jnp.max(near, 1, keepdims=True)  # a maximum and a comparison: argmax is 15x slower on a CPU
        nearest = jnp.any(near & own, 1)
        if probe.weights is None:
            correct = agree = jnp.full(row.shape, jnp.nan)
        else:
            logits = e @ fixed(probe.weights).T + fixed(probe.table)[row]
            choice = logits >= jnp.max(logits, 1, keepdims=True)
            correct, agree = jnp.any(choice & own, 1), jnp.any(choice & near, 1)
        return jnp.stack([correct, nearest, agree]).astype(e.dtype)

    def block(h: Array, slot: Array) -> ResidualSums:
        inside = slot < k
        row = jnp.minimum(slot, k - 1)
        e = jnp.where(inside[:, None], (h - origin[row]) - shift[row], 0)
        x = e @ probe.inverse
        square = jnp.sum(e * e, 1)
        sure = jnp.all(~inside | (fixed(square) < probe.radius[row] ** 2))
        ones = inside.astype(h.dtype)
        known = ones if probe.weights is not None else jnp.where(inside, jnp.nan, ones)
        settled = jnp.stack([known, ones, known])
        decisions = jax.lax.cond(sure, lambda *_: settled, decide, fixed(e), row)
        values = jnp.stack([jnp.sum(x * x, 1), square, *decisions], 1)
        return ResidualSums(*class_sums(values, slot, k).T)

    return sum_rows(block, features, slot)
