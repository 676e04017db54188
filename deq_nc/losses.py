"""Losses with one signature: loss(logits, labels, counts) -> per-example values.

Letters: f [B, K] logits, y [B] labels, n [K] training counts, pi = n / sum n.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array | np.ndarray


def cross_entropy(logits: Array, labels: Array, counts: Array) -> jax.Array:
    """CE(f) = -log softmax(f)_y, in nats, [B]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def mse(logits: Array, labels: Array, counts: Array) -> jax.Array:
    """||f - onehot(y)||^2 / 2, [B]."""
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return 0.5 * jnp.square(logits - target).sum(-1)


def logit_adjusted(logits: Array, labels: Array, counts: Array) -> jax.Array:
    """CE(f + log pi) (Menon 2021, tau = 1), [B]; equals CE when counts are equal."""
    prior = jnp.log(counts / counts.sum())
    return optax.softmax_cross_entropy_with_integer_labels(logits + prior[None], labels)


LOSSES: dict[str, Callable[[Array, Array, Array], jax.Array]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "logit_adjusted": logit_adjusted,
}
