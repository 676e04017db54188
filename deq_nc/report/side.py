"""t-SNE and Gram matrix of every arm side by side, as the paper shows them: one figure per setting."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.lines import Line2D

from deq_nc.report.geometry import LABELLED, TSNE_POINTS, class_names, class_order, cosines, embed
from deq_nc.report.runs import Run
from deq_nc.report.style import Picture, new_figure, picture
from deq_nc.report.tables import arm_runs


def side_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Columns arms (first finished seed); rows t-SNE of test features, cosines of class means, of classifiers."""
    shown = [group[0] for group in arm_runs(run for run in runs if run.analysis is not None).values()]
    if not shown:
        return []
    figure = new_figure(2.9 * len(shown) + 0.7, 8.4)
    panels = figure.subplots(3, len(shown), squeeze=False)
    handles: dict[str, Line2D] = {}
    for run, (points, means, weights) in zip(shown, panels.T):
        order, majority = class_order(run)
        handles |= _scatter(points, run, order, majority)
        points.set_title(f"{run.arm} seed {run.seed}", color="black", fontsize=10)
        for axes, gram in (
            (means, cosines(run.analysis["class_means"], centre=True)),
            (weights, cosines(run.analysis["weights"])),
        ):
            image = axes.imshow(gram[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            axes.grid(False)
            if len(order) <= LABELLED:
                names = [class_names(run)[index] for index in order]
                axes.set_xticks(range(len(order)), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=7)
                axes.set_yticks(range(len(order)), names, fontsize=7)
            if majority:
                edge = majority - 0.5
                axes.axhline(edge, color="black", linewidth=1)
                axes.axvline(edge, color="black", linewidth=1)
    for axes, label in zip(panels[:, 0], ("t-SNE (no unit)", "class (class means)", "class (classifiers)")):
        axes.set_ylabel(label)
    for axes in panels[2]:
        axes.set_xlabel("class")
    if 0 < len(handles) <= LABELLED:
        columns = min(len(handles), 2 + 2 * len(shown))
        figure.legend(
            handles=list(handles.values()), loc="outside lower center", ncols=columns, fontsize=7, title="class"
        )
    figure.colorbar(image, ax=panels[1:, :], label="cosine", shrink=0.6, pad=0.01)
    divided = " Black lines part majority from minority classes; triangles are minority classes." if majority else ""
    caption = (
        "Top: t-SNE of test features, a colour per class; distances between islands mean nothing. Below: cosines "
        f"between centred class means and between classifiers; a simplex ETF is −1/(K−1) off the diagonal.{divided}"
    )
    return [picture("side", "t-SNE and Gram matrices, arm beside arm", caption, figure)]


def _scatter(axes, run: Run, order: np.ndarray, majority: int) -> dict[str, Line2D]:
    """t-SNE of one run; returns the legend's handle of each class. A name that would lie on another is left to it."""
    axes.set(xticks=[], yticks=[], box_aspect=1)
    features, labels = run.analysis.get("features_test"), run.analysis.get("labels_test")
    if features is None or labels is None or len(labels) < 10 or not np.isfinite(features).all():
        axes.set_axis_off()
        return {}
    keep = np.sort(np.random.default_rng(0).permutation(len(labels))[:TSNE_POINTS])
    points, labels = embed(features[keep]), labels[keep]
    palette = matplotlib.colormaps["tab10" if len(order) <= 10 else "turbo"]
    handles: dict[str, Line2D] = {}
    written: list[tuple[np.ndarray, str]] = []
    for rank, index in enumerate(order):
        mine, name = points[labels == index], class_names(run)[index]
        color = palette(rank if len(order) <= 10 else rank / (len(order) - 1))
        marker = "^" if majority and rank >= majority else "o"
        axes.scatter(*mine.T, s=7, color=color, marker=marker, alpha=0.75, linewidths=0)
        handles[name] = Line2D([], [], color=color, marker=marker, markersize=4, linestyle="", label=name)
        if len(mine) and len(order) <= 10:
            centre = np.median(mine, axis=0)
            # Letters of 8 points are 0.06 wide and 0.12 high where the points span 2 and the panel 2.5 inches.
            far = [abs(centre - other) > (0.035 * (len(name) + len(text)), 0.14) for other, text in written]
            if all(each.any() for each in far):
                written.append((centre, name))
                text = axes.text(*centre, name, ha="center", va="center", weight="bold", fontsize=8)
                text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
    return handles
