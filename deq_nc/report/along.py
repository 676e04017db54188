"""Where collapse happens: by layer for every arm, and along the solve for the deq arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deq_nc.report.runs import Run
from deq_nc.report.style import GREY, Picture, arm_style, new_figure, picture
from deq_nc.report.tables import arm_runs

PANELS = (
    ("residual", "worst residual (relative)", True),
    ("distance", "distance to the last (relative)", True),
    ("nc1", "NC1", False),
    ("nc2_means", "NC2 means", False),
    ("nc3", "NC3", False),
    ("accuracy", "train accuracy", False),
)


def _firsts(runs: Sequence[Run]) -> list[Run]:
    groups = arm_runs(run for run in runs if run.along is not None)
    return [group[0] for group in groups.values()]


def along_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Quantities against the solver's iterate, first finished seed of each arm that solves."""
    solved = [run for run in _firsts(runs) if "by_step" in run.along]
    if not solved:
        return []
    figure = new_figure(10, 5)
    for axis, (key, label, log) in zip(figure.subplots(2, 3).flat, PANELS):
        for run in solved:
            rows = [row for row in run.along["by_step"] if row[key] is not None]
            steps, values = [row["step"] for row in rows], [row[key] for row in rows]
            axis.plot(steps, values, label=run.arm, **arm_style(run.arm))
        axis.set_xlabel("solver iterate (0 = H0)")
        axis.set_ylabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if log and all(v > 0 for line in axis.lines for v in line.get_ydata()):
            axis.set_yscale("log")
        elif log:
            axis.set_yscale("symlog", linthresh=1e-6)
        else:
            axis.set_ylim(0, 1.08 * axis.dataLim.y1)  # a change of 1 % must look like one
        if key == "residual":
            tol = solved[0].config["solver"]["tol"]
            axis.axhline(tol, color=GREY, linewidth=1, linestyle=":")
            axis.annotate("tolerance", (0.02, tol), xycoords=("axes fraction", "data"), va="bottom", color=GREY)
    which = ", ".join(f"{run.arm} seed {run.seed}" for run in solved)
    caption = (
        f"Training images, trained classifier, features of each iterate ({which}). Where the curves are flat the solve "
        "changes nothing: what it adds is the difference between iterate 0, the encoder's output, and the last."
    )
    return [picture("along", "Collapse along the solve", caption, figure)]


def layer_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Rows arm, layer, images, NC1, NC2 means, NC3, accuracy of the first finished seed of each arm."""
    return [
        [run.arm, row["layer"], row["images"], *(_text(row[key]) for key in ("nc1", "nc2_means", "nc3", "accuracy"))]
        for run in _firsts(runs)
        for row in run.along["layers"]
    ]


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}"
