"""Measured beside predicted: the geometry of each arm's first finished run and that of the layer-peeled optimum.

Letters: W [K, D] weights, M [K, D] class means, s the scale of the run, a the amplification of its arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def _predict(run: Run) -> Prediction:
    from deq_nc.theory import bridge  # brings jax, which the rest of the report does without

    saved = run.analysis
    labels, features = saved["labels_train"], np.asarray(saved["features_train"], np.float64)
    present = [k for k in range(len(saved["weights"])) if (labels == k).any()]
    norm = float(np.mean([np.square(features[labels == k]).sum(1).mean() for k in present]))
    amplification = float(np.mean(saved["amplification"])) if "amplification" in saved else None
    if amplification is not None and not np.isfinite(amplification):
        amplification = None
    try:
        found = bridge(
            saved["weights"],
            saved["class_means"],
            norm,
            saved["train_counts"],
            arm=run.arm,
            bias=saved["bias"],
            amplification=amplification,
            train_loss=run.history[-1].get("train_loss") if run.history else None,
        )
    except ValueError as error:
        return Prediction(run.arm, f"No prediction: {error}", ())
    parts = [f"scale s = {found.scale:.3g}"]
    if amplification is not None:
        parts.append(f"amplification ‖(I − J)⁻¹‖ = {amplification:.3g} at z*")
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
