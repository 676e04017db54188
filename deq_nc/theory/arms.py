"""The three linear arms, z* = A(V) h0, and the three budgets they are compared under.

    explicit  A = V        residual  A = I + V        deq  A = (I - V)^-1, the fixed point of z = V z + h0.

Budgets (`Budget.kind`), always with ||W||_F^2 <= K E_W and ||H0||_F^2 <= K E_H unless decayed:
    spectral   ||V||_2 <= g < 1. Proved: a layer-peeled model at `arm_scale`.
    frobenius  ||V||_F <= g < 1. Proved: the singular values of Z obey `budget_spent` <= K s. The minimum over that
               non-convex set is the best found over seeds.
    decay      lW/2 ||W||^2 + lH/2 sum_samples ||h0||^2 + lV/2 ||V||_F^2 added to the loss; ||V||_2 <= g < 1 for the
               deq only (without it the infimum is degenerate: V near I costs a constant and amplifies without bound,
               while an explicit or residual V is as large as its decay allows). Best found over seeds.

All of this is our formulation. Proofs in docs/theory.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from deq_nc.theory.checks import require, require_gain, require_one_of, require_scale

Arm = Literal["explicit", "residual", "deq"]
Kind = Literal["spectral", "frobenius", "decay"]
ARMS: tuple[str, ...] = get_args(Arm)
KINDS: tuple[str, ...] = get_args(Kind)


def amplification(arm: str, v: Any) -> Any:
    """A(v) of numbers v: explicit v, residual 1 + v, deq 1/(1 - v)."""
    return 1 / (1 - v) if arm == "deq" else 1 + v if arm == "residual" else v


def implied_gain(arm: str, amplification: float) -> float | None:
    """The g in [0, 1) whose A(g) is this amplification; None where there is none."""
    gain = {"deq": 1 - 1 / amplification, "residual": amplification - 1, "explicit": amplification}.get(arm)
    return gain if gain is not None and 0 <= gain < 1 else None


def applied(arm: str, V: Any, H: Any) -> Any:
    """A(V) H of H [d, K]; V [d, d], or [d] for a diagonal one; "lpm" has no V."""
    if arm == "lpm":
        return H
    if V.ndim == 1:
        return amplification(arm, V)[:, None] * H
    return jnp.linalg.solve(jnp.eye(len(V)) - V, H) if arm == "deq" else V @ H + (H if arm == "residual" else 0)


def arm_scale(arm: str, scale: Any, gain: Any) -> Any:
    """Effective scale of an arm under ||V||_2 <= g: explicit g s, residual (1+g) s, deq s/(1-g). Numbers or arrays.

    The arm's minimum is the layer-peeled minimum at this scale, and the two share their geometry. Raises ValueError
    for an unknown arm, s <= 0, g outside [0, 1).
    """
    require_one_of("arm", arm, ARMS)
    require_scale(scale)
    require_gain(gain)
    out = np.asarray(scale, dtype=np.float64) * amplification(arm, np.asarray(gain, dtype=np.float64))
    return out if out.ndim else float(out)


def budget_spent(arm: str, singular_values: Any, gain: float) -> float:
    """Least ||W||_F ||H0||_F that realises Z with these singular values when ||V||_F <= g (budget F).

    explicit (sum sig^(2/3))^(3/2) / g; residual min_{||v|| <= g} sum sig_i/(1 + v_i); deq ||sig||_1 - g ||sig||_2.
    Raises ValueError for an unknown arm, g outside [0, 1) (explicit: g = 0 as well), negative singular values.
    """
    require_one_of("arm", arm, ARMS)
    require_gain(gain)
    sig = np.asarray(singular_values, dtype=np.float64)
    require(sig >= 0, "singular_values", "numbers >= 0", singular_values, "Pass the singular values of Z.")
    if arm == "deq":
        return float(sig.sum() - gain * np.linalg.norm(sig))
    if arm == "explicit":
        require(gain > 0, "gain", "a number in (0, 1) for the explicit arm", gain, "V = 0 maps everything to 0.")
        return float(np.sum(sig ** (2 / 3)) ** 1.5 / gain)
    # Stationary on the sphere: sig_i = mu v_i (1 + v_i)^2, so v_i falls with mu; bisect log mu until ||v|| = g.
    if gain == 0 or not sig.any():
        return float(sig.sum())
    top = sig.max()
    lo, hi = -5.0, 60.0  # v_i <= 1 gives mu >= top / 4; mu = e^60 top gives v below 1e-25
    for _ in range(80):
        middle = (lo + hi) / 2
        v = _cubic_root(sig / (top * math.exp(middle)))
        lo, hi = (middle, hi) if np.linalg.norm(v) > gain else (lo, middle)
    return float(np.sum(sig / (1 + v)))


def _cubic_root(y: np.ndarray) -> np.ndarray:
    """v >= 0 with v (1 + v)^2 = y: Newton from min(y, y^(1/3)), above the root of a convex increasing function."""
    v = np.minimum(y, np.cbrt(y))
    for _ in range(20):
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
        require_one_of("budget.kind", self.kind, KINDS)
        require_gain(self.gain)
        if self.kind != "decay":
            require_scale(self.scale if self.scale is not None else math.nan)
            return
        for name in ("decay_weights", "decay_features", "decay_arm"):
            came = getattr(self, name)
            require(came > 0, f"budget.{name}", "a number > 0", came, "Without it the minimum is not attained.")
