"""Equilibrium layers: solve z = f(z, x, theta) per example, differentiate through it, and show the evidence.

What belongs here: solvers, adjoints and gradient modes, spectra and Jacobian measures at z*. What does not: cells,
flax, training. This is the only folder that imports jaxopt. Read `layer.py` first.
"""

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium.checks import check_rows_independent, require_converged
from deq_nc.equilibrium.errors import CellError, NotConvergedError
from deq_nc.equilibrium.jacobian import amplification, gradient_fidelity, jacobian_norm, jacobian_penalty
from deq_nc.equilibrium.layer import equilibrium
from deq_nc.equilibrium.spectrum import Radius, measured_radius, spectral_radius
from deq_nc.equilibrium.state import AdjointStats, SolveStats, adjoint_probe
from deq_nc.equilibrium.tangent import equilibrium_jvp
from deq_nc.equilibrium.trajectory import trajectory

__all__ = [
    "AdjointStats",
    "CellError",
    "EquilibriumConfig",
    "NotConvergedError",
    "Radius",
    "SolveStats",
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
