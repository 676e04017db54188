"""measure(features, labels, weights) -> Collapse: every metric of neural collapse from two passes over the features.

Letters: H [N, D] features, y [N] labels, W [K, D] weights, b [K] bias, mu_k class means, mu_G their unweighted mean,
Mc = mu_k - mu_G [K, D], S_W and S_B within- and between-class covariance, E = (I - 11^T/K)/sqrt(K - 1).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Integer

from deq_nc.geometry import gram_distance, mean_where, nc2, nc2_floor, normalised, safe_norm, shape_distance, simplex

from .checks import Numbers, as_inputs, refuse_bad_values
from .frames import Blocks, blocks, frame
from .moments import class_moments
from .residuals import ResidualSums, residual_sums
from .sums import lanes_of
from .tables import Tables, make_tables
from .threads import one_lapack_thread


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Collapse:
    """Every metric; a pytree of scalars, [K] arrays and [K, K] Grams. docs/collapse.md has formula, range and source.

    NaN stands for what is not defined: weight metrics without weights, angles without a pair, classes without samples,
    and 0/0: metrics of the means where no two differ (rank 0), of the weights where all are 0 (zero_weights = K).
    """

    nc1: Array  # tr(S_W S_B^+)/K
    nc1_trace: Array  # tr(S_W S_B^+)
    nc1_ratio: Array  # tr S_W / tr S_B
    cdnv: Array  # mean over pairs of (v_i + v_j)/(2 ||mu_i - mu_j||^2)
    nc2_means: Array  # || G/||G||_F - E ||_F, G = Mc Mc^T
    nc2_weights: Array  # the same, G = W W^T
    nc2_floor: Array  # the least nc2_means that D dimensions allow; 0 unless K > D + 1
    equinorm_means: Array  # std / mean of the norms
    equinorm_weights: Array
    equiangle_means: Array  # std of the cosines
    equiangle_weights: Array
    angle_gap_means: Array  # mean |cos + 1/(K - 1)|
    angle_gap_weights: Array
    max_cosine_means: Array
    max_cosine_weights: Array
    nc3: Array  # || W/||W||_F - Mc/||Mc||_F ||_F
    nc3_product: Array  # || W Mc^T/||W Mc^T||_F - E ||_F
    nc4: Array  # share of samples whose argmax of the logits is not their nearest class mean
    accuracy: Array  # of the logits
    accuracy_nearest: Array  # of the nearest class mean
    count: Array  # [K] samples
    nc1_class: Array  # [K] nc1 = sum_k count_k nc1_class_k / N
    variance_class: Array  # [K] v_k = mean ||h - mu_k||^2
    accuracy_class: Array  # [K]
    norm_means: Array  # [K] ||mu_k - mu_G||
    norm_weights: Array  # [K]
    gram_means: Array  # [K, K] Mc Mc^T
    gram_weights: Array  # [K, K] W W^T
    gram_logits: Array  # [K, K] W Mc^T
    empty: Array  # classes without a sample: left out of everything
    single: Array  # classes with one sample: their variance is 0 by construction
    zero_means: Array  # classes whose mean coincides with mu_G: their angles are left out
    zero_weights: Array  # weights of norm 0: their angles are left out
    outside: Array  # rows left out because their label is not in 0..K-1
    rank: Array  # of Mc; at most min(K - 1, D)
    condition: Array  # ||Mc||_F ||Mc^+||_F / rank: 1 when all singular values are equal
    nc1_majority: Array | None = None
    nc1_minority: Array | None = None
    blocks_means: Blocks | None = None
    blocks_weights: Blocks | None = None


def measure(
    features: Numbers,
    labels: Numbers,
    weights: Numbers | None,
    bias: Numbers | None = None,
    *,
    num_classes: int,
    mask: Numbers | None = None,
    majority: Numbers | None = None,
    lanes: int | None = None,
) -> Collapse:
    """Neural-collapse metrics of features H [N, D] with labels y [N] and the classifier logits = H W^T + b.

    Takes what NumPy can read: its arrays and jax's, lists, PyTorch tensors. mask [N]: False rows do not count.
    majority [K]: adds the metrics by block. weights None: the weight metrics are NaN. Works under jit, vmap and grad.
    lanes: over how many devices the rows are divided, so that they need not move; read off `features` where None, but
    inside jit, where nothing shows it, 1. A ValueError where it does not divide N.
    Raises ValueError outside jit for wrong shapes, labels outside 0..K-1, features that are not finite (rows named), an
    empty mask, K < 2; inside jit the metrics turn NaN and `outside` counts the rows left out.
    """
    given = as_inputs(features, labels, weights, bias, num_classes, mask, majority)
    with one_lapack_thread(given):
        lanes = lanes or lanes_of(given.features)
        collapse = jax.block_until_ready(measure_arrays(*given, num_classes=num_classes, lanes=lanes))
    refuse_bad_values(given, collapse, num_classes, labels)
    return collapse


@partial(jax.jit, static_argnames=("num_classes", "lanes"))
def measure_arrays(
    features: Float[Array, "N D"],
    labels: Integer[Array, " N"],
    weights: Float[Array, "K D"] | None,
    bias: Float[Array, " K"] | None,
    mask: Bool[Array, " N"] | None,
    majority: Bool[Array, " K"] | None,
    *,
    num_classes: int,
    lanes: int = 1,
) -> Collapse:
    """`measure` without its checks, on arrays as `as_inputs` returns them."""
    with jax.default_matmul_precision("highest"):
        moments = class_moments(features, labels, num_classes, mask, scatter=False, lanes=lanes)
        tables = make_tables(moments, weights, bias)
        return summarise(tables, residual_sums(features, labels, tables, mask, lanes=lanes), majority)


def summarise(tables: Tables, sums: ResidualSums, majority: Bool[Array | np.ndarray, " K"] | None = None) -> Collapse:
    """The metrics from the tables of the first pass and the sums of the second; K x K and K x D work only."""
    mc, count, present = tables.mc, tables.moments.count, tables.moments.present
    k, d = mc.shape
    samples, classes = jnp.sum(count), jnp.sum(present).astype(mc.dtype)
    per_class = jnp.where(present, count, jnp.nan)
    variance = sums.square / jnp.maximum(count, 1)
    # 0/0: one class, or none, or a network whose features are all equal; by 1 where there is something to measure.
    means_differ = jnp.where(tables.rank > 0, 1, jnp.nan).astype(mc.dtype)
    whitened = sums.whitened * means_differ
    means = frame(mc, tables.gram, present)
    everyone = jnp.ones(k, bool)
    unknown = jnp.full((k, k), jnp.nan, mc.dtype)
    w, gram_weights, logits, at_means = tables.classifier or (jnp.full_like(mc, jnp.nan), unknown, unknown, None)
    has_weights = jnp.any(w != 0)
    weights_differ = jnp.where(has_weights, 1, jnp.nan).astype(mc.dtype)
    # Ties count as right, so that a classifier which is 0 throughout would be.
    choice = mc.dtype.type(1)
    if at_means is not None:
        choice = jnp.where(has_weights | jnp.any(at_means != at_means[:, :1]), 1, jnp.nan).astype(mc.dtype)
    weights = frame(w, gram_weights, everyone)
    both = present[:, None] & present[None]
    etf = simplex(present.astype(mc.dtype))
    pairs = both & ~jnp.eye(k, dtype=bool)
    ratio = (variance[:, None] + variance[None]) / (2 * jnp.where(pairs, tables.distance, 1))
    trace = jnp.sum(whitened) / samples * classes
    groups: dict[str, Any] = {}
    if majority is not None:
        groups = dict(
            nc1_majority=jnp.sum(whitened, where=majority) / jnp.sum(count, where=majority),
            nc1_minority=jnp.sum(whitened, where=~majority) / jnp.sum(count, where=~majority),
            blocks_means=blocks(means, majority, present, tables.scale),
            blocks_weights=blocks(weights, majority, everyone, tables.scale_weights),
        )
    return Collapse(
        nc1=trace / classes,
        nc1_trace=trace,
        nc1_ratio=(jnp.sum(sums.square) / samples) / (jnp.sum(mc * mc) / classes) * means_differ,
        cdnv=mean_where(ratio, pairs) * means_differ,
        nc2_means=shape_distance(means.gram, etf),
        nc2_weights=nc2(weights.gram),
        nc2_floor=jnp.where(classes > 1, nc2_floor(classes, d), jnp.nan),
        equinorm_means=means.equinorm,
        equinorm_weights=weights.equinorm,
        equiangle_means=means.equiangle,
        equiangle_weights=weights.equiangle,
        angle_gap_means=means.angle_gap,
        angle_gap_weights=weights.angle_gap,
        max_cosine_means=means.max_cosine,
        max_cosine_weights=weights.max_cosine,
        nc3=safe_norm(normalised(jnp.where(present[:, None], w, 0)) - normalised(mc)) * means_differ * weights_differ,
        nc3_product=gram_distance(jnp.where(both, logits, 0), etf) * means_differ * weights_differ,
        nc4=jnp.sum(count - sums.agree) / samples * means_differ * choice,
        accuracy=jnp.sum(sums.correct) / samples * choice,
        accuracy_nearest=jnp.sum(sums.nearest) / samples * means_differ,
        count=count,
        nc1_class=whitened / per_class,
        variance_class=sums.square / per_class / tables.scale / tables.scale,
        accuracy_class=sums.correct / per_class * choice,
        norm_means=jnp.where(present, means.norm / tables.scale, jnp.nan),
        norm_weights=weights.norm / tables.scale_weights,
        gram_means=means.gram / tables.scale / tables.scale,
        gram_weights=weights.gram / tables.scale_weights / tables.scale_weights,
        gram_logits=logits / tables.scale_weights / tables.scale,
        empty=k - jnp.sum(present),
        single=jnp.sum(count == 1),
        zero_means=means.zero,
        zero_weights=weights.zero,
        outside=tables.moments.outside,
        rank=tables.rank,
        condition=safe_norm(mc) * safe_norm(tables.inverse) / tables.rank.astype(mc.dtype),
        **groups,
    )


def scalars(collapse: Collapse) -> dict[str, float]:
    """The scalar metrics as Python floats, blocks flattened (`cosine_minority_means`), for a line of JSON.

    Arrays per class and Grams are left out; NaN stays NaN.
    """
    out: dict[str, float] = {}
    for item in dataclasses.fields(collapse):
        value = getattr(collapse, item.name)
        if isinstance(value, Blocks):
            suffix = item.name.removeprefix("blocks")
            out |= {name + suffix: float(v) for name, v in value._asdict().items()}
        elif value is not None and value.ndim == 0:
            out[item.name] = float(value)
    return out
