"""Arithmetic by rows [B, n], at any scale: what every solver here stands on.

Letters: v and z [B, n], one row an example; size [B] a power of two near a row's largest entry.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

PyTree = Any
EXACT = lax.Precision.HIGHEST  # a TPU's default bfloat16 products make no Gram matrix


def blank(like: Array, *shape: int, value: float = 0, dtype: Any = None) -> Array:
    """value in [B, *shape], B and the device axes it varies over being those of like [B, ...]: a loop's first carry."""
    like = jnp.broadcast_to(
        like[(slice(None),) + (0,) * (like.ndim - 1) + (None,) * len(shape)], (like.shape[0], *shape)
    )
    return jnp.full_like(like, value, dtype)


def magnitude(v: Array) -> Array:
    """The bits of |v| as integers, ordered like |v|; a subnormal number, which XLA's CPU code reads as 0, is not 0."""
    bits, integer = jnp.finfo(v.dtype).bits, {32: jnp.int32, 64: jnp.int64}[jnp.finfo(v.dtype).bits]
    return lax.bitcast_convert_type(lax.stop_gradient(v), integer) & (2 ** (bits - 1) - 1)


def unit(v: Array) -> Array:
    """The power of two at the largest entry of each row of v [B, n] -> [B]: v / unit is exact, and can be squared.

    Between 2^-126 and 2^126 in float32 (so that the inverse is normal too), the least for a row of zeros.
    """
    info = jnp.finfo(v.dtype)
    top = jnp.max(magnitude(v), axis=1, initial=0)
    top = jnp.clip(top >> info.nmant, 1, 2 * info.maxexp - 3) << info.nmant
    return lax.bitcast_convert_type(top, v.dtype)


def inverse(size: Array) -> Array:
    """1 / size of a power of two from `unit`, by its exponent: XLA turns (a / b) / c into a / (b c), which may be 0."""
    info = jnp.finfo(size.dtype)
    return lax.bitcast_convert_type((2 * (info.maxexp - 1) << info.nmant) - magnitude(size), size.dtype)


def square_norm(v: Array) -> Array:
    """||v_b|| of each row of v [B, n] -> [B], where the squares are known to be numbers of the type."""
    return jnp.sqrt(jnp.sum(v * v, axis=1))


def row_norm(v: Array) -> Array:
    """||v_b|| of each row of v [B, n] -> [B], at any scale: rows are divided by their `unit` before squaring."""
    size = unit(v)
    return size * square_norm(v * inverse(size)[:, None])


def ratio(norm: Array, scale: Array) -> Array:
    """norm / scale, 0 where both vanish, Inf where scale alone does; nothing is divided by 0."""
    return jnp.where(scale == 0, jnp.where(norm == 0, 0, jnp.inf), norm / jnp.where(scale == 0, 1, scale))


def keep_rows(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """Leaf by leaf, rows of `new` where mask [B], else rows of `old`; leaves [B, ...]."""
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def spare(finite: Array, tree: PyTree) -> tuple[PyTree, Array]:
    """(leaves [B, ...] with the rows that are not finite [B] replaced by the first that is, whether one is).

    f and its derivatives are finite there, so that a cotangent of zero stays one; at zeros, x / |x| is NaN again.
    """
    finite = lax.stop_gradient(finite.astype(jnp.float32)) > 0  # a flag's reduction has no rule for a second derivative

    def replaced(tree: PyTree) -> tuple[PyTree, Array]:
        index = lax.iota(jnp.int32, finite.shape[0])
        first = jnp.min(jnp.where(finite, index, finite.shape[0]))
        chosen = finite & (index == first)

        def one(v: Array) -> Array:
            if jnp.issubdtype(v.dtype, jax.dtypes.extended):  # keys of random numbers
                return v
            masked = keep_rows(chosen, v, jnp.zeros_like(v))
            row = jnp.any(masked, 0, keepdims=True) if v.dtype == bool else jnp.sum(masked, 0, v.dtype, keepdims=True)
            return keep_rows(finite, v, row)

        return jax.tree.map(one, tree), first < finite.shape[0]

    every = jnp.all(finite)
    return lax.cond(every, lambda tree: (tree, every), replaced, tree)


def measured(z: Array, g: Array, size: Array) -> tuple[Array, Array, Array, Array]:
    """(residual ||g - z|| / ||g||, size of the next step, known, ok), each [B], from squares of z / size and g / size.

    Where those leave the type's range, or r could vanish beside them, nothing is known and the next step looks again at
    another scale. ok is false where z or g is not finite. The difference is taken after the division: near the bottom
    of the range it would vanish.
    """
    z, g, size = lax.stop_gradient((z, g, size))
    info = jnp.finfo(z.dtype)
    least, most = 2.0**info.minexp, 2.0 ** (info.maxexp - 2)
    far, low = 2.0 ** (info.maxexp // 2 - 4), 2.0 ** -(info.maxexp // 4)
    shrink = inverse(size)[:, None]
    g = g * shrink
    norm, norm_g = square_norm(g - z * shrink), square_norm(g)
    top = jnp.maximum(norm, norm_g)
    known = ((top > low) | (size == least)) & (top < jnp.inf)
    ok = (top < jnp.inf) | ((top == jnp.inf) & (size < most))
    drifted = (top * top < low) | (top > far**0.25)
    factor = jnp.where(top == 0, 1 / far, jnp.where(top < jnp.inf, unit(top[:, None]), far))
    size_next = jnp.where(drifted, jnp.clip(size * factor, least, most), size)
    return jnp.where(known, ratio(norm, norm_g), jnp.inf), size_next, known, ok


def relative(z: Array, g: Array) -> tuple[Array, Array, Array]:
    """||g_b - z_b|| / ||g_b||, the power of two at their largest entry, and whether all of them are finite, each [B].

    Subtracted after the division: near the bottom of the type's range the difference itself would vanish.
    """
    z, g = lax.stop_gradient((z, g))
    size_g = unit(g)
    size = jnp.maximum(size_g, unit(z))
    shrink = inverse(size)[:, None]
    r, g = square_norm(g * shrink - z * shrink), square_norm(g * inverse(size_g)[:, None])
    return ratio(r, g) * (size * inverse(size_g)), size, jnp.isfinite(r) & jnp.isfinite(g)
