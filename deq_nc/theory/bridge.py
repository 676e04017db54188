"""From a trained run to the theory: estimate its scale, predict its geometry, lay measured beside predicted.

Letters: W [K,D] classifier, M [K,D] class means of the features that enter it (z* in a DEQ), mu_G their unweighted
mean, s = sqrt(E_W E_H), amplification a = ||A(V)|| of the arm at its features, e.g. ||(I - J)^-1||_2 at z*.

The prediction is the norm-constrained optimum at the run's own norms, which is the same for every arm: a norm budget
on z* itself cannot tell them apart. What an arm changes is the price of that scale, s / a before the arm. Training
has weight decay, a bias, an encoder and a finite end, so agreement is a finding and never a check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from deq_nc.geometry import block_cosines, centre_gram, nc2, nc3, shape_distance, simplex
from deq_nc.theory.arms import ARMS, implied_gain
from deq_nc.theory.checks import require, require_counts, require_dim, require_one_of
from deq_nc.theory.closed_forms import balanced_optimum, seli
from deq_nc.theory.nuclear import counts_optimum
from deq_nc.theory.step_imbalance import step_optimum
from deq_nc.theory.thresholds import collapse_threshold


@dataclass(frozen=True)
class Row:
    """One number of the table, found by its `key`, shown as `name`; None where a side has no such number."""

    key: str
    name: str
    measured: float | None
    predicted: float | None


@dataclass(frozen=True)
class Bridge:
    """Estimates and the table. scale: s of the run; gain: what the arm's amplification implies; rows: the table.

    threshold: R0 at this scale, None unless the counts are a step with two minority classes or more. majority [K]:
    the classes above the geometric middle of the counts; all of them where the largest is below 1.5 times the least.
    """

    arm: str
    scale: float
    gain: float | None
    scale_before_arm: float | None
    ratio: float
    threshold: float | None
    majority: np.ndarray
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """{name: {"measured": ..., "predicted": ...}}, ready for JSON."""
        return {r.name: {"measured": r.measured, "predicted": r.predicted} for r in self.rows}


def bridge(
    weights: np.ndarray,
    means: np.ndarray,
    feature_norm: float,
    counts: object,
    *,
    arm: str,
    bias: np.ndarray | None = None,
    amplification: float | None = None,
    train_loss: float | None = None,
) -> Bridge:
    """Measured beside predicted geometry of a run.

    s = sqrt(||Wc||_F^2 / K * mean ||h - o||^2), Wc = W - its mean row, which no softmax sees. The origin o is where the
    model without a bias has its own: o = (I - Wc^+ Wc) mu_G - Wc^+ bias, so that logits = Wc (h - o) up to a constant;
    a common offset that Wc does not read is not counted as budget. At the exact optimum s is recovered exactly.

    weights [K,D]; means [K,D]; feature_norm: mean over classes of the mean squared norm of their features, about the
    same origin as `means` (both may be centred already, then without `bias`); counts [K] training samples; arm:
    explicit, residual, deq, or unrolled; bias [K] of the classifier; amplification of the arm at its features, if
    measured. Raises ValueError for shapes that disagree, non-finite entries, counts <= 0, an unknown arm,
    D < K - 1 (no prediction fits; the message has the best possible), and a run whose W or features are zero.
    """
    n = require_counts(counts)
    W, M = np.asarray(weights, dtype=np.float64), np.asarray(means, dtype=np.float64)
    for name, x in (("weights", W), ("means", M)):
        ok = x.ndim == 2 and x.shape[0] == n.size
        require(ok, name, f"shape [K={n.size}, D]", x.shape, "Rows are classes, in the order of counts.")
        require(np.isfinite(x), name, "finite numbers", "NaN or infinity", "The run diverged before this measurement.")
    require(W.shape == M.shape, "means", f"the shape of weights {W.shape}", M.shape, "W meets the features it reads.")
    require_dim(n.size, W.shape[1])
    require_one_of("arm", arm, (*ARMS, "unrolled"))
    if amplification is not None:
        require(0 < amplification < math.inf, "amplification", "a finite number > 0", amplification, "Pass ||A||_2.")
    k = n.size
    mean = M.mean(axis=0)
    Wc, Mc = W - W.mean(axis=0), M - mean
    least = float(np.sum(M**2)) / k
    do = "It is mean_k mean_{i in k} ||h_i||^2 about the origin of `means`, so at least mean_k ||mu_k||^2."
    require(feature_norm >= least * (1 - 1e-4), "feature_norm", f"a number >= {least:.6g}", feature_norm, do)
    inverse = np.linalg.pinv(Wc, rcond=1e-3)  # a bias along a direction that W has all but lost moves no origin
    origin = mean - inverse @ (Wc @ mean)
    if bias is not None:
        b = np.asarray(bias, dtype=np.float64)
        require(b.shape == (k,), "bias", f"shape [K={k}]", b.shape, "Pass the classifier's bias, or None.")
        origin = origin - inverse @ (b - b.mean())
    e_w = float(np.sum(Wc**2)) / k
    e_h = float(feature_norm) - 2 * float(origin @ mean) + float(origin @ origin)
    require(e_w > 0 and e_h > 0, "weights, feature_norm", "non-zero after centring", (e_w, e_h), "Nothing was learnt.")
    s = math.sqrt(e_w * e_h)
    big = n > math.sqrt(n.max() * n.min()) if n.max() >= 1.5 * n.min() else np.ones(k, dtype=bool)
    loss, gram_w, gram_m, logits, threshold = _predict(n, big, s)
    factor = math.sqrt(e_w / e_h)  # the balanced factors, restored to the run's own norms
    gram_w, gram_m = gram_w * factor, centre_gram(gram_m) / factor

    measured_w, measured_m = Wc @ Wc.T, Mc @ Mc.T
    spent = float(np.linalg.svd(Wc @ Mc.T, compute_uv=False).sum())
    rows = [
        Row("loss", "train loss", train_loss, loss),
        Row("budget", "share of the norm budget in the logits of the class means", spent / (k * s), 1.0),
    ]
    targets = dict(zip(("weights", "means"), seli(n)))
    groups = {"majority": big, "minority": ~big} if not big.all() else {"all": big}
    for what, name, got, want in (("weights", "W", measured_w, gram_w), ("means", "means", measured_m, gram_m)):
        left, right = block_cosines(got, big), block_cosines(want, big)
        lines = [(f"cosine_{block}", f"cosine, {block}", _number(left[block]), _number(right[block])) for block in left]
        for group, who in groups.items():
            left_norm, right_norm = (float(np.sqrt(np.diag(gram)[who].clip(0)).mean()) for gram in (got, want))
            lines.append((f"norm_{group}", f"norm, {group}", left_norm, right_norm))
        lines += [
            ("to_optimum", "distance to this prediction", shape_distance(got, want), 0.0),
            ("to_etf", "distance to the ETF", nc2(got), nc2(want)),
            ("to_seli", "distance to SELI", shape_distance(got, targets[what]), shape_distance(want, targets[what])),
        ]
        rows += [Row(f"{what}_{key}", f"{name}: {text}", *values) for key, text, *values in lines]
    rows.append(Row("nc3", "self-duality NC3", nc3(Wc, Mc), _predicted_nc3(logits)))
    before = s / amplification if amplification else None
    gain = implied_gain(arm, amplification) if amplification else None
    return Bridge(arm, s, gain, before, float(n.max() / n.min()), threshold, big, tuple(rows))


def _predict(n: np.ndarray, big: np.ndarray, s: float) -> tuple[float, Any, Any, Any, float | None]:
    """(loss, W W^T, H^T H, Z, R0) of the norm-constrained optimum for these counts, in the order of the classes."""
    k, levels = n.size, np.unique(n)
    if levels.size == 1:
        gram = simplex(np.ones(k)) * k * s / (k - 1)
        return balanced_optimum(k, s), gram, gram, gram, None
    if levels.size > 2 or big.all():
        o = counts_optimum(n, s, tol=1e-6, max_steps=5000)  # a table shows four digits
        return o.loss, o.gram_weights(), o.gram_means(), o.logits, None
    o = step_optimum(int(big.sum()), int((~big).sum()), levels[1] / levels[0], s)
    order = np.argsort(np.argsort(~big, kind="stable"), kind="stable")  # class -> its place, majority first
    pick = np.ix_(order, order)
    threshold = collapse_threshold(o.majority, o.minority, s) if o.minority >= 2 else None
    return o.loss, o.gram_weights()[pick], o.gram_means()[pick], o.logits()[pick], threshold


def _predicted_nc3(logits: np.ndarray) -> float:
    u, sv, vt = np.linalg.svd(logits)
    root = np.sqrt(sv)
    return nc3(u * root, vt.T * root)


def _number(x: float) -> float | None:
    return None if math.isnan(x) else x
