"""The experiment as frozen dataclasses, validated at birth; the only home of defaults.

Letters: K classes, KA majority classes, R = n_A / n_B the imbalance ratio, D the feature dimension.
Every field is an option of the command line under the same name, dots between levels and dashes for underscores
(`--train.batch-size 128`). Nothing here imports jax, so that a mistake is reported before anything slow starts.
Types are checked by the annotations, ranges by each class.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import re
import types
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

Arm = Literal["deq", "explicit", "unrolled", "residual"]
Solver = Literal["anderson", "fixed_point", "broyden"]
Gradient = Literal["implicit", "jfb", "phantom", "unrolled"]
Adjoint = Literal["anderson", "neumann", "gmres", "bicgstab", "normal_cg"]
Imbalance = Literal["none", "step", "longtail"]
Encoder = Literal["conv", "resnet18", "identity"]
CellName = Literal["conv", "dense", "linear", "monotone", "monotone_conv", "multiscale"]
Norm = Literal["batch", "group"]
CellNorm = Literal["none", "batch"]
Dtype = Literal["float32", "bfloat16"]
Schedule = Literal["collapse", "paper", "cosine"]
Decay = Literal["coupled", "decoupled"]
Loss = Literal["cross_entropy", "mse", "logit_adjusted"]  # the keys of losses.LOSSES
Statistics = Literal["fresh", "running"]
Augment = Literal["none", "crop", "crop_flip"]

ARMS: tuple[Arm, ...] = get_args(Arm)
INTEGERS = 2**31  # jax counts and seeds in 32 bits
FLOATS = 3.4e38  # and computes in float32


class UserError(Exception):
    """Base of what a user can mend: a command shows the message alone and leaves with `exit_code`."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A value that no experiment can run with; the message says what was expected, what came and what to do."""


def _require(ok: bool, name: str, expected: str, came: Any, do: str) -> None:
    if not ok:
        raise ConfigError(f"{name}: expected {expected}, got {came!r}. {do}")


def _check_types(config: Any, prefix: str) -> None:
    """Every field of `config` by its annotation: integers are integers, numbers finite, names known."""
    for name, kind in get_type_hints(type(config)).items():
        came, name = getattr(config, name), prefix + name
        if get_origin(kind) is types.UnionType:  # KIND | None
            if came is None:
                continue
            kind = get_args(kind)[0]
        if get_origin(kind) is Literal:
            known = get_args(kind)
            _require(came in known, name, "one of " + ", ".join(known), came, "Choose one of these.")
        elif kind is int:
            ok = isinstance(came, Integral) and not isinstance(came, bool)
            _require(ok and -INTEGERS < came < INTEGERS, name, "an integer below 2^31", came, "jax counts in 32 bits.")
        elif kind is float:
            ok = isinstance(came, Real) and not isinstance(came, bool) and abs(float(came)) <= FLOATS
            _require(ok, name, "a finite number", came, "float32 ends at 3.4e38.")
        else:
            _require(isinstance(came, kind), name, f"a {kind.__name__}", came, "See `deq-nc train --help`.")


@dataclass(frozen=True)
class EquilibriumConfig:
    """How z = f(z, x, theta) is solved and differentiated; every count and tolerance is per example.

    Raises ConfigError for a name or a number outside its range.
    """

    solver: Solver = "anderson"
    tol: float = 1e-4  # relative residual ||f(z) - z|| / ||f(z)||
    max_steps: int = 50
    history: int = 5  # past iterates mixed by anderson, rank of broyden
    ridge: float = 1e-6  # of the mixing problem, relative to its scale
    damping: float = 1.0  # step length beta; 1 is undamped
    gradient: Gradient = "implicit"
    adjoint: Adjoint = "anderson"
    adjoint_tol: float = 1e-3  # relative residual ||u - g - J^T u|| / ||g||
    adjoint_max_steps: int = 50
    escalate: bool = True  # rows whose adjoint misses its tolerance go to restarted GMRES
    phantom_steps: int = 5
    phantom_damping: float = 1.0

    def __post_init__(self) -> None:
        _check_types(self, "solver.")
        for name in ("tol", "adjoint_tol"):
            came = getattr(self, name)
            _require(came >= 0, f"solver.{name}", "a number >= 0", came, "Try 1e-4; 0 runs every step.")
        for name in ("max_steps", "adjoint_max_steps", "phantom_steps"):
            _require(getattr(self, name) >= 0, f"solver.{name}", "an integer >= 0", getattr(self, name), "Try 50.")
        _require(self.history >= 1, "solver.history", "an integer >= 1", self.history, "Try 5.")
        _require(self.ridge >= 0, "solver.ridge", "a number >= 0", self.ridge, "Try 1e-6.")
        for name in ("damping", "phantom_damping"):
            came = getattr(self, name)
            _require(0 < came <= 1, f"solver.{name}", "a number in (0, 1]", came, "1 takes the full step.")


