"""equilibrium(f, z0, x, theta): the solve, its evidence, and the gradient modes behind one signature.

Letters: z [B, ...] the state, x the input, theta the parameters, J = df/dz and u the adjoint state, both at z*.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxopt.implicit_diff import root_vjp

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium import checks
from deq_nc.equilibrium.choice import chosen
from deq_nc.equilibrium.errors import expect
from deq_nc.equilibrium.gradients import Gradient, Implicit, System, Unrolled, first_order
from deq_nc.equilibrium.iterate import Solver, iterate, widths
from deq_nc.equilibrium.placement import across_devices, any_mesh
from deq_nc.equilibrium.reverse import reverse_only
from deq_nc.equilibrium.rows import keep_rows, spare
from deq_nc.equilibrium.state import AdjointStats, Rows, SolveStats, adjoint_probe, rows_of

PyTree = Any
Cell = Callable[[PyTree, PyTree, PyTree], PyTree]


class Budget(NamedTuple):
    tol: Array
    max_steps: Array
    adjoint_tol: Array
    adjoint_max_steps: Array


class Given(NamedTuple):
    """What a solve is about: every number of it may be traced."""

    z0: Array  # [B, n]
    x: PyTree
    theta: PyTree
    budget: Budget
    probe: AdjointStats


class Layer(NamedTuple):
    """How it is solved and differentiated: static."""

    f: Cell
    rows: Rows
    solver: Solver
    gradient: Gradient
    trace: bool
    compact: bool

    def map(self, x: PyTree, theta: PyTree) -> Callable[[Array], Array]:
        """z [B, n] -> f(z) [B, n]."""
        return lambda z: self.rows.flatten(self.f(self.rows.unflatten(z), x, theta))

    def solve(self, given: Given, unroll: int | None = None) -> tuple[Array, SolveStats]:
        def narrow(index: Array) -> Callable[[Array], Array]:
            return self.map(_take(given.x, index), given.theta)

        solved = iterate(
            self.map(given.x, given.theta),
            given.z0,
            self.solver,
            given.budget.tol,
            given.budget.max_steps,
            round=self.rows.round,
            trace=self.solver.max_steps + 1 if self.trace else 0,
            unroll=unroll,
            narrow=narrow if self.compact else None,
        )
        return solved.z, SolveStats(solved.residual, solved.steps, solved.converged, solved.finite, solved.trace)


def equilibrium(
    f: Cell,
    z0: PyTree,
    x: PyTree,
    theta: PyTree,
    config: EquilibriumConfig | None = None,
    *,
    solver: Solver | None = None,
    gradient: Gradient | None = None,
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
    in the statistics, never an exception. z* carries to x and theta the gradient that `gradient` says; to z0 it is
    exactly zero (except with Unrolled(), which differentiates what was computed).

    solver: Anderson(), FixedPoint(), Broyden() or a `Solver` of your own; gradient: Implicit(adjoint=...), JFB(),
    Phantom() or Unrolled(). config: the same by the names of an `EquilibriumConfig`, in place of both.

    probe: `adjoint_probe(B)`; differentiate with respect to it and its gradient is the `AdjointStats` of this layer.
    tol, max_steps, adjoint_tol, adjoint_max_steps: run-time values (may be traced) in place of the objects' own.
    trace: keep the residual before every update in `stats.trace`.
    compact: leave the examples that have stopped: what still moves goes on in a quarter of the batch once it fits, in
    the forward solve and in an adjoint that iterates. Then every leaf of x must be [B, ...] (what the examples
    share belongs in theta), f is also called on fewer rows, and compiling takes longer. For batches on one device.
    strict: outside jit, raise NotConvergedError with the worst examples instead of flagging them.
    debug: outside jit, check first that f does not mix examples (two more evaluations).
    An example on which f is NaN or Inf keeps its best finite iterate, is flagged, and contributes a zero gradient.
    Raises CellError when f changes shape or dtype or captures traced values, and under forward-mode differentiation
    (`equilibrium_jvp` is for that), except with Unrolled(); ConfigError for an argument of another kind.
    """
    solver, gradient, _ = chosen(config, solver, gradient)
    rows = rows_of(z0)
    checks.check_cell(f, z0, x, theta)
    by = gradient.adjoint if isinstance(gradient, Implicit) else gradient
    checks.check_own("solver", solver, rows)
    checks.check_own("Implicit.adjoint", by, rows)
    if debug:
        checks.check_rows_independent(f, z0, x, theta)
    fewer = widths(rows.batch) if compact and not isinstance(gradient, Unrolled) else []
    if fewer:
        checks.check_fewer_rows(f, z0, x, theta, fewer[0])
    own = probe is None
    probe = adjoint_probe(rows.batch) if probe is None else probe
    budget = Budget(
        _scalar("tol", solver.tol if tol is None else tol, rows.dtype),
        _scalar("max_steps", solver.max_steps if max_steps is None else max_steps, jnp.int32),
        _scalar("adjoint_tol", by.tol if adjoint_tol is None else adjoint_tol, rows.dtype),
        _scalar("adjoint_max_steps", by.max_steps if adjoint_max_steps is None else adjoint_max_steps, jnp.int32),
    )
    given = across_devices(Given(z0, x, theta, budget, probe), own)
    layer = Layer(f, rows, solver, gradient, trace, compact=bool(fewer))
    solve = _unrolled if isinstance(gradient, Unrolled) else _implicit
    z, stats = any_mesh(lambda *given: solve(layer, Given(*given)), given._replace(z0=rows.flatten(given.z0)))
    stats = jax.tree.map(lax.stop_gradient, stats)
    if strict:
        checks.require_converged(stats)
    return rows.unflatten(z), stats


