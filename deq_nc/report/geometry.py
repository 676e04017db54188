"""Figures of the final features and classifier: Gram matrices, t-SNE, accuracy per class.

Letters: K classes, D features, M [K, D] class means, W [K, D] classifier rows. Classes are drawn majority first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from deq_nc.names import figure as figure_text
from deq_nc.report import tsne
from deq_nc.report.classes import LABELLED, class_names, class_order
from deq_nc.report.runs import Run
from deq_nc.report.statistics import interval
from deq_nc.report.style import ARM_HATCH, Picture, arm_style, new_figure, picture
from deq_nc.report.tables import arm_runs

ANNOTATED = 10  # more classes than this: no numbers in a Gram matrix


def cosines(rows: np.ndarray, *, centre: bool = False) -> np.ndarray:
    """Cosines between rows [K, D] -> [K, K] in float64, about their mean when `centre`; a zero row gives NaN."""
    x = np.asarray(rows, dtype=np.float64)
    if centre:
        x = x - x.mean(axis=0, keepdims=True)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norms, out=np.full_like(x, np.nan), where=norms > 0)
    return x @ x.T


def geometry_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Gram matrices and t-SNE of each arm's first seed, accuracy per class over seeds; of the runs with an analysis."""
    groups = arm_runs(run for run in runs if run.analysis is not None)
    if not groups:
        return []
    shown = [group[0] for group in groups.values()]
    which = ", ".join(f"{run.arm} seed {run.seed}" for run in shown)
    return [*_gram(shown, which), *_tsne(shown), *_per_class(groups)]


def _gram(shown: Sequence[Run], which: str) -> list[Picture]:
    figure = new_figure(9.6, 4.2 * len(shown))
    grid = figure.subplots(len(shown), 2, squeeze=False)
    for run, pair in zip(shown, grid):
        order, majority = class_order(run)
        k = len(order)
        names = [class_names(run)[index] for index in order]
        for axes, (what, gram) in zip(
            pair,
            (
                ("centred class means", cosines(run.analysis["class_means"], centre=True)),
                ("classifier weights", cosines(run.analysis["weights"])),
            ),
        ):
            gram = gram[np.ix_(order, order)]
            image = axes.imshow(gram, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            axes.grid(False)
            axes.set_title(f"{figure_text(run.arm)}: {what}", color="black", fontsize=10)
            if k <= LABELLED:
                axes.set_xticks(range(k), names, rotation=90 if max(map(len, names)) > 2 else 0)
                axes.set_yticks(range(k), names)
            axes.set(xlabel="class", ylabel="class")
            if k <= ANNOTATED:
                for (i, j), value in np.ndenumerate(gram):
                    shade = "white" if abs(value) > 0.6 else "black"
                    axes.text(
                        j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=shade, in_layout=False
                    )
            if majority:
                box = Rectangle(
                    (-0.5, -0.5), majority, majority, fill=False, edgecolor="black", linewidth=2, clip_on=False
                )
                axes.add_patch(box)
    figure.colorbar(image, ax=grid, label="cosine", shrink=0.9 / len(shown), pad=0.02, anchor=(0, 1))
    k = len(shown[0].analysis["class_means"])
    boxed = "; the box holds the majority classes" if class_order(shown[0])[1] else ""
    caption = (
        f"Cosines between classes ({which}); a simplex ETF has 1 on the diagonal and {-1 / max(k - 1, 1):.3f} "
        f"everywhere else{boxed}. Red off the diagonal: classes that share a direction."
    )
    return [picture("gram", "Gram matrices of class means and of weights", caption, figure)]


def _tsne(shown: Sequence[Run]) -> list[Picture]:
    samples = [(run, sample) for run in shown if len((sample := tsne.sample(run)).points)]
    if not samples:
        return []
    columns = min(len(samples), 2)
    rows = -(-len(samples) // columns)
    figure = new_figure(5.6 * columns, 5.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(samples) :]:
        axes.set_visible(False)
    handles: dict[int, Line2D] = {}
    for axes, (run, sample) in zip(grid.flat, samples):
        handles |= tsne.scatter(axes, run, sample, inches=4.4)
        what = f"{len(sample.labels)} of {sample.total} test images"
        axes.set_title(f"{figure_text(run.arm)}: {what}", color="black", fontsize=10)
        axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", aspect="equal", adjustable="datalim")
    named = ""
    if len(class_order(shown[0])[0]) <= LABELLED:
        figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=10, title="class")
        named = " and named"
    which = ", ".join(f"{run.arm} seed {run.seed}" for run, _ in samples)
    triangles = " Triangles are minority classes." if class_order(shown[0])[1] else ""
    caption = (
        f"Test features of {which}, coloured{named} by class.{triangles} Tight, separate islands are collapsed "
        "classes; distances between islands and their sizes mean nothing in t-SNE."
    )
    return [picture("tsne", "t-SNE of the test features", caption, figure)]


def _per_class(groups: dict[str, list[Run]]) -> list[Picture]:
    first = next(iter(groups.values()))[0]
    if any("test_accuracy_per_class" not in run.analysis for group in groups.values() for run in group):
        return []
    order, majority = class_order(first)
    names = [class_names(first)[index] for index in order]
    k, x = len(order), np.arange(len(order))
    figure = new_figure(min(max(6.0, 0.85 * k + 1.5), 14.0), 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.2])
    width = 0.84 / len(groups)
    for position, (arm, group) in enumerate(groups.items()):
        found = [interval(column) for column in zip(*(run.analysis["test_accuracy_per_class"][order] for run in group))]
        at = x + (position - (len(groups) - 1) / 2) * width
        top.bar(
            at, [each.mean for each in found], 0.92 * width, color=arm_style(arm)["color"], alpha=0.85,
            hatch=ARM_HATCH.get(arm, ""), edgecolor="white", linewidth=0,
        )  # fmt: skip
        if k <= ANNOTATED:
            turn = 0 if len(groups) <= 2 else 90
            for place, each in zip(at, found):
                if not np.isfinite(each.mean):
                    continue
                top.text(
                    place, each.mean + 0.015, f"{each.mean:.2f}", ha="center", va="bottom", fontsize=7, rotation=turn
                )
    top.set(xlim=(-0.7, k - 0.3), ylim=(0, 1.18), yticks=np.linspace(0, 1, 6), ylabel="test accuracy (share)")
    counts = np.asarray(first.analysis.get("train_counts", np.full(k, np.nan)))[order]
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
    handles = [
        Patch(facecolor=arm_style(arm)["color"], alpha=0.85, hatch=ARM_HATCH.get(arm, ""), edgecolor="white",
              label=figure_text(arm))
        for arm in groups
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9.5)
    divided = ", majority classes left of the dotted line" if majority else ""
    caption = (
        "Top: share of each class's test images that is classified right (mean over seeds). Bottom: how many training "
        f"images the class had{divided}."
    )
    return [picture("per_class", "Accuracy per class", caption, figure)]
