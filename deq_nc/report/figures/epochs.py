"""Figures over epochs: one panel per quantity, one line per arm, the terminal phase marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from deq_nc.report.figures.style import DASHES, GREY, Picture, arm_legend, arm_style, new_figure, picture
from deq_nc.report.read.run import Run, by_arm
from deq_nc.report.tables.intervals import BAND_SEEDS, Curve, curve
from deq_nc.report.tables.quantities import COSINES, NORMS, quantity

SEEDS_NOTE = (
    "Line: mean over seeds (of the logarithm on a log axis); thin lines: single seeds; band: 95 % t-interval, from "
    f"{BAND_SEEDS} seeds on."
)
MARKED = (
    "A triangle on the axis and a thin vertical line mark where an arm enters its terminal phase: the first measured "
    "epoch with train error 0 (median over seeds)."
)


def terminal_epoch(runs: Sequence[Run]) -> float | None:
    """Median over the seeds that reached train error 0; None when none did."""
    reached = [run.terminal_epoch for run in runs if run.terminal_epoch is not None]
    return float(np.median(reached)) if reached else None


def _draw_curve(axes: Axes, arm: str, found: Curve) -> None:
    style = arm_style(arm)
    if len(found.seeds) > 1:
        for epochs, values in found.seeds:
            axes.plot(epochs, values, color=style["color"], linewidth=0.6, alpha=0.45)
        axes.fill_between(found.epochs, found.low, found.high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(found.epochs, found.mean, **style, markevery=max(1, len(found.epochs) // 10))


def _mark_terminal(axes: Axes, marks: dict[str, float | None]) -> None:
    """Vertical line and triangle per arm; triangles at one epoch are stacked so that none hides another."""
    level: dict[float, int] = {}
    for arm, epoch in marks.items():
        if epoch is None:
            continue
        color, height = arm_style(arm)["color"], 0.07 * level.setdefault(epoch, 0)
        level[epoch] += 1
        axes.axvline(epoch, color=color, linewidth=0.8, alpha=0.6, zorder=1)
        where: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        axes.plot(
            [epoch], [height], "^", color=color, markersize=8, markeredgecolor="white", markeredgewidth=0.6, **where
        )


def _epoch_axis(axes: Axes, first: int, last: int) -> None:
    """Logarithmic over a decade or more: most of what happens, happens early, and is measured more densely there."""
    if first < 1 or last < 10 * first:
        axes.set_xlim(0, 1.02 * max(last, 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return
    axes.set_xscale("log")
    axes.set_xlim(0.9 * first, 1.1 * last)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last < 1000 * first else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _set_limits(axes: Axes, curves: Sequence[Curve], also: Sequence[float], log: bool, zero: bool) -> None:
    """The y range of seeds, reference lines and 0 if asked, with a margin; a wide band is cut."""
    values = np.concatenate([line for found in curves for _, line in found.seeds] + [np.asarray(also, float)])
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if values.size == 0:
        return
    low, high = np.min(values), np.max(values)
    if zero and not log:
        low, high = min(low, 0.0), max(high, 0.01)
    if log:
        low, high = np.log10(low), np.log10(high)
    least = (1.0 - (high - low)) / 2 if log else 0.01 * abs(high) + 1e-12  # a decade at least
    margin = max(0.06 * (high - low), least)
    low, high = low - margin, high + margin
    axes.set_ylim(*((10.0**low, 10.0**high) if log else (low, high)))


def panels(
    runs: Sequence[Run],
    keys: Sequence[str],
    *,
    columns: int = 3,
    levels: Mapping[str, float | None] = MappingProxyType({}),
    level_label: str = "",
) -> Figure | None:
    """A figure with one panel per key that some run measured, None when there is none; `levels`: dashed lines."""
    arms = by_arm(runs)
    found: dict[str, dict[str, Curve]] = {}
    for key in keys:
        each = {arm: curve([run.history for run in of], key, log=quantity(key).log) for arm, of in arms.items()}
        if curves := {arm: line for arm, line in each.items() if line is not None}:
            found[key] = curves
    if not found:
        return None
    columns = min(columns, len(found))
    rows = -(-len(found) // columns)
    figure = new_figure(11.2, 2.7 * rows + 0.45)
    grid = figure.subplots(rows, columns, squeeze=False)
    marks = {arm: terminal_epoch(group) for arm, group in arms.items()}
    first, last = min(run.history[0]["epoch"] for run in runs if run.history), max(run.epoch for run in runs)
    for axes, (key, curves) in zip(grid.flat, found.items()):
        shown, level = quantity(key), levels.get(key)
        if shown.log:
            axes.set_yscale("log")
        if level is not None:
            axes.axhline(level, **DASHES, zorder=1)
        for arm, line in curves.items():
            _draw_curve(axes, arm, line)
        _mark_terminal(axes, {arm: marks[arm] for arm in curves})
        _set_limits(axes, list(curves.values()), [] if level is None else [level], shown.log, shown.zero)
        _epoch_axis(axes, first, last)
        axes.set(ylabel=shown.label, xlabel="epoch", title=shown.hint)
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    extra = []
    if any(mark is not None for mark in marks.values()):
        extra.append(Line2D([], [], color=GREY, marker="^", markersize=7, linewidth=0.8, label="train error 0"))
    if any(levels.get(key) is not None for key in found):
        extra.append(Line2D([], [], **DASHES, label=level_label))
    arm_legend(figure, [arm for arm in arms if any(arm in curves for curves in found.values())], extra)
    return figure


def pictures(runs: Sequence[Run], num_classes: int | None, only: Sequence[str] = ()) -> list[Picture]:
    """Accuracy and loss, collapse, blocks (when measured), solver, norms; figures without data are left out.

    `only` names the figures to draw, none: all.
    """
    seeds = f" {SEEDS_NOTE}" if any(len(group) > 1 for group in by_arm(runs).values()) else ""
    reached = any(run.terminal_epoch is not None for run in runs)
    marked = MARKED if reached else "No arm has reached train error 0 at a measured epoch."
    etf = None if num_classes is None or num_classes < 2 else -1.0 / (num_classes - 1)
    solver = runs[0].config.get("solver", {})
    tolerances = {"solver_residual": solver.get("tol"), "adjoint_residual": solver.get("adjoint_tol")}
    accuracy, columns = "train_accuracy test_accuracy train_loss test_loss", 2
    if any(row.get("test_accuracy_minority") is not None for run in runs for row in run.history):
        # Majority and minority side by side, losses at the end of the rows.
        accuracy = "train_accuracy test_accuracy train_loss test_accuracy_majority test_accuracy_minority test_loss"
        columns = 3
    drawn: tuple[tuple[str, str, str, Sequence[str], dict[str, Any]], ...] = (
        (
            "accuracy", "Accuracy and loss",
            f"Accuracy is a share of images, loss a mean in nats on a log axis. {marked}{seeds}",
            accuracy.split(), {"columns": columns},
        ),
        (
            "collapse", "Neural collapse on the training set",
            "Every panel falls to 0 under full collapse of balanced classes; NC1 and CDNV are on log axes. "
            f"{marked}{seeds}",
            "nc1 nc2_means nc2_weights nc3 nc4 cdnv".split(), {},
        ),
        (
            "blocks", "Angles between classes, by block",
            "Mean cosine between classes inside a block or across two; the dashed line is the simplex ETF, -1/(K-1). "
            f"Minority collapse shows as a minority cosine that climbs to 1.{seeds}",
            COSINES,
            {"columns": 4, "levels": dict.fromkeys(COSINES, etf), "level_label": "simplex ETF, −1/(K−1)"},
        ),
        (
            "solver", "How well each equilibrium was solved",
            "Steps and residuals of the forward and the backward solve; collapse numbers stand only where the residual "
            f"is at the tolerance (dashed) or below and no example is left unconverged.{seeds}",
            "solver_steps solver_residual unconverged adjoint_steps adjoint_residual spectral_radius".split(),
            {"levels": tolerances, "level_label": "tolerance"},
        ),
        (
            "norms", "Norms",
            "Size of features and classifier, and how far the class norms are from equal (0 is equal): whether an arm "
            f"gains by amplifying rather than by turning its features.{seeds}",
            ("feature_norm", "weight_norm", "equinorm_means", "equinorm_weights", *NORMS), {"columns": 4},
        ),
    )  # fmt: skip
    out = []
    for name, title, caption, keys, options in drawn:
        if (not only or name in only) and (figure := panels(runs, keys, **options)) is not None:
            out.append(picture(name, title, caption, figure))
    return out
