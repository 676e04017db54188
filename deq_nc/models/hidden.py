"""BatchNorm and dropout on the hidden units of a cell, such that the contraction bound includes both.

Letters: h = z U / |U| the hidden units before bias, mu, var their running mean and variance, gamma, b scale and shift,
s = gamma / sqrt(var + eps), p the dropout rate, m the number of hidden units (channels).

With frozen statistics BatchNorm is the affine map s (h - mu) + b. It is folded into the cell, (U', b') =
(U / |U| diag(s), b - s mu), and the result is divided by the bound of U', so that the cell's constant stays `gain` for
any gamma and any statistics. They are fixed during a solve and move once per training step, from the state that the
solve returned: a statistic that moved with the iterates would make f depend on the path, and mix the examples.

Dropout multiplies the hidden units of an example by one mask of zeros and ones, drawn once per step and passed in
theta; a channel is kept or dropped as a whole. Evaluation multiplies by 1 - p instead. The usual 1 / (1 - p) during
training would multiply the cell's constant: here it is <= gain in both modes.
Sources: Ioffe and Szegedy 2015; Bai, Koltun and Kolter 2020 (one mask per solve); Tompson et al. 2015 (channels).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
MOMENTUM = 0.9  # as the encoders
EPSILON = 1e-5


class Hidden(nn.Module):
    """The optional parts of a hidden layer of `inner` units; owns gamma, mean and var where norm is "batch"."""

    inner: int
    norm: str
    dropout: float

    def setup(self) -> None:
        if self.norm == "batch":
            self.gamma = self.param("gamma", nn.initializers.ones, (self.inner,))
            self.mean = self.variable("batch_stats", "mean", jnp.zeros, (self.inner,))
            self.var = self.variable("batch_stats", "var", jnp.ones, (self.inner,))

    def fold(self, u: Array, b: Array, bound: Callable[[Array], Array], scale: float) -> tuple[Array, Array]:
        """(U', b') with bound(U') <= scale; u [..., m], b [m]."""
        if self.norm == "none":
            return scale * u / bound(u), b
        s = self.gamma * jax.lax.rsqrt(self.var.value + EPSILON)
        unit = u / bound(u) * s.reshape((1,) * (u.ndim - 1) + (-1,))
        c = scale / bound(unit)
        return c * unit, c * (b - s * self.mean.value)

    def thin(self, v: Array, train: bool) -> Array:
        """A map V of the hidden units in training, (1 - p) V in evaluation."""
        return v if train or self.dropout == 0 else (1 - self.dropout) * v

    def mask(self, x: Array, train: bool) -> dict[str, Array]:
        """{"keep": mask [B, 1, .., m] of zeros and ones} in training, else {}. Raises ValueError without a key."""
        if self.dropout == 0 or not train:
            return {}
        if not self.has_rng("dropout") and not self.is_initializing():
            raise ValueError(
                "dropout: expected a random key, got none. Pass apply(..., rngs={'dropout': key}), a new key each step."
            )
        shape = (x.shape[0], *(1,) * (x.ndim - 2), self.inner)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, shape)
        return {"keep": keep.astype(x.dtype)}

    def observe(
        self,
        z: Array,
        u: Array,
        bound: Callable[[Array], Array],
        apply: Callable[[Array, Array], Array],
        mask: Array | None,
    ) -> None:
        """One step of the running statistics from h = apply(z, U / |U|) over the rows where mask [B] is True."""
        if self.norm == "none" or self.is_initializing():
            return
        h = jax.lax.stop_gradient(apply(z, u / bound(u)))
        rows = jnp.ones(h.shape[:1]) if mask is None else mask.astype(h.dtype)
        weight = jnp.broadcast_to(rows.reshape((-1,) + (1,) * (h.ndim - 1)), (*h.shape[:-1], 1))
        weight = weight / weight.sum()
        axes = tuple(range(h.ndim - 1))
        mean = jnp.sum(weight * h, axes, keepdims=True)
        var = jnp.sum(weight * (h - mean) ** 2, axes)
        self.mean.value = MOMENTUM * self.mean.value + (1 - MOMENTUM) * mean.ravel()
        self.var.value = MOMENTUM * self.var.value + (1 - MOMENTUM) * var


def hidden_options(model: Any) -> dict[str, Any]:
    """Keyword arguments of the cells with hidden units; none where the experiment asks for neither option."""
    if model.cell_norm == "none" and model.dropout == 0:
        return {}
    return {"norm": model.cell_norm, "dropout": model.dropout}
