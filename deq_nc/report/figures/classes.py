"""The classes of a run as figures show them, majority first: their names, order, and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Patch

from deq_nc.names import figure as figure_text
from deq_nc.report.figures.style import Picture, bar_style, new_figure, picture
from deq_nc.report.read.run import Run, by_arm
from deq_nc.report.tables.intervals import interval

LABELLED = 20  # more classes than this: no names in a figure
ANNOTATED = 10  # more classes than this: no number of each class, or pair, in a figure


def class_order(run: Run) -> tuple[np.ndarray, int]:
    """Class indices with the majority first, and how many they are (0 when the classes are not divided)."""
    majority = np.asarray(run.analysis["majority"], dtype=bool)
    if majority.all() or not majority.any():
        return np.arange(len(majority)), 0
    return np.argsort(~majority, kind="stable"), int(majority.sum())


def class_names(run: Run) -> list[str]:
    """As matplotlib can draw them; their indices where the run does not say."""
    k = len(run.analysis["class_means"])
    names = run.summary.get("class_names") or []
    return [figure_text(name) for name in names] if len(names) == k else [str(index) for index in range(k)]


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """Test accuracy of each class over the seeds of each arm with an analysis, and its number of training images."""
    groups = by_arm(run for run in runs if run.analysis)
    if not groups:
        return []
    first = next(iter(groups.values()))[0]
    order, majority = class_order(first)
    names = [class_names(first)[index] for index in order]
    k, x = len(order), np.arange(len(order))
    figure = new_figure(min(max(6.0, 0.85 * k + 1.5), 14.0), 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.2])
    width = 0.84 / len(groups)
    for position, (arm, group) in enumerate(groups.items()):
        found = [interval(column) for column in zip(*(run.analysis["test_accuracy_per_class"][order] for run in group))]
        at = x + (position - (len(groups) - 1) / 2) * width
        means = [each.mean if each else np.nan for each in found]
        top.bar(at, means, 0.92 * width, linewidth=0, **bar_style(arm))
        if k <= ANNOTATED:
            turn = 0 if len(groups) <= 2 else 90
            for place, y in ((place, y) for place, y in zip(at, means) if np.isfinite(y)):
                top.text(place, y + 0.015, f"{y:.2f}", ha="center", va="bottom", fontsize=7, rotation=turn)
    top.set(xlim=(-0.7, k - 0.3), ylim=(0, 1.18), yticks=np.linspace(0, 1, 6), ylabel="test accuracy (share)")
    counts = np.asarray(first.analysis["train_counts"])[order]
    bottom.bar(x, counts, 0.5, color="#999999")
    if k <= LABELLED:
        for place, count in zip(x, counts):
            bottom.text(place, count, f"{count:.0f}", ha="center", va="bottom", fontsize=7.5)
    bottom.set_ylim(0, 1.25 * np.nanmax(counts, initial=1))
    bottom.set(ylabel="training images", xlabel="class")
    for axes in (top, bottom):
        axes.grid(False, axis="x")
        if majority:
            axes.axvline(majority - 0.5, color="black", linewidth=1, linestyle=":")
    if k <= LABELLED:
        bottom.set_xticks(x, names, rotation=90 if max(map(len, names)) > 10 else 0)
    handles = [Patch(**bar_style(arm), label=figure_text(arm)) for arm in groups]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9.5)
    divided = ", majority classes left of the dotted line" if majority else ""
    caption = (
        "Top: share of each class's test images that is classified right (mean over seeds). Bottom: how many training "
        f"images the class had{divided}."
    )
    return [picture("per_class", "Accuracy per class", caption, figure)]
