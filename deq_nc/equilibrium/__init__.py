"""Equilibrium layers: solve z = f(z, x, theta) per example, differentiate through it, and show the evidence.

What belongs here: solvers, adjoints and gradient modes, spectra and Jacobian measures at z*. What does not: cells,
flax, training. This is the only folder that imports jaxopt. Read `layer.py` first.
"""

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium.adjoint import GMRES, Adjoint, BiCGStab, Neumann, NormalCG
from deq_nc.equilibrium.anderson import Anderson
from deq_nc.equilibrium.broyden import Broyden
from deq_nc.equilibrium.checks import check_rows_independent, require_converged
from deq_nc.equilibrium.errors import CellError, NotConvergedError
from deq_nc.equilibrium.gradients import JFB, Implicit, Phantom, Unrolled
from deq_nc.equilibrium.iterate import FixedPoint, Solver, Step
from deq_nc.equilibrium.jacobian import amplification, gradient_fidelity, jacobian_norm, jacobian_penalty
from deq_nc.equilibrium.layer import equilibrium
from deq_nc.equilibrium.spectrum import Radius, measured_radius, spectral_radius
from deq_nc.equilibrium.state import AdjointStats, SolveStats, adjoint_probe
from deq_nc.equilibrium.tangent import equilibrium_jvp
from deq_nc.equilibrium.trajectory import trajectory

__all__ = [
    "GMRES",
    "JFB",
    "Adjoint",
    "AdjointStats",
    "Anderson",
    "BiCGStab",
    "Broyden",
    "CellError",
    "EquilibriumConfig",
    "FixedPoint",
    "Implicit",
    "Neumann",
    "NormalCG",
    "NotConvergedError",
    "Phantom",
    "Radius",
    "SolveStats",
    "Solver",
    "Step",
    "Unrolled",
    "adjoint_probe",
    "amplification",
    "check_rows_independent",
    "equilibrium",
    "equilibrium_jvp",
    "gradient_fidelity",
    "jacobian_norm",
    "jacobian_penalty",
    "measured_radius",
    "require_converged",
    "spectral_radius",
    "trajectory",
]
