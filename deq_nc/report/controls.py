"""Per run, the numbers that tell why: amplification, distances to predicted geometries, the solve, and its price."""

from __future__ import annotations

from typing import Any

from deq_nc.report.quantities import scalars
from deq_nc.report.runs import Run
from deq_nc.report.theory import amplification, run_bridge

ITERATES = ("0", "1", "2", "T")  # of the solver: the encoder's output, two more, the last
ALONG = ("accuracy", "test_accuracy", "test_accuracy_minority", "nc1", "nc2_means", "nc3", "distance")
TARGETS = {"etf": "the ETF", "seli": "SELI", "optimum": "this prediction"}


def run_numbers(run: Run, *, distances: bool = True) -> dict[str, Any]:
    """Everything a table of the grid shows of one finished run: key -> number or None.

    `distances`: with those to ETF, SELI and the layer-peeled optimum (2 ms for a step, half a second for other counts).
    """
    found = scalars(run)
    found["amplification"] = amplification(run)
    found["norm_gain"] = _ratio(found.get("feature_norm"), found.get("initial_norm"))
    for what in ("means", "weights"):
        found[f"norm_ratio_{what}"] = _ratio(found.get(f"norm_minority_{what}"), found.get(f"norm_majority_{what}"))
    return found | _work(run, found) | _solve(run) | (_distances(run) if distances else {})


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


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
    rows = {row["step"]: row for row in (run.along or {}).get("by_step", [])}
    if not rows:
        return {}
    at = {name: rows.get(max(rows) if name == "T" else int(name)) for name in ITERATES}
    return {f"solve_{key}_{name}": row.get(key) for key in ALONG for name, row in at.items() if row is not None}


def _distances(run: Run) -> dict[str, float | None]:
    if run.analysis is None:
        return {}
    try:
        measured = {row.name: row.measured for row in run_bridge(run).rows}
    except ValueError:  # diverged, or fewer dimensions than the geometries need
        return {}
    return {
        f"{what}_to_{key}": measured.get(f"{name}: distance to {words}")
        for what, name in (("weights", "W"), ("means", "means"))
        for key, words in TARGETS.items()
    }
