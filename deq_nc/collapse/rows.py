"""Sums over rows, block by block, so that no temporary is as large as the features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

# Floats of a block of features: it stays in cache, and 50,000 x 512 took 3x longer with [N, D] temporaries. A block has
# at least as many rows as there are classes: it reads a [K, D] table. At K = 1000, D = 2048 both passes take .85 times
# what they took with 256 rows.
BLOCK = 2**20


def lane_count(rows: int) -> int:
    """Lanes into which rows are split: one per device; 1 inside shard_map and where the devices do not divide rows."""
    inside_shard_map = bool(jax.sharding.get_abstract_mesh().manual_axes)
    return 1 if inside_shard_map or rows % jax.device_count() else jax.device_count()


def sum_rows(f: Callable[..., Any], num_classes: int, features: Array, *columns: Array) -> Any:
    """sum over blocks of f(features [B, D], *columns [B]), f giving a pytree of sums per class.

    Rows are split into one lane per device before they are split into blocks, so that features sharded over their rows
    are summed where they lie and meet in one reduction at the end, all leaves in one array. Any N. Reverse mode
    recomputes inside f.
    """
    n, d = features.shape
    lanes = lane_count(n)
    per_lane = n // lanes
    block = max(BLOCK // d, num_classes, 128)
    whole = per_lane // block
    arrays = tuple(a.reshape(lanes, per_lane, *a.shape[1:]) for a in (features, *columns))
    step = jax.checkpoint(f)

    def lanewise(*blocks: Array) -> Any:
        if lanes > 1:
            return jax.vmap(step)(*blocks)
        return jax.tree.map(lambda t: t[None], step(*(b[0] for b in blocks)))  # vmap would turn f's cond into a select

    def add(total: Any, j: Array) -> tuple[Any, None]:
        blocks = [jax.lax.dynamic_slice_in_dim(a, j * block, block, 1) for a in arrays]
        return jax.tree.map(jnp.add, total, lanewise(*blocks)), None

    tail = lanewise(*(a[:, whole * block :] for a in arrays))  # an empty tail gives the zeros that the sum starts from
    total, _ = jax.lax.scan(add, tail, jnp.arange(whole)) if whole else (tail, None)
    if lanes == 1:
        return jax.tree.map(lambda t: t[0], total)
    unravel = ravel_pytree(jax.tree.map(lambda t: t[0], total))[1]
    return unravel(jnp.sum(jax.vmap(lambda t: ravel_pytree(t)[0])(total), 0))
