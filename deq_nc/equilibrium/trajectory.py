"""The iterates of a solve, for measuring something along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium.choice import chosen
from deq_nc.equilibrium.iterate import JUMP, Solver, Step
from deq_nc.equilibrium.rows import relative
from deq_nc.equilibrium.state import rows_of

PyTree = Any


def trajectory(
    f: Callable,
    z0: PyTree,
    x: PyTree,
    theta: PyTree,
    solver: Solver | EquilibriumConfig,
    steps: int,
    keep: Callable[[PyTree], PyTree] = lambda z: z,
) -> tuple[PyTree, Array]:
    """(z_0 ... z_steps, each leaf [steps + 1, B, ...], and their residuals [steps + 1, B]) of the forward solver.

    An example that has reached solver.tol repeats its state from there on, as the layer would. `steps` is static: the
    memory is that of steps + 1 states, or of what `keep` makes of each. A NaN is shown, not repaired.
    """
    solver = (chosen(solver) if isinstance(solver, EquilibriumConfig) else chosen(None, solver)).solver
    rows = rows_of(z0)
    first = rows.flatten(z0)
    start = jnp.full((rows.batch,), jnp.inf, rows.dtype)

    def body(carry: tuple, k: Array) -> tuple[tuple, tuple[Array, Array]]:
        z, memory, best = carry
        g = rows.flatten(f(rows.unflatten(z), x, theta))
        r = g - z
        residual, size, _ = relative(z, g)
        z_next, memory = solver.update(memory, Step(k, z, g, r, size, residual > JUMP * best))
        stopped = residual <= solver.tol
        z_next = jnp.where(stopped[:, None], z, rows.round(z_next))
        return (z_next, memory, jnp.minimum(best, residual)), (keep(rows.unflatten(z)), residual)

    _, (states, residuals) = lax.scan(body, (first, solver.start(first), start), jnp.arange(steps + 1))
    return states, residuals
