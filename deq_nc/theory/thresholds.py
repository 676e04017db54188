"""Where minority collapse sets in: R0 of the norm-constrained model by root finding, its asymptotes, weight decay.

Letters: KA, KB class counts, K = KA + KB, R = n_A / n_B, s = sqrt(E_W E_H), n_B samples per minority class.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from deq_nc.theory.checks import float64, require, require_positive, require_scale, require_step
from deq_nc.theory.roots import bracketed_root
from deq_nc.theory.step_imbalance import mapped, stationary


def _threshold(ka: Array, kb: Array, scale: Array) -> Array:
    """log R0: Lambda = 1 and the whole budget spent."""
    k = ka + kb
    budget = k * scale
    most = budget / (ka - 1 + jnp.sqrt(kb / k)) + 2 * jnp.log(k) + 10.0
    zero = jnp.zeros_like(budget)
    return bracketed_root(lambda r: stationary(zero, r, ka, kb)[-1] - budget, zero, most)


@float64
def log_collapse_threshold(majority: Any, minority: Any, scale: Any) -> Any:
    """log R0, for thresholds beyond 1e308; arguments and errors of `collapse_threshold`."""
    require_step(majority, minority)
    do = "A single minority class has no partner to become parallel to."
    require(np.asarray(minority) >= 2, "minority", "KB >= 2 classes", minority, do)
    require_scale(scale)
    return mapped(_threshold, majority, minority, scale)


def collapse_threshold(majority: Any, minority: Any, scale: Any) -> Any:
    """R0: the minority classifiers are equal at the optimum exactly when R >= R0.

    Root of Lambda(R) = 1, for KA > 1 the same as R (KA p_off + KB p_AB) = 1 at the e1 = 0 solution. Numbers or arrays.
    inf where R0 > 1e308. Raises ValueError for KA < 1, KB < 2, s <= 0.
    """
    with np.errstate(over="ignore"):
        out = np.exp(log_collapse_threshold(majority, minority, scale))
    return out if out.ndim else float(out)


def threshold_asymptote(majority: int, minority: int, scale: float) -> float:
    """Leading term of log R0 at large s: K s / (KA - 1 + sqrt(KB / K)). Raises ValueError as `collapse_threshold`."""
    require_step(majority, minority)
    require_scale(scale)
    k = majority + minority
    return k * scale / (majority - 1 + np.sqrt(minority / k))


def vanishing_scale(majority: int, minority: int) -> float:
    """The s below or at which the minority classifiers tend to zero as R -> inf.

    (KA (KA - 1) / K) log(KA / (sqrt(K KB) - KB)); 0 for a single majority class. Raises ValueError for counts < 1.
    """
    require_step(majority, minority)
    k = majority + minority
    return majority * (majority - 1) / k * np.log(majority / (np.sqrt(k * minority) - minority))


def weight_decay_threshold(
    majority: int, minority: int, minority_samples: float, decay_weights: float, decay_features: float
) -> float:
    """R0 of the weight-decay model: (1 / (mu sqrt(n_B)) - KB) / KA, mu = sqrt(lW lH); collapse when R >= R0.

    Of min (1/N) sum CE + lW/2 ||W||_F^2 + lH/2 sum_samples ||h||^2 (our formulation; the sum is not divided by N).
    Below 1 the minority is collapsed at every R >= 1. Raises ValueError for counts or decays <= 0.
    """
    require_step(majority, minority)
    require_positive("minority_samples", minority_samples, "It is n_B, the samples of one minority class.")
    require_positive("decay_weights", decay_weights, "Without decay there is no threshold; try 5e-4.")
    require_positive("decay_features", decay_features, "Without decay there is no threshold; try 5e-4.")
    mu = np.sqrt(decay_weights * decay_features)
    return float((1 / (mu * np.sqrt(minority_samples)) - minority) / majority)
