"""Any class counts (long tails): the nuclear-norm program by a first-order method, certified by its duality gap.

    min_Z sum_k pi_k CE(Z e_k, k)   subject to   ||Z||_* <= K s,

equal to the layer-peeled minimum when d >= K - 1. Any feasible Z bounds the minimum from below by
f(Z) - (K s ||grad f(Z)||_2 + <grad f(Z), Z>), since f is convex and the norms are dual.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from deq_nc.geometry import simplex
from deq_nc.theory.checks import float64, require, require_counts, require_dim, require_scale
from deq_nc.theory.descent import cross_entropies, onto_nuclear_ball, projected_descent


@dataclass(frozen=True)
class CountsOptimum:
    """Z [K,K] near the optimum for given counts; loss - gap <= true minimum <= loss. float64.

    converged: gap <= tol * loss; where it is False the bound still holds, only wider.
    """

    loss: float
    gap: float
    steps: int
    converged: bool
    logits: np.ndarray

    def gram_weights(self) -> np.ndarray:
        """W W^T [K,K] = (Z Z^T)^(1/2) for E_W = E_H."""
        u, s, _ = np.linalg.svd(self.logits)
        return (u * s) @ u.T

    def gram_means(self) -> np.ndarray:
        """H^T H [K,K] = (Z^T Z)^(1/2) for E_W = E_H, not centred."""
        _, s, vt = np.linalg.svd(self.logits)
        return (vt.T * s) @ vt


def _certificate(f: Callable[[Array], Array], z: Array, budget: Array) -> tuple[Array, Array]:
    value, g = jax.value_and_grad(f)(z)
    return value, budget * jnp.linalg.norm(g, ord=2) + jnp.sum(g * z)


@functools.partial(jax.jit, static_argnames="max_steps")
def _solve(pi: Array, scale: Array, tol: Array, max_steps: int) -> tuple[Array, Array, Array, Array]:
    k = pi.size
    budget = k * scale

    def f(z: Array) -> Array:
        return pi @ cross_entropies(z)

    def finished(z: Array) -> Array:
        value, gap = _certificate(f, z, budget)
        return gap <= tol * value

    z0 = scale * k / (k - 1) * simplex(jnp.ones(k))  # the ETF of this budget
    z, _, steps = projected_descent(f, lambda z: onto_nuclear_ball(z, budget), z0, max_steps, finished)
    return z, *_certificate(f, z, budget), steps


@float64
def counts_optimum(
    counts: object, scale: float, *, tol: float = 1e-8, max_steps: int = 20_000, dim: int | None = None
) -> CountsOptimum:
    """Minimum of the layer-peeled cross-entropy for any counts [K], to a duality gap of tol * loss.

    `converged` is False where `max_steps` came first; the gap returned holds either way. Raises ValueError for K < 2,
    a count <= 0, s <= 0, tol <= 0, d < K - 1.
    """
    n = require_counts(counts)
    require_scale(scale)
    require_dim(n.size, dim)
    require(tol > 0, "tol", "a number > 0", tol, "Try 1e-8, relative to the loss.")
    z, loss, gap, steps = _solve(n / n.sum(), float(scale), float(tol), max_steps=int(max_steps))
    loss, gap = float(loss), float(gap)
    return CountsOptimum(loss, gap, int(steps), gap <= tol * loss, np.asarray(z))
