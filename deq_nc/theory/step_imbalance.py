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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from deq_nc.theory.checks import float64, require, require_dim, require_scale, require_step
from deq_nc.theory.optimum import StepOptimum
from deq_nc.theory.roots import bracketed_root


def _log_softplus(x: Array) -> Array:
    """log log(1 + e^x): equal to x below -37, where log1p rounds to its argument."""
    return jnp.where(x < -37.0, x, jnp.log(jnp.logaddexp(0.0, jnp.maximum(x, -37.0))))


def _at(log_lam: Array, log_ratio: Array, theta: Array, ka: Array, kb: Array) -> tuple[Array, Array, Array, Array]:
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


def stationary(log_lam: Array, log_ratio: Array, ka: Array, kb: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The same with theta solved from tan theta = b / vA, and the nuclear norm it spends."""
    k = ka + kb
    most = jnp.arcsin(jnp.minimum(1.0, jnp.sqrt(k / ka) * jnp.exp(-jnp.maximum(log_lam, 0.0))))

    def misaligned(theta: Array) -> Array:
        _, _, va, b = _at(log_lam, log_ratio, theta, ka, kb)
        return va * jnp.sin(theta) - b * jnp.cos(theta)

    theta = bracketed_root(misaligned, jnp.zeros_like(most), most)
    a1, e1, va, b = _at(log_lam, log_ratio, theta, ka, kb)
    # cos and sin of the root, not hypot: |v| < 0 where the budget is too small for v, which keeps the outer sign.
    spent = (ka - 1) * a1 + (kb - 1) * e1 + va * jnp.cos(theta) + b * jnp.sin(theta)
    return a1, e1, va, b, spent


def _evaluate(
    a1: Array, e1: Array, va: Array, b: Array, log_ratio: Array, scale: Array, ka: Array, kb: Array
) -> tuple[Array, Array, Array, Array]:
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


def _without_minority(a1: Array, log_ratio: Array, ka: Array, kb: Array) -> tuple[Array, Array]:
    """log Lambda along P_A and log |gradient| along v at v = 0, e1 = 0, where a minority sample sees 1/K everywhere."""
    margin = a1 * (1 - 1 / ka)
    log_own = -jnp.logaddexp(0.0, jnp.logaddexp(jnp.log(ka - 1) - a1, jnp.log(kb) - margin))
    log_lam = log_ratio + log_own + jnp.logaddexp(jnp.log(ka) - a1, jnp.log(kb) - margin)
    g_a = log_ratio + log_own - margin + 0.5 * jnp.log((ka + kb) * kb)
    return log_lam, 0.5 * jnp.logaddexp(2 * g_a, jnp.log(ka / (ka + kb)))


def _solve(ka: Array, kb: Array, log_ratio: Array, scale: Array) -> tuple[Array, ...]:
    k = ka + kb
    budget = k * scale
    # Vanishing minority: v = 0, e1 = 0 and all of the budget on a1, if the gradient along v asks for no more.
    alone = jnp.where(ka > 1, budget / jnp.maximum(ka - 1, 1), 0.0)
    log_lam, g = _without_minority(alone, log_ratio, ka, kb)
    vanished = (ka > 1) & (g <= log_lam) & ((log_lam > 0) | (kb == 1))
    zero = jnp.zeros_like(budget)
    # Lambda < R always, and Lambda < exp(-K s - 5) would spend more than K s.
    log_lam = bracketed_root(lambda l: budget - stationary(l, log_ratio, ka, kb)[-1], -budget - 5.0, log_ratio)
    a1, e1, va, b, _ = stationary(log_lam, log_ratio, ka, kb)
    a1 = jnp.where(ka > 1, a1, 0.0)  # P_A = 0 for a single majority class
    e1 = jnp.where(kb > 1, e1, 0.0)
    va, b = jnp.maximum(va, 0.0), jnp.maximum(b, 0.0)
    a1, e1, va, b = (jnp.where(vanished, z, r) for z, r in ((alone, a1), (zero, e1), (zero, va), (zero, b)))
    stretch = budget / ((ka - 1) * a1 + (kb - 1) * e1 + jnp.hypot(va, b))  # feasible to the last bit
    a1, e1, va, b = a1 * stretch, e1 * stretch, va * stretch, b * stretch
    log_loss, relative_gap, log_lam, _ = _evaluate(a1, e1, va, b, log_ratio, scale, ka, kb)
    return jnp.exp(log_loss), log_loss, relative_gap, jnp.exp(log_lam), a1, e1, va, -b, (kb > 1) & (e1 == 0), vanished


CHUNK = 256  # one compiled shape for every diagram, and a slow root holds up its chunk only


@functools.cache
def _compiled(function: Callable) -> Callable:
    return jax.jit(jax.vmap(function))


def mapped(function: Callable, *args: Any) -> Any:
    """`function` of float64 scalars over the broadcast of `args`; outputs have the broadcast shape, floats for ()."""
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in args))
    shape, size = arrays[0].shape, arrays[0].size
    require(size > 0, "inputs", "at least one value", shape, "An array given was empty.")
    width = 1 if size == 1 else CHUNK
    flat = [np.resize(a.reshape(-1), (-(-size // width), width)) for a in arrays]
    chunks = [_compiled(function)(*chunk) for chunk in zip(*flat)]
    out = jax.tree.map(lambda *xs: np.concatenate(xs)[:size].reshape(shape), *chunks)
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
    out = mapped(_solve, majority, minority, np.log(ratio), scale)
    ka, kb, *_ = np.broadcast_arrays(majority, minority, ratio, scale)
    loss, log_loss, gap, lam, a1, e1, va, vb, collapsed, vanished = out
    ka, kb = (ka, kb) if ka.ndim else (ka.item(), kb.item())
    return StepOptimum(loss, log_loss, gap, lam, a1, e1, va, vb, ka, kb, collapsed, vanished)
