"""Which class the classifier and the nearest class mean choose: by bounds first, by products with every feature last.

A sample near its class mean is decided by the lengths of its deviation e and of x = T^T e (K numbers, at hand for NC1).
Beyond that the scores of the means come from x by a K x K table, and so do bounds on the logits; only where these leave
more than a few samples is e W^T taken, and e Mc^T where rounding of x could change the nearest mean. The answers are
the same; on 50,000 x 512 features with K = 100, two of three large products are saved at noise 1, one at noise 10.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from .probe import Probe

FEW = 16  # the share 1/FEW of a block that may be undecided before all of it goes on to the next stage
# Classes from which the bound on the logits does without a K x K product: K = 1000 takes 0.84 times at noise 1.
MANY = 256


def decide(
    e: Float[Array, "B D"],
    x: Float[Array, "B K"],
    square: Float[Array, " B"],
    probe: Probe,
    row: Int[Array, " B"],
    inside: Bool[Array, " B"],
) -> Float[Array, "3 B"]:
    """1 where the logits choose y, where the nearest mean is mu_y, where both choose alike (NaN: no weights).

    `inside` marks the rows that count; the others hold anything.
    """
    length = jnp.sqrt(square)
    ones = jnp.ones_like(square)
    own = jnp.stack([ones, ones, ones] if probe.weights is not None else [ones * jnp.nan, ones, ones * jnp.nan])
    sure = ~inside | within_bounds(jnp.sqrt(jnp.sum(x * x, 1)), length, probe, row)
    decisions, sure = jax.lax.cond(
        _few_left(sure), lambda: (own, sure), lambda: by_projection(e, x, length, probe, row, own, sure)
    )

    def by_products_of_few() -> Array:
        rest = jax.lax.top_k((~sure).astype(e.dtype), _few(row))[1]  # argsort or integers: 20 times as long
        return decisions.at[:, rest].set(decide_by_products(e[rest], probe, row[rest]))

    def by_products() -> Array:
        return jax.lax.cond(_few_left(sure), by_products_of_few, lambda: decide_by_products(e, probe, row))

    return jax.lax.cond(jnp.all(sure), lambda: decisions, by_products)


def _few(row: Array) -> int:
    return -(-len(row) // FEW)


def _few_left(sure: Array) -> Array:
    return jnp.sum(~sure) <= _few(sure)


def within_bounds(size: Array, length: Array, probe: Probe, row: Array) -> Bool[Array, " B"]:
    """Whether ||x|| (size) and ||e|| (length) alone say that both decisions are y."""
    bounds = probe.bounds
    reached = (size + bounds.rounding * length) * bounds.steep[row] + length * bounds.lift[row] < 1
    return reached | (length < bounds.radius[row])


def by_projection(
    e: Array, x: Array, length: Array, probe: Probe, row: Array, own: Array, sure: Array
) -> tuple[Float[Array, "3 B"], Bool[Array, " B"]]:
    """Decisions [3, B], and which of them no rounding of x and no part of e outside the means can change [B]."""
    inner = x @ probe.gram
    score, mine = inner - probe.half[row], _of_own(inner, row)  # of the means; half is 0 towards y
    slack = 2 * probe.bounds.rounding_means * length
    others = jnp.max(jnp.where(_own(probe, row), -jnp.inf, score), 1)
    own_near = mine - slack > others

    def by_logits() -> tuple[Array, Array]:
        near = score >= (jnp.maximum(mine, others) - slack)[:, None]
        one = jnp.sum(near.astype(x.dtype), 1) == 1  # of floats: adding bools cost 8 ms in 55 at K = 100
        return _compare(near, _logits(e, probe, row), row, x.dtype), sure | one

    if probe.weights is None:
        return jax.lax.cond(_few_left(sure | own_near), lambda: (own, sure | own_near), by_logits)
    alike = jax.lax.cond(
        _few_left(sure | own_near),
        lambda: sure | (own_near & own_chosen(inner, x, length, probe, row)),
        lambda: sure,  # the means alone leave too many
    )
    return jax.lax.cond(_few_left(alike), lambda: (own, alike), by_logits)


def own_chosen(inner: Array, x: Array, length: Array, probe: Probe, row: Array) -> Bool[Array, " B"]:
    """Whether the logits choose y whatever the rounding of x and the part of e outside the means."""
    bounds, along = probe.bounds, length[:, None]
    if len(probe.gram) < MANY:
        outside = jnp.sqrt(jnp.maximum(length**2 - jnp.sum(inner * x, 1), 0) + bounds.rounding_square * length**2)
        slack = bounds.lean[None] * outside[:, None] + bounds.rounding_logits[None] * along
        score = x @ probe.gram_logits.T + probe.table[row]
    else:
        slack = (bounds.lean + jnp.abs(bounds.fit) * bounds.rounding_means)[None] * along
        score = bounds.fit * inner + probe.table[row]  # w_k.e = a inner_k + r_k.e + the same for all k
    others = jnp.max(jnp.where(_own(probe, row), -jnp.inf, score + slack), 1)
    return _of_own(score - slack, row) > others


def decide_by_products(e: Array, probe: Probe, row: Array) -> Float[Array, "3 B"]:
    """`decide` without shortcuts: two products with every feature.

    ||h - mu_k||^2 - ||h - mu_y||^2 = d_yk^2 - 2 e.(mu_k - mu_y): no square of a feature, no cancellation.
    """
    score = e @ probe.mc.T - probe.half[row]
    return _compare(score >= jnp.max(score, 1, keepdims=True), _logits(e, probe, row), row, e.dtype)


def _logits(e: Array, probe: Probe, row: Array) -> Float[Array, "B K"] | None:
    return None if probe.weights is None else e @ probe.weights.T + probe.table[row]


def _own(probe: Probe, row: Array) -> Bool[Array, "B K"]:
    return jnp.arange(len(probe.gram), dtype=row.dtype)[None] == row[:, None]


def _of_own(values: Array, row: Array) -> Array:
    return jnp.take_along_axis(values, row[:, None], 1)[:, 0]


def _compare(near: Bool[Array, "B K"], logits: Float[Array, "B K"] | None, row: Array, dtype) -> Float[Array, "3 B"]:
    """Decisions where `near` marks the nearest means. Maxima only: argmax would be 15 times slower on a CPU."""
    nearest = _of_own(near, row).astype(dtype)
    if logits is None:
        unknown = jnp.full_like(nearest, jnp.nan)
        return jnp.stack([unknown, nearest, unknown])
    top = jnp.max(logits, 1)
    both = jnp.max(jnp.where(near, logits, -jnp.inf), 1)
    return jnp.stack([(_of_own(logits, row) >= top).astype(dtype), nearest, (both >= top).astype(dtype)])