@dataclass(frozen=True)
class DataConfig:
    """Which images, how many of each class, and in which order the classes count as majority.

    `step`: the first `majority` classes keep n_A images each, the others n_A // ratio.
    `longtail`: class k of the order keeps int(n_max * ratio ** (-k / (K - 1))).
    """

    name: str = "digits"  # digits, synthetic, folder, or any TFDS image classification set
    dir: str | None = None  # TFDS data_dir, or the folder of class folders
    imbalance: Imbalance = "none"
    majority: int = 3
    ratio: float = 10.0
    per_class: int | None = None  # n_A; None takes what the smallest class offers (or, balanced, every image)
    allow_single: bool = False  # let a class that would be empty keep one image instead of refusing
    subset_seed: int = 0
    order_seed: int | None = None  # None keeps the data set's class order
    augment: Augment = "none"
    image_size: int | None = None  # side in pixels; images of another size are cut square and resized
    synthetic_classes: int = 4
    synthetic_noise: float = 0.2  # relative to the distance of the means along a channel

    def __post_init__(self) -> None:
        _check_types(self, "data.")
        _require(self.majority >= 1, "data.majority", "an integer >= 1", self.majority, "It counts majority classes.")
        _require(self.ratio >= 1, "data.ratio", "a number >= 1 (R = n_A / n_B)", self.ratio, "Pass R, not 1/R.")
        if self.per_class is not None:
            _require(self.per_class >= 1, "data.per_class", "an integer >= 1", self.per_class, "It is n_A.")
        for name in ("subset_seed", "order_seed"):
            came = getattr(self, name)
            _require(came is None or came >= 0, f"data.{name}", "an integer >= 0", came, "Seeds count from 0.")
        if self.image_size is not None:
            _require(self.image_size >= 1, "data.image_size", "an integer >= 1", self.image_size, "Try 32.")


