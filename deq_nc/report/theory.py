"""Measured beside predicted: the geometry of each arm's first finished run and that of the layer-peeled optimum.

Letters: W [K, D] weights, M [K, D] class means, s the scale of the run, a the amplification of its arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deq_nc.report.runs import Run
from deq_nc.report.tables import arm_runs


@dataclass(frozen=True)
class Prediction:
    """One arm: a sentence with the estimates, and rows (name, measured, predicted); or why there is none."""

    arm: str
    sentence: str
    rows: tuple[tuple[str, str, str], ...]


def predictions(runs: Sequence[Run]) -> list[Prediction]:
    """The first finished run of each arm beside the norm-constrained optimum at that run's own norms."""
    firsts = [next((run for run in group if run.analysis is not None), None) for group in arm_runs(runs).values()]
    return [_predict(run) for run in firsts if run is not None]


def run_bridge(run: Run) -> Any:
    """`deq_nc.theory.Bridge` of a finished run. Raises ValueError where the theory has nothing to say of it."""
    from deq_nc.theory import bridge  # brings jax, which the rest of the report does without

    saved = run.analysis
    weights, means, counts = (saved[name] for name in ("weights", "class_means", "train_counts"))
    squares = saved["class_squares"] if "class_squares" in saved else _class_squares(saved)
    norm = float(np.nanmean(squares))
    return bridge(
        weights, means, norm, counts, arm=run.arm, bias=saved["bias"], amplification=amplification(run),
        train_loss=run.history[-1].get("train_loss") if run.history else None,
    )  # fmt: skip


def amplification(run: Run) -> float | None:
    """Mean of ||(I - J)^-1||_2 at z* over the measured examples; None where it was not measured or not finite."""
    if run.analysis is None or "amplification" not in run.analysis:
        return None
    found = float(np.mean(run.analysis["amplification"]))
    return found if np.isfinite(found) else None


def _class_squares(saved: dict[str, np.ndarray]) -> list[float]:
    """Mean ||h||^2 of each class among the kept features, for runs older than the array of that name.

    Raises ValueError where a class that was trained on has none.
    """
    counts = saved["train_counts"]
    labels, square = saved["labels_train"], np.square(np.asarray(saved["features_train"], np.float64)).sum(1)
    if unseen := [k for k in range(len(counts)) if counts[k] > 0 and not (labels == k).any()]:
        raise ValueError(
            f"expected kept features of every class, got none of {len(unseen)} of {len(counts)}: an older version "
            "kept the first images."
        )
    return [square[labels == k].mean() for k in range(len(counts)) if (labels == k).any()]


def _predict(run: Run) -> Prediction:
    try:
        found = run_bridge(run)
    except ValueError as error:
        return Prediction(run.arm, f"No prediction: {error}", ())
    parts = [f"scale s = {found.scale:.3g}"]
    if (gain := amplification(run)) is not None:
        parts.append(f"amplification ‖(I − J)⁻¹‖ = {gain:.3g} at z*")
    if found.threshold is not None:
        parts.append(f"minority collapse predicted from R₀ = {found.threshold:.3g} on, here R = {found.ratio:.3g}")
    rows = tuple(
        (row.name, _text(row.measured), _text(row.predicted))
        for row in found.rows
        if row.measured is not None or row.predicted is not None
    )
    return Prediction(run.arm, f"seed {run.seed}: " + "; ".join(parts) + ".", rows)


def _text(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"
