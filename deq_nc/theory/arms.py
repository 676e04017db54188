"""The three linear arms, z* = A(V) h0, under three budgets, and the descent that checks or finds their minima.

    explicit  A = V        residual  A = I + V        deq  A = (I - V)^-1, the fixed point of z = V z + h0.

Budgets (`Budget.kind`), always with ||W||_F^2 <= K E_W and ||H0||_F^2 <= K E_H unless decayed:
    spectral   ||V||_2 <= g < 1. Proved: a layer-peeled model at `arm_scale`.
    frobenius  ||V||_F <= g < 1. Proved: the singular values of Z obey `budget_spent` <= K s. The minimum over that
               non-convex set is the best found over seeds.
    decay      lW/2 ||W||^2 + lH/2 sum_samples ||h0||^2 + lV/2 ||V||_F^2 with ||V||_2 <= g < 1. Best found over seeds.

All of this is our formulation. Proofs in docs/theory.md.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.theory.checks import float64, require, require_counts, require_dim, require_gain, require_scale
from deq_nc.theory.descent import cross_entropies, onto_ball, onto_spectral_ball, projected_descent

Arm = Literal["explicit", "residual", "deq"]
Kind = Literal["spectral", "frobenius", "decay"]
ARMS: tuple[str, ...] = get_args(Arm)
KINDS: tuple[str, ...] = get_args(Kind)


def _require_arm(arm: str) -> None:
    require(arm in ARMS, "arm", "one of " + ", ".join(ARMS), arm, "Choose one of these.")


def arm_scale(arm: str, scale: Any, gain: Any) -> Any:
    """Effective scale of an arm under ||V||_2 <= g: explicit g s, residual (1+g) s, deq s/(1-g). Numbers or arrays.

    The arm's minimum is the layer-peeled minimum at this scale, and the two share their geometry. Raises ValueError
    for an unknown arm, s <= 0, g outside [0, 1).
    """
    _require_arm(arm)
    require_scale(scale)
    require_gain(gain)
    s, g = np.asarray(scale, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    out = {"explicit": s * g, "residual": s * (1 + g), "deq": s / (1 - g)}[arm]
    return out if out.ndim else float(out)


def budget_spent(arm: str, singular_values: Any, gain: float) -> float:
    """Least ||W||_F ||H0||_F that realises Z with these singular values when ||V||_F <= g (budget F).

    explicit (sum sig^(2/3))^(3/2) / g; residual min_{||v|| <= g} sum sig_i/(1 + v_i); deq ||sig||_1 - g ||sig||_2.
    Raises ValueError for an unknown arm, g outside [0, 1) (explicit: g = 0 as well), negative singular values.
    """
    _require_arm(arm)
    require_gain(gain)
    sig = np.asarray(singular_values, dtype=np.float64)
    require(sig >= 0, "singular_values", "numbers >= 0", singular_values, "Pass the singular values of Z.")
    if arm == "deq":
        return float(sig.sum() - gain * np.linalg.norm(sig))
    if arm == "explicit":
        require(gain > 0, "gain", "a number in (0, 1) for the explicit arm", gain, "V = 0 maps everything to 0.")
        return float(np.sum(sig ** (2 / 3)) ** 1.5 / gain)
    # Stationary: sig_i = 2 mu v_i (1 + v_i)^2, monotone in v_i; bisect log mu until ||v|| = g.
    lo, hi = -60.0, 60.0
    for _ in range(200):
        mid = (lo + hi) / 2
        v = _cubic_root(sig / (2 * math.exp(mid) * max(sig.max(initial=0.0), 1e-300) ** -1))
        lo, hi = (mid, hi) if np.linalg.norm(v) > gain else (lo, mid)
    return float(np.sum(sig / (1 + v)))


def _cubic_root(y: np.ndarray) -> np.ndarray:
    """v >= 0 with v (1 + v)^2 = y, by Newton from above (convex, so monotone)."""
    v = np.maximum(y ** (1 / 3), 0.0)
    for _ in range(100):
        v = v - (v * (1 + v) ** 2 - y) / ((1 + v) * (1 + 3 * v))
    return v


@dataclass(frozen=True)
class Budget:
    """What an arm may spend. `scale` is s for spectral and frobenius; the three decays are for decay.

    Raises ValueError for an unknown kind, s <= 0, g outside [0, 1), decays <= 0.
    """

    kind: Kind
    gain: float
    scale: float | None = None
    decay_weights: float = 0.0
    decay_features: float = 0.0
    decay_arm: float = 0.0

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "budget.kind", "one of " + ", ".join(KINDS), self.kind, "Choose one of these.")
        require_gain(self.gain)
        if self.kind != "decay":
            require_scale(self.scale if self.scale is not None else math.nan)
            return
        for name in ("decay_weights", "decay_features", "decay_arm"):
            came = getattr(self, name)
            require(came > 0, f"budget.{name}", "a number > 0", came, "Without it the minimum is not attained.")


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


def _effective(arm: str, V, H):
    """A(V) H0; a vector V stands for a diagonal one."""
    if V.ndim == 1:
        return {"lpm": 1.0 + 0 * V, "explicit": V, "residual": 1 + V, "deq": 1 / (1 - V)}[arm][:, None] * H
    if arm == "deq":
        return jnp.linalg.solve(jnp.eye(len(V)) - V, H)
    return H if arm == "lpm" else V @ H + (H if arm == "residual" else 0.0)


def _descend(key, n, scale, gain, decays, *, arm, kind, aligned, dim, max_steps):
    """(value, x) of one descent; `decays` = (lW, lH, lV), unused unless kind is decay."""
    k = n.size
    pi = n / jnp.sum(n)
    l_w, l_h, l_v = decays

    def f(x):
        ce = pi @ cross_entropies(x["W"] @ _effective(arm, x["V"], x["H"]))
        if kind != "decay":
            return ce
        features = jnp.sum(n[None, :] * x["H"] ** 2)
        return ce + 0.5 * (l_w * jnp.sum(x["W"] ** 2) + l_h * features + l_v * jnp.sum(x["V"] ** 2))

    def project(x):
        V = jnp.maximum(x["V"], 0.0) if aligned else x["V"]
        if kind == "frobenius":
            V = onto_ball(V, gain)
        else:
            V = jnp.minimum(V, gain) if aligned else onto_spectral_ball(V, gain)
        if kind == "decay":
            return {"W": x["W"], "V": V, "H": x["H"]}
        radius = jnp.sqrt(k * scale)  # E_W = E_H = s
        return {"W": onto_ball(x["W"], radius), "V": V, "H": onto_ball(x["H"], radius)}

    shapes = {"W": (k, dim), "V": (dim,) if aligned else (dim, dim), "H": (dim, k)}
    x0 = {name: jax.random.normal(jax.random.fold_in(key, i), shape) for i, (name, shape) in enumerate(shapes.items())}
    x0["V"] = gain * jnp.abs(x0["V"]) if aligned else 0.5 * gain * x0["V"] / math.sqrt(dim)
    x, value, _ = projected_descent(f, project, x0, max_steps)
    return value, x


@functools.cache
def _compiled(arm: str, kind: str, aligned: bool, dim: int, max_steps: int):
    one = functools.partial(_descend, arm=arm, kind=kind, aligned=aligned, dim=dim, max_steps=max_steps)
    return jax.jit(jax.vmap(one, in_axes=(0, None, None, None, None)))


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
    require(arm in (*ARMS, "lpm"), "arm", "one of lpm, " + ", ".join(ARMS), arm, "Choose one of these.")
    require(seeds >= 1, "seeds", "an integer >= 1", seeds, "The minimum is the best over seeds; try 8.")
    dim = n.size - 1 if dim is None else dim
    require_dim(n.size, dim)
    keys = jax.random.split(jax.random.key(0), seeds)
    decays = np.array([budget.decay_weights, budget.decay_features, budget.decay_arm])
    run = _compiled(arm, budget.kind, aligned, dim, max_steps)
    values, x = jax.tree.map(np.asarray, run(keys, n, float(budget.scale or 1.0), float(budget.gain), decays))
    best = int(np.nanargmin(values))
    W, V, H = (x[name][best] for name in ("W", "V", "H"))
    agreeing = int(np.sum(values <= values[best] * (1 + 1e-5) + 1e-12))
    features = np.asarray(_effective(arm, jnp.asarray(V), jnp.asarray(H)))
    v = np.sort(V if aligned else np.linalg.svd(V, compute_uv=False))[::-1]
    return ArmOptimum(arm, float(values[best]), values, agreeing, W, features, v)
