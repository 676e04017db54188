"""Figures of the grid that ask why and at what price: norms against minority accuracy, cost of each arm."""

from __future__ import annotations

import numpy as np
from matplotlib.lines import Line2D

from deq_nc.names import figure as figure_text
from deq_nc.report.figures.ratios import WIDTH, by_panel
from deq_nc.report.figures.style import Picture, arm_style, bar_style, new_figure, picture
from deq_nc.report.read import Study
from deq_nc.runs import Setting


def pictures(study: Study) -> list[Picture]:
    return [*_amplification(study), *_cost(study)]


def _amplification(study: Study) -> list[Picture]:
    """Feature norm against minority accuracy, a marker per run, a panel per setting."""
    rows = {name: [s for s in settings if _points(study, s)] for name, settings in by_panel(study).items()}
    rows = {name: settings for name, settings in rows.items() if settings}
    if not rows:
        return []
    ratios = sorted({setting.ratio or 0.0 for settings in rows.values() for setting in settings})
    figure = new_figure(max(WIDTH, 3.6 * len(ratios)), 2.5 * len(rows) + 0.45)
    panels = figure.subplots(len(rows), len(ratios), squeeze=False, sharex=True)
    for line, settings in zip(panels, rows.values()):
        for axes, ratio in zip(line, ratios):
            setting = next((s for s in settings if s.ratio == ratio), None)
            if setting is None:
                axes.set_visible(False)
                continue
            for arm, x, y in _points(study, setting):
                style = arm_style(arm)
                axes.plot(x, 100 * y, linestyle="none", marker=style["marker"], color=style["color"], alpha=0.75)
            axes.set_title(setting.title, color="black")
            axes.set(xlabel="feature norm, mean ‖h‖", ylabel="minority accuracy (%)")
            axes.tick_params(labelbottom=True)
            if (low := axes.get_ylim()[0]) + 1 > (high := axes.get_ylim()[1]):  # a point at least: equal runs look so
                axes.set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
    handles = [
        Line2D([], [], label=figure_text(arm), linestyle="none", marker=style["marker"], color=style["color"])
        for arm, style in ((arm, arm_style(arm)) for arm in study.arms)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9.5)
    caption = (
        "Each marker is one run. Where minority accuracy follows the norm and arms of one norm agree, an advantage is "
        "amplification; where arms of one norm differ, it is not. Scales of accuracy differ between panels."
    )
    return [picture("amplification", "Norm amplification and minority accuracy", caption, figure)]


def _points(study: Study, setting: Setting) -> list[tuple[str, float, float]]:
    """(arm, feature norm, minority accuracy) of each run."""
    out = []
    for arm in study.arms:
        norms, accuracies = (study.values(setting, arm, key) for key in ("feature_norm", "test_accuracy_minority"))
        out += [(arm, norms[seed], accuracies[seed]) for seed in sorted(norms.keys() & accuracies.keys())]
    return [(arm, x, y) for arm, x, y in out if np.isfinite([x, y]).all()]


COST = (  # key, label, factor, format
    ("step_seconds", "time per step (ms)", 1e3, ".3g"),
    ("step_memory_bytes", "memory of a step (MiB)", 2.0**-20, ".3g"),
    ("parameters", "parameters (thousands)", 1e-3, ".4g"),
    ("cell_forward", "cell evaluations, forward\n(per example and step)", 1.0, ".3g"),
    ("cell_backward", "cell products, backward\n(per example and step)", 1.0, ".3g"),
)


def _cost(study: Study) -> list[Picture]:
    """Bars per arm: median over all finished runs of the grid, whiskers from least to most."""
    found = []
    for key, label, factor, digits in COST:
        arms = {arm: [v * factor for s in study.runs for v in study.values(s, arm, key).values()] for arm in study.arms}
        arms = {arm: values for arm, values in arms.items() if np.isfinite(values).any()}
        if arms:
            found.append((label, digits, arms))
    if not found:
        return []
    figure = new_figure(2.3 * len(found) + 0.3, 3.0)
    for axes, (label, digits, arms) in zip(figure.subplots(1, len(found), squeeze=False)[0], found):
        for place, (arm, values) in enumerate(arms.items()):
            middle, low, high = np.nanmedian(values), np.nanmin(values), np.nanmax(values)
            axes.bar(place, middle, 0.72, linewidth=0, **bar_style(arm))
            axes.errorbar(place, middle, [[middle - low], [high - middle]], color="black", capsize=3, elinewidth=1)
            axes.annotate(
                format(middle, digits), (place, high), (0, 4), textcoords="offset points", ha="center", fontsize=8
            )
        axes.set_xticks(range(len(arms)), list(map(figure_text, arms)), rotation=35, ha="right", rotation_mode="anchor")
        axes.set_ylabel(label)
        axes.set_ylim(0, 1.15 * axes.dataLim.y1 or 1)
        axes.grid(False, axis="x")
    caption = (
        "Median over all finished runs, whiskers from the least to the most. Memory: temporaries of the compiled "
        "training step. The DEQ's forward solves are counted on the training images at the last epoch, its backward "
        "solves in that epoch's training steps."
    )
    return [picture("cost", "What each arm costs", caption, figure)]
