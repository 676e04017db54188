"""What the files of a run hold, checked before anything is made of it: the page believes no type and no shape.

Each function returns a sentence that says what was expected and what came, or None. K classes, D features.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deq_nc.config import Experiment
from deq_nc.runs import Iterate, Layer
from deq_nc.runs.records import fits, misfit, said

MANY_CLASSES = 5000  # the Gram matrix of so many takes 200 MB
PARTS = ("data", "model", "solver", "train")
SHAPES = {  # analysis.npz; n and m are the numbers of images kept
    "class_means": "KD", "weights": "KD", "bias": "K", "test_accuracy_per_class": "K", "train_counts": "K",
    "majority": "K", "features_train": "nD", "labels_train": "n", "features_test": "mD", "labels_test": "m",
}  # fmt: skip
OPTIONAL = {"amplification": "a", "class_squares": "K"}  # of the deq arm; since 0.2


def config(value: dict[str, Any]) -> str | None:
    """Arm and seed are there, every known field has the type of its default, and the imbalance can be named."""
    if missing := [name for name in ("arm", "seed") if name not in value]:
        return f"expected an experiment, got one without {', '.join(missing)}"
    for name, default in dataclasses.asdict(Experiment()).items():
        fields = {f"{name}.{key}": each for key, each in default.items()} if name in PARTS else {name: default}
        if name in PARTS and not isinstance(value.get(name, {}), dict):
            return f"expected {name} as an object, got {said(value[name])}"
        for field, wanted in fields.items():
            part, _, key = field.rpartition(".")
            came = value.get(part, {}).get(key, wanted) if part else value.get(key, wanted)
            kind = (str, int, float) if wanted is None else type(wanted)
            optional = wanted is None and came is None
            kinds = kind if isinstance(kind, tuple) else (kind,)
            if not optional and not any(came is not None and fits(came, each) for each in kinds):
                return f"expected {field} as {' or '.join(k.__name__ for k in kinds)}, got {said(came)}"
    data = value.get("data", {})
    kind = data.get("imbalance", "none")
    if kind not in ("none", "step", "longtail"):
        return f"expected data.imbalance as none, step or longtail, got {said(kind)}"
    needed = {"none": (), "step": ("majority", "ratio"), "longtail": ("ratio",)}[kind]
    if missing := [f"data.{name}" for name in needed if name not in data]:
        return f"expected {', '.join(missing)} beside data.imbalance {kind}, got none"
    return None if math.isfinite(data.get("ratio", 1.0)) else f"expected data.ratio finite, got {data['ratio']}"


def along(value: dict[str, Any]) -> str | None:
    """Rows of `layers` and of the iterates are records; steps are integers, each once."""
    for name, record, least in (("layers", Layer, None), ("by_step", Iterate, []), ("by_tolerance", Iterate, [])):
        rows = value.get(name, least)
        if not isinstance(rows, list):
            return f"expected {name} as a list of objects, got {said(rows)}"
        if problem := next((wrong for row in rows if (wrong := misfit(row, record))), None):
            return f"{name}: {problem}"
    steps = [row.get("step") for row in value.get("by_step", [])]
    good = all(fits(step, int) and step >= 0 for step in steps) and len(set(steps)) == len(steps)
    return None if good else "expected by_step with the number of each step, once"


def arrays(found: Mapping[str, np.ndarray]) -> str | None:
    """The arrays of SHAPES and OPTIONAL: numbers, of shapes that agree. Reads each once; raises what reading raises."""
    if missing := [name for name in SHAPES if name not in found]:
        return f"expected {', '.join(missing)} too"
    sizes: dict[str, int] = {}
    shapes = SHAPES | {name: letters for name, letters in OPTIONAL.items() if name in found}
    for name, letters in shapes.items():
        came = found[name]
        wanted = [sizes.setdefault(letter, size) for letter, size in zip(letters, came.shape)]
        if came.ndim != len(letters) or list(came.shape) != wanted:
            shape = ", ".join(f"{letter} = {sizes[letter]}" if letter in sizes else letter for letter in letters)
            return f"expected {name} of shape [{shape}], got {list(came.shape)}"
        whole = name in ("labels_train", "labels_test")
        if came.dtype.kind not in ("biu" if whole else "biuf"):
            return f"expected {name} as {'integers' if whole else 'numbers'}, got {came.dtype}"
    if not 1 <= sizes["K"] <= MANY_CLASSES:
        return f"expected 1 to {MANY_CLASSES} classes, got {sizes['K']}"
    return None if sizes["D"] else "expected one feature at least, got none"
