"""Cells: pure maps g(z, theta) of a state z and normalised weights theta, and the modules that own the free weights.

Letters: U, V the two linear maps of a cell, b its bias, g the gain, x the injection. Every arm is built from the same
parts: f(z, x, theta) = x + g(z, theta) is what the deq arm solves, `layer` is what the explicit arm stacks.

For `dense`, `conv` and `linear` theta = (g^1/2 U / |U|, g^1/2 V / |V|, b), where |.| is an upper bound of the operator
norm (norms.py). The activation is 1-Lipschitz, so f is a g-contraction in z for every value of the free
weights: the equilibrium exists, is unique and depends smoothly on the weights all through training. Normalising always
(not only when a bound is exceeded) also keeps the solver from fading into a no-op, and makes weight decay blind to V
and U: the arms live under THEORY's budget S, a bound on the operator norm. `monotone` and `multiscale` have files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deq_nc.models import monotone, multiscale
from deq_nc.models.conv import conv
from deq_nc.models.hidden import Hidden, hidden_options
from deq_nc.models.norms import conv_spectral_bound, spectral_bound

Array = jax.Array
State = Any  # a pytree of [B, ...]; one array for all cells but multiscale


class CellKind(NamedTuple):
    """A kind of cell: `weights(features, inner, gain)` makes the module whose call on x returns theta."""

    weights: Callable[..., nn.Module]
    g: Callable[[State, Any], State]  # the equilibrium is z = drive + g(z, theta), a contraction in z
    spatial: bool
    layer: Callable[[State, Any], State] | None = None  # one layer of the explicit arms; None is g
    start: Callable[[Array], State] = lambda x: x  # the state every arm starts from
    drive: Callable[[State, Any], State] = lambda x, theta: x  # (start, theta) -> what the solve adds to g
    read: Callable[[State], State] = lambda z: z  # the solved state -> features before pooling


class DenseWeights(nn.Module):
    """theta = (U [D, m], V [m, D], b [m]) with |U| |V| <= gain, batch norm and dropout included."""

    features: int
    inner: int
    gain: float
    norm: str = "none"
    dropout: float = 0.0

    def setup(self) -> None:
        init = nn.initializers.glorot_normal()
        self.u = self.param("u", init, (self.features, self.inner))
        self.v = self.param("v", init, (self.inner, self.features))
        self.b = self.param("b", nn.initializers.zeros, (self.inner,))
        self.hidden = Hidden(self.inner, self.norm, self.dropout)

    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        scale = self.gain**0.5
        u, b = self.hidden.fold(self.u, self.b, spectral_bound, scale)
        v = self.hidden.thin(scale * self.v / spectral_bound(self.v), train)
        return {"u": u, "v": v, "b": b} | self.hidden.mask(x, train)

    def observe(self, z: Array, mask: Array | None) -> None:
        """Moves the running statistics of the hidden units by the state z they are applied to."""
        self.hidden.observe(z, self.u, spectral_bound, jnp.matmul, mask)


def dense(z: Array, theta: dict[str, Array]) -> Array:
    """g(z) = relu(z U + b) V, z [B, D]."""
    hidden = jax.nn.relu(z @ theta["u"] + theta["b"][None])
    return (hidden * theta["keep"] if "keep" in theta else hidden) @ theta["v"]


class LinearWeights(nn.Module):
    """theta = V [D, D] with |V| <= gain; the linear cell of the layer-peeled models."""

    features: int
    inner: int  # unused: a linear cell has no inner width
    gain: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
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
    norm: str = "none"
    dropout: float = 0.0

    def setup(self) -> None:
        init = nn.initializers.he_normal()
        self.u = self.param("u", init, (3, 3, self.features, self.inner))
        self.v = self.param("v", init, (3, 3, self.inner, self.features))
        self.b = self.param("b", nn.initializers.zeros, (self.inner,))
        self.hidden = Hidden(self.inner, self.norm, self.dropout)

    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        scale, size = self.gain**0.5, (x.shape[1], x.shape[2])
        u, b = self.hidden.fold(self.u, self.b, lambda k: conv_spectral_bound(k, size), scale)
        v = self.hidden.thin(scale * self.v / conv_spectral_bound(self.v, size), train)
        return {"u": u, "v": v, "b": b} | self.hidden.mask(x, train)

    def observe(self, z: Array, mask: Array | None) -> None:
        """Moves the running statistics of the hidden channels by the state z they are applied to."""
        self.hidden.observe(z, self.u, lambda k: conv_spectral_bound(k, z.shape[1:3]), conv, mask)


def convolutional(z: Array, theta: dict[str, Array]) -> Array:
    """g(z) = V * relu(U * z + b), z [B, h, w, C]."""
    hidden = jax.nn.relu(conv(z, theta["u"]) + theta["b"][None, None, None])
    return conv(hidden * theta["keep"] if "keep" in theta else hidden, theta["v"])


CELLS: dict[str, CellKind] = {
    "dense": CellKind(DenseWeights, dense, spatial=False),
    "linear": CellKind(LinearWeights, linear, spatial=False),
    "conv": CellKind(ConvWeights, convolutional, spatial=True),
    "monotone": CellKind(
        monotone.DenseWeights,
        monotone.reflected,
        spatial=False,
        layer=monotone.layer,
        drive=monotone.drive,
        read=jax.nn.relu,
    ),
    "monotone_conv": CellKind(
        monotone.ConvWeights,
        monotone.reflected_conv,
        spatial=True,
        layer=monotone.layer_conv,
        drive=monotone.drive_conv,
        read=jax.nn.relu,
    ),
    "multiscale": CellKind(multiscale.Weights, multiscale.multiscale, spatial=True, start=multiscale.scales),
}


def make_weights(model: Any, layers: int) -> nn.Module:
    """The module of one layer's weights, its inner width divided by the number of layers."""
    options = hidden_options(model)
    return CELLS[model.cell].weights(model.features, model.inner // layers, model.gain, **options)


def in_dtype(g: Callable[[State, Any], State], dtype: str) -> Callable[[State, Any], State]:
    """g with its state and weights rounded to `dtype`, its result widened back to that of the state."""
    if dtype == "float32":
        return g

    def rounded(z: State, theta: Any) -> State:
        low = jax.tree.map(lambda a: a.astype(dtype), (z, theta))
        return jax.tree.map(lambda out, a: out.astype(a.dtype), g(*low), z)

    return rounded