def _scalar(name: str, value: Any, dtype: Any) -> Array:
    """A number given at run time, traced or not, as an array; ConfigError for anything else."""
    known: Any = Real | np.ndarray | Array
    number = isinstance(value, known) and not isinstance(value, bool) and np.shape(value) == ()
    kinds = (jnp.integer,) if dtype == jnp.int32 else (jnp.integer, jnp.floating)
    ok = number and any(jnp.issubdtype(jnp.result_type(value), kind) for kind in kinds)
    expect(ok, name, "an integer" if dtype == jnp.int32 else "a number", value, "It may be traced.")
    return jnp.asarray(value, dtype)


def _take(tree: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda v: jnp.asarray(v)[index], tree)


def _unrolled(layer: Layer, given: Given) -> tuple[Array, SolveStats]:
    """Every update on the tape; memory grows with max_steps. The probe is not reached and stays zero.

    A row stops at 100 eps at the latest: below it the mixing divides rounding by rounding, and its derivative by the
    square of it (measured: 1e55 after 200 steps in float64).
    """
    rows, most = layer.rows, layer.solver.max_steps
    floor = 100 * float(jnp.finfo(rows.dtype).eps) if layer.solver.differences else 0.0
    tol, max_steps = jnp.maximum(given.budget.tol, floor), jnp.minimum(given.budget.max_steps, most)
    given = given._replace(budget=given.budget._replace(tol=tol, max_steps=max_steps))
    # First without a tape: rows that will meet NaN are known before one of their zeros is multiplied by it.
    best, found = lax.stop_gradient(layer.solve(lax.stop_gradient(given)))
    own, join = own_rows(layer.f, rows.unflatten(given.z0), given.x, given.theta)
    (z0, own), some = spare(found.finite, (given.z0, own))
    x, theta = jax.tree.map(lambda v: jnp.where(some, v, lax.stop_gradient(v)), (join(own), given.theta))
    z, stats = layer.solve(given._replace(z0=z0, x=x, theta=theta), unroll=most)
    return keep_rows(found.finite, (z, stats), (best, found))


def own_rows(f: Cell, z: PyTree, x: PyTree, theta: PyTree, compact: bool = False) -> tuple[list, Callable]:
    """(the leaves of x that are the examples' own, those leaves -> x)."""
    leaves, tree = jax.tree.flatten(x)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    own = [True] * len(leaves) if compact else checks.own_leaves(f, z, x, theta)

    def join(part: list) -> PyTree:
        rest = iter(part)
        return jax.tree.unflatten(tree, [next(rest) if mine else leaf for mine, leaf in zip(own, leaves)])

    return [leaf for mine, leaf in zip(own, leaves) if mine], join


def _implicit(layer: Layer, given: Given) -> tuple[Array, SolveStats]:
    """z* as a root of F(z, x, theta) - z: jaxopt's `root_vjp` around our own linear solve."""

    def optimality(z: Array, x: PyTree, theta: PyTree) -> Array:
        return layer.map(x, theta)(z) - z

    @jax.custom_vjp
    def solve(*given: Any) -> tuple[Array, SolveStats]:
        return layer.solve(Given(*given))

    def forward(*given: Any) -> tuple:
        # Through `solve` itself, so that a second derivative meets the implicit rule again and not the loop.
        z, stats = solve(*reverse_only(given))
        _, x, theta, budget, _ = given
        return (z, stats), (z, stats.finite, x, theta, budget)

    def backward(saved: tuple, cotangent: tuple) -> tuple:
        z, finite, x, theta, budget = saved
        # A row that met NaN has no cotangent, but its 0 * NaN would poison the sum over rows that theta receives.
        g = keep_rows(finite, cotangent[0], jnp.zeros_like(cotangent[0]))
        own, join = own_rows(layer.f, layer.rows.unflatten(z), x, theta, layer.compact)
        (z, own), some = spare(finite, (z, own))
        x = join(own)

        def narrow(index: Array) -> Callable[[Array], Array]:
            # Linearised again at those rows: a vjp cannot be cut after the fact.
            _, vjp = jax.vjp(layer.map(_take(x, index), theta), z[index])
            return lambda u: u - vjp(u)[0]

        evidence: list[AdjointStats] = []  # jaxopt takes u alone from its linear solver

        def adjoint_state(minus_A: Callable[[Array], Array], minus_g: Array) -> Array:
            # g itself and not -(-g): a subnormal number would not survive the sign.
            limits = budget.adjoint_tol, budget.adjoint_max_steps
            u, stats = layer.gradient.solve(System(minus_A, g, *limits, narrow if layer.compact else None))
            evidence.append(stats)
            return u

        x_bar, theta_bar = root_vjp(optimality, z, (x, theta), g, adjoint_state)
        x_bar, theta_bar = jax.tree.map(lambda v: _where_some(some, v), (x_bar, theta_bar))
        if not layer.gradient.exact:
            x_bar, theta_bar = jax.tree.map(first_order, (x_bar, theta_bar))
        return None, x_bar, theta_bar, None, evidence[0]

    solve.defvjp(forward, backward)
    return solve(*reverse_only(given))


def _where_some(some: Array, gradient: Array) -> Array:
    """The gradient, zero where no row of the batch is finite."""
    return jnp.where(some, gradient, 0) if jnp.issubdtype(gradient.dtype, jnp.inexact) else gradient
