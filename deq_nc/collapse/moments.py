"""Class moments: one pass over features, mergeable in any order, exact where float32 sums are not.

Letters: H [N, D] features, y [N] labels, K classes, n_k counts, mu_k class means, mu_G their unweighted mean.

A class mean is kept as `origin + shift`: `origin` is one sample of the class, taken as it came (over many devices
the largest of their means, coordinate by coordinate), and `shift` the mean of h - origin. Differences of nearby floats
are exact, so a common offset of 10^4 times the spread costs nothing, and a class whose samples are all equal has shift
and scatter exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Integer

from .sums import lanes_of, over_lanes, sum_axis, sum_chunks

# Numbers that merge_axis sums at once; 8 devices, K = 100, D = 512 are 0.8 million. By calculation, not measured: 4 MB
# over links of 100 GB/s take some 60 us, a second reduction 30 to 60 us to start.
SLOTS = 2**20


@partial(
    jax.tree_util.register_dataclass, data_fields=["count", "origin", "shift", "scatter", "outside"], meta_fields=[]
)
@dataclass(frozen=True)
class ClassMoments:
    """Counts, means and within-class scatter of K classes in D dimensions; a pytree.

    count [K], origin [K, D] (a point among the samples; 0 where the class is empty), shift [K, D] (mean minus origin),
    scatter [K] = sum_i ||h_i - mu_k||^2 (NaN: not asked for), outside: rows left out because their label is not in
    0..K-1.
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
        return jnp.sum(away, 0) / jnp.maximum(jnp.sum(self.present), 1).astype(away.dtype)

    def centred(self) -> Array:
        """Mc = mu_k - mu_G [K, D], 0 where the class is empty or alone."""
        away = (self.origin - self.reference[None]) + (self.shift - self.global_shift[None])
        some = jnp.sum(self.present) > 1  # the rounding of one class's mean would pass for a direction
        return jnp.where(self.present[:, None] & some, away, 0)


def class_of(labels: Integer[Array | np.ndarray, " N"], num_classes: int) -> Integer[Array, " N"]:
    """labels as int32 [N], K where they are not in 0..K-1: integers of 64 bits are compared before they are cut."""
    xp = np if isinstance(labels, np.ndarray) else jnp
    labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
    inside = (labels >= 0) & (labels < num_classes)
    return jnp.where(inside, xp.where(inside, labels, 0).astype(jnp.int32), num_classes)


def class_sums(values: Float[Array, "N ..."], labels: Integer[Array, " N"], num_classes: int) -> Float[Array, "K ..."]:
    """sum_{i: y_i = k} values_i [K, ...]; labels outside 0..K-1 are left out."""
    return jax.ops.segment_sum(values, jnp.where(labels < 0, num_classes, labels), num_classes)


def class_moments(
    features: Float[Array | np.ndarray, "N D"],
    labels: Integer[Array | np.ndarray, " N"],
    num_classes: int,
    mask: Bool[Array | np.ndarray, " N"] | None = None,
    *,
    scatter: bool = True,
    lanes: int | None = None,
) -> ClassMoments:
    """Moments of each class of one batch: n_k, mu_k = (1/n_k) sum h_i, scatter_k = sum ||h_i - mu_k||^2.

    features [N, D], labels [N] in 0..K-1, mask [N] (False rows do not count, whatever they hold). Jit-able; any N;
    lanes: `measure`. Rows with a label outside 0..K-1 are counted in `outside` and left out.
    scatter False leaves it NaN and the features are read once less. Merge batches with `merge`.
    """
    k = num_classes
    slot = class_of(labels, k)
    if mask is not None:
        slot = jnp.where(mask, slot, k + 1)  # class_sums drops the slots beyond its last
    part = partial(_moments, num_classes=k, scatter=scatter)
    return over_lanes(part, merge_axis, lanes or lanes_of(features), features, slot)


def _moments(features: Array, slot: Integer[Array, " N"], num_classes: int, scatter: bool) -> ClassMoments:
    """class_moments of one lane; slot: the class, K where the label is outside 0..K-1, K + 1 where masked."""
    k, n = num_classes, len(features)
    row = jnp.minimum(slot, k - 1)
    first = jax.ops.segment_min(jnp.arange(n), slot, k)
    origin = jnp.where((first < n)[:, None], features[jnp.minimum(first, n - 1)], 0)
    origin = jax.lax.stop_gradient(origin)  # origin + shift has the derivative of the mean

    def deviations(h: Array, slot: Array, row: Array) -> tuple[Array, Array]:
        return class_sums(h - origin[row], slot, k), class_sums(jnp.ones(len(h), h.dtype), slot, k + 1)

    total, rows = sum_chunks(deviations, k, features, slot, row)
    count, outside = rows[:k], rows[k].astype(jnp.int32)
    shift = total / jnp.maximum(count, 1)[:, None]

    def squares(h: Array, slot: Array, row: Array) -> Array:
        return class_sums(jnp.sum((h - origin[row] - shift[row]) ** 2, 1), slot, k)

    spread = sum_chunks(squares, k, features, slot, row) if scatter else jnp.full_like(count, jnp.nan)
    return ClassMoments(count, origin, shift, spread, outside)


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
    """Merge over a mesh axis inside `shard_map`: every device gets the moments of all.

    One reduction where the moments of all devices are few (at most SLOTS numbers): a sum to which each adds its own in
    a place of their own, for `merge` to fold. Beyond, two reductions of [K, D].
    """
    size = jax.lax.axis_size(axis_name)
    packed, unravel = ravel_pytree(replace(moments, outside=moments.outside.astype(moments.count.dtype)))
    if size * packed.size > SLOTS:
        return _merge_by_sums(moments, axis_name)
    mine = jnp.arange(size)[:, None] == jax.lax.axis_index(axis_name)
    parts = jax.vmap(unravel)(jax.lax.psum(jnp.where(mine, packed[None], 0), axis_name))
    first, rest = jax.tree.map(lambda t: t[0], parts), jax.tree.map(lambda t: t[1:], parts)
    whole = jax.lax.scan(lambda whole, part: (merge(whole, part), None), first, rest)[0]
    return replace(whole, outside=whole.outside.astype(moments.outside.dtype))


def _merge_by_sums(m: ClassMoments, axis_name: str) -> ClassMoments:
    """merge_axis by sums about a point on which the devices agree before: the largest coordinates of their means.

    It is as near to the mean as these are to each other, so that sums of squares about it lose little:
    sum_j n_j ||a_j||^2 - n ||a||^2 for the means a_j seen from there.
    """
    there = m.present[:, None]
    origin = jax.lax.pmax(jnp.where(there, jax.lax.stop_gradient(m.means), -jnp.inf), axis_name)
    origin = jnp.where(jnp.isneginf(origin), 0, origin)
    away = jnp.where(there, (m.origin - origin) + m.shift, 0)
    spread = m.scatter + m.count * jnp.sum(away * away, 1)
    sums = m.count, m.count[:, None] * away, spread, m.outside.astype(m.count.dtype)
    count, total, spread, outside = sum_axis(sums, axis_name)
    shift = total / jnp.maximum(count, 1)[:, None]
    scatter = jnp.maximum(spread - count * jnp.sum(shift * shift, 1), 0)
    return ClassMoments(count, origin, shift, scatter, outside.astype(m.outside.dtype))
