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
from jax import Array

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


def adjoint_probe(batch: Any) -> AdjointStats:
    """The zeros for `equilibrium(..., probe=)`; the gradient of this argument is the layer's `AdjointStats`."""
    return AdjointStats(*(jnp.zeros((batch,), jnp.float32) for _ in range(4)))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Between a pytree of leaves [B, ...] and one matrix [B, n] in solver precision, for any number of rows."""

    batch: Any  # an integer; in exports it may be a symbol
    size: int  # n
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
        leaves = [jnp.asarray(leaf, dtype) for leaf in jax.tree.leaves(z)]
        parts = [jnp.reshape(leaf, (leaf.shape[0], size)) for leaf, size in zip(leaves, sizes)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)

    def unflatten(rows: Array) -> PyTree:
        parts = jnp.split(rows, offsets, axis=1) if offsets else [rows]
        leaves = [p.reshape(p.shape[0], *s[1:]).astype(d) for p, s, d in zip(parts, shapes, dtypes)]
        return jax.tree.unflatten(tree, leaves)

    narrow = any(d != dtype for d in dtypes)
    return Rows(
        batch, sum(sizes), dtype, flatten, unflatten, (lambda v: flatten(unflatten(v))) if narrow else (lambda v: v)
    )
