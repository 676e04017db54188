"""What the JSON files of a run hold, written by training, read by sweep and report, and whether a value is one.

A `Number` is null where it is not defined (0/0) or has no meaning for the arm. Only keys marked Required are in the
files of every version; a key that a reader does not know is left alone.
Formulas: docs/collapse.md, docs/equilibrium.md.
"""

from types import UnionType
from typing import Any, NotRequired, Required, TypedDict, get_args, get_origin, get_type_hints

Number = float | None
LARGEST = 2**53  # beyond it an integer is no float64


class Line(TypedDict, total=False):
    """A measurement: a line of history.jsonl. Collapse is that of all training images, in eval mode."""

    epoch: Required[int]
    step: Required[int]  # training steps before it
    seconds: float  # of training and measuring, all calls together
    learning_rate: float  # of the last step

    train_loss: Number  # mean over images; accuracies are shares of images
    train_accuracy: Number
    train_accuracy_in_training: Number  # of the epoch's steps, as the optimiser saw them
    test_loss: Number
    test_accuracy: Number
    test_accuracy_majority: Number
    test_accuracy_minority: Number

    nc1: Number
    nc1_trace: Number
    nc1_ratio: Number
    cdnv: Number
    nc2_means: Number
    nc2_weights: Number
    nc2_floor: Number
    equinorm_means: Number
    equinorm_weights: Number
    equiangle_means: Number
    equiangle_weights: Number
    angle_gap_means: Number
    angle_gap_weights: Number
    max_cosine_means: Number
    max_cosine_weights: Number
    nc3: Number
    nc3_product: Number
    nc4: Number
    accuracy: Number
    accuracy_nearest: Number
    empty: Number  # classes without an image
    single: Number  # classes with one
    zero_means: Number
    zero_weights: Number
    outside: Number
    rank: Number
    condition: Number
    nc1_majority: Number
    nc1_minority: Number
    cosine_majority_means: Number
    cosine_cross_means: Number
    cosine_minority_means: Number
    max_cosine_minority_means: Number
    norm_majority_means: Number
    norm_minority_means: Number
    cosine_majority_weights: Number
    cosine_cross_weights: Number
    cosine_minority_weights: Number
    max_cosine_minority_weights: Number
    norm_majority_weights: Number
    norm_minority_weights: Number
    weight_norm: Number  # ||W||_F
    feature_norm: Number  # mean ||h||
    gradient_norm: Number  # of the last step

    solver_steps: Number  # of the deq arm from here on: mean over training images, forward
    solver_residual: Number
    unconverged: Number  # share of images above the tolerance
    adjoint_steps: Number  # mean over the images of the epoch's steps
    adjoint_residual: Number
    adjoint_unconverged: Number
    adjoint_escalated: Number
    spectral_radius: Number  # the largest of a few images
    spectral_radius_error: Number  # how far it may be from the true one


class Summary(TypedDict, total=False):
    """summary.json, the last file of a run."""

    arm: str
    seed: int
    recipe: str
    dataset: str
    parameters: dict[str, int]  # encoder, arm, classifier, total
    terminal_epoch: int | None  # the first measured one with train error 0
    seconds: float
    step_seconds: Number  # median
    versions: dict[str, str]
    device: str
    class_names: list[str]
    train_counts: list[int]
    majority: list[bool]
    notes: list[str]  # on the data
    initial_norm: Number  # mean ||H0||
    step_memory_bytes: Number  # temporaries of the compiled training step
    checksums: dict[str, str]  # of the other files


class Layer(TypedDict):
    """Collapse of one layer (H0 or features) on one set (train or test)."""

    layer: str
    images: str
    nc1: Number
    nc2_means: Number
    nc3: Number
    nc4: NotRequired[Number]
    accuracy: Number


class Iterate(TypedDict):
    """Collapse of the solver's iterates: after `step` updates, or each image's first within `tol`."""

    step: NotRequired[int]
    tol: NotRequired[float]
    residual: Number  # the largest
    distance: Number  # mean, to the last iterate, relative to it
    nc1: Number
    nc2_means: Number
    nc3: Number
    nc4: NotRequired[Number]
    accuracy: Number
    test_accuracy: NotRequired[Number]
    test_accuracy_minority: NotRequired[Number]


class Along(TypedDict, total=False):
    """along.json; the iterates are the deq arm's."""

    layers: Required[list[Layer]]
    by_step: list[Iterate]
    by_tolerance: list[Iterate]


def misfit(value: Any, record: Any) -> str | None:
    """What is wrong with a record of this file, in a sentence; null stands for a value that is not known."""
    if not isinstance(value, dict):
        return f"expected an object, got {said(value)}"
    for key, kind in get_type_hints(record).items():
        missing = key in record.__required_keys__ and key not in value
        if missing or (value.get(key) is not None and not fits(value[key], kind)):
            name = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
            return f"expected {key} as {name.removesuffix(' | None')}, got {said(value.get(key))}"
    return None


def fits(value: Any, kind: Any) -> bool:
    """`kind`: a type of JSON, one of these or None, list[...] or dict[str, ...]. Infinities and NaN are numbers."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:
        return value is None or fits(value, inner[0])
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(each, inner[1]) for each in value.values())
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float and isinstance(value, float):
        return True
    whole = kind in (int, float)
    return isinstance(value, int) and abs(value) <= LARGEST if whole else isinstance(value, kind)


def said(value: Any) -> str:
    """A value in a sentence."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:59] + '…'}"
