"""Layer-peeled models of an explicit and a DEQ arm: optima, thresholds, certificates, and the bridge to a run.

What belongs here: mathematics of min CE(W A(V) H0) for linear arms, in float64, from numbers to numbers. No data, no
training, no plots. Formulation and proofs: docs/theory.md ("our formulation" throughout).

    closed_forms  balanced optima of both losses and constraints, SELI   optimum, step_imbalance  two levels of counts
    thresholds    R0, its asymptotes, weight decay                       nuclear                  any counts, with a gap
    arms          A(V), scales and budgets of the arms                   minima                   direct minimisation
    bridge        measured beside predicted                              checks, roots, descent   what these share
"""

from deq_nc.theory.arms import ARMS, Budget, arm_scale, budget_spent
from deq_nc.theory.bridge import Bridge, bridge
from deq_nc.theory.checks import nc2_floor
from deq_nc.theory.closed_forms import (
    DecayOptimum,
    balanced_mse,
    balanced_mse_weight_decay,
    balanced_optimum,
    balanced_weight_decay,
    seli,
)
from deq_nc.theory.minima import ArmOptimum, minimise
from deq_nc.theory.nuclear import CountsOptimum, counts_optimum
from deq_nc.theory.optimum import StepOptimum
from deq_nc.theory.step_imbalance import step_optimum
from deq_nc.theory.thresholds import (
    collapse_threshold,
    log_collapse_threshold,
    threshold_asymptote,
    vanishing_scale,
    weight_decay_threshold,
)

__all__ = [
    "ARMS",
    "ArmOptimum",
    "Bridge",
    "Budget",
    "CountsOptimum",
    "DecayOptimum",
    "StepOptimum",
    "arm_scale",
    "balanced_mse",
    "balanced_mse_weight_decay",
    "balanced_optimum",
    "balanced_weight_decay",
    "bridge",
    "budget_spent",
    "collapse_threshold",
    "counts_optimum",
    "log_collapse_threshold",
    "minimise",
    "nc2_floor",
    "seli",
    "step_optimum",
    "threshold_asymptote",
    "vanishing_scale",
    "weight_decay_threshold",
]
