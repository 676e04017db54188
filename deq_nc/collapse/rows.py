"""Sums over rows, block by block, so that no temporary is as large as the features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

# Floats of a block of features: it stays in cache, and 50,000 x 512 took 3x longer with [N, D] temporaries. A block has
# at least as many rows as there are classes: it reads a [K, D] table. At K = 1000, D = 2048 both passes take .87 times
# what they took with 256 rows.
BLOCK = 2**20
LANE = "lane of deq_nc.collapse"  # the axis name of over_lanes; no other vmap has it


def lane_count(rows: int) -> int:
    """Lanes into which rows are split: one per device; 1 inside shard_map and where the devices do not divide rows."""
    inside_shard_map = bool(jax.sharding.get_abstract_mesh().manual_axes)
    return 1 if inside_shard_map or rows % jax.device_count() else jax.device_count()


def over_lanes(f: Callable[..., Any], merge: Callable[[Any, str], Any], *arrays: Array) -> Any:
    """merge(f(rows of a lane), axis name) over the lanes, so that sharded rows are not moved; one lane: f alone."""
    lanes = lane_count(len(arrays[0]))
    if lanes == 1:  # under vmap a cond inside f would be a select
        return f(*arrays)
    split = (a.reshape(lanes, len(a) // lanes, *a.shape[1:]) for a in arrays)
    return jax.vmap(lambda *rows: merge(f(*rows), LANE), axis_name=LANE, out_axes=None)(*split)


def sum_axis(sums: Any, axis_name: str) -> Any:
    """psum of a pytree, all leaves in one array: one reduction whatever the compiler combines."""
    packed, unravel = ravel_pytree(sums)
    return unravel(jax.lax.psum(packed, axis_name))


def sum_blocks(f: Callable[..., Any], num_classes: int, features: Array, *columns: Array) -> Any:
    """sum over blocks of f(features [B, D], *columns [B]), f giving a pytree of sums per class; any N.

    Reverse mode recomputes inside f.
    """
    n, d = features.shape
    block = max(BLOCK // d, num_classes, 128)
    whole = n // block
    step = jax.checkpoint(f)

    def add(total: Any, j: Array) -> tuple[Any, None]:
        rows = [jax.lax.dynamic_slice_in_dim(a, j * block, block) for a in (features, *columns)]
        return jax.tree.map(jnp.add, total, step(*rows)), None

    tail = step(*(a[whole * block :] for a in (features, *columns)))  # none: the zeros that the sum starts from
    return jax.lax.scan(add, tail, jnp.arange(whole))[0] if whole else tail
