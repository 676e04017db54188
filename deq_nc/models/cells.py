"""Cells f(z, x, theta): pure functions of the state z, the injection x and the normalised weights theta.

Letters: U, V the two linear maps of a cell, b its bias, g the gain. A module owns the free weights; calling it gives
theta = (g^1/2 U / |U|, g^1/2 V / |V|, b), where |.| is an upper bound of the operator norm (norms.py). The activation
is 1-Lipschitz, so f is a g-contraction in z for every value of the free weights: the equilibrium exists, is unique and
depends smoothly on the weights all through training. Normalising always (not only when a bound is exceeded) also
keeps the solver from fading into a no-op, and makes weight decay blind to V and U: the arms live under THEORY's
budget S, a bound on the operator norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from deq_nc.models.conv import conv
from deq_nc.models.norms import conv_spectral_bound, spectral_bound

Array = jax.Array


class Cell(NamedTuple):
    """A kind of cell: `weights(inner, features, gain)` makes the module whose call returns theta; `g` is its map."""

    weights: Callable[..., nn.Module]
    g: Callable[[Array, Any], Array]  # g(z, theta); the arms build f(z, x, theta) = x + g(z, theta) from it
    spatial: bool


class DenseWeights(nn.Module):
    """theta = (U [D, m], V [m, D], b [m]) with |U| |V| <= gain."""

    features: int
    inner: int
    gain: float

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        init = nn.initializers.glorot_normal()
        u = self.param("u", init, (self.features, self.inner))
        v = self.param("v", init, (self.inner, self.features))
        b = self.param("b", nn.initializers.zeros, (self.inner,))
        scale = self.gain**0.5
        return {"u": scale * u / spectral_bound(u), "v": scale * v / spectral_bound(v), "b": b}


def dense(z: Array, theta: dict[str, Array]) -> Array:
    """g(z) = relu(z U + b) V, z [B, D]."""
    return jax.nn.relu(z @ theta["u"] + theta["b"][None]) @ theta["v"]


class LinearWeights(nn.Module):
    """theta = V [D, D] with |V| <= gain; the linear cell of the layer-peeled models."""

    features: int
    inner: int  # unused: a linear cell has no inner width
    gain: float

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        v = self.param("v", nn.initializers.glorot_normal(), (self.features, self.features))
        return {"v": self.gain * v / spectral_bound(v)}


def linear(z: Array, theta: dict[str, Array]) -> Array:
    """g(z) = z V, z [B, D]."""
    return z @ theta["v"]


class ConvWeights(nn.Module):
    """theta = (U [3, 3, C, m], V [3, 3, m, C], b [m]) with |U| |V| <= gain as operators on the h x w grid of x.

    The injection is normalised (GroupNorm) before the loop, once: a GroupNorm inside it has no Lipschitz bound.
    """

    features: int
    inner: int
    gain: float

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        init = nn.initializers.he_normal()
        u = self.param("u", init, (3, 3, self.features, self.inner))
        v = self.param("v", init, (3, 3, self.inner, self.features))
        b = self.param("b", nn.initializers.zeros, (self.inner,))
        scale, size = self.gain**0.5, (x.shape[1], x.shape[2])
        return {
            "u": scale * u / conv_spectral_bound(u, size),
            "v": scale * v / conv_spectral_bound(v, size),
            "b": b,
        }


def convolutional(z: Array, theta: dict[str, Array]) -> Array:
    """g(z) = V * relu(U * z + b), z [B, h, w, C]."""
    return conv(jax.nn.relu(conv(z, theta["u"]) + theta["b"][None, None, None]), theta["v"])


CELLS: dict[str, Cell] = {
    "dense": Cell(DenseWeights, dense, spatial=False),
    "linear": Cell(LinearWeights, linear, spatial=False),
    "conv": Cell(ConvWeights, convolutional, spatial=True),
}
