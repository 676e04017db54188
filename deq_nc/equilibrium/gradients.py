"""What z* hands on to x and theta: the implicit gradient, an approximation of it, or that of the computed iterates.

Letters: J = df/dz at z*, g the cotangent of z*, u the adjoint state of (I - J)^T u = g, A(u) = u - J^T u.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.adjoint import Adjoint, series, solve_adjoint
from deq_nc.equilibrium.anderson import Anderson
from deq_nc.equilibrium.errors import OBJECTS, CellError, Part, count, expect, number
from deq_nc.equilibrium.iterate import Solver
from deq_nc.equilibrium.krylov import Operator
from deq_nc.equilibrium.state import AdjointStats


class System(NamedTuple):
    """A u = g, and what may be spent on it."""

    minus_A: Operator  # u -> J^T u - u
    g: Array  # [B, n]
    tol: Array
    max_steps: Array
    narrow: Callable[[Array], Operator] | None  # A on the rows index alone


class Gradient(Part):
    """One of `Implicit`, `JFB`, `Phantom` and `Unrolled`."""

    exact: ClassVar[bool] = True  # up to a tolerance; what is not has no second derivative
    tol: float = 0.0
    max_steps: int = 0

    def solve(self, s: System) -> tuple[Array, AdjointStats]:
        """u [B, n] and its evidence."""
        raise NotImplementedError(f"{type(self).__name__} solves no adjoint system.")


@dataclass(frozen=True, kw_only=True)
class Implicit(Gradient):
    """(I - J)^-T g to the adjoint's tolerance; with `escalate` rows that miss it go to restarted GMRES, counted."""

    adjoint: Adjoint | Solver = Anderson(tol=1e-3)
    escalate: bool = True

    def __post_init__(self) -> None:
        known = "Anderson(), Neumann(), GMRES(), BiCGStab(), NormalCG() or an Adjoint or Solver of your own"
        expect(isinstance(self.adjoint, Adjoint | Solver), "Implicit.adjoint", known, self.adjoint, OBJECTS)
        expect(isinstance(self.escalate, bool), "Implicit.escalate", "True or False", self.escalate, "Try True.")

    def solve(self, s: System) -> tuple[Array, AdjointStats]:
        def by(A: Operator, g: Array, narrow: Callable | None = None) -> tuple[Array, AdjointStats]:
            return solve_adjoint(A, g, self.adjoint, s.tol, s.max_steps, escalate=self.escalate, narrow=narrow)

        # The second solve is that of the transposed system, for second derivatives.
        solve = lambda A, g: by(A, g, s.narrow)  # noqa: E731
        return lax.custom_linear_solve(lambda u: -s.minus_A(u), s.g, solve, by, has_aux=True)


@dataclass(frozen=True, kw_only=True)
class Phantom(Gradient):
    """The first `steps` terms of the Neumann series with damping beta."""

    steps: int = count(5)
    damping: float = number(1.0, most=1)
    tol: float = number(1e-3)  # at which its evidence reads converged
    exact: ClassVar[bool] = False

    def solve(self, s: System) -> tuple[Array, AdjointStats]:
        return series(lambda u: s.minus_A(u) + u, s.g, self.steps, self.damping, s.tol)


@dataclass(frozen=True, kw_only=True)
class JFB(Phantom):
    """u = g, the first term (Jacobian-free backpropagation)."""

    steps: int = field(default=1, init=False, repr=False)
    damping: float = field(default=1.0, init=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Unrolled(Gradient):
    """The derivative of the iterates as computed; memory grows with the solver's max_steps."""


def first_order(gradient: Array) -> Array:
    """The identity, which refuses to be differentiated: the derivative of an approximate gradient is no Hessian."""
    return _first_order(gradient) if jnp.issubdtype(gradient.dtype, jnp.floating) else gradient


@jax.custom_jvp
def _first_order(gradient: Array) -> Array:
    return gradient


@_first_order.defjvp
def _refuse(primals: tuple, tangents: tuple) -> tuple:
    raise CellError(
        "gradient: expected one derivative with 'jfb' or 'phantom', got a second. They approximate the first and their "
        "derivative is not the second; use gradient='implicit' or 'unrolled'."
    )
