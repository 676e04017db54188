"""equilibrium(f, z0, x, theta): the solve, its evidence, and the gradient modes behind one signature.

Letters: z [B, ...] the state, x the input, theta the parameters, J = df/dz and u the adjoint state, both at z*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxopt.implicit_diff import root_vjp

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium import checks
from deq_nc.equilibrium.adjoint import first_order, neumann, solve_adjoint
from deq_nc.equilibrium.anderson import anderson
from deq_nc.equilibrium.broyden import broyden
from deq_nc.equilibrium.iterate import Rule, iterate, narrower, picard
from deq_nc.equilibrium.placement import across_devices, any_mesh
from deq_nc.equilibrium.reverse import reverse_only
from deq_nc.equilibrium.state import AdjointStats, Rows, SolveStats, adjoint_probe, keep_rows, rows_of, spare

PyTree = Any
Cell = Callable[[PyTree, PyTree, PyTree], PyTree]


def equilibrium(
    f: Cell,
    z0: PyTree,
    x: PyTree,
    theta: PyTree,
    config: EquilibriumConfig = EquilibriumConfig(),  # noqa: B008 (frozen)
    *,
    probe: AdjointStats | None = None,
    tol: Array | float | None = None,
    max_steps: Array | int | None = None,
    adjoint_tol: Array | float | None = None,
    adjoint_max_steps: Array | int | None = None,
    trace: bool = False,
    compact: bool = False,
    strict: bool = False,
    debug: bool = False,
) -> tuple[PyTree, SolveStats]:
    """z* = f(z*, x, theta) for every example, and the evidence: (z_star like z0, SolveStats of [B]).

    f maps a whole batch, leading axis = examples, each row independent; everything it differentiates is an argument.
    Per example: own residual ||f(z) - z|| / ||f(z)||, own stop, best finite iterate returned. Not converged is a flag
    in the statistics, never an exception. z* carries the gradient to x and theta that `config.gradient` names; to z0 it
    is exactly zero (except "unrolled", which differentiates what was computed).

    probe: `adjoint_probe(B)`; differentiate with respect to it and its gradient is the `AdjointStats` of this layer.
    tol, max_steps, adjoint_tol, adjoint_max_steps: run-time values (may be traced) in place of the config's.
    trace: keep the residual before every update in `stats.trace`.
    compact: leave the examples that have stopped: what still moves goes on in a quarter of the batch once it fits, in
    the forward solve and in anderson's and neumann's adjoint. Then every leaf of x must be [B, ...] (what the examples
    share belongs in theta), f is also called on fewer rows, and compiling takes longer. For batches on one device.
    strict: outside jit, raise NotConvergedError with the worst examples instead of flagging them.
    debug: outside jit, check first that f does not mix examples (two more evaluations).
    An example on which f is NaN or Inf keeps its best finite iterate, is flagged, and contributes a zero gradient.
    Raises CellError when f changes shape or dtype or captures traced values, and under forward-mode differentiation
    (`equilibrium_jvp` is for that), except with gradient="unrolled".
    """
    rows = rows_of(z0)
    checks.check_cell(f, z0, x, theta)
    if debug:
        checks.check_rows_independent(f, z0, x, theta)
    compact = compact and config.gradient != "unrolled" and narrower(rows.batch) > 0
    if compact:
        checks.check_fewer_rows(f, z0, x, theta, narrower(rows.batch))
    own = probe is None
    probe = adjoint_probe(rows.batch) if probe is None else probe
    budget = (
        jnp.asarray(config.tol if tol is None else tol, rows.dtype),
        jnp.asarray(config.max_steps if max_steps is None else max_steps, jnp.int32),
        jnp.asarray(config.adjoint_tol if adjoint_tol is None else adjoint_tol, rows.dtype),
        jnp.asarray(config.adjoint_max_steps if adjoint_max_steps is None else adjoint_max_steps, jnp.int32),
    )
    z0, x, theta, budget, probe = across_devices(z0, x, theta, budget, probe, own)
    solve = _unrolled if config.gradient == "unrolled" else _implicit
    z, stats = any_mesh(
        lambda *arguments: solve(f, rows, config, trace, compact, *arguments),
        (rows.flatten(z0), x, theta, budget, probe),
    )
    stats = jax.tree.map(lax.stop_gradient, stats)
    if strict:
        checks.require_converged(stats)
    return rows.unflatten(z), stats


def forward_rule(config: EquilibriumConfig) -> Rule:
    """The update that `config.solver` names."""
    if config.solver == "anderson":
        return anderson(config.history, config.ridge, config.damping)
    if config.solver == "broyden":
        return broyden(config.history, config.damping)
    return picard(config.damping)


def _map(f, rows: Rows, x, theta) -> Callable[[Array], Array]:
    """z [B, n] -> f(z) [B, n]."""
    return lambda z: rows.flatten(f(rows.unflatten(z), x, theta))


def _take(tree: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda v: jnp.asarray(v)[index], tree)


def _solve(f, rows: Rows, config, trace, compact, z0, x, theta, budget, unroll=None) -> tuple[Array, SolveStats]:
    solved = iterate(
        _map(f, rows, x, theta),
        z0,
        forward_rule(config),
        budget[0],
        budget[1],
        round=rows.round,
        trace=config.max_steps + 1 if trace else 0,
        unroll=unroll,
        narrow=(lambda index: _map(f, rows, _take(x, index), theta)) if compact else None,
    )
    return solved.z, SolveStats(solved.residual, solved.steps, solved.converged, solved.finite, solved.trace)


def _unrolled(f, rows: Rows, config, trace, compact, z0, x, theta, budget, probe) -> tuple[Array, SolveStats]:
    """Every update on the tape; memory grows with max_steps. The probe is not reached and stays zero.

    A row stops at 100 eps at the latest: below it the mixing divides rounding by rounding, and its derivative by the
    square of it (measured: 1e55 after 200 steps in float64).
    """
    floor = 0.0 if config.solver == "fixed_point" else 100 * float(jnp.finfo(rows.dtype).eps)
    budget = (jnp.maximum(budget[0], floor), jnp.minimum(budget[1], config.max_steps), *budget[2:])
    # First without a tape: rows that will meet NaN are known before one of their zeros is multiplied by it.
    fixed = lax.stop_gradient((z0, x, theta))
    best, found = lax.stop_gradient(_solve(f, rows, config, trace, False, *fixed, budget))
    own, join = own_rows(f, rows.unflatten(z0), x, theta)
    (z0, own), some = spare(found.finite, (z0, own))
    x, theta = jax.tree.map(lambda v: jnp.where(some, v, lax.stop_gradient(v)), (join(own), theta))
    z, stats = _solve(f, rows, config, trace, False, z0, x, theta, budget, unroll=config.max_steps)
    return keep_rows(found.finite, (z, stats), (best, found))


def own_rows(f: Cell, z: PyTree, x: PyTree, theta: PyTree, compact: bool = False) -> tuple[list, Callable]:
    """(the leaves of x that are the examples' own, those leaves -> x)."""
    leaves, tree = jax.tree.flatten(x)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    own = [True] * len(leaves) if compact else checks.own_leaves(f, z, x, theta)

    def join(part: list) -> PyTree:
        part = iter(part)
        return tree.unflatten([next(part) if mine else leaf for mine, leaf in zip(own, leaves)])

    return [leaf for mine, leaf in zip(own, leaves) if mine], join


def _implicit(f, rows: Rows, config, trace, compact, z0, x, theta, budget, probe) -> tuple[Array, SolveStats]:
    """z* as a root of F(z, x, theta) - z: jaxopt's `root_vjp` around our own linear solve."""

    def optimality(z: Array, x: PyTree, theta: PyTree) -> Array:
        return _map(f, rows, x, theta)(z) - z

    @jax.custom_vjp
    def solve(z0, x, theta, budget, probe):
        return _solve(f, rows, config, trace, compact, z0, x, theta, budget)

    def forward(z0, x, theta, budget, probe):
        # Through `solve` itself, so that a second derivative meets the implicit rule again and not the loop.
        z, stats = solve(*reverse_only((z0, x, theta, budget, probe)))
        return (z, stats), (z, stats.finite, x, theta, budget)

    def backward(saved, cotangent):
        z, finite, x, theta, budget = saved
        evidence: list[AdjointStats] = []

        # A row that met NaN has no cotangent, but its 0 * NaN would poison the sum over rows that theta receives.
        g = keep_rows(finite, cotangent[0], jnp.zeros_like(cotangent[0]))
        own, join = own_rows(f, rows.unflatten(z), x, theta, compact)
        (z, own), some = spare(finite, (z, own))
        x = join(own)

        def linear_solve(matvec: Callable[[Array], Array], b: Array) -> Array:
            # jaxopt hands over J^T - I and -g; the sign is turned so that the operator is u - J^T u.
            if config.gradient == "implicit":
                u, stats = lax.custom_linear_solve(
                    lambda u: -matvec(u),
                    g,  # not -b: a subnormal number would not survive the sign
                    lambda A, g: solve_implicit(A, g, narrow if compact else None),
                    solve_implicit,
                    has_aux=True,
                )
            else:
                terms, damping = (
                    (1, 1.0) if config.gradient == "jfb" else (config.phantom_steps, config.phantom_damping)
                )
                u, stats = neumann(lambda u: matvec(u) + u, g, terms, damping, budget[2])
            evidence.append(stats)
            return u

        def narrow(index: Array) -> Callable[[Array], Array]:
            # Linearised again at those rows: a vjp cannot be cut after the fact.
            _, vjp = jax.vjp(_map(f, rows, _take(x, index), theta), z[index])
            return lambda u: u - vjp(u)[0]

        def solve_implicit(A: Callable[[Array], Array], g: Array, narrow=None) -> tuple[Array, AdjointStats]:
            return solve_adjoint(A, g, config, budget[2], budget[3], narrow)

        x_bar, theta_bar = root_vjp(optimality, z, (x, theta), g, linear_solve)
        x_bar, theta_bar = jax.tree.map(lambda v: _where_some(some, v), (x_bar, theta_bar))
        if config.gradient != "implicit":
            x_bar, theta_bar = jax.tree.map(first_order, (x_bar, theta_bar))
        return None, x_bar, theta_bar, None, evidence[0]

    solve.defvjp(forward, backward)
    return solve(*reverse_only((z0, x, theta, budget, probe)))


def _where_some(some: Array, gradient: Array) -> Array:
    """The gradient, zero where no row of the batch is finite."""
    return jnp.where(some, gradient, 0) if jnp.issubdtype(gradient.dtype, jnp.inexact) else gradient
