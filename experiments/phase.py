"""Phase diagrams: the optimum over whole grids at once. Arrays in, arrays out; drawing is for whoever calls.

Letters: KA, KB, R, s, g (gain) as in `step_imbalance` and `arms`; axis 0 of a map is its first grid, axis 1 the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from deq_nc.geometry import nc2, nc3
from deq_nc.theory.arms import ARMS, applied, arm_scale
from deq_nc.theory.checks import float64, require_classes, require_gain, require_one_of, require_scale
from deq_nc.theory.minima import compiled_descent, starts
from deq_nc.theory.optimum import StepOptimum
from deq_nc.theory.step_imbalance import step_optimum
from deq_nc.theory.thresholds import log_collapse_threshold


def optimum_map(majority: int, minority: int, ratios: np.ndarray, scales: np.ndarray) -> StepOptimum:
    """The optimum on the grid R x s; every field of the result is [len(ratios), len(scales)]."""
    return step_optimum(majority, minority, np.asarray(ratios)[:, None], np.asarray(scales)[None, :])


def cosine_curves(majority: int, minority: int, ratios: np.ndarray, scale: float, gain: float) -> dict[str, np.ndarray]:
    """{arm: minority cosine [len(ratios)]} under the spectral budget."""
    return {
        arm: step_optimum(majority, minority, np.asarray(ratios), arm_scale(arm, scale, gain)).cos_minority
        for arm in ARMS
    }


def threshold_map(arm: str, majority: int, minority: int, gains: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """log10 R0 [len(gains), len(scales)] of an arm under the spectral budget; g > 0 for the explicit arm."""
    effective = arm_scale(arm, np.asarray(scales)[None, :], np.asarray(gains)[:, None])
    return log_collapse_threshold(majority, minority, effective) / np.log(10)


def duality_map(majority: int, minority: int, ratios: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
    """{'nc2_weights', 'nc2_means', 'nc3'} of the optimum on R x s, from its scalars.

    With u, v the two singular vectors, centring the means turns v v^T into P v v^T P and nothing else.
    """
    o = optimum_map(majority, minority, ratios, scales)
    ka, kb = float(majority), float(minority)
    k = ka + kb
    v = o.v
    # Grams share P_A, P_B; along u the weights have |v|, the centred means w = (v.u)^2 / |v|.
    along = o.vA * np.sqrt(kb / k) - o.vB * np.sqrt(ka / k)
    with np.errstate(invalid="ignore"):
        w = np.where(v > 0, along**2 / v, 0.0)
    out = {}
    for name, top in (("nc2_weights", v), ("nc2_means", w)):
        norm = np.sqrt((ka - 1) * o.a1**2 + (kb - 1) * o.e1**2 + top**2)
        inner = ((ka - 1) * o.a1 + (kb - 1) * o.e1 + top) / np.sqrt(k - 1)
        out[name] = np.sqrt(np.maximum(0.0, 2 - 2 * inner / norm))
    inner = (ka - 1) * o.a1 + (kb - 1) * o.e1
    out["nc3"] = np.sqrt(np.maximum(0.0, 2 - 2 * (inner + along) / np.sqrt((inner + v) * (inner + w))))
    return out


@dataclass(frozen=True)
class FrobeniusMap:
    """Best found over seeds on gains x scales under ||V||_F <= g, balanced classes: an upper bound, not a proof.

    loss, rank (singular values of Z above 1e-3 of the largest), nc2_weights, nc2_means, nc3, agreeing (share of the
    seeds within 1e-5 of the best).
    """

    loss: np.ndarray
    rank: np.ndarray
    nc2_weights: np.ndarray
    nc2_means: np.ndarray
    nc3: np.ndarray
    agreeing: np.ndarray


@float64
def frobenius_map(
    arm: str, num_classes: int, gains: np.ndarray, scales: np.ndarray, *, seeds: int = 8, max_steps: int = 2000
) -> FrobeniusMap:
    """The frobenius budget on a grid, all points and seeds in one compiled descent. Raises ValueError as `minimise`."""
    require_one_of("arm", arm, ARMS)
    require_classes(num_classes)
    require_gain(gains)
    require_scale(scales)
    k, shape = num_classes, (len(gains), len(scales))
    g, s = (np.repeat(x.reshape(-1), seeds) for x in np.meshgrid(gains, scales, indexing="ij"))
    # Starts differ by seed only: the projection scales V to each gain.
    x0 = jax.tree.map(
        lambda a: np.tile(a, (g.size // seeds,) + (1,) * (a.ndim - 1)), starts(k, k - 1, seeds, 1.0, True)
    )
    values, x = jax.tree.map(
        np.asarray, compiled_descent(arm, "frobenius", True, max_steps)(x0, np.ones(k), s, g, np.ones(3))
    )
    values = values.reshape(*shape, seeds)
    best = np.argmin(values, axis=-1)
    out = {name: np.zeros(shape) for name in ("rank", "nc2_weights", "nc2_means", "nc3")}
    for i, j in np.ndindex(shape):
        W, V, H = (x[name].reshape(*shape, seeds, *x[name].shape[1:])[i, j, best[i, j]] for name in ("W", "V", "H"))
        M = applied(arm, V, H).T
        sv = np.linalg.svd(W @ M.T, compute_uv=False)
        Mc = M - M.mean(axis=0)
        out["rank"][i, j] = np.sum(sv > 1e-3 * sv[0])
        out["nc2_weights"][i, j], out["nc2_means"][i, j], out["nc3"][i, j] = nc2(W @ W.T), nc2(Mc @ Mc.T), nc3(W, M)
    least = values.min(axis=-1)
    agreeing = np.mean(values <= least[..., None] * (1 + 1e-5), axis=-1)
    return FrobeniusMap(least, out["rank"].astype(int), out["nc2_weights"], out["nc2_means"], out["nc3"], agreeing)
