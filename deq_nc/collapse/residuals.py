"""The second pass: what every sample's deviation from its class mean says, summed per class; additive over batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from .directions import directions
from .geometry import pair_distances
from .moments import ClassMoments, class_sums
from .rows import sum_rows


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["whitened", "square", "correct", "nearest", "differ"],
    meta_fields=[],
)
@dataclass(frozen=True)
class ResidualSums:
    """Sums over the samples of each class, [K] each; add two of them to merge disjoint batches.

    whitened: ||T^T e||^2, e = h - mu_y and T T^T = (Mc^T Mc)^+; square: ||e||^2; correct: argmax of the logits is y;
    nearest: the nearest class mean is mu_y; differ: these two decisions are not the same class.
    """

    whitened: Array
    square: Array
    correct: Array
    nearest: Array
    differ: Array

    def __add__(self, other: ResidualSums) -> ResidualSums:
        return jax.tree.map(jnp.add, self, other)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["moments", "mc", "distance", "whitener", "scale", "places", "half", "weights", "table", "condition"]
    + ["rank"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Probe:
    """Tables of the second pass, made once from the moments and the classifier.

    mc [K, D] centred means, distance [K, K] = ||mu_i - mu_j||^2, whitener T [D, r], scale s [r], places Mc V [K, r],
    half = distance/2 (inf towards absent classes), table [K, K] = logits at the class means; rank and condition of Mc.
    """

    moments: ClassMoments
    mc: Array
    distance: Array
    whitener: Array
    scale: Array
    places: Array
    half: Array
    weights: Array | None
    table: Array | None
    condition: Array
    rank: Array


def make_probe(
    moments: ClassMoments, weights: Float[Array, "K D"] | None = None, bias: Float[Array, " K"] | None = None
) -> Probe:
    """Tables of the second pass; without weights the logits are unknown and `correct` and `differ` become NaN."""
    mc = moments.centred()
    out = directions(mc)
    distance = pair_distances(mc)
    scale = jnp.where(out.kept, out.scale, 0)
    fixed = jax.lax.stop_gradient
    table = None
    if weights is not None:
        # The common part reference @ W^T is rounded once for all samples; only mu_y - reference and e vary.
        away = (moments.origin - moments.reference[None]) + moments.shift
        table = away @ weights.T + (weights @ moments.reference)[None]
        table = table if bias is None else table + bias[None]
    return Probe(
        moments,
        mc,
        distance,
        out.whitener,
        scale,
        fixed(mc) @ out.basis,
        jnp.where(moments.present[None], fixed(distance) / 2, jnp.inf),
        weights,
        table,
        jnp.max(out.scale) / jnp.min(jnp.where(out.kept, out.scale, jnp.inf)),
        jnp.sum(out.kept),
    )


def residual_sums(
    features: Float[Array, "N D"], labels: Int[Array, " N"], probe: Probe, mask: Bool[Array, " N"] | None = None
) -> ResidualSums:
    """Second pass over one batch: features [N, D], labels [N], mask [N] (False rows do not count)."""
    k = probe.mc.shape[0]
    origin, shift = probe.moments.origin, probe.moments.shift
    inside = (labels >= 0) & (labels < k)
    inside = inside if mask is None else inside & mask
    slot = jnp.where(inside, labels, k)

    def block(h: Array, slot: Array) -> ResidualSums:
        inside = slot < k
        row = jnp.minimum(slot, k - 1)
        e = jnp.where(inside[:, None], (h - origin[row]) - shift[row], 0)
        x = e @ probe.whitener
        fixed = jax.lax.stop_gradient
        own = jnp.arange(k)[None] == row[:, None]
        # ||h - mu_k||^2 - ||h - mu_y||^2 = d_yk^2 - 2 e.(mu_k - mu_y): no square of a feature, no cancellation.
        near = (fixed(x) * probe.scale[None]) @ probe.places.T - probe.half[row]
        near = near >= jnp.max(near, 1, keepdims=True)
        if probe.weights is None:
            correct = differ = jnp.full(row.shape, jnp.nan)
        else:
            choice = fixed(e) @ fixed(probe.weights).T + fixed(probe.table)[row]
            choice = choice >= jnp.max(choice, 1, keepdims=True)
            correct, differ = jnp.any(choice & own, 1), ~jnp.any(choice & near, 1)  # argmax is 15x slower on a CPU
        values = (jnp.sum(x * x, 1), jnp.sum(e * e, 1), correct, jnp.any(near & own, 1), differ)
        return ResidualSums(*class_sums(jnp.stack([v.astype(h.dtype) for v in values], 1), slot, k).T)

    return sum_rows(block, features, slot)
