"""Every number of one run: its last measured epoch, what its summary adds, and what tells why it came out so.

Letters: W [K, D] weights, M [K, D] class means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deq_nc.report.read.run import Run

ITERATES = ("0", "1", "2", "T")  # of the solver: the encoder's output, two more, the last
ALONG = ("accuracy", "test_accuracy", "test_accuracy_minority", "nc1", "nc2_means", "nc3", "distance")
DISTANCES = tuple(f"{what}_to_{target}" for what in ("weights", "means") for target in ("etf", "seli", "optimum"))


def scalars(run: Run) -> dict[str, Any]:
    """Key -> number or None: the last measured epoch (never the best), plus what the summary adds."""
    summary, row = run.summary, dict(run.last)
    worst = [share for line in run.history if (share := line.get("unconverged")) is not None]
    parameters = summary.get("parameters") or {}
    return row | {
        "epoch": run.epoch,
        "terminal_epoch": run.terminal_epoch,
        "unconverged_worst": max(worst, default=None),
        "parameters": parameters.get("total"),
        "parameters_arm": parameters.get("arm"),
        "initial_norm": summary.get("initial_norm"),
        "step_seconds": summary.get("step_seconds"),
        "step_memory_bytes": summary.get("step_memory_bytes"),
        "seconds": summary.get("seconds", row.get("seconds")),
    }


def controls(run: Run) -> dict[str, Any]:
    """Of a finished run: amplification, gains, the work of a step, the solve by iterate, distances to geometries."""
    found = scalars(run)
    ratios = {"norm_gain": ("feature_norm", "initial_norm")} | {
        f"norm_ratio_{what}": (f"norm_minority_{what}", f"norm_majority_{what}") for what in ("means", "weights")
    }
    numbers: dict[str, Any] = {"amplification": amplification(run)}
    for key, (above, below) in ratios.items():
        numbers[key] = found[above] / found[below] if found.get(above) is not None and found.get(below) else None
    return numbers | _work(run, found) | _solve(run) | _distances(run)


def _work(run: Run, found: dict[str, Any]) -> dict[str, float | None]:
    """Applications of the cell, and products with its transposed Jacobian, per training example and step."""
    model, solver = run.config.get("model", {}), run.config.get("solver", {})
    if run.arm != "deq":
        layers = model.get("unroll" if run.arm == "unrolled" else "depth")
        return {"cell_forward": layers, "cell_backward": layers}
    steps, adjoint = found.get("solver_steps"), found.get("adjoint_steps")
    implicit = solver.get("gradient", "implicit") == "implicit"
    return {
        "cell_forward": steps + 1 if steps is not None else None,  # T updates take T + 1 evaluations
        "cell_backward": adjoint + 1 if implicit and adjoint is not None else None,  # and one for the parameters
    }


def _solve(run: Run) -> dict[str, float | None]:
    """`solve_nc1_0` and so on: each quantity of ALONG at the iterates ITERATES."""
    if not (rows := {row["step"]: row for row in run.solve}):
        return {}
    at = {name: rows.get(max(rows) if name == "T" else int(name)) for name in ITERATES}
    return {f"solve_{key}_{name}": row.get(key) for key in ALONG for name, row in at.items() if row is not None}


def _distances(run: Run) -> dict[str, float | None]:
    try:
        rows = {row.key: row.measured for row in run_bridge(run).rows} if run.analysis else {}
    except ValueError:  # diverged, or fewer dimensions than the geometries need
        rows = {}
    return {key: rows[key] for key in DISTANCES} if rows else {}


def amplification(run: Run) -> float | None:
    """Mean of ||(I - J)^-1||_2 at z* over the measured examples; None where it was not measured or not finite."""
    if "amplification" not in run.analysis:
        return None
    found = float(np.mean(run.analysis["amplification"]))
    return found if np.isfinite(found) else None


def run_bridge(run: Run) -> Any:
    """`deq_nc.theory.Bridge` of a run with an analysis. Raises ValueError where the theory has nothing to say of it."""
    from deq_nc.theory import bridge  # brings jax, which the rest of the report does without

    saved = run.analysis
    squares = saved["class_squares"] if "class_squares" in saved else _class_squares(saved)
    return bridge(
        saved["weights"], saved["class_means"], float(np.nanmean(squares)), saved["train_counts"], arm=run.arm,
        bias=saved["bias"], amplification=amplification(run), train_loss=run.last.get("train_loss"),
    )  # fmt: skip


def _class_squares(saved: Any) -> list[float]:
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
