"""A two-scale cell: a fine and a coarse state that are solved together and feed each other (MDEQ).

Letters: z = (high [B, h, w, C], low [B, h/2, w/2, C]), U_s, V_s the 3 x 3 convolutions of scale s, b_s its bias, down a
2 x 2 convolution of stride 2, up a 1 x 1 convolution whose result is repeated 2 x 2 times.

    hidden_s = relu(U_s z_s + b_s)
    g(z)     = (V_h hidden_h + up hidden_l, down hidden_h + V_l hidden_l)

|U_s| <= 1. The four maps of the second line are one linear map whose norm is at most that of the 2 x 2 matrix of their
bounds, N = [[|V_h|, 2 |K_up|], [|K_down|, |V_l|]] (repeating a pixel four times doubles the norm; the patches of down
do not overlap, so its norm is that of a matrix). All four are multiplied by gain / |N|: f is a gain-contraction of the
joint state, and training may still move weight between the scales.
Source: Bai, Koltun and Kolter 2020, Multiscale deep equilibrium models.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from deq_nc.models.conv import conv
from deq_nc.models.hidden import Hidden
from deq_nc.models.norms import conv_spectral_bound, spectral_bound

Scales = tuple[Array, Array]  # (high, low)


def scales(x: Array) -> Scales:
    """x [B, h, w, C] and its 2 x 2 means. Raises ValueError for an odd side."""
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"model.cell multiscale: expected an even grid of features, got {height} x {width}. "
            "Change data.image_size, or take another encoder or cell."
        )
    return x, x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


class Weights(nn.Module):
    """theta = {"u": (U_h, U_l), "b": (b_h, b_l), "v": (V_h, V_l), "up": K_up [m, C], "down": K_down [4 m, C]}."""

    features: int
    inner: int
    gain: float
    norm: str = "none"
    dropout: float = 0.0

    def setup(self) -> None:
        init, shape = nn.initializers.he_normal(), (3, 3, self.features, self.inner)
        names = ("high", "low")
        self.u = [self.param(f"u_{s}", init, shape) for s in names]
        self.v = [self.param(f"v_{s}", init, (3, 3, self.inner, self.features)) for s in names]
        self.b = [self.param(f"b_{s}", nn.initializers.zeros, (self.inner,)) for s in names]
        self.up = self.param("up", init, (self.inner, self.features))
        self.down = self.param("down", init, (4 * self.inner, self.features))
        self.hidden = [Hidden(self.inner, self.norm, self.dropout) for _ in names]

    def __call__(self, x: Array, train: bool = False) -> dict[str, Any]:
        sizes = [z.shape[1:3] for z in scales(x)]
        folded = [
            hidden.fold(u, b, partial(conv_spectral_bound, size=size), 1.0)
            for hidden, u, b, size in zip(self.hidden, self.u, self.b, sizes)
        ]
        own = [conv_spectral_bound(v, size) for v, size in zip(self.v, sizes)]
        bounds = jnp.stack([own[0], 2 * spectral_bound(self.up), spectral_bound(self.down), own[1]]).reshape(2, 2)
        scale = self.gain / spectral_bound(bounds)
        (high, low), (v_high, v_low) = self.hidden, self.v
        theta = {
            "u": tuple(u for u, _ in folded),
            "b": tuple(b for _, b in folded),
            "v": (high.thin(scale * v_high, train), low.thin(scale * v_low, train)),
            "up": low.thin(scale * self.up, train),
            "down": high.thin(scale * self.down, train),
        }
        keep = [hidden.mask(x, train) for hidden in self.hidden]
        return theta | ({"keep": tuple(k["keep"] for k in keep)} if keep[0] else {})

    def observe(self, z: Scales, mask: Array | None) -> None:
        """Moves the running statistics of both scales by the state z they are applied to."""
        for hidden, u, state in zip(self.hidden, self.u, z):
            hidden.observe(state, u, partial(conv_spectral_bound, size=state.shape[1:3]), conv, mask)


def multiscale(z: Scales, theta: dict[str, Any]) -> Scales:
    """g(z) = (V_h hidden_h + up hidden_l, down hidden_h + V_l hidden_l)."""
    hidden = [jax.nn.relu(conv(s, u) + b[None, None, None]) for s, u, b in zip(z, theta["u"], theta["b"])]
    if "keep" in theta:
        hidden = [h * keep for h, keep in zip(hidden, theta["keep"])]
    fine, coarse = hidden
    return (
        conv(fine, theta["v"][0]) + repeat(coarse @ theta["up"]),
        patches(fine) @ theta["down"] + conv(coarse, theta["v"][1]),
    )


def repeat(z: Array) -> Array:
    """[B, h, w, C] -> [B, 2 h, 2 w, C], each pixel four times; a map of norm 2."""
    batch, height, width, channels = z.shape
    wide = jnp.broadcast_to(z[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return wide.reshape(batch, 2 * height, 2 * width, channels)


def patches(z: Array) -> Array:
    """[B, 2 h, 2 w, m] -> [B, h, w, 4 m], the four pixels of a patch side by side; an isometry."""
    batch, height, width, channels = z.shape
    split = z.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)
