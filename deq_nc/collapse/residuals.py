"""The second pass: what every sample's deviation from its class mean says, summed per class; additive over batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Integer

from .decisions import decide, decide_by_products
from .moments import class_of, class_sums
from .sums import lanes_of, over_lanes, sum_axis, sum_chunks
from .tables import Tables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ResidualSums:
    """Sums over the samples of each class, [K] each; add two of them to merge disjoint batches.

    whitened: ||T^T e||^2, e = h - mu_y and T = Mc^+; square: ||c e||^2, c = tables.scale;
    correct: argmax of the logits is y; nearest: the nearest class mean is mu_y; agree: both decisions are one class.
    """

    whitened: Array
    square: Array
    correct: Array
    nearest: Array
    agree: Array

    def __add__(self, other: ResidualSums) -> ResidualSums:
        return jax.tree.map(jnp.add, self, other)


def residual_sums(
    features: Float[Array | np.ndarray, "N D"],
    labels: Integer[Array | np.ndarray, " N"],
    tables: Tables,
    mask: Bool[Array | np.ndarray, " N"] | None = None,
    *,
    lanes: int | None = None,
) -> ResidualSums:
    """Second pass over one batch: features [N, D], labels [N], mask [N] (False rows do not count); lanes: `measure`."""
    lanes = lanes or lanes_of(features)
    k = tables.mc.shape[0]
    labels = class_of(labels, k)
    origin, shift = tables.moments.origin, tables.moments.shift
    inside = labels < k if mask is None else (labels < k) & mask
    slot = jnp.where(inside, labels, k)

    def of_chunk(h: Array, slot: Array) -> ResidualSums:
        inside = slot < k
        row = jnp.minimum(slot, k - 1)
        e = jnp.where(inside[:, None], ((h - origin[row]) - shift[row]) * tables.scale, 0)
        x = e @ tables.inverse
        square = jnp.sum(e * e, 1)
        fixed, far, constant = jax.lax.stop_gradient((e, square, tables))
        # vmap over lanes computes both sides of every cond: no shortcut there
        one = lanes == 1
        decisions = decide(fixed, far, constant, row, inside) if one else decide_by_products(fixed, constant, row)
        values = jnp.concatenate([jnp.sum(x * x, 1)[None], square[None], decisions]).T
        return ResidualSums(*class_sums(values, slot, k).T)

    return over_lanes(partial(sum_chunks, of_chunk, k), sum_axis, lanes, features, slot)
