"""Which class the classifier and the nearest class mean choose: by bounds first, by products with every feature last.

A sample near its class mean is decided by the lengths of its deviation e and of x = T^T e (K numbers, at hand for NC1);
one whose scores from x lie further apart than their bounds, by these scores; the others by the products e Mc^T and
e W^T. The answers are the same; on 50,000 x 512 features with K = 100, noise 1, two of three large products are saved.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from .probe import Probe

FEW = 8  # the share 1/FEW of a block that may be undecided before all of it takes the products
# Classes from which the logits are bounded before their product is taken. Processor time of `measure`, noise 1: where
# the bound fails, K = 100 took 1.09 times as long; where it settles, K = 1000 0.84 times.
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
    ones = jnp.ones_like(square)
    own = jnp.stack([ones, ones, ones] if probe.weights is not None else [ones * jnp.nan, ones, ones * jnp.nan])
    length = jnp.sqrt(square)
    sure = ~inside | _within_bounds(jnp.sqrt(jnp.sum(x * x, 1)), length, probe, row)

    decisions, sure = jax.lax.cond(
        _few_left(sure), lambda: (own, sure), lambda: _by_projection(x, length, probe, row, own, sure)
    )

    def by_products_of_few() -> Array:
        rest = jnp.argsort(sure)[: _few(row)]
        return decisions.at[:, rest].set(decide_by_products(e[rest], probe, row[rest]))

    def by_products() -> Array:
        return jax.lax.cond(_few_left(sure), by_products_of_few, lambda: decide_by_products(e, probe, row))

    return jax.lax.cond(jnp.all(sure), lambda: decisions, by_products)


def _few(row: Array) -> int:
    return -(-len(row) // FEW)


def _few_left(sure: Array) -> Array:
    return jnp.sum(~sure) <= _few(sure)


def _within_bounds(size: Array, length: Array, probe: Probe, row: Array) -> Bool[Array, " B"]:
    """Whether ||x|| (size) and ||e|| (length) alone say that both decisions are y."""
    bounds = probe.bounds
    reached = (size + bounds.rounding * length) * bounds.steep[row] + length * bounds.lift[row] < 1
    return reached | (length < bounds.radius[row])


def _by_projection(
    x: Array, length: Array, probe: Probe, row: Array, own: Array, sure: Array
) -> tuple[Float[Array, "3 B"], Bool[Array, " B"]]:
    """Decisions [3, B] from x alone, and whether no rounding and no part of e outside the means can change them [B].

    Scores are off by their slack. First y against all others, since most samples are where they belong; only where
    that leaves more than a few, which class it is.
    """
    bounds, along = probe.bounds, length[:, None]
    inner = x @ probe.gram
    near = (inner - probe.half[row], bounds.rounding_means[None] * along)
    own_near = _own_wins(*near, row)
    if probe.weights is None:
        sure = sure | own_near
        return jax.lax.cond(_few_left(sure), lambda: (own, sure), lambda: _by_candidates(near, None, row))
    lean, table = bounds.lean[None], probe.table[row]

    def by_both() -> tuple[Array, Array]:
        outside = jnp.sqrt(jnp.maximum(length**2 - jnp.sum(inner * x, 1), 0) + bounds.rounding_square * length**2)
        slack = lean * outside[:, None] + bounds.rounding_logits[None] * along
        choice = (x @ probe.gram_logits.T + table, slack)
        known = sure | (own_near & _own_wins(*choice, row))
        return jax.lax.cond(_few_left(known), lambda: (own, known), lambda: _by_candidates(near, choice, row))

    if len(probe.gram) < MANY:
        return by_both()
    slack = (lean + jnp.abs(bounds.fit) * bounds.rounding_means[None]) * along  # w_k.e = a inner_k + r_k.e + the same
    known = sure | (own_near & _own_wins(bounds.fit * inner + table, slack, row))
    return jax.lax.cond(_few_left(known), lambda: (own, known), by_both)


def _by_candidates(near: tuple, choice: tuple | None, row: Array) -> tuple[Float[Array, "3 B"], Bool[Array, " B"]]:
    """Decisions from scores and their slacks, sure where one class alone may have the largest."""
    nearest = _candidates(*near)
    if choice is None:
        return _compare(nearest, None, row, near[0].dtype), jnp.sum(nearest, 1) == 1
    chosen = _candidates(*choice)
    sure = (jnp.sum(nearest, 1) == 1) & (jnp.sum(chosen, 1) == 1)
    return _compare(nearest, chosen, row, near[0].dtype), sure


def decide_by_products(e: Array, probe: Probe, row: Array) -> Array:
    """`decide` without shortcuts: two products with every feature.

    ||h - mu_k||^2 - ||h - mu_y||^2 = d_yk^2 - 2 e.(mu_k - mu_y): no square of a feature, no cancellation.
    """
    near = _candidates(e @ probe.mc.T - probe.half[row], 0)
    choice = None if probe.weights is None else _candidates(e @ probe.weights.T + probe.table[row], 0)
    return _compare(near, choice, row, e.dtype)


def _candidates(score: Float[Array, "B K"], slack: Array | int) -> Bool[Array, "B K"]:
    """Classes that may have the largest score, each being off by its slack; argmax would be 15x slower on a CPU."""
    return score + slack >= jnp.max(score - slack, 1, keepdims=True)


def _own_wins(score: Float[Array, "B K"], slack: Float[Array, "B K"], row: Int[Array, " B"]) -> Bool[Array, " B"]:
    """Whether class y has the largest score, whatever the slack; one reduction where `_candidates` needs three."""
    own = jnp.arange(score.shape[1])[None] == row[:, None]
    others = jnp.max(jnp.where(own, -jnp.inf, score + slack), 1)
    mine = [jnp.take_along_axis(values, row[:, None], 1)[:, 0] for values in (score, slack)]
    return mine[0] - mine[1] > others


def _compare(near: Array, choice: Array | None, row: Array, dtype: jnp.dtype) -> Array:
    own = jnp.arange(near.shape[1])[None] == row[:, None]
    nearest = jnp.any(near & own, 1).astype(dtype)
    if choice is None:
        unknown = jnp.full_like(nearest, jnp.nan)
        return jnp.stack([unknown, nearest, unknown])
    return jnp.stack([jnp.any(choice & own, 1).astype(dtype), nearest, jnp.any(choice & near, 1).astype(dtype)])
