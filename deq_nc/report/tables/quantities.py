"""What the report can show: the name, unit and number format of every quantity a run writes, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """`name (unit)` labels axis and table, `hint` explains; `digits` formats a mean; axes: `log` or from `zero`."""

    key: str
    name: str
    unit: str = ""
    digits: str = "#.3g"
    log: bool = False
    zero: bool = False
    hint: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


# fmt: off
_KNOWN = (
    Quantity("epoch", "epochs", digits=".0f", hint="last measured epoch"),
    Quantity("terminal_epoch", "terminal epoch", digits=".0f", hint="first measured epoch with train error 0"),
    Quantity("train_accuracy", "train accuracy", digits=".4f", hint="share of training images"),
    Quantity("train_accuracy_in_training", "train accuracy, in training", digits=".4f",
             hint="of the epoch's batches as they came, each before its step, in training mode"),
    Quantity("test_accuracy", "test accuracy", digits=".4f", hint="share of test images"),
    Quantity("test_accuracy_majority", "test accuracy, majority", digits=".4f", hint="over the majority classes"),
    Quantity("test_accuracy_minority", "test accuracy, minority", digits=".4f", hint="over the minority classes"),
    Quantity("train_loss", "train loss", "nats", log=True),
    Quantity("test_loss", "test loss", "nats", log=True),
    Quantity("nc1", "NC1", log=True, hint="spread within classes, tr(S_W S_B⁺)/K"),
    Quantity("nc1_ratio", "NC1, ratio of traces", log=True, hint="tr S_W / tr S_B, dominated by long directions"),
    Quantity("nc2_means", "NC2 means", zero=True, hint="distance of class means to a simplex ETF"),
    Quantity("nc2_weights", "NC2 weights", zero=True, hint="distance of weights to a simplex ETF"),
    Quantity("nc3", "NC3", zero=True, hint="distance of weights to class means"),
    Quantity("nc3_product", "NC3, product form", zero=True, hint="distance of W M^T to a simplex ETF"),
    Quantity("nc4", "NC4", digits=".2g", zero=True, hint="share where the nearest mean disagrees"),
    Quantity("cdnv", "CDNV", log=True, hint="class-distance normalised variance"),
    Quantity("equinorm_means", "norm variation, means", zero=True, hint="std / mean over classes"),
    Quantity("equinorm_weights", "norm variation, weights", zero=True, hint="std / mean over classes"),
    Quantity("solver_steps", "solver steps", digits=".1f", zero=True, hint="mean over examples"),
    Quantity("solver_residual", "solver residual", "relative",
             digits=".1e", log=True, hint="worst example, ‖f(z) − z‖ / ‖f(z)‖"),
    Quantity("unconverged", "unconverged", "fraction",
             digits=".2g", zero=True, hint="share of examples above the tolerance"),
    Quantity("unconverged_worst", "unconverged, worst epoch", "fraction",
             digits=".2g", hint="largest share at any measured epoch"),
    Quantity("adjoint_steps", "adjoint steps",
             digits=".1f", zero=True, hint="of the backward solve, mean over examples"),
    Quantity("adjoint_residual", "adjoint residual", "relative",
             digits=".1e", log=True, hint="worst example of the backward solve"),
    Quantity("adjoint_unconverged", "adjoint unconverged", "fraction",
             digits=".2g", zero=True, hint="in training steps"),
    Quantity("adjoint_escalated", "adjoint escalated", "fraction",
             digits=".2g", zero=True, hint="solved again by GMRES"),
    Quantity("spectral_radius", "spectral radius at z*", hint="estimate for ∂f/∂z; plain iteration needs less than 1"),
    Quantity("spectral_radius_error", "error of the spectral radius", digits=".1e", hint="of the estimate, absolute"),
    Quantity("cosine_majority_means", "cosine of means, majority", hint="pairs of majority classes"),
    Quantity("cosine_cross_means", "cosine of means, cross", hint="a majority and a minority class"),
    Quantity("cosine_minority_means", "cosine of means, minority", hint="pairs of minority classes"),
    Quantity("max_cosine_minority_means", "largest cosine, minority means", hint="the two closest minority classes"),
    Quantity("norm_majority_means", "norm of means, majority", hint="mean over majority classes"),
    Quantity("norm_minority_means", "norm of means, minority", hint="mean over minority classes"),
    Quantity("cosine_majority_weights", "cosine of weights, majority", hint="pairs of majority classes"),
    Quantity("cosine_cross_weights", "cosine of weights, cross", hint="a majority and a minority class"),
    Quantity("cosine_minority_weights", "cosine of weights, minority", hint="pairs of minority classes"),
    Quantity("max_cosine_minority_weights", "largest cosine, minority weights",
             hint="the two closest minority classes"),
    Quantity("norm_majority_weights", "norm of weights, majority", hint="mean over majority classes"),
    Quantity("norm_minority_weights", "norm of weights, minority", hint="mean over minority classes"),
    Quantity("nc1_majority", "NC1, majority", log=True, hint="spread within majority classes"),
    Quantity("nc1_minority", "NC1, minority", log=True, hint="spread within minority classes"),
    Quantity("rank", "rank of the means", digits=".0f", hint="at most min(K − 1, D)"),
    Quantity("condition", "condition of the means", hint="‖M‖ ‖M⁺‖ / rank; 1: equal singular values"),
    Quantity("nc2_floor", "floor of NC2 means", hint="least value that D dimensions allow"),
    Quantity("feature_norm", "feature norm", hint="mean ‖h‖ over training images"),
    Quantity("weight_norm", "classifier norm", hint="‖W‖, Frobenius"),
    Quantity("initial_norm", "norm of H0", hint="mean ‖h₀‖ over training images, before the arm"),
    Quantity("norm_gain", "norm gain of the arm", hint="mean ‖h‖ / mean ‖h₀‖ over training images"),
    Quantity("amplification", "amplification ‖(I − J)⁻¹‖", hint="at z*, mean over the measured training images"),
    Quantity("norm_ratio_means", "norm of means, minority / majority", hint="1: equal norms"),
    Quantity("norm_ratio_weights", "norm of weights, minority / majority", hint="1: equal norms"),
    Quantity("weights_to_etf", "weights to the ETF", hint="distance of normalised Gram matrices, centred"),
    Quantity("weights_to_seli", "weights to SELI", hint="distance of normalised Gram matrices, centred"),
    Quantity("weights_to_optimum", "weights to the layer-peeled optimum", hint="at the run's own norms"),
    Quantity("means_to_etf", "means to the ETF", hint="distance of normalised Gram matrices, centred"),
    Quantity("means_to_seli", "means to SELI", hint="distance of normalised Gram matrices, centred"),
    Quantity("means_to_optimum", "means to the layer-peeled optimum", hint="at the run's own norms"),
    Quantity("cell_forward", "cell evaluations, forward", digits=".1f", hint="per training example and step"),
    Quantity("cell_backward", "cell products, backward", digits=".1f", hint="with the cell's transposed Jacobian"),
    Quantity("solve_distance", "distance to z*", hint="mean ‖z_t − z*‖ / ‖z*‖"),
    Quantity("solve_accuracy", "train accuracy", digits=".4f", hint="trained classifier on the iterate"),
    Quantity("solve_test_accuracy", "test accuracy", digits=".4f", hint="of up to 2,000 test images"),
    Quantity("solve_test_accuracy_minority", "test accuracy, minority", digits=".4f", hint="likewise"),
    Quantity("solve_nc1", "NC1"),
    Quantity("solve_nc2_means", "NC2 means"),
    Quantity("solve_nc3", "NC3"),
    Quantity("step_memory_bytes", "memory of a step", "bytes", digits=",.0f", hint="temporaries of the compiled step"),
    Quantity("parameters", "parameters", digits=",.0f", hint="of the whole model"),
    Quantity("parameters_arm", "parameters of the arm", digits=",.0f", hint="between encoder and classifier"),
    Quantity("step_seconds", "time per step", "s", hint="median training step"),
    Quantity("seconds", "time", "s", hint="whole run"),
)
# fmt: on
KNOWN = {quantity.key: quantity for quantity in _KNOWN}

COSINES = tuple(
    f"{name}_{what}"
    for what in ("means", "weights")
    for name in ("cosine_majority", "cosine_cross", "cosine_minority", "max_cosine_minority")
)
NORMS = tuple(f"norm_{block}_{what}" for what in ("means", "weights") for block in ("majority", "minority"))
TIMES = (
    "step_seconds",
    "step_memory_bytes",
    "seconds",
)  # never the same twice: in cost.* alone


def quantity(key: str) -> Quantity:
    """The quantity of that key; an unknown key is shown under its own name."""
    return KNOWN.get(key, Quantity(key, key.replace("_", " ")))
