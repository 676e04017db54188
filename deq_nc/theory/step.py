"""Step imbalance: KA classes of R n_B samples, KB classes of n_B. The global optimum as the root of two scalars.

    min_Z sum_k pi_k CE(Z e_k, k)   subject to   ||Z||_* <= K s,      Z = W H [K,K], s = sqrt(E_W E_H),

is tight for min ||W||_F^2 <= K E_W, ||H||_F^2 <= K E_H when d >= K - 1. Convexity and the symmetry inside the groups
leave four scalars, Z = a1 P_A + e1 P_B + u v^T (docs/theory.md), and stationarity leaves two: the multiplier
Lambda = lambda N / n_B of the budget and the angle theta of v = (vA, vB) = |v| (cos theta, -sin theta). Given both,
every probability is explicit; collapse of the minority (e1 = 0) is exactly Lambda >= 1.

Letters: a1, e1, vA, vB, u, v, P_A, P_B as above; p is the softmax of a majority sample, q of a minority sample;
`b` = -vB >= 0. All in logarithms, so that losses far below 1e-300 keep their digits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.theory.checks import float64, require, require_dim, require_scale, require_step
from deq_nc.theory.roots import bracketed_root


@dataclass(frozen=True)
class StepOptimum:
    """The optimum under step imbalance; every field is a float64 scalar, or an array of the broadcast inputs' shape.

    loss: the minimum; log_loss keeps it where it underflows. relative_gap: (loss - a lower bound) / loss, from the
    duality gap of the nuclear-norm program at this point: a certificate, not an estimate. multiplier: Lambda.
    collapsed: the minority classifiers are equal (e1 = 0). vanished: they are zero as well (v = 0), and their cosines
    are NaN, since a zero vector has none. Norms are squared, for E_W = E_H; else multiply by sqrt(E_W / E_H).
    """

    loss: Any
    log_loss: Any
    relative_gap: Any
    multiplier: Any
    a1: Any
    e1: Any
    vA: Any
    vB: Any
    majority: Any
    minority: Any
    collapsed: Any
    vanished: Any

    @property
    def v(self) -> Any:
        """|v|, the singular value that tells the two groups apart."""
        return np.hypot(self.vA, self.vB)

    @property
    def norm_majority(self) -> Any:
        """Squared norm of a majority classifier."""
        k = self.majority + self.minority
        return self.a1 * (1 - 1 / self.majority) + self.v * self.minority / (k * self.majority)

    @property
    def norm_minority(self) -> Any:
        """Squared norm of a minority classifier."""
        k = self.majority + self.minority
        return self.e1 * (1 - 1 / self.minority) + self.v * self.majority / (k * self.minority)

    @property
    def cos_majority(self) -> Any:
        """Cosine between two majority classifiers; NaN where there is only one."""
        inner = self.norm_majority - self.a1
        return _ratio(np.where(np.asarray(self.majority) > 1, inner, np.nan), self.norm_majority)

    @property
    def cos_minority(self) -> Any:
        """Cosine between two minority classifiers: 1 at collapse, NaN where they vanish or there is only one."""
        inner = self.norm_minority - self.e1
        return _ratio(np.where(np.asarray(self.minority) > 1, inner, np.nan), self.norm_minority)

    @property
    def cos_cross(self) -> Any:
        """Cosine between a majority and a minority classifier."""
        inner = -self.v / (self.majority + self.minority)
        return _ratio(inner, np.sqrt(self.norm_majority * self.norm_minority))

    @property
    def gap(self) -> Any:
        """Duality gap: loss - gap <= true minimum <= loss."""
        return self.relative_gap * self.loss

    def gram_weights(self) -> np.ndarray:
        """W W^T [K,K] = (Z Z^T)^(1/2) for E_W = E_H, majority classes first; of a scalar optimum only."""
        ua, ub = self._frame()
        return self._blocks() + self.v * np.outer(_join(ua, ub), _join(ua, ub))

    def gram_means(self) -> np.ndarray:
        """H^T H [K,K] = (Z^T Z)^(1/2) for E_W = E_H, not centred; centre with P G P as the collapse metrics do."""
        right = self._right()
        return self._blocks() + np.outer(right, right) / (self.v if self.v > 0 else 1.0)

    def logits(self) -> np.ndarray:
        """Z [K,K]: column k holds the logits of a sample of class k."""
        ua, ub = self._frame()
        return self._blocks() + np.outer(_join(ua, ub), self._right())

    def _right(self) -> np.ndarray:
        ka, kb = int(self.majority), int(self.minority)
        return _join(np.full(ka, self.vA / np.sqrt(ka)), np.full(kb, self.vB / np.sqrt(kb)))

    def _frame(self) -> tuple[np.ndarray, np.ndarray]:
        ka, kb = int(self.majority), int(self.minority)
        k = ka + kb
        return np.full(ka, np.sqrt(kb / k / ka)), np.full(kb, -np.sqrt(ka / k / kb))

    def _blocks(self) -> np.ndarray:
        require(np.ndim(self.loss) == 0, "optimum", "a scalar one", np.shape(self.loss), "Index the inputs first.")
        ka, kb = int(self.majority), int(self.minority)
        k = ka + kb
        out = np.zeros((k, k))
        out[:ka, :ka] = self.a1 * (np.eye(ka) - 1 / ka)
        out[ka:, ka:] = self.e1 * (np.eye(kb) - 1 / kb)
        return out


def _join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate([a, b])


def _ratio(numerator: Any, norm: Any) -> Any:
    """numerator / norm, NaN where the norm is zero."""
    norm = np.asarray(norm)
    out = np.where(norm > 0, numerator / np.where(norm > 0, norm, 1.0), np.nan)
    return out if out.ndim else float(out)


def _log_softplus(x):
    """log log(1 + e^x): equal to x below -37, where log1p rounds to its argument."""
    return jnp.where(x < -37.0, x, jnp.log(jnp.logaddexp(0.0, jnp.maximum(x, -37.0))))


def _at(log_lam, log_ratio, theta, ka, kb):
    """(a1, e1, vA, b) that are stationary for a multiplier Lambda and an angle theta of v."""
    k = ka + kb
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    # Majority: R p_AB sqrt(K KB) = Lambda cos, R (KA p_off + KB p_AB) = Lambda, and so p_own - p_off = 1 - Lambda / R.
    x = log_lam - log_ratio
    log_off = jnp.log1p(-jnp.sqrt(kb / k) * cos) - jnp.log(ka)
    a1 = jnp.logaddexp(0.0, jnp.log(-jnp.expm1(jnp.minimum(x, 0.0))) - log_off - x)
    va = jnp.sqrt(kb / k) * (a1 + ka * (log_off - jnp.log(cos) + 0.5 * jnp.log(k * kb)))
    # Minority: q_BA sqrt(K KA) = Lambda sin, KB q_off + KA q_BA = min(Lambda, 1), q_own - q_off = 1 - min(Lambda, 1).
    y = jnp.minimum(log_lam, 0.0)
    log_off = jnp.log1p(-jnp.sqrt(ka / k) * sin * jnp.exp(log_lam - y)) - jnp.log(kb)
    e1 = jnp.logaddexp(0.0, jnp.log(-jnp.expm1(y)) - log_off - y)
    b = jnp.sqrt(ka / k) * (e1 + kb * (log_off + y - log_lam - jnp.log(sin) + 0.5 * jnp.log(k * ka)))
    return a1, e1, va, b


def _stationary(log_lam, log_ratio, ka, kb):
    """The same with theta solved from tan theta = b / vA, and the nuclear norm it spends."""
    k = ka + kb
    most = jnp.arcsin(jnp.minimum(1.0, jnp.sqrt(k / ka) * jnp.exp(-jnp.maximum(log_lam, 0.0))))

    def misaligned(theta):
        _, _, va, b = _at(log_lam, log_ratio, theta, ka, kb)
        return va * jnp.sin(theta) - b * jnp.cos(theta)

    theta = bracketed_root(misaligned, jnp.zeros_like(most), most)
    a1, e1, va, b = _at(log_lam, log_ratio, theta, ka, kb)
    # cos and sin of the root, not hypot: |v| < 0 where the budget is too small for v, which keeps the outer sign.
    spent = (ka - 1) * a1 + (kb - 1) * e1 + va * jnp.cos(theta) + b * jnp.sin(theta)
    return a1, e1, va, b, spent


def _evaluate(a1, e1, va, b, log_ratio, scale, ka, kb):
    """log loss, relative duality gap, log Lambda and |gradient along v| at a feasible point."""
    k = ka + kb
    margin_a = a1 * (1 - 1 / ka) + va * jnp.sqrt(k / kb) / ka
    margin_b = e1 * (1 - 1 / kb) + b * jnp.sqrt(k / ka) / kb
    x_a = jnp.logaddexp(jnp.log(ka - 1) - a1, jnp.log(kb) - margin_a)
    x_b = jnp.logaddexp(jnp.log(kb - 1) - e1, jnp.log(ka) - margin_b)
    log_own_a, log_own_b = -jnp.logaddexp(0.0, x_a), -jnp.logaddexp(0.0, x_b)
    log_total = jnp.logaddexp(jnp.log(ka) + log_ratio, jnp.log(kb))
    log_loss = jnp.logaddexp(jnp.log(ka) + log_ratio + _log_softplus(x_a), jnp.log(kb) + _log_softplus(x_b)) - log_total
    # -gradient, in units of n_B / N: lam_a along P_A, lam_b along P_B, (g_a, g_b) along u v^T.
    lam_a = log_ratio + jnp.logaddexp(jnp.log(ka) + log_own_a - a1, jnp.log(kb) + log_own_a - margin_a)
    lam_b = jnp.logaddexp(jnp.log(kb) + log_own_b - e1, jnp.log(ka) + log_own_b - margin_b)
    g_a = log_ratio + log_own_a - margin_a + 0.5 * jnp.log(k * kb)
    g_b = log_own_b - margin_b + 0.5 * jnp.log(k * ka)
    g = 0.5 * jnp.logaddexp(2 * g_a, 2 * g_b)
    lam_a, lam_b = jnp.where(ka > 1, lam_a, -jnp.inf), jnp.where(kb > 1, lam_b, -jnp.inf)
    top = jnp.maximum(g, jnp.maximum(lam_a, lam_b))
    inner = (ka - 1) * a1 * jnp.exp(lam_a - top) + (kb - 1) * e1 * jnp.exp(lam_b - top)
    inner += va * jnp.exp(g_a - top) + b * jnp.exp(g_b - top)
    relative_gap = (k * scale - inner) * jnp.exp(top - log_total - log_loss)
    return log_loss, relative_gap, top, g


def _without_minority(a1, log_ratio, ka, kb):
    """log Lambda along P_A and log |gradient| along v at v = 0, e1 = 0, where a minority sample sees 1/K everywhere."""
    margin = a1 * (1 - 1 / ka)
    log_own = -jnp.logaddexp(0.0, jnp.logaddexp(jnp.log(ka - 1) - a1, jnp.log(kb) - margin))
    log_lam = log_ratio + log_own + jnp.logaddexp(jnp.log(ka) - a1, jnp.log(kb) - margin)
    g_a = log_ratio + log_own - margin + 0.5 * jnp.log((ka + kb) * kb)
    return log_lam, 0.5 * jnp.logaddexp(2 * g_a, jnp.log(ka / (ka + kb)))


def _solve(ka, kb, log_ratio, scale):
    k = ka + kb
    budget = k * scale
    # Vanishing minority: v = 0, e1 = 0 and all of the budget on a1, if the gradient along v asks for no more.
    alone = jnp.where(ka > 1, budget / jnp.maximum(ka - 1, 1), 0.0)
    log_lam, g = _without_minority(alone, log_ratio, ka, kb)
    vanished = (ka > 1) & (g <= log_lam) & ((log_lam > 0) | (kb == 1))
    zero = jnp.zeros_like(budget)
    # Lambda < R always, and Lambda < exp(-K s - 5) would spend more than K s.
    log_lam = bracketed_root(lambda l: budget - _stationary(l, log_ratio, ka, kb)[-1], -budget - 5.0, log_ratio)
    a1, e1, va, b, _ = _stationary(log_lam, log_ratio, ka, kb)
    a1 = jnp.where(ka > 1, a1, 0.0)  # P_A = 0 for a single majority class
    e1 = jnp.where(kb > 1, e1, 0.0)
    va, b = jnp.maximum(va, 0.0), jnp.maximum(b, 0.0)
    a1, e1, va, b = (jnp.where(vanished, z, r) for z, r in ((alone, a1), (zero, e1), (zero, va), (zero, b)))
    stretch = budget / ((ka - 1) * a1 + (kb - 1) * e1 + jnp.hypot(va, b))  # feasible to the last bit
    a1, e1, va, b = a1 * stretch, e1 * stretch, va * stretch, b * stretch
    log_loss, relative_gap, log_lam, _ = _evaluate(a1, e1, va, b, log_ratio, scale, ka, kb)
    return jnp.exp(log_loss), log_loss, relative_gap, jnp.exp(log_lam), a1, e1, va, -b, (kb > 1) & (e1 == 0), vanished


def _threshold(ka, kb, scale):
    """log R0: Lambda = 1 and the whole budget spent."""
    k = ka + kb
    budget = k * scale
    most = budget / (ka - 1 + jnp.sqrt(kb / k)) + 2 * jnp.log(k) + 10.0
    zero = jnp.zeros_like(budget)
    return bracketed_root(lambda r: _stationary(zero, r, ka, kb)[-1] - budget, zero, most)


_BLOCK = 256  # one compiled shape for every diagram, and a slow root holds up its block only


@functools.cache
def _compiled(function):
    return jax.jit(jax.vmap(function))


def _mapped(function, *args: Any):
    """`function` of float64 scalars over the broadcast of `args`; outputs have the broadcast shape, floats for ()."""
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in args))
    shape, size = arrays[0].shape, arrays[0].size
    width = 1 if size == 1 else _BLOCK
    flat = [np.resize(a.reshape(-1), (-(-size // width), width)) for a in arrays]
    blocks = [_compiled(function)(*block) for block in zip(*flat)]
    out = jax.tree.map(lambda *xs: np.concatenate(xs)[:size].reshape(shape), *blocks)
    return jax.tree.map(lambda x: x if x.ndim else x.item(), out)


@float64
def step_optimum(majority: Any, minority: Any, ratio: Any, scale: Any, *, dim: int | None = None) -> StepOptimum:
    """Global minimum of the layer-peeled cross-entropy under step imbalance, certified by its duality gap.

    min sum_k pi_k CE(Z e_k, k) over ||Z||_* <= K s; KA = majority, KB = minority, R = ratio = n_A / n_B, s = scale,
    each a number or an array (broadcast). `dim` is d, if it should be checked against K - 1. Raises ValueError for
    counts below 1, R < 1, s <= 0 and d < K - 1.
    """
    require_step(majority, minority, ratio)
    require_scale(scale)
    require_dim(int(np.max(np.add(majority, minority))), dim)
    out = _mapped(_solve, majority, minority, np.log(ratio), scale)
    ka, kb, *_ = np.broadcast_arrays(majority, minority, ratio, scale)
    loss, log_loss, gap, lam, a1, e1, va, vb, collapsed, vanished = out
    sizes = (ka, kb) if ka.ndim else (ka.item(), kb.item())
    return StepOptimum(loss, log_loss, gap, lam, a1, e1, va, vb, *sizes, collapsed, vanished)


@float64
def log_collapse_threshold(majority: Any, minority: Any, scale: Any) -> Any:
    """log R0, for thresholds beyond 1e308; arguments and errors of `collapse_threshold`."""
    require_step(majority, minority)
    do = "A single minority class has no partner to become parallel to."
    require(np.asarray(minority) >= 2, "minority", "KB >= 2 classes", minority, do)
    require_scale(scale)
    return _mapped(_threshold, majority, minority, scale)


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
    do = "A threshold needs decay on both factors, and samples."
    for name, x in (("minority_samples", minority_samples), ("decay_weights", decay_weights)):
        require(np.isfinite(x) and x > 0, name, "a finite number > 0", x, do)
    require(np.isfinite(decay_features) and decay_features > 0, "decay_features", "a number > 0", decay_features, do)
    mu = np.sqrt(decay_weights * decay_features)
    return float((1 / (mu * np.sqrt(minority_samples)) - minority) / majority)
