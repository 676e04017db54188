"""t-SNE and Gram matrix of every arm side by side, as the paper shows them: one figure per setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D

from deq_nc.names import figure as figure_text
from deq_nc.report import tsne
from deq_nc.report.classes import LABELLED, class_names, class_order
from deq_nc.report.geometry import cosines
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
    handles: dict[int, Line2D] = {}
    for run, (points, means, weights) in zip(shown, panels.T):
        order, majority = class_order(run)
        handles |= tsne.scatter(points, run, tsne.sample(run), inches=2.5, fontsize=8)
        points.set_title(f"{figure_text(run.arm)} seed {run.seed}", color="black", fontsize=10)
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
