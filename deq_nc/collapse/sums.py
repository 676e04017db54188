"""Sums over rows, chunk by chunk, so that no temporary is as large as the features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

# Floats of a chunk of features: it stays in cache, and 50,000 x 512 took 3x longer with [N, D] temporaries. A chunk has
# at least as many rows as there are classes: it reads a [K, D] table. At K = 1000, D = 2048 both passes take .87 times
# what they took with 256 rows.
CHUNK = 2**20
LANE = "lane of deq_nc.collapse"  # the axis name of over_lanes; no other vmap has it


def lanes_of(features: Array | np.ndarray) -> int:
    """The number of parts into which the rows of an array at hand are divided over devices; 1 for a traced one."""
    if not isinstance(features, jax.Array) or isinstance(features, jax.core.Tracer) or not features.size:
        return 1
    return features.shape[-2] // features.sharding.shard_shape(features.shape)[-2]


def over_lanes(f: Callable[..., Any], merge: Callable[[Any, str], Any], lanes: int, *arrays: Array | np.ndarray) -> Any:
    """merge(f(rows of a lane), axis name) over the lanes, so that sharded rows are not moved; one lane: f alone.

    Raises ValueError where `lanes` does not divide the rows.
    """
    if lanes == 1:  # under vmap a cond inside f would be a select
        return f(*arrays)
    if len(arrays[0]) % lanes:
        raise ValueError(f"lanes: expected a divisor of N = {len(arrays[0])}, got {lanes}. Pad the rows and mask them.")
    split = (a.reshape(lanes, len(a) // lanes, *a.shape[1:]) for a in arrays)
    return jax.vmap(lambda *rows: merge(f(*rows), LANE), axis_name=LANE, out_axes=None)(*split)


def sum_axis(sums: Any, axis_name: str) -> Any:
    """psum of a pytree, all leaves in one array: one reduction whatever the compiler combines."""
    packed, unravel = ravel_pytree(sums)
    return unravel(jax.lax.psum(packed, axis_name))


def sum_chunks(f: Callable[..., Any], num_classes: int, features: Array, *columns: Array) -> Any:
    """sum over chunks of f(features [B, D], *columns [B]), f giving a pytree of sums per class; any N.

    Reverse mode recomputes inside f.
    """
    n, d = features.shape
    size = max(CHUNK // d, num_classes, 128)
    whole = n // size
    step = jax.checkpoint(f)

    def add(total: Any, j: Array) -> tuple[Any, None]:
        rows = [jax.lax.dynamic_slice_in_dim(a, j * size, size) for a in (features, *columns)]
        return jax.tree.map(jnp.add, total, step(*rows)), None

    tail = step(*(a[whole * size :] for a in (features, *columns)))  # none: the zeros that the sum starts from
    return jax.lax.scan(add, tail, jnp.arange(whole))[0] if whole else tail
