"""Figures of the grid against the imbalance ratio R: accuracy, angles and norms, and the differences of arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deq_nc.report.figures.style import DASHES, GREY, Picture, arm_legend, arm_style, new_figure, picture
from deq_nc.report.read import Study
from deq_nc.report.tables.contents import ACCURACY, WHY, difference, pairs
from deq_nc.report.tables.intervals import BAND_SEEDS, Interval
from deq_nc.report.tables.table import PERCENT, mean, paired
from deq_nc.runs import Setting

BARS = f"Mean over seeds; bars: 95 % t-interval, from {BAND_SEEDS} seeds on"
WIDTH = 7.0  # inches at least: the legend of four arms and a reference
SHIFT = 0.09  # between arms, of the step from one R to the next


def by_panel(study: Study) -> dict[str, list[Setting]]:
    """The imbalanced settings by the panel they share; a panel without a finished run is left out."""
    out: dict[str, list[Setting]] = {}
    for setting in study.settings:
        if setting.kind != "none":
            out.setdefault(setting.panel, []).append(setting)
    return {
        name: settings
        for name, settings in out.items()
        if any(study.counted(setting, arm) for setting in settings for arm in study.arms)
    }


def _has(study: Study, key: str) -> bool:
    return any(study.values(setting, arm, key) for setting in study.runs for arm in study.arms)


def half_of(value: Interval) -> float:
    """The half width that a figure draws: 0 for fewer than BAND_SEEDS seeds."""
    return value.half if value.half is not None and value.n >= BAND_SEEDS and np.isfinite(value.half) else 0.0


def _against_ratio(axes: Axes, study: Study, settings: Sequence[Setting], key: str) -> None:
    """One line per arm over the ratios of `settings`, at equal steps and beside one another."""
    scale = 100 if key in PERCENT else 1
    for place, arm in enumerate(study.arms):
        means = [(i, mean(study, setting, arm, key).value) for i, setting in enumerate(settings)]
        points = [(i, value) for i, value in means if value is not None and np.isfinite(value.mean)]
        if not points:
            continue
        x = [i + SHIFT * (place - (len(study.arms) - 1) / 2) for i, _ in points]
        y, half = [scale * value.mean for _, value in points], [scale * half_of(value) for _, value in points]
        axes.errorbar(x, y, half, capsize=2.5, elinewidth=1.2, **arm_style(arm))
    axes.set_xticks(range(len(settings)), [f"{setting.ratio:g}" for setting in settings])
    axes.set_xlim(-0.4, len(settings) - 0.6)
    axes.grid(False, axis="x")


def ratio_figure(
    study: Study, rows: Sequence[tuple[str, str, float | None]], height: float, reference: str = ""
) -> Figure | None:
    """Rows (key, label of the axis, level of a dashed line) by panels of one KA; None where nothing was measured."""
    columns, rows = by_panel(study), [row for row in rows if _has(study, row[0])]
    if not columns or not rows:
        return None
    figure = new_figure(max(WIDTH, 3.6 * len(columns)), height * len(rows) + 0.45)
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row")
    for (key, label, level), line in zip(rows, panels):
        for axes, (name, settings) in zip(line, columns.items()):
            if level is not None:
                axes.axhline(level, **DASHES, zorder=1)
            _against_ratio(axes, study, settings, key)
            axes.set_title(name, color="black")
        line[0].set_ylabel(label)
    for axes in panels[-1]:
        axes.set_xlabel("imbalance ratio R")
    arm_legend(figure, study.arms, [Line2D([], [], **DASHES, label=reference)] if reference else [])
    return figure


def pictures(study: Study, num_classes: int | None) -> list[Picture]:
    """Differences of arms; against R, accuracies, angles and norms; what was not measured is left out."""
    etf = -1 / (num_classes - 1) if num_classes and num_classes > 1 else None
    drawn: tuple[tuple[str, str, str, tuple[tuple[str, str, float | None], ...], float, str], ...] = (
        (
            "minority", "Minority accuracy against R",
            f"{BARS}. KA: number of majority classes; R: their images per image of a minority class. Arms are set "
            "beside one another, so that none hides another.",
            (("test_accuracy_minority", "minority test accuracy (%)", None),), 3.4, "",
        ),
        (
            "overall", "Overall and majority accuracy against R", f"{BARS}.",
            (
                ("test_accuracy", "test accuracy (%)", None),
                ("test_accuracy_majority", "majority\ntest accuracy (%)", None),
            ), 2.2, "",
        ),
        (
            "angles", "Minority angles and norms against R",
            f"{BARS}. Cosines: mean over pairs of minority classes, −1/(K−1) in a simplex ETF; 1 is minority collapse. "
            "Norms: mean over minority classes by mean over majority classes, 1 in a simplex ETF. Class means are "
            "centred.",
            (
                ("cosine_minority_weights", "cosine, minority\nclassifiers", etf),
                ("cosine_minority_means", "cosine, minority\nclass means", etf),
                ("norm_ratio_weights", "minority / majority\nnorm of classifiers", 1.0),
                ("norm_ratio_means", "minority / majority\nnorm of class means", 1.0),
            ), 2.0, "simplex ETF",
        ),
    )  # fmt: skip
    found = _forest(study)
    for name, title, caption, rows, height, reference in drawn:
        if figure := ratio_figure(study, rows, height, reference):
            found.append(picture(name, title, caption, figure))
    return found


def _forest(study: Study) -> list[Picture]:
    """Paired differences of the deq arm to every other, one line per setting."""
    compared = pairs(study)
    settings = [s for s in study.settings if any(paired(study, s, *pair, "test_accuracy").value for pair in compared)]
    keys = {key: name for key, name in ACCURACY.items() if _has(study, key)}
    if not settings or not keys:
        return []
    figure = new_figure(11.2, 0.34 * len(compared) * len(settings) * 0.62 + 1.5)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axes, (key, name) in zip(panels, keys.items()):
        axes.axvline(0, color=GREY, linewidth=1.2)
        for row, setting in enumerate(settings):
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, color="#f3f3f0", zorder=0)
            for place, pair in enumerate(compared):
                value = paired(study, setting, *pair, key).value
                if value is None or not np.isfinite(value.mean):
                    continue
                style = arm_style(pair[1])
                y = row + 0.24 * (place - (len(compared) - 1) / 2)
                face = style["color"] if value.excludes_zero() and value.n >= BAND_SEEDS else "white"
                axes.errorbar(
                    100 * value.mean, y, xerr=100 * half_of(value), color=style["color"], marker=style["marker"],
                    markersize=5, markerfacecolor=face, linestyle="none", capsize=2, elinewidth=1.3,
                )  # fmt: skip
        axes.set_title(name, color="black", fontsize=10)
        axes.set_xlabel("DEQ − other arm (percentage points)")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(len(settings)), [setting.title for setting in settings])
    panels[0].set_ylim(len(settings) - 0.5, -0.5)
    handles = [
        Line2D([], [], color=style["color"], marker=style["marker"], linewidth=1.3, label=difference(pair))
        for pair, style in ((pair, arm_style(pair[1])) for pair in compared)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9.5)
    which = "; ".join(f"{difference(pair)}: {WHY[pair[1]]}" for pair in compared)
    caption = (
        f"Mean paired difference (same seed) in test accuracy; bars: 95 % t-interval, from {BAND_SEEDS} seeds on; "
        f"right of 0 the DEQ is better ({which}). Filled: the interval excludes 0 (no correction for many comparisons)."
    )
    return [picture("forest", "What the DEQ gains, setting by setting", caption, figure)]
