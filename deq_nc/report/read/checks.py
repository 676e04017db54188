"""What the files of a run hold, checked before anything is made of it: the page believes no type and no shape.

Each function returns a sentence that says what was expected and what came, or None. K classes, D features.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from deq_nc.config import Experiment
from deq_nc.names import printable
from deq_nc.runs import Iterate, Layer, Summary

LARGEST = 2**53  # beyond it an integer is no float64
MANY_CLASSES = 5000  # the Gram matrix of so many takes 200 MB
PARTS = ("data", "model", "solver", "train")
SHAPES = {  # analysis.npz; n and m are the numbers of images kept
    "class_means": "KD", "weights": "KD", "bias": "K", "test_accuracy_per_class": "K", "train_counts": "K",
    "majority": "K", "features_train": "nD", "labels_train": "n", "features_test": "mD", "labels_test": "m",
}  # fmt: skip
OPTIONAL = {"amplification": "a", "class_squares": "K"}  # of the deq arm; since 0.2


def is_number(value: Any) -> bool:
    """A number that float64 holds; infinities and NaN are results."""
    return isinstance(value, float) or (_is(value, int) and abs(value) <= LARGEST)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _fits(value: Any, kind: Any) -> bool:
    """`kind`: a type of JSON, one of these or None, list[...] or dict[str, ...]."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:
        return value is None or _fits(value, inner[0])
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if kind is float:
        return is_number(value)
    return _is(value, kind) and (kind is not int or abs(value) <= LARGEST)


def _misfit(value: Any, record: Any) -> str | None:
    """What is wrong with a record of deq_nc.runs; null stands for a value that is not known."""
    if not isinstance(value, dict):
        return f"expected an object, got {_said(value)}"
    for key, kind in get_type_hints(record).items():
        missing = key in record.__required_keys__ and key not in value
        if missing or (value.get(key) is not None and not _fits(value[key], kind)):
            name = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
            return f"expected {key} as {name.removesuffix(' | None')}, got {_said(value.get(key))}"
    return None


def _said(value: Any) -> str:
    text = printable(repr(value))
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:59] + '…'}"


def config(value: dict[str, Any]) -> str | None:
    """Arm and seed are there, every known field has the type of its default, and the imbalance can be named."""
    if missing := [name for name in ("arm", "seed") if name not in value]:
        return f"expected an experiment, got one without {', '.join(missing)}"
    for name, default in dataclasses.asdict(Experiment()).items():
        fields = {f"{name}.{key}": each for key, each in default.items()} if name in PARTS else {name: default}
        if name in PARTS and not isinstance(value.get(name, {}), dict):
            return f"expected {name} as an object, got {_said(value[name])}"
        for field, wanted in fields.items():
            part, _, key = field.rpartition(".")
            came = value.get(part, {}).get(key, wanted) if part else value.get(key, wanted)
            kind = (str, int, float) if wanted is None else type(wanted)
            optional = wanted is None and came is None
            kinds = kind if isinstance(kind, tuple) else (kind,)
            if not optional and not any(came is not None and _fits(came, each) for each in kinds):
                return f"expected {field} as {' or '.join(k.__name__ for k in kinds)}, got {_said(came)}"
    data = value.get("data", {})
    kind = data.get("imbalance", "none")
    if kind not in ("none", "step", "longtail"):
        return f"expected data.imbalance as none, step or longtail, got {_said(kind)}"
    needed = {"none": (), "step": ("majority", "ratio"), "longtail": ("ratio",)}[kind]
    if missing := [f"data.{name}" for name in needed if name not in data]:
        return f"expected {', '.join(missing)} beside data.imbalance {kind}, got none"
    return None if math.isfinite(data.get("ratio", 1.0)) else f"expected data.ratio finite, got {data['ratio']}"


def row(value: Any) -> str | None:
    """A line of the history: an object of numbers, or null, with an epoch."""
    if not isinstance(value, dict):
        return f"expected a JSON object with an epoch, got {_said(value)}"
    if not (_is(value.get("epoch"), int) and 0 <= value["epoch"] <= LARGEST):
        return f"expected an epoch that is an integer >= 0, got {_said(value.get('epoch'))}"
    for key, each in value.items():
        if not (each is None or isinstance(each, bool) or is_number(each)):
            return f"expected numbers, got {_said(each)} for {key}"
    return None


def summary(value: dict[str, Any]) -> str | None:
    if problem := _misfit(value, Summary):
        return problem
    sizes = {key: len(value[key]) for key in ("class_names", "train_counts", "majority") if value.get(key)}
    if len(set(sizes.values())) > 1:
        return f"expected one entry a class, got {', '.join(f'{size} in {key}' for key, size in sizes.items())}"
    return None


def along(value: dict[str, Any]) -> str | None:
    """Rows of `layers` and of the iterates are records; steps are integers, each once."""
    for name, record, least in (("layers", Layer, None), ("by_step", Iterate, []), ("by_tolerance", Iterate, [])):
        rows = value.get(name, least)
        if not isinstance(rows, list):
            return f"expected {name} as a list of objects, got {_said(rows)}"
        if problem := next((said for row in rows if (said := _misfit(row, record))), None):
            return f"{name}: {problem}"
    steps = [row.get("step") for row in value.get("by_step", [])]
    good = all(_is(step, int) and 0 <= step <= LARGEST for step in steps) and len(set(steps)) == len(steps)
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
