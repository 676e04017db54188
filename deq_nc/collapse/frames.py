"""How K vectors stand to each other: norms, cosines, and the blocks of majority and minority classes."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from deq_nc.geometry import block_masks, cosines, mean_where, safe_norm

NORM_GUARD = 1e-4  # of the longest vector: below it the direction of a vector is noise and its angles do not count


class Frame(NamedTuple):
    """gram, cosine [K, K] (0 where undefined), norm [K], pairs [K, K] bool: i != j, both present and with a direction.

    equinorm = std(norm)/mean(norm); equiangle = std of the cosines of all pairs; angle_gap = mean |cos + 1/(K - 1)|;
    max_cosine; zero: present vectors whose norm is below the guard.
    """

    gram: Array
    cosine: Array
    norm: Array
    pairs: Array
    equinorm: Array
    equiangle: Array
    angle_gap: Array
    max_cosine: Array
    zero: Array


def _std_where(x: Array, where: Array) -> Array:
    away = jnp.where(where, x - mean_where(x, where), 0)
    total = jnp.sum(where.astype(x.dtype))
    return jnp.where(total > 0, safe_norm(away) / jnp.sqrt(jnp.maximum(total, 1)), jnp.nan)


def _max_where(x: Array, where: Array) -> Array:
    return jnp.where(jnp.any(where), jnp.max(jnp.where(where, x, -jnp.inf)), jnp.nan)


def frame(vectors: Float[Array, "K D"], gram: Float[Array, "K K"], present: Bool[Array, " K"]) -> Frame:
    """Norms and cosines of vectors [K, D] with their Gram over the classes present.

    Vectors below NORM_GUARD are kept out of angles. The longest should be near 1 (`unit`): norms are squared.
    """
    norm = safe_norm(vectors, 1)
    solid = present & (norm > NORM_GUARD * jnp.max(norm))
    cosine, pairs = cosines(gram, norm, solid)
    lean = 1 / jnp.maximum(jnp.sum(present.astype(gram.dtype)) - 1, 1)
    return Frame(
        gram=gram,
        cosine=cosine,
        norm=norm,
        pairs=pairs,
        equinorm=_std_where(norm, present) / mean_where(norm, present),
        equiangle=_std_where(cosine, pairs),
        angle_gap=mean_where(jnp.abs(cosine + lean), pairs),
        max_cosine=_max_where(cosine, pairs),
        zero=jnp.sum(present & ~solid),
    )


class Blocks(NamedTuple):
    """Mean cosine over the majority-majority, majority-minority and minority-minority pairs; mean norms; NaN: no pair.

    max_cosine_minority is over all minority pairs: parallel minority vectors need not be equal, and one pair can merge
    before the others.
    """

    cosine_majority: Array
    cosine_cross: Array
    cosine_minority: Array
    max_cosine_minority: Array
    norm_majority: Array
    norm_minority: Array


def blocks(
    f: Frame, majority: Bool[Array | np.ndarray, " K"], present: Bool[Array, " K"], scale: Float[Array, ""]
) -> Blocks:
    """Block means of a frame for the classes marked in majority [K] and those not marked; its vectors are `scale` times
    what the norms are reported of."""
    both, cross, minority = (f.pairs & block for block in block_masks(majority))
    return Blocks(
        mean_where(f.cosine, both),
        mean_where(f.cosine, cross),
        mean_where(f.cosine, minority),
        _max_where(f.cosine, minority),
        mean_where(f.norm, majority & present) / scale,
        mean_where(f.norm, ~majority & present) / scale,
    )
