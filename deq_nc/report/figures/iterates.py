"""Where along the solve collapse happens: quantities against the solver's iterate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deq_nc.names import figure as figure_text
from deq_nc.report.figures.style import GREY, Picture, arm_style, new_figure, picture
from deq_nc.report.read.run import Run, firsts

PANELS = (
    ("residual", "worst residual (relative)", True),
    ("distance", "distance to the last (relative)", True),
    ("nc1", "NC1", False),
    ("nc2_means", "NC2 means", False),
    ("nc3", "NC3", False),
    ("accuracy", "train accuracy", False),
)


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """Quantities against the solver's iterate, first finished seed of each arm that solves."""
    solved = [run for run in firsts(runs, "along") if run.solve]
    if not solved:
        return []
    figure = new_figure(10, 5)
    for axis, (key, label, log) in zip(figure.subplots(2, 3).flat, PANELS):
        for run in solved:
            rows = [row for row in run.solve if row[key] is not None]
            steps, values = [row["step"] for row in rows], [row[key] for row in rows]
            axis.plot(steps, values, label=figure_text(run.arm), **arm_style(run.arm))
        axis.set_xlabel("solver iterate (0 = H0)")
        axis.set_ylabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if log and all(v > 0 for line in axis.lines for v in line.get_ydata() if v == v):
            axis.set_yscale("log")
        elif log:
            axis.set_yscale("symlog", linthresh=1e-6)
        else:
            top = axis.dataLim.y1
            axis.set_ylim(0, 1.08 * top if np.isfinite(top) and top > 0 else 1)  # a change of 1 % must look like one
        if key == "residual":
            if (tol := solved[0].config.get("solver", {}).get("tol")) is not None:
                axis.axhline(tol, color=GREY, linewidth=1, linestyle=":")
                axis.annotate("tolerance", (0.02, tol), xycoords=("axes fraction", "data"), va="bottom", color=GREY)
            for run in (run for run in solved if run.cut_short):
                end = run.solve[-1]
                axis.annotate(
                    "the record ends,\nthe solve goes on", (end["step"], end["residual"]), (-6, 14), ha="right",
                    textcoords="offset points", color=GREY, arrowprops={"arrowstyle": "->", "color": GREY},
                )  # fmt: skip
    which = ", ".join(run.name for run in solved)
    caption = (
        f"Training images, trained classifier, features of each iterate ({which}). Where the curves are flat the solve "
        "changes nothing: what it adds is the difference between iterate 0, the encoder's output, and the last."
    )
    if cut := [run.name for run in solved if run.cut_short]:
        caption += (
            f" The record of {', '.join(cut)} ends before the solve did, above the tolerance: the last point here is "
            "not the equilibrium, and distances are to that point."
        )
    return [picture("along", "Collapse along the solve", caption, figure)]