@dataclass(frozen=True)
class ModelConfig:
    """Encoder -> H0 -> arm -> pooled features [B, D] -> linear classifier with bias.

    `gain` bounds the Lipschitz constant of z -> f(z, x); below 1 the equilibrium exists and is unique. The monotone
    cells are (1 - gain)-strongly monotone instead. Raises ConfigError for a combination that no cell offers.
    """

    encoder: Encoder = "conv"
    norm: Norm = "batch"
    width: int = 32  # channels of the first encoder stage
    cell: CellName = "dense"
    features: int = 64  # D, channels of H0 and z
    inner: int = 64  # width inside the cell
    depth: int = 1  # layers of the explicit and residual arms (the inner width is divided by it)
    unroll: int = 10  # applications of the cell in the unrolled arm
    gain: float = 0.8
    cell_norm: CellNorm = "none"  # of the hidden units inside the cell
    dropout: float = 0.0  # rate, of the hidden units inside the cell; one mask per step, fixed over the solve
    dtype: Dtype = "float32"  # of the cell's arithmetic; parameters and solver stay float32

    def __post_init__(self) -> None:
        _check_types(self, "model.")
        for name in ("width", "features", "inner", "depth", "unroll"):
            _require(getattr(self, name) >= 1, f"model.{name}", "an integer >= 1", getattr(self, name), "Raise it.")
        _require(0 < self.gain < 1, "model.gain", "a number in (0, 1)", self.gain, "1 or more loses the contraction.")
        _require(0 <= self.dropout < 1, "model.dropout", "a number in [0, 1)", self.dropout, "0 turns it off.")
        _require(self.depth <= self.inner, "model.depth", f"at most inner = {self.inner}", self.depth, "Raise inner.")
        spatial = self.cell in ("conv", "monotone_conv", "multiscale")
        grouped = {"features": spatial or self.norm == "group", "width": self.norm == "group"}
        for name in (name for name, needed in grouped.items() if needed and self.encoder != "identity"):
            came = getattr(self, name)
            _require(came % 8 == 0, f"model.{name}", "a multiple of 8, for GroupNorm", came, "Round it up.")
        if self.cell not in ("dense", "conv", "multiscale"):
            has_none = f"The cell {self.cell} has no hidden units; take dense, conv or multiscale."
            _require(self.cell_norm == "none", "model.cell_norm", "none", self.cell_norm, has_none)
            _require(self.dropout == 0, "model.dropout", "0", self.dropout, has_none)
        if self.cell == "monotone_conv":
            _require(self.dtype == "float32", "model.dtype", "float32", self.dtype, "Its FFTs have no narrower type.")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation: SGD with momentum, its schedule, and how often the collapse is measured."""

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay: Decay = "coupled"
    schedule: Schedule = "collapse"
    warmup_epochs: float = 0.0
    loss: Loss = "cross_entropy"
    jacobian_penalty: float = 0.0  # times ||df/dz||_F^2 / n at z*, added to the loss of the deq arm (Hutchinson)
    measurements: int = 25  # measured epochs, denser early
    statistics: Statistics = "fresh"  # of the encoder's BatchNorm in measurements: of the weights at hand, or running
    eval_batch_size: int = 512
    checkpoint_seconds: float = 60.0  # least time between two checkpoints; measured epochs are the moments for them
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        _check_types(self, "train.")
        for name in ("epochs", "batch_size", "measurements", "eval_batch_size", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, f"train.{name}", "an integer >= 1", getattr(self, name), "Raise it.")
        _require(self.learning_rate > 0, "train.learning_rate", "a number > 0", self.learning_rate, "Try 0.1.")
        _require(0 <= self.momentum < 1, "train.momentum", "a number in [0, 1)", self.momentum, "Try 0.9.")
        for name in ("weight_decay", "warmup_epochs", "checkpoint_seconds", "jacobian_penalty"):
            _require(getattr(self, name) >= 0, f"train.{name}", "a number >= 0", getattr(self, name), "0 turns it off.")


@dataclass(frozen=True)
class Experiment:
    """One run: an arm, a seed, and everything that decides its numbers."""

    recipe: str = "digits"
    arm: Arm = "deq"
    seed: int = 0
    workdir: str | None = None  # the run folder; None is runs/RECIPE-SETTING/ARM-seedN
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    solver: EquilibriumConfig = field(default_factory=EquilibriumConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _check_types(self, "")
        label = re.fullmatch(r"[A-Za-z0-9._-]{1,100}", self.recipe)
        what = "at most 100 letters, digits, dots, dashes and underscores"
        _require(label is not None, "recipe", what, self.recipe, "It names the folder of the runs.")
        instead = f"A recipe of your own comes first on the command line: deq-nc train {self.recipe}."
        _require(not self.recipe.endswith(".py"), "recipe", "a name for the runs, not a file", self.recipe, instead)
        _require(self.seed >= 0, "seed", "an integer >= 0", self.seed, "Seeds count from 0.")
        # The layer alone accepts tol = 0 (every step runs) and history = 1 (Picard); a run that meant either is a typo.
        _require(self.solver.tol > 0, "solver.tol", "a number > 0 in a run", self.solver.tol, "Try 1e-4.")
        if self.train.jacobian_penalty > 0:
            _require(self.arm == "deq", "train.jacobian_penalty", "0 for arms that solve nothing", self.arm, "Drop it.")
        came = self.solver.adjoint_tol
        _require(came > 0, "solver.adjoint_tol", "a number > 0 in a run", came, "Try 1e-3.")
        _require(self.solver.history >= 2, "solver.history", "an integer >= 2 in a run", self.solver.history, "Try 5.")

    def to_json(self) -> str:
        number = operator.methodcaller("item")  # of NumPy
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, default=number) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        """The inverse of `to_json`. Raises ConfigError where a field is unknown to this version."""
        fields = json.loads(text)
        parts = {"data": DataConfig, "model": ModelConfig, "solver": EquilibriumConfig, "train": TrainConfig}
        try:
            fields["train"] = {"statistics": "running"} | fields.get(
                "train", {}
            )  # runs from before the field measured so
            return cls(**{name: parts[name](**value) if name in parts else value for name, value in fields.items()})
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"config.json: {error}. It was written by another version of deq_nc.") from None


def differing_fields(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted names of the fields in which two configurations (as nested dicts) differ, with both values."""
    out: dict[str, tuple[Any, Any]] = {}
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            out |= differing_fields(left, right, f"{prefix}{key}.")
        elif left != right:
            out[prefix + key] = (left, right)
    return out
