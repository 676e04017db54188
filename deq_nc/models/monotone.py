"""Monotone cells: z = relu(z W + x + b) with a unique solution for every W, however large (monDEQ).

Letters: W = (1 - m) I - A A^T + B - B^T, m = 1 - gain, F = I - W = m I + A A^T - (B - B^T). <y, F y> >= m |y|^2, so the
equilibrium exists, is unique, and moves by at most |dx| / m = |dx| / (1 - gain) with the injection: the amplification
that `gain` allows the contractive cells. But |W| is not bounded, and z -> relu(z W + x + b) need not converge.

What is solved is therefore the Peaceman-Rachford splitting of the same equation, in the state u with z = relu(u):

    u = |u| C + 2 alpha (x + b) R,   R = (I + alpha F)^-1,   C = 2 R - I

At its fixed point relu(u) solves the equation above. |.| is 1-Lipschitz and |C|^2 <= 1 - 4 alpha m / (1 + alpha L)^2
for L >= |F|; the cell takes alpha = 1 / L (L by norms.py): a contraction with constant sqrt(1 - m / L) for any weights.
The forward-backward splitting has sqrt(1 - m^2 / L^2) for the same cost per step, since R is formed once, outside the
loop.

The convolution is circular, W is then one D x D matrix per spatial frequency, and C is applied between two FFTs.
Sources: Winston and Kolter 2020, Monotone operator equilibrium networks; Ryu and Boyd 2016, section 6.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.models.norms import spectral_bound

# Norms of A and of B - B^T near 1 at the start, for wide layers: the spectral norm of a random matrix is the sum of
# the square roots of its sides times the deviation of its entries.
A_INIT = nn.initializers.variance_scaling(0.25, "fan_avg", "normal")
B_INIT = nn.initializers.variance_scaling(0.125, "fan_avg", "normal")


class DenseWeights(nn.Module):
    """theta = (W, C, 2 alpha R [D, D], b [D]) from A [D, inner], B [D, D]; F is (1 - gain)-strongly monotone."""

    features: int
    inner: int
    gain: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        a = self.param("a", A_INIT, (self.features, self.inner))
        skew = self.param("skew", B_INIT, (self.features, self.features))
        b = self.param("b", nn.initializers.zeros, (self.features,))
        return splitting(a, skew, 1 - self.gain) | {"b": b}


class ConvWeights(nn.Module):
    """The same with kernels A [3, 3, D, inner], B [3, 3, D, D]; W, C, R [h, w // 2 + 1, D, D] complex, by frequency."""

    features: int
    inner: int
    gain: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> dict[str, Array]:
        a = self.param("a", A_INIT, (3, 3, self.features, self.inner))
        skew = self.param("skew", B_INIT, (3, 3, self.features, self.features))
        b = self.param("b", nn.initializers.zeros, (self.features,))
        grid = x.shape[1:3]
        a, skew = (jnp.fft.rfft2(k, grid, axes=(0, 1)) for k in (a, skew))
        return splitting(a, skew, 1 - self.gain) | {"b": b}


def splitting(a: Array, skew: Array, m: float) -> dict[str, Array]:
    """{"w": W, "c": C, "r": 2 alpha R} from A [..., D, inner] and B [..., D, D]; leading axes are frequencies."""
    identity = jnp.eye(skew.shape[-1], dtype=skew.dtype)
    identity = identity.reshape((1,) * (skew.ndim - 2) + identity.shape)
    square = jnp.matmul(a, _adjoint(a), precision=lax.Precision.HIGHEST)
    f = m * identity + square - (skew - _adjoint(skew))
    # Where the iteration ends does not depend on alpha, so no gradient needs to pass through the bound.
    alpha = 1 / lax.stop_gradient(jnp.max(spectral_bound(f)))
    with jax.default_matmul_precision("float32"):
        r = 2 * accretive_inverse(identity + alpha * f)
    return {"w": identity - f, "c": r - identity, "r": alpha * r}


@jax.custom_jvp
def accretive_inverse(a: Array) -> Array:
    """a^-1 of matrices a [..., D, D] with |a| <= 2 and Re <v, a v> >= |v|^2, by Newton's iteration: products only.

    |1 - a/4|^2 <= 1 - 2/4 + 4/16 = 3/4, and each step squares the error: 1e-16 after 8. LAPACK's inverse hangs in a
    program on several CPU devices. Source: Schulz 1933.
    """
    identity = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    return lax.fori_loop(0, 9, lambda _, x: 2 * x - x @ (a @ x), identity / 4)


@accretive_inverse.defjvp
def _accretive_inverse_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x = accretive_inverse(*primals)
    return x, -x @ tangents[0] @ x


def _adjoint(matrix: Array) -> Array:
    return jnp.conj(jnp.swapaxes(matrix, -1, -2))


def reflected(u: Array, theta: dict[str, Array]) -> Array:
    """g(u) = |u| C, u [B, D]."""
    return jnp.abs(u) @ theta["c"]


def drive(x: Array, theta: dict[str, Array]) -> Array:
    """2 alpha (x + b) R, x [B, D]: what the splitting adds to g."""
    return (x + theta["b"][None]) @ theta["r"]


def layer(z: Array, theta: dict[str, Array]) -> Array:
    """relu(z W + b): a layer with the parameters of the monotone cell and nothing solved."""
    return jax.nn.relu(z @ theta["w"] + theta["b"][None])


def circular(z: Array, matrices: Array) -> Array:
    """z [B, h, w, D] convolved circularly with the kernel whose matrices [h, w // 2 + 1, D, D'] are given."""
    spectrum = jnp.fft.rfft2(z, axes=(1, 2))
    return jnp.fft.irfft2(jnp.einsum("bhwc,hwcd->bhwd", spectrum, matrices), z.shape[1:3], axes=(1, 2))


def reflected_conv(u: Array, theta: dict[str, Array]) -> Array:
    """g(u) = |u| * C, u [B, h, w, D]."""
    return circular(jnp.abs(u), theta["c"])


def drive_conv(x: Array, theta: dict[str, Array]) -> Array:
    """2 alpha R * (x + b), x [B, h, w, D]."""
    return circular(x + theta["b"][None, None, None], theta["r"])


def layer_conv(z: Array, theta: dict[str, Array]) -> Array:
    """relu(W * z + b), z [B, h, w, D]."""
    return jax.nn.relu(circular(z, theta["w"]) + theta["b"][None, None, None])
