"""Gram matrices of class means and classifier, as cosines, alone and below t-SNE; classes are drawn majority first.

Letters: K classes, D features, M [K, D] class means, W [K, D] classifier rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from deq_nc.names import figure as figure_text
from deq_nc.report.figures.classes import ANNOTATED, LABELLED, class_names, class_order
from deq_nc.report.figures.style import Picture, new_figure, picture
from deq_nc.report.figures.tsne import sample, scatter
from deq_nc.report.read.run import Run, firsts


def cosines(rows: np.ndarray, *, centre: bool = False) -> np.ndarray:
    """Cosines between rows [K, D] -> [K, K] in float64, about their mean when `centre`; a zero row gives NaN."""
    x = np.asarray(rows, dtype=np.float64)
    if centre:
        x = x - x.mean(axis=0, keepdims=True)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norms, out=np.full_like(x, np.nan), where=norms > 0)
    return x @ x.T


def grams(run: Run) -> dict[str, np.ndarray]:
    """Cosines [K, K] between the centred class means and between the weights of a run with an analysis."""
    pick = np.ix_(*2 * [class_order(run)[0]])
    means, weights = run.analysis["class_means"], run.analysis["weights"]
    return {"centred class means": cosines(means, centre=True)[pick], "classifier weights": cosines(weights)[pick]}


def draw_gram(axes: Axes, run: Run, gram: np.ndarray, **ticks: Any) -> AxesImage:
    """The image of a matrix of `grams`, its classes named where they are few."""
    image = axes.imshow(gram, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.grid(False)
    if len(gram) <= LABELLED:
        names = [class_names(run)[index] for index in class_order(run)[0]]
        axes.set_xticks(range(len(gram)), names, rotation=90 if max(map(len, names)) > 2 else 0, **ticks)
        axes.set_yticks(range(len(gram)), names, **ticks)
    return image


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """Both Gram matrices of the first run of each arm that has an analysis."""
    if not (shown := firsts(runs, "analysis")):
        return []
    figure = new_figure(9.6, 4.2 * len(shown))
    grid = figure.subplots(len(shown), 2, squeeze=False)
    for run, pair in zip(shown, grid):
        for axes, (what, gram) in zip(pair, grams(run).items()):
            image = draw_gram(axes, run, gram)
            axes.set_title(f"{figure_text(run.arm)}: {what}", color="black", fontsize=10)
            axes.set(xlabel="class", ylabel="class")
            if len(gram) <= ANNOTATED:
                for (i, j), value in np.ndenumerate(gram):
                    look: dict[str, Any] = {
                        "fontsize": 6.5,
                        "color": "white" if abs(value) > 0.6 else "black",
                        "in_layout": False,
                    }
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", **look)
            if majority := class_order(run)[1]:
                look = {"fill": False, "edgecolor": "black", "linewidth": 2, "clip_on": False}
                axes.add_patch(Rectangle((-0.5, -0.5), majority, majority, **look))
    figure.colorbar(image, ax=grid, label="cosine", shrink=0.9 / len(shown), pad=0.02, anchor=(0, 1))
    k = len(shown[0].analysis["class_means"])
    which = ", ".join(run.name for run in shown)
    boxed = "; the box holds the majority classes" if class_order(shown[0])[1] else ""
    caption = (
        f"Cosines between classes ({which}); a simplex ETF has 1 on the diagonal and {-1 / max(k - 1, 1):.3f} "
        f"everywhere else{boxed}. Red off the diagonal: classes that share a direction."
    )
    return [picture("gram", "Gram matrices of class means and of weights", caption, figure)]


def beside(runs: Sequence[Run]) -> list[Picture]:
    """Columns arms (first finished seed); rows t-SNE of test features, cosines of class means, of classifiers."""
    shown = firsts(runs, "analysis")
    if not shown:
        return []
    figure = new_figure(2.9 * len(shown) + 0.7, 8.4)
    panels = figure.subplots(3, len(shown), squeeze=False)
    handles: dict[int, Line2D] = {}
    for run, (points, *both) in zip(shown, panels.T):
        majority = class_order(run)[1]
        handles |= scatter(points, run, sample(run), inches=2.5, fontsize=8)
        points.set_title(f"{figure_text(run.arm)} seed {run.seed}", color="black", fontsize=10)
        for axes, gram in zip(both, grams(run).values()):
            image = draw_gram(axes, run, gram, fontsize=7)
            for line in (axes.axhline, axes.axvline) if majority else ():
                line(majority - 0.5, color="black", linewidth=1)
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
