"""Forward mode: the tangent of z* by the implicit function theorem, with the evidence of its linear solve.

Letters: J = df/dz, b = df/dx x_dot + df/dtheta theta_dot, both at z*; (I - J) z_dot = b.
Products with J are the transpose of u -> J^T u, so that cells with a custom reverse rule (models/conv) work as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium.adjoint import solve_adjoint
from deq_nc.equilibrium.choice import chosen
from deq_nc.equilibrium.gradients import Gradient
from deq_nc.equilibrium.iterate import Solver
from deq_nc.equilibrium.layer import equilibrium, own_rows
from deq_nc.equilibrium.rows import keep_rows, spare
from deq_nc.equilibrium.state import AdjointStats, SolveStats, rows_of

PyTree = Any


def equilibrium_jvp(
    f: Callable,
    z0: PyTree,
    x: PyTree,
    theta: PyTree,
    x_dot: PyTree,
    theta_dot: PyTree,
    config: EquilibriumConfig | None = None,
    *,
    solver: Solver | None = None,
    gradient: Gradient | None = None,
) -> tuple[PyTree, PyTree, SolveStats, AdjointStats]:
    """(z*, z_dot, forward evidence, evidence of z_dot): (I - J) z_dot = df/dx x_dot + df/dtheta theta_dot.

    x_dot and theta_dot are like x and theta; leaves that are not floating are ignored. The adjoint of an Implicit
    gradient solves the system to its tolerance (the default one for other gradients, for a config the one it names);
    the residual is relative to the right side.
    An example on which f is NaN or Inf has the tangent zero. Raises what `equilibrium` raises.
    """
    solver, gradient, implicit = chosen(config, solver, gradient)
    rows = rows_of(z0)
    z, stats = equilibrium(f, z0, x, theta, solver=solver, gradient=gradient)
    flat = rows.flatten(z)
    own, join = own_rows(f, z, x, theta)
    (flat, own), _ = spare(stats.finite, (flat, own))
    leaves, tree = jax.tree.flatten((join(own), theta))
    moving = [i for i, v in enumerate(leaves) if jnp.issubdtype(jnp.result_type(v), jnp.floating)]

    def cell(flat: Array, *some: Array) -> Array:
        given = list(leaves)
        for i, v in zip(moving, some):
            given[i] = v
        return rows.flatten(f(rows.unflatten(flat), *jax.tree.unflatten(tree, given)))

    _, vjp = jax.vjp(cell, flat, *(leaves[i] for i in moving))
    dots = tree.flatten_up_to((x_dot, theta_dot))  # type: ignore[attr-defined]
    dots = [jnp.broadcast_to(jnp.asarray(dots[i], jnp.result_type(leaves[i])), jnp.shape(leaves[i])) for i in moving]
    (b,) = jax.linear_transpose(lambda u: vjp(u)[1:], flat)(tuple(dots))
    product = jax.linear_transpose(lambda u: vjp(u)[0], flat)
    b = keep_rows(stats.finite, b, jnp.zeros_like(b))
    by = implicit.adjoint
    A = lambda v: v - product(v)[0]  # noqa: E731
    z_dot, evidence = solve_adjoint(A, b, by, by.tol, by.max_steps, escalate=implicit.escalate)
    return z, rows.unflatten(z_dot), stats, evidence
