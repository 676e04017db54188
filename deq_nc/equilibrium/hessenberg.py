"""Eigenvalues and eigenvectors of small Hessenberg matrices without LAPACK.

LAPACK's calls wait for threads that a program on several CPU devices has taken for the devices: such a program hangs.
Letters: H [B, k, k] upper Hessenberg, U unitary, T = U^H H U upper triangular.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.rows import EXACT

SWEEPS = 12  # QR sweeps per eigenvalue before giving up; two or three are the rule


def eigen(h: Array) -> tuple[Array, Array]:
    """(eigenvalues [B, k], unit eigenvectors [B, k, k] in columns), complex, of h [B, k, k]; NaN where h is not finite.

    A defective pair gets two eigenvectors that all but coincide.
    """
    t, u = schur(h)
    k = h.shape[1]
    index = jnp.arange(k)
    value = t[:, index, index]
    least = float(jnp.finfo(h.dtype).eps) * jnp.max(_modulus(t), axis=(1, 2))[:, None]
    least = jnp.where(least > 0, least, 1)

    def row(step: Array, s: Array) -> Array:
        """s_i = -sum_{l > i} T_il s_l / (T_ii - lambda_j) for all columns j > i at once, from the last row up."""
        i = k - 1 - step
        known = jnp.einsum("bl,blj->bj", lax.dynamic_index_in_dim(t, i, 1, keepdims=False), s, precision=EXACT)
        gap = lax.dynamic_index_in_dim(value, i, 1) - value
        gap = jnp.where(_modulus(gap) > least, gap, least)
        s_i = jnp.where(index[None] > i, -known / gap, jnp.where(index == i, 1, 0)[None])
        # Of a defective eigenvalue the entries grow by 1 / eps a row: no column may grow beyond the type.
        return lax.dynamic_update_index_in_dim(s, s_i, i, 1) / jnp.maximum(_modulus(s_i), 1)[:, None]

    s = lax.fori_loop(0, k, row, jnp.zeros_like(t))
    s = jnp.einsum("bij,bjl->bil", u, s, precision=EXACT)
    return value, s / jnp.sqrt(jnp.sum(_square(s), axis=1, keepdims=True))


def schur(h: Array) -> tuple[Array, Array]:
    """(T, U), complex, of Hessenberg matrices h [B, k, k] by shifted QR; NaN where h is not finite or QR stalls.

    Source: Golub and Van Loan 2013, Matrix Computations, 7.5, with one complex shift, Wilkinson's.
    """
    k = h.shape[1]
    eps = float(jnp.finfo(h.dtype).eps)
    finite = jnp.all(jnp.isfinite(h), axis=(1, 2))
    size = jnp.max(jnp.abs(h), axis=(1, 2))
    scale = jnp.where(finite & (size > 0), size, 1)
    index = jnp.arange(k)
    eye = jnp.eye(k, dtype=bool)[:, :, None]
    under = jnp.eye(k, k=-1, dtype=bool)[:, :, None]

    def deflate(a: Array) -> tuple[Array, Array]:
        """Subdiagonal entries at rounding level become zero (the largest entry is 1); the last column still coupled."""
        small = _modulus(jnp.sum(jnp.where(under, a, 0), axis=1)) <= eps
        return jnp.where(under & small[:, None], 0, a), jnp.max(jnp.where(small, 0, index[:, None]), axis=0)

    def shift(a: Array, last: Array, count: Array) -> Array:
        """The eigenvalue of the 2 x 2 block that ends at `last` nearer to its corner; now and then another number."""
        here, before = (index[:, None] == jnp.maximum(last, 1)[None] - back for back in (0, 1))  # [k, B]

        def entry(row: Array, column: Array) -> Array:  # a sum, since a gather would cross devices
            return jnp.sum(jnp.where(row[:, None] & column[None], a, 0), axis=(0, 1))

        corner, low = entry(here, here), entry(here, before)
        half = (entry(before, before) - corner) / 2
        product = entry(before, here) * low
        root = _root(half * half + product)
        far = half + jnp.where(jnp.real(jnp.conj(half) * root) < 0, -root, root)
        near = jnp.conj(far) * product * (1 / jnp.where(_square(far) > 0, _square(far), 1))  # corner + far or - near
        return corner + jnp.where(count % 8 == 7, _modulus(low), -near)

    def rotate_rows(upper: Array, below: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        """The rotation of row i and the next one that empties (i + 1, i): (next row i + 1, (row i, its c, its s))."""
        lower, i = below
        x, y = (lax.dynamic_index_in_dim(row, i, 0) for row in (upper, lower))
        turn = _square(y) > 0
        length = jnp.where(turn, jnp.sqrt(_square(x) + _square(y)), 1)
        inverse = jnp.where(turn, 1 / length, 0)
        c, s = jnp.where(turn, jnp.conj(x) * inverse, 1), jnp.conj(y) * inverse
        return jnp.conj(c) * lower - jnp.conj(s) * upper, (c * upper + s * lower, c, s)

    def rotate_columns(left: Array, rest: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        right, c, s = rest
        return c * right - s * left, jnp.conj(c) * left + jnp.conj(s) * right

    def sweep(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        a, u, last, count = state
        mu = shift(a, last, count)[None, None]
        a = jnp.where(eye, a - mu, a)
        # Rows, then columns, go by once each: written into in place, XLA copies the whole matrix for every rotation.
        row, (rows, c, s) = lax.scan(rotate_rows, a[0], (a[1:], index[:-1]))
        columns = jnp.concatenate([jnp.concatenate([rows, row[None]]).transpose(1, 0, 2), u], axis=1)
        column, columns = lax.scan(rotate_columns, columns[0], (columns[1:], c, s))
        columns = jnp.concatenate([columns, column[None]])
        a = columns[:, :k].transpose(1, 0, 2)
        a, last = deflate(jnp.where(eye, a + mu, a))
        return a, columns[:, k:], last, count + 1

    # a [row, column, B] and u [column, row, B]: pieces of all examples are then contiguous.
    a = (jnp.where(finite[:, None, None], h, 0) / scale[:, None, None]).transpose(1, 2, 0) + 0j
    u = jnp.where(eye, jnp.ones_like(a), 0)
    a, last = deflate(a)
    more = lambda state: jnp.any(state[2] > 0) & (state[3] < SWEEPS * k)  # noqa: E731
    a, u, last, _ = lax.while_loop(more, sweep, (a, u, last, jnp.zeros((), jnp.int32)))
    good = finite & (last == 0)
    t = jnp.triu((a * scale[None, None]).transpose(2, 0, 1))
    return jnp.where(good[:, None, None], t, jnp.nan), u.transpose(2, 1, 0)


def _square(x: Array) -> Array:
    return x.real * x.real + x.imag * x.imag


def _modulus(x: Array) -> Array:
    return jnp.sqrt(_square(x))


def _root(w: Array) -> Array:
    """The square root of a complex w, at a third of the instructions of jnp.sqrt."""
    size = _modulus(w)
    re, im = jnp.sqrt((size + w.real) / 2), jnp.sqrt(jnp.maximum(size - w.real, 0) / 2)
    return lax.complex(re, jnp.where(w.imag < 0, -im, im))
