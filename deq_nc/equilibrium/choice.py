"""Which solver and gradient a call means: the objects given, or those that an EquilibriumConfig names.

This is the one place that reads names; everything behind it takes objects.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium.adjoint import GMRES, Adjoint, BiCGStab, Neumann, NormalCG
from deq_nc.equilibrium.anderson import Anderson
from deq_nc.equilibrium.broyden import Broyden
from deq_nc.equilibrium.errors import OBJECTS, expect
from deq_nc.equilibrium.gradients import JFB, Gradient, Implicit, Phantom, Unrolled
from deq_nc.equilibrium.iterate import FixedPoint, Solver


class Chosen(NamedTuple):
    solver: Solver
    gradient: Gradient
    implicit: Implicit  # the gradient where it is one: tangents are always those of the implicit function theorem


def chosen(config: EquilibriumConfig | None, solver: Any = None, gradient: Any = None) -> Chosen:
    """The solver and gradient of `config`, or those given (Anderson() and Implicit() where one is None).

    Raises ConfigError for both spellings at once, and for an argument of another kind.
    """
    if config is not None:
        known = "an EquilibriumConfig"
        expect(isinstance(config, EquilibriumConfig), "config", known, config, "Objects go to solver= and gradient=.")
        expect(solver is None and gradient is None, "config", "None beside solver= and gradient=", config, "Drop one.")
        return named(config)
    solver = Anderson() if solver is None else solver
    gradient = Implicit() if gradient is None else gradient
    known = "Anderson(), FixedPoint(), Broyden() or a Solver of your own"
    expect(isinstance(solver, Solver) and not isinstance(solver, Neumann), "solver", known, solver, OBJECTS)
    known = "Implicit(), JFB(), Phantom() or Unrolled()"
    expect(isinstance(gradient, Gradient), "gradient", known, gradient, OBJECTS)
    for name, came in (("solver", solver), ("gradient", gradient)):
        expect(_hashable(came), name, "fields that can be hashed", came, "Arrays belong in theta.")
    return Chosen(solver, gradient, gradient if isinstance(gradient, Implicit) else Implicit())


def named(config: EquilibriumConfig) -> Chosen:
    """What the names of a configuration stand for."""
    c = config
    forward: dict[str, Any] = {"tol": c.tol, "max_steps": c.max_steps, "damping": c.damping}
    solvers: dict[str, Solver] = {
        "anderson": Anderson(**forward, history=c.history, ridge=c.ridge),
        "fixed_point": FixedPoint(**forward),
        "broyden": Broyden(**forward, history=c.history),
    }
    backward: dict[str, Any] = {"tol": c.adjoint_tol, "max_steps": c.adjoint_max_steps}
    adjoints: dict[str, Adjoint | Solver] = {
        "anderson": Anderson(**backward, history=c.history, ridge=c.ridge),
        "neumann": Neumann(**backward),
        "gmres": GMRES(**backward),
        "bicgstab": BiCGStab(**backward),
        "normal_cg": NormalCG(**backward),
    }
    implicit = Implicit(adjoint=adjoints[c.adjoint], escalate=c.escalate)
    gradients: dict[str, Gradient] = {
        "implicit": implicit,
        "phantom": Phantom(steps=c.phantom_steps, damping=c.phantom_damping, tol=c.adjoint_tol),
        "jfb": JFB(tol=c.adjoint_tol),
        "unrolled": Unrolled(),
    }
    return Chosen(solvers[c.solver], gradients[c.gradient], implicit)


def _hashable(came: Any) -> bool:
    try:
        hash(came)
    except TypeError:
        return False
    return True
