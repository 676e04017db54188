"""The classes of a run as figures show them: names and order, majority first."""

from __future__ import annotations

import numpy as np

from deq_nc.names import figure
from deq_nc.report.runs import Run

LABELLED = 20  # more classes than this: no names in a figure


def class_order(run: Run) -> tuple[np.ndarray, int]:
    """Class indices with the majority first, and how many they are (0 when the classes are not divided)."""
    k = len(run.analysis["class_means"])
    majority = np.asarray(run.analysis.get("majority", np.zeros(k)), dtype=bool)
    if majority.all() or not majority.any():
        return np.arange(k), 0
    return np.argsort(~majority, kind="stable"), int(majority.sum())


def class_names(run: Run) -> list[str]:
    """As matplotlib can draw them; their indices where the run does not say."""
    k = len(run.analysis["class_means"])
    names = (run.summary or {}).get("class_names") or []
    return [figure(name) for name in names] if len(names) == k else [str(index) for index in range(k)]
