"""Which class the classifier and the nearest class mean choose for a sample h of class y, e = h - mu_y.

A sample nearer to its mean than `tables.radius` needs no product: e cannot carry it half the way to another mean, nor
past the margin of its logits. All others take e Mc^T and e W^T.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Integer

from .tables import Tables

FEW = 16  # a chunk of which at most 1/FEW is further than the radius takes the products of these rows alone


def decide(
    e: Float[Array, "B D"],
    square: Float[Array, " B"],
    tables: Tables,
    row: Integer[Array, " B"],
    inside: Bool[Array, " B"],
) -> Float[Array, "3 B"]:
    """1 where the logits choose y, where the nearest mean is mu_y, where both choose alike (NaN: no weights).

    square = ||e||^2, row = y. `inside` marks the rows that count; the others hold anything.
    """
    few = -(-len(row) // FEW)
    far = inside & ~(jnp.sqrt(square) < tables.radius[row])
    unknown = jnp.nan if tables.classifier is None else 1
    own = jnp.broadcast_to(jnp.asarray([unknown, 1, unknown], e.dtype)[:, None], (3, len(row)))

    def of_few() -> Array:
        rows = jax.lax.top_k(far.astype(e.dtype), few)[1]  # argsort or integers: 20 times as long
        return own.at[:, rows].set(decide_by_products(e[rows], tables, row[rows]))

    return jax.lax.cond(jnp.sum(far) <= few, of_few, lambda: decide_by_products(e, tables, row))


def decide_by_products(e: Array, tables: Tables, row: Array) -> Float[Array, "3 B"]:
    """`decide` without shortcuts: two products with every feature.

    ||h - mu_k||^2 - ||h - mu_y||^2 = d_yk^2 - 2 e.(mu_k - mu_y): no square of a feature, no cancellation. Ties count as
    chosen. Maxima only: argmax would be 15 times slower on a CPU.
    """
    score = e @ tables.mc.T - tables.half[row]
    near = score >= jnp.max(score, 1, keepdims=True)
    nearest = _of_own(near, row).astype(e.dtype)
    if tables.classifier is None:
        unknown = jnp.full_like(nearest, jnp.nan)
        return jnp.stack([unknown, nearest, unknown])
    logits = e @ tables.classifier.weights.T + tables.classifier.logits[row]
    top = jnp.max(logits, 1)
    both = jnp.max(jnp.where(near, logits, -jnp.inf), 1)
    return jnp.stack([(_of_own(logits, row) >= top).astype(e.dtype), nearest, (both >= top).astype(e.dtype)])


def _of_own(values: Array, row: Array) -> Array:
    return jnp.take_along_axis(values, row[:, None], 1)[:, 0]
