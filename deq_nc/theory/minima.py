"""Direct minimisation over (W, V, H0): the check of every reduction, and the best found where nothing is proved.

Letters: W [K,d], V [d,d] (or its diagonal [d]), H0 [d,K], Z = W A(V) H0, A and the budgets as in `arms`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from deq_nc.theory.arms import ARMS, Budget, applied
from deq_nc.theory.checks import float64, require, require_counts, require_dim, require_one_of
from deq_nc.theory.descent import cross_entropies, onto_ball, onto_spectral_ball, projected_descent

Point = dict[str, Array]  # W [K, d], V, H [d, K]


@dataclass(frozen=True)
class ArmOptimum:
    """Best of `seeds` descents: its value (with the decay terms), its factors, and how many seeds came as low.

    proved is False: the problem is not convex, so this is an upper bound of the minimum. agreeing counts the seeds
    within 1e-5 of the best, relative to it; losses [seeds] are all of them. W [K,d], features = z* [d,K], v are the
    singular values of V.
    """

    arm: str
    loss: float
    losses: np.ndarray
    agreeing: int
    W: np.ndarray
    features: np.ndarray
    v: np.ndarray
    proved: bool = False

    @property
    def logits(self) -> np.ndarray:
        return self.W @ self.features

    @property
    def rank(self) -> int:
        """Singular values of Z above 1e-3 of the largest."""
        s = np.linalg.svd(self.logits, compute_uv=False)
        return int(np.sum(s > 1e-3 * s[0])) if s[0] > 1e-9 else 0


def _descend(
    x0: Point, n: Array, scale: Array, gain: Array, decays: Array, *, arm: str, kind: str, aligned: bool, max_steps: int
) -> tuple[Array, Point]:
    """(value, x) of one descent; `decays` = (lW, lH, lV), unused unless kind is decay."""
    k = n.size
    pi = n / jnp.sum(n)
    l_w, l_h, l_v = decays

    # Under decay H is H0 diag(sqrt(n)), whose decay is lH ||H||_F^2: as well conditioned as W is.
    root = jnp.sqrt(n)[None, :] if kind == "decay" else jnp.ones((1, k))

    def f(x: Point) -> Array:
        ce = pi @ cross_entropies(x["W"] @ applied(arm, x["V"], x["H"] / root))
        if kind != "decay":
            return ce
        return ce + 0.5 * sum(l * jnp.sum(x[name] ** 2) for l, name in ((l_w, "W"), (l_h, "H"), (l_v, "V")))

    def project(x: Point) -> Point:
        V = jnp.maximum(x["V"], 0.0) if aligned else x["V"]
        if kind == "frobenius":
            V = onto_ball(V, gain)
        elif kind == "spectral" or arm == "deq":
            V = jnp.minimum(V, gain) if aligned else onto_spectral_ball(V, gain)
        if kind == "decay":
            return {"W": x["W"], "V": V, "H": x["H"]}
        radius = jnp.sqrt(k * scale)  # E_W = E_H = s
        return {"W": onto_ball(x["W"], radius), "V": V, "H": onto_ball(x["H"], radius)}

    x, value, _ = projected_descent(f, project, x0, max_steps)
    return value, x | {"H": x["H"] / root}


def starts(k: int, dim: int, seeds: int, gain: float, aligned: bool) -> dict[str, np.ndarray]:
    """W, V, H0 [seeds, ...]; start i is the same whatever the number of seeds.

    Gaussian, except that a diagonal V starts at its bound for every other seed: under decay the basins differ by which
    of its entries are at the bound, and all of them often is the deepest and rarely found by chance.
    """
    out: dict[str, list[np.ndarray]] = {"W": [], "V": [], "H": []}
    for seed in range(seeds):
        r = np.random.default_rng(seed)
        out["W"].append(r.normal(size=(k, dim)))
        out["H"].append(r.normal(size=(dim, k)))
        V = gain * r.normal(size=dim if aligned else (dim, dim))
        out["V"].append(np.abs(V) if aligned and seed % 2 else np.full(dim, gain) if aligned else V)
    return {name: np.stack(a) for name, a in out.items()}


@functools.cache
def compiled_descent(arm: str, kind: str, aligned: bool, max_steps: int) -> Callable:
    """(x0, counts [K], scales, gains, decays [3]) -> (values, x): one descent a row of x0, scales and gains."""
    one = functools.partial(_descend, arm=arm, kind=kind, aligned=aligned, max_steps=max_steps)
    return jax.jit(jax.vmap(one, in_axes=(0, None, 0, 0, None)))


@float64
def minimise(
    arm: str,
    counts: object,
    budget: Budget,
    *,
    seeds: int = 8,
    dim: int | None = None,
    max_steps: int = 4000,
    aligned: bool = False,
) -> ArmOptimum:
    """Direct minimisation over (W, V, H0) with projections, `seeds` starts at once: the best found, never a proof.

    arm: explicit, residual, deq, or lpm (no V). counts [K]; d = dim, K - 1 by default. `aligned` takes V diagonal and
    >= 0, which loses nothing (docs/theory.md) and is far better conditioned; without it V is a free matrix, as in
    training. Raises ValueError for an unknown arm, counts <= 0, seeds < 1, d < K - 1.
    """
    n = require_counts(counts)
    require_one_of("arm", arm, ("lpm", *ARMS))
    require(seeds >= 1, "seeds", "an integer >= 1", seeds, "The minimum is the best over seeds; try 8.")
    dim = n.size - 1 if dim is None else dim
    require_dim(n.size, dim)
    x0 = starts(n.size, dim, seeds, budget.gain, aligned)
    decays = np.array([budget.decay_weights, budget.decay_features, budget.decay_arm])
    run = compiled_descent(arm, budget.kind, aligned, max_steps)
    scales, gains = np.full(seeds, budget.scale or 1.0), np.full(seeds, float(budget.gain))
    values, x = jax.tree.map(np.asarray, run(x0, n, scales, gains, decays))
    best = int(np.nanargmin(values))
    W, V, H = (x[name][best] for name in ("W", "V", "H"))
    agreeing = int(np.sum(values <= values[best] * (1 + 1e-5) + 1e-12))
    features = np.asarray(applied(arm, jnp.asarray(V), jnp.asarray(H)))
    v = np.sort(V if aligned else np.linalg.svd(V, compute_uv=False))[::-1]
    return ArmOptimum(arm, float(values[best]), values, agreeing, W, features, v)
