"""The adjoint system (I - J)^T u = g, solved row by row, with its own residual as the proof of the gradient.

Letters: J = df/dz at z*, g the cotangent of z*, u the adjoint state, A = J^T - I the operator jaxopt hands over, so
that A u = -g. Every solver reports ||u - g - J^T u|| / ||g|| at the u it returns: nobody trusts a recurrence.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium.anderson import anderson
from deq_nc.equilibrium.iterate import Solved, iterate, picard
from deq_nc.equilibrium.state import AdjointStats, row_norm

Operator = Callable[[Array], Array]


def solve_adjoint(
    jt: Operator, g: Array, config: EquilibriumConfig, tol: Array | float, max_steps: Array | int
) -> tuple[Array, AdjointStats]:
    """u [B, n] of u = g + jt(u), jt(u) = J^T u, and its `AdjointStats`; a row of g with NaN gets u = 0, flagged."""
    scale = row_norm(g)
    rule = anderson(config.history, config.ridge, 1.0) if config.adjoint == "anderson" else picard(1.0)
    solved: Solved = iterate(lambda u: g + jt(u), g, rule, tol, max_steps, scale=scale)
    # u_0 = g is free; residuals are measured after each product, so `steps` updates took steps + 1 products.
    zero = jnp.zeros_like(solved.residual)
    stats = (solved.residual, solved.steps + 1, solved.converged, zero)
    return solved.z, AdjointStats(*(s.astype(jnp.float32) for s in stats))


def neumann(jt: Operator, g: Array, terms: int, damping: float = 1.0) -> tuple[Array, AdjointStats]:
    """u = beta sum_{i < terms} ((1 - beta) I + beta J^T)^i g, beta = damping: jfb at one term, phantom at k.

    Its residual costs one more product, which is removed from the program unless the probe's gradient is asked for.
    """
    u = damping * g
    if terms > 1:
        u = lax.fori_loop(1, terms, lambda _, u: damping * g + (1 - damping) * u + damping * jt(u), u)
    scale = row_norm(g)
    r = row_norm(g + jt(u) - u)
    residual = jnp.where(scale > 0, r / jnp.where(scale > 0, scale, 1), 0)
    steps = jnp.full_like(residual, terms)
    return u, AdjointStats(*(s.astype(jnp.float32) for s in (residual, steps, residual < 0, 0 * residual)))
