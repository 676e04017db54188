"""A convolution that is as fast inside a loop as outside it.

XLA on CPU runs the transpose of a convolution inside `while_loop` 10 to 20 times slower than the convolution, and an
adjoint solve is a loop of transposes. The transpose of a stride-1 convolution is itself a convolution, of the cotangent
with the flipped kernel: saying so keeps the loop on the fast path. On GPU and TPU it is the kernel that the compiler
picks anyway.

On CPU a 3 x 3 kernel on an even grid goes by Winograd's F(2 x 2, 3 x 3), 16 products where the definition takes 36;
cuDNN does so on its own, XLA's CPU code does not. Measured on one core, a cell of two convolutions (8 x 8, batch 32,
48 to 64 channels | batch 64, 128 channels): 1.6 | 13.6 ms against 2.1 | 23.2 direct, and against 3.2 | 38.7 for patches
times a matrix. Rounding grows from about 2 to 6 units in the last place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
KERNEL_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


@jax.custom_vjp
def conv(x: Array, kernel: Array) -> Array:
    """y[b, i, j] = sum_{p, q} x[b, i + p - p0, j + q - q0] kernel[p, q], zeros outside, p0 = (kh - 1) // 2.

    x [B, H, W, Cin], kernel [kh, kw, Cin, Cout] -> [B, H, W, Cout]. Reverse mode only (any order); J v is the transpose
    of v -> J^T v.
    """
    return _conv(x, kernel, _same(kernel))


def _same(kernel: Array) -> list[tuple[int, int]]:
    return [((k - 1) // 2, k // 2) for k in kernel.shape[:2]]


def _conv(x: Array, kernel: Array, padding: list[tuple[int, int]]) -> Array:
    def direct(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)

    even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
    if kernel.shape[:2] == (3, 3) and even and x.dtype.itemsize >= 4:
        return lax.platform_dependent(x, kernel, cpu=winograd, default=direct)
    return direct(x, kernel)


def winograd(x: Array, kernel: Array) -> Array:
    """The same as `conv` for a 3 x 3 kernel and even H, W, tile by tile of 2 x 2 outputs from 4 x 4 inputs.

    Source: Lavin and Gray 2016, Fast algorithms for convolutional neural networks.
    """
    batch, height, width, features = x.shape
    t, s = height // 2, width // 2
    g = jnp.asarray(KERNEL_TRANSFORM, kernel.dtype)
    kernels = jnp.einsum("ip,jq,pqco->ijco", g, g, kernel, precision=lax.Precision.HIGHEST)
    pad = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(batch, t + 1, 2, s + 1, 2, features)

    def spread(a: list[Array]) -> list[Array]:
        return [a[0] - a[2], a[1] + a[2], a[2] - a[1], a[1] - a[3]]

    def gather(m: list[Array]) -> list[Array]:
        return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]

    rows = spread([pad[:, :t, 0], pad[:, :t, 1], pad[:, 1:, 0], pad[:, 1:, 1]])
    tiles = [spread([r[:, :, :s, 0], r[:, :, :s, 1], r[:, :, 1:, 0], r[:, :, 1:, 1]]) for r in rows]
    products = [[tiles[i][j].reshape(-1, features) @ kernels[i, j] for j in range(4)] for i in range(4)]
    columns = [gather([products[i][j] for i in range(4)]) for j in range(4)]
    out = [gather([columns[j][a] for j in range(4)]) for a in range(2)]  # [a][b]: output row a, column b of a tile
    tile = jnp.stack([jnp.stack([out[a][b].reshape(batch, t, s, -1) for b in range(2)], 3) for a in range(2)], 2)
    return tile.reshape(batch, height, width, -1)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], y_bar: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    x_bar = _conv(y_bar, flipped, [(high, low) for low, high in _same(kernel)])

    def direct(k: Array) -> Array:
        return lax.conv_general_dilated(x, k, (1, 1), _same(kernel), dimension_numbers=LAYOUT)

    (kernel_bar,) = jax.linear_transpose(direct, kernel)(y_bar)
    return x_bar, kernel_bar


conv.defvjp(_forward, _backward)
