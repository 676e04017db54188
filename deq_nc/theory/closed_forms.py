"""Optima that are formulas: balanced classes under both losses and both constraints, and SELI for any counts.

Letters: K classes, n samples per class, s = sqrt(E_W E_H), lW and lH the decays of W and of each sample's feature,
c = sqrt(n lW lH), P = I - 11^T/K. Every statement is proved in docs/theory.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deq_nc import geometry
from deq_nc.theory.checks import require, require_classes, require_counts, require_dim, require_positive, require_scale

_DECAY = "Without decay the minimum is not attained; try 5e-4."


@dataclass(frozen=True)
class DecayOptimum:
    """Minimum of a weight-decay model and s* = ||Z||_*/K, the scale at which the norm-constrained one coincides."""

    loss: float
    scale: float


def balanced_optimum(num_classes: int, scale: float, *, dim: int | None = None) -> float:
    """Norm-constrained cross-entropy, balanced: log(1 + (K-1) exp(-K s/(K-1))), at the ETF and self-duality.

    min mean CE(W h, y) over ||W||_F^2 <= K E_W, mean over classes of ||h||^2 <= E_H. A free bias changes nothing: by
    convexity and symmetry it may be taken constant. Raises ValueError for K < 2, s <= 0, d < K - 1.
    """
    require_classes(num_classes)
    require_scale(scale)
    require_dim(num_classes, dim)
    k = num_classes
    return math.log1p((k - 1) * math.exp(-k * scale / (k - 1)))


def balanced_weight_decay(
    num_classes: int, per_class: float, decay_weights: float, decay_features: float, *, dim: int | None = None
) -> DecayOptimum:
    """Weight-decay cross-entropy: F = -log(1-(K-1)c) + K c s*, s* = ((K-1)/K) log(1/c - (K-1)); log K if c >= 1/K.

    min (1/N) sum CE + lW/2 ||W||_F^2 + lH/2 sum_samples ||h||^2 (Zhu et al. 2021; the feature term is not divided by
    N). Raises ValueError for K < 2, n or decays <= 0, d < K - 1.
    """
    c = _decay_constant(num_classes, per_class, decay_weights, decay_features)
    require_dim(num_classes, dim)
    k = num_classes
    if c * k >= 1:
        return DecayOptimum(math.log(k), 0.0)
    s = (k - 1) / k * math.log(1 / c - (k - 1))
    return DecayOptimum(-math.log1p(-(k - 1) * c) + k * c * s, s)


def balanced_mse(num_classes: int, scale: float, *, bias: bool = False, dim: int | None = None) -> float:
    """Norm-constrained squared loss (1/2K) ||Z + b 1^T - I||_F^2, balanced.

    (1-s)_+^2 / 2 without a bias, at an orthogonal frame (d >= K); ((K-1)/2K) (1 - K s/(K-1))_+^2 with a free one, at
    the ETF (d >= K - 1). Raises ValueError for K < 2, s <= 0, d too small.
    """
    require_classes(num_classes)
    require_scale(scale)
    k = num_classes
    if bias:
        require_dim(k, dim)
        return (k - 1) / (2 * k) * max(0.0, 1 - k * scale / (k - 1)) ** 2
    if dim is not None:
        rest = (k - dim) / (2 * k) + dim / (2 * k) * max(0.0, 1 - k * scale / dim) ** 2  # a frame of rank d
        do = f"Without a bias it takes an orthogonal frame; the best possible loss in d = {dim} is {rest:.6g}."
        require(dim >= k, "dim", f"d >= K = {k}", dim, do)
    return max(0.0, 1 - scale) ** 2 / 2


def balanced_mse_weight_decay(
    num_classes: int,
    per_class: float,
    decay_weights: float,
    decay_features: float,
    *,
    bias: bool = False,
    dim: int | None = None,
) -> DecayOptimum:
    """Weight-decay squared loss: r (c - K c^2/2), r = K without a bias and K - 1 with a free one; r/2K if c >= 1/K.

    Raises ValueError for K < 2, n or decays <= 0, d < r.
    """
    c = _decay_constant(num_classes, per_class, decay_weights, decay_features)
    k = num_classes
    r = k - 1 if bias else k
    least = r * (1 / (2 * k)) if c * k >= 1 else r * (c - k * c * c / 2)
    if dim is not None and dim < r:
        best = least * dim / r + (r - dim) / (2 * k)  # d of the r directions fitted, the others left at zero
        do = f"The optimum has rank {r}; the best possible value in d = {dim} is {best:.6g}."
        require(False, "dim", f"d >= {r}", dim, do)
    if c * k >= 1:
        return DecayOptimum(least, 0.0)
    return DecayOptimum(least, r * (1 - k * c) / k)


def seli(counts: object) -> tuple[np.ndarray, np.ndarray]:
    """Grams (W W^T, H^T H) [K,K] of the simplex-encoded-labels geometry, up to a factor: `geometry.seli` in float64.

    The limit of vanishing sample-wise ridge. Raises ValueError for K < 2 or a count <= 0.
    """
    return geometry.seli(require_counts(counts))


def _decay_constant(num_classes: int, per_class: float, decay_weights: float, decay_features: float) -> float:
    require_classes(num_classes)
    require_positive("per_class", per_class, "It counts the samples of one class.")
    require_positive("decay_weights", decay_weights, _DECAY)
    require_positive("decay_features", decay_features, _DECAY)
    return math.sqrt(per_class * decay_weights * decay_features)
