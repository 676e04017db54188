"""Class moments: one pass over features, mergeable in any order, exact where float32 sums are not.

Letters: H [N, D] features, y [N] labels, K classes, n_k counts, mu_k class means, mu_G their unweighted mean.

A class mean is kept as `origin + shift`: `origin` is one sample of the class, taken as it came, and `shift` the mean
of h - origin. Differences of nearby floats are exact, so a common offset of 10^4 times the spread costs nothing, and a
class whose samples are all equal has shift and scatter exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from .rows import sum_rows


@partial(
    jax.tree_util.register_dataclass, data_fields=["count", "origin", "shift", "scatter", "outside"], meta_fields=[]
)
@dataclass(frozen=True)
class ClassMoments:
    """Counts, means and within-class scatter of K classes in D dimensions; a pytree.

    count [K], origin [K, D] (one sample of each class; 0 where the class is empty), shift [K, D] (mean minus origin),
    scatter [K] = sum_i ||h_i - mu_k||^2, outside: rows left out because their label is not in 0..K-1.
    """

    count: Array
    origin: Array
    shift: Array
    scatter: Array
    outside: Array

    @property
    def present(self) -> Array:
        """[K] bool: classes with at least one sample."""
        return self.count > 0

    @property
    def means(self) -> Array:
        """mu_k [K, D], rounded to the dtype of the features; use `centred` for anything small."""
        return self.origin + self.shift

    @property
    def reference(self) -> Array:
        """[D] the origin of the first class present: the point from which `centred` measures."""
        return self.origin[jnp.argmax(self.present)]

    @property
    def global_shift(self) -> Array:
        """mu_G - reference [D], mu_G the mean of the means of the classes present."""
        away = jnp.where(self.present[:, None], (self.origin - self.reference[None]) + self.shift, 0)
        return jnp.sum(away, 0) / jnp.maximum(jnp.sum(self.present), 1)

    def centred(self) -> Array:
        """Mc = mu_k - mu_G [K, D], 0 where the class is empty."""
        away = (self.origin - self.reference[None]) + (self.shift - self.global_shift[None])
        return jnp.where(self.present[:, None], away, 0)


def class_sums(values: Float[Array, "N ..."], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "K ..."]:
    """sum_{i: y_i = k} values_i [K, ...]; labels outside 0..K-1 are left out."""
    return jax.ops.segment_sum(values, jnp.where(labels < 0, num_classes, labels), num_classes)


def class_moments(
    features: Float[Array, "N D"],
    labels: Int[Array, " N"],
    num_classes: int,
    mask: Bool[Array, " N"] | None = None,
) -> ClassMoments:
    """Moments of each class of one batch: n_k, mu_k = (1/n_k) sum h_i, scatter_k = sum ||h_i - mu_k||^2.

    features [N, D], labels [N] in 0..K-1, mask [N] (False rows do not count, whatever they hold). Jit-able; any N, also
    features sharded over a mesh axis. Rows with a label outside 0..K-1 are counted in `outside` and left out.
    Merge batches with `merge`.
    """
    n = features.shape[0]
    labels = labels.astype(jnp.int32)
    valid = jnp.ones(n, bool) if mask is None else mask
    inside = valid & (labels >= 0) & (labels < num_classes)
    slot = jnp.where(inside, labels, num_classes)  # the slot beyond the last class is dropped by every sum
    count = class_sums(jnp.ones(n, features.dtype), slot, num_classes)
    first = jax.ops.segment_min(jnp.arange(n), slot, num_classes)
    origin = jnp.where((count > 0)[:, None], features[jnp.minimum(first, n - 1)], 0)
    origin = jax.lax.stop_gradient(origin)  # origin + shift has the derivative of the mean without it
    row = jnp.minimum(slot, num_classes - 1)

    def deviations(h: Array, slot: Array, row: Array) -> Array:
        return class_sums(h - origin[row], slot, num_classes)

    shift = sum_rows(deviations, features, slot, row) / jnp.maximum(count, 1)[:, None]

    def squares(h: Array, slot: Array, row: Array) -> Array:
        return class_sums(jnp.sum((h - origin[row] - shift[row]) ** 2, 1), slot, num_classes)

    scatter = sum_rows(squares, features, slot, row)
    return ClassMoments(count, origin, shift, scatter, jnp.sum(valid & ~inside))


def merge(a: ClassMoments, b: ClassMoments) -> ClassMoments:
    """Moments of the union of two disjoint sets of samples; associative and commutative to rounding.

    d = mu_b - mu_a, n = n_a + n_b: shift_a + d n_b/n, scatter_a + scatter_b + ||d||^2 n_a n_b/n. Chan et al. 1983.
    """
    n = a.count + b.count
    share = b.count / jnp.maximum(n, 1)
    d = (b.origin - a.origin) + (b.shift - a.shift)
    new = (a.count == 0)[:, None]
    return ClassMoments(
        n,
        jnp.where(new, b.origin, a.origin),
        jnp.where(new, b.shift, a.shift + d * share[:, None]),
        a.scatter + b.scatter + jnp.where(new[:, 0], 0, jnp.sum(d * d, 1) * a.count * share),
        a.outside + b.outside,
    )


def merge_axis(moments: ClassMoments, axis_name: str) -> ClassMoments:
    """Merge over a mesh axis inside `shard_map`: every device gets the moments of all. Reductions of [K, D] only."""
    m = moments
    index = jax.lax.axis_index(axis_name)
    size = jax.lax.axis_size(axis_name)
    first = jax.lax.pmin(jnp.where(m.present, index, size), axis_name)
    origin = jax.lax.psum(jnp.where((first == index)[:, None], m.origin, 0), axis_name)
    away = jnp.where(m.present[:, None], (m.origin - origin) + m.shift, 0)
    count = jax.lax.psum(m.count, axis_name)
    shift = jax.lax.psum(m.count[:, None] * away, axis_name) / jnp.maximum(count, 1)[:, None]
    spread = jnp.sum((away - shift) ** 2, 1)
    scatter = jax.lax.psum(m.scatter + m.count * spread, axis_name)
    return ClassMoments(count, origin, shift, scatter, jax.lax.psum(m.outside, axis_name))
