"""The adjoint system (I - J)^T u = g, solved row by row, with its own residual as the proof of the gradient.

Letters: J = df/dz at z*, g the cotangent of z*, u the adjoint state. Every solver reports ||u - g - J^T u|| / ||g|| at
the u it returns; rows that a cheap solver leaves above the tolerance are handed to restarted GMRES, and counted.
The system is linear, so each row is solved with its g divided by a power of two, whatever the scale of the loss is.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium import krylov
from deq_nc.equilibrium.errors import Part, count, number
from deq_nc.equilibrium.iterate import FixedPoint, Solved, Solver, iterate
from deq_nc.equilibrium.krylov import Operator
from deq_nc.equilibrium.rows import inverse, magnitude, ratio, row_norm, square_norm, unit
from deq_nc.equilibrium.state import AdjointStats


@dataclass(frozen=True, kw_only=True)
class Adjoint(Part, abc.ABC):
    """A linear solver for A u = g, A(u) = u - J^T u, row by row. Subclass it with a frozen dataclass with `correct`.

    It is asked again for what is left of g until each row is within tol: the layer recomputes the residual, keeps the
    best u, stops rows and reports. A `Solver` is an adjoint too, by its iteration for u = g + J^T u.
    """

    tol: float = number(1e-3)  # relative residual ||u - g - J^T u|| / ||g||
    max_steps: int = count(50)  # products with J^T

    @abc.abstractmethod
    def correct(self, A: Operator, r: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
        """(du [B, n] with A du near r [B, n], products with A made [B]), for at most budget [B] products of a row.

        ||r - A du|| <= goal [B] is enough; a row of r that has stopped is zero.
        """


@dataclass(frozen=True, kw_only=True)
class Neumann(FixedPoint):
    """u <- g + J^T u, the plain iteration as an adjoint: for contractive cells."""

    tol: float = number(1e-3)


class GMRES(Adjoint):
    """The least residual over 20 directions, then restarted; 21 states of memory."""

    def correct(self, A: Operator, r: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
        return krylov.gmres(A, r, goal, budget)


class BiCGStab(Adjoint):
    """Two products a step, seven states of memory."""

    def correct(self, A: Operator, r: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
        return krylov.bicgstab(A, r, goal, budget)


class NormalCG(Adjoint):
    """Conjugate gradients on A^T A u = A^T g: two products a step, and the square of the condition number."""

    def correct(self, A: Operator, r: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
        return krylov.normal_cg(A, r, goal, budget)


def solve_adjoint(
    A: Operator,
    g: Array,
    adjoint: Adjoint | Solver,
    tol: Array | float,
    max_steps: Array | int,
    *,
    escalate: bool,
    narrow: Callable[[Array], Operator] | None = None,
) -> tuple[Array, AdjointStats]:
    """u [B, n] of A(u) = u - J^T u = g, and its `AdjointStats`; a row of g with NaN gets u = 0, flagged.

    So does one whose u exceeds the type; the part of u that falls below it is counted as residual.
    `narrow(index)` is A on the rows index alone; iterations then leave the rows that have stopped.
    """
    given, g = g, g * inverse(unit(g))[:, None]
    if isinstance(adjoint, Adjoint):
        solved = krylov.refine(A, g, g, adjoint.correct, tol, max_steps)
    else:
        # u = g is the first step for free. A residual costs the product of the next step: n updates, n + 1 products.
        step = lambda A, g: lambda u: g + (u - A(u))  # noqa: E731
        some = None if narrow is None else lambda index: step(narrow(index), g[index])
        solved = iterate(step(A, g), g, adjoint, tol, max_steps - 1, scale=square_norm(g), narrow=some)
        solved = solved._replace(steps=solved.steps + 1)
    # Not `solved.finite`: where J^T u grew beyond the type the cheap solver failed, and GMRES may not.
    missed = jnp.all(jnp.isfinite(g), axis=1) & ~solved.converged
    if escalate and not isinstance(adjoint, GMRES):
        solved = lax.cond(jnp.any(missed), lambda s: _escalate(A, g, s, missed, tol, max_steps), lambda s: s, solved)
    else:
        missed = jnp.zeros_like(missed)
    u, residual = _at_scale(solved.z, solved.residual, given)
    return u, _stats(residual, solved.steps, residual <= tol, missed)


def _at_scale(u: Array, residual: Array, g: Array) -> tuple[Array, Array]:
    """u of g / unit(g) brought to the scale of g; the largest of its residual and of what ||u|| and ||g|| have lost."""
    size = unit(g)[:, None]
    back, scaled = u * size, g * inverse(size)
    lost = ratio(row_norm(back * inverse(size) - u), row_norm(u))
    # Entries of g below the type's normal numbers, where those are read as 0: their mantissa says what they were. It
    # is put behind a 1 and the 1 taken away, since XLA multiplies constants first, and 2^-23 tiny is such a number.
    info, one = jnp.finfo(g.dtype), jnp.ones_like(g)
    mantissa = lax.bitcast_convert_type(magnitude(g) % 2**info.nmant | magnitude(one), g.dtype) - one
    below = mantissa * (float(info.tiny) * inverse(size))
    unread = jnp.where(scaled == 0, below, 0)
    lost = jnp.fmax(lost, ratio(square_norm(unread), square_norm(scaled + unread)))  # NaN of g is in the residual
    fits = jnp.all(jnp.isfinite(back), axis=1)
    residual = jnp.where(fits, jnp.maximum(residual, lost), jnp.inf)
    return jnp.where(fits[:, None], back, 0), residual


def _escalate(A: Operator, g: Array, s: Solved, missed: Array, tol: Array | float, max_steps: Array | int) -> Solved:
    """The missed rows again by GMRES, from the best u so far and with the same budget once more."""
    again = krylov.refine(A, g, s.z, krylov.gmres, tol, max_steps, active=missed)
    better = missed & (again.residual < s.residual)
    residual = jnp.where(better, again.residual, s.residual)
    return Solved(
        z=jnp.where(better[:, None], again.z, s.z),
        residual=residual,
        steps=s.steps + again.steps,
        converged=residual <= tol,
        finite=s.finite,
        trace=None,
    )


def series(jt: Operator, g: Array, terms: int, damping: float, tol: Array | float) -> tuple[Array, AdjointStats]:
    """u = beta sum_{i < terms} ((1 - beta) I + beta J^T)^i g, beta = damping: jfb at one term, phantom at k.

    Its residual costs one more product, which is removed from the program unless the probe's gradient is asked for.
    """
    given, g = g, g * inverse(unit(g))[:, None]
    u = damping * g
    if terms > 1:
        u = lax.fori_loop(1, terms, lambda _, u: damping * g + (1 - damping) * u + damping * jt(u), u)
    residual = ratio(row_norm(g + jt(u) - u), square_norm(g))
    u, residual = _at_scale(u, residual, given)
    return u, _stats(residual, jnp.full_like(residual, terms), residual <= tol, jnp.zeros_like(residual))


def _stats(*fields: Array) -> AdjointStats:
    return AdjointStats(*(lax.stop_gradient(f).astype(jnp.float32) for f in fields))
