"""The state as rows [B, n], and the evidence that travels with a solve.

Letters: B examples, n numbers per example, z the state, x the input, theta the parameters, r = f(z) - z the residual.
The solver's arithmetic is float32, or float64 where a leaf is; leaves in bfloat16 or float16 are widened on the way in,
so that Gram matrices, residuals and adjoints never see eight bits of mantissa.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.errors import CellError

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SolveStats:
    """Evidence of a forward solve, one entry per example [B].

    `residual` ||f(z) - z|| / ||f(z)|| evaluated at the z that is returned; `steps` updates made (evaluations less one);
    `converged` residual <= tol; `finite` no NaN or Inf was met. `trace` [B, max_steps + 1] when asked for: the residual
    before each update, NaN once the example had stopped.
    """

    residual: Array
    steps: Array
    converged: Array
    finite: Array
    trace: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdjointStats:
    """Evidence of an adjoint solve (I - J)^T u = g, one float32 per example [B]; comes out as the probe's gradient.

    `residual` ||u - g - J^T u|| / ||g||, recomputed at the u that is used; `steps` products with J^T; `converged` and
    `escalated` are 0 or 1. A probe that no backward pass has reached stays all zero, which reads as not converged.
    """

    residual: Array
    steps: Array
    converged: Array
    escalated: Array


def adjoint_probe(batch: int) -> AdjointStats:
    """The zeros for `equilibrium(..., probe=)`; the gradient of this argument is the layer's `AdjointStats`."""
    return AdjointStats(*(jnp.zeros((batch,), jnp.float32) for _ in range(4)))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Between a pytree of leaves [B, ...] and one matrix [B, n] in solver precision, for any number of rows."""

    batch: int
    dtype: Any
    flatten: Callable[[PyTree], Array]
    unflatten: Callable[[Array], PyTree]
    round: Callable[[Array], Array]  # to what the leaves can hold; the identity unless a leaf is narrower


def rows_of(z: PyTree) -> Rows:
    """The `Rows` of a state whose leaves all start with the same batch axis. Raises CellError otherwise."""
    leaves, tree = jax.tree.flatten(z)
    if not leaves:
        raise CellError("z0: expected a pytree with at least one array, got none. Pass the initial state, e.g. zeros.")
    shapes = [jnp.shape(leaf) for leaf in leaves]
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    batches = {shape[0] if shape else None for shape in shapes}
    if len(batches) != 1 or None in batches:
        raise CellError(
            f"z0: expected leaves that share a leading axis of examples, got shapes {shapes}. "
            "Give every leaf the shape [B, ...]; a scalar state is [B]."
        )
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise CellError(f"z0: expected real floating leaves, got {[str(d) for d in dtypes]}. Cast them to float32.")
    batch = shapes[0][0]
    dtype = jnp.result_type(jnp.float32, *dtypes)
    sizes = [math.prod(shape[1:]) for shape in shapes]
    offsets = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]

    def flatten(z: PyTree) -> Array:
        parts = [
            jnp.reshape(leaf, (leaf.shape[0], size)).astype(dtype) for leaf, size in zip(jax.tree.leaves(z), sizes)
        ]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)

    def unflatten(rows: Array) -> PyTree:
        parts = jnp.split(rows, offsets, axis=1) if offsets else [rows]
        return tree.unflatten([p.reshape(p.shape[0], *s[1:]).astype(d) for p, s, d in zip(parts, shapes, dtypes)])

    narrow = any(d != dtype for d in dtypes)
    return Rows(batch, dtype, flatten, unflatten, (lambda v: flatten(unflatten(v))) if narrow else (lambda v: v))


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
