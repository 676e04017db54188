"""t-SNE of a run's test features: a sample of them, embedded and drawn with a colour and a name per class."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deq_nc.report.classes import LABELLED, class_names, class_order
from deq_nc.report.runs import Run

POINTS = 1000  # about 3 s an arm on one core


class Sample(NamedTuple):
    """points [n, 2] in [-1, 1], labels [n], and how many test images there were."""

    points: np.ndarray
    labels: np.ndarray
    total: int


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of features [n, D] -> [n, 2], scaled to unit size; the same input and seed give the same picture."""
    from sklearn.manifold import TSNE  # a second to import, and only this figure needs it
    from threadpoolctl import threadpool_limits

    x = np.asarray(features, dtype=np.float32)
    with threadpool_limits(1):  # threads that wait for one another spin on busy cores
        points = TSNE(perplexity=min(30.0, (len(x) - 1) / 3), random_state=seed).fit_transform(x)
    return points / np.abs(points).max()


def sample(run: Run) -> Sample | None:
    """Up to POINTS test images of a run with an analysis; None without ten finite features to embed."""
    features, labels = run.analysis.get("features_test"), run.analysis.get("labels_test")
    if features is None or labels is None or len(labels) < 10 or not np.isfinite(features).all():
        return None
    keep = np.sort(np.random.default_rng(0).permutation(len(labels))[:POINTS])
    return Sample(embed(features[keep]), labels[keep], len(labels))


def scatter(axes: Axes, run: Run, sample: Sample, *, inches: float, fontsize: float = 9.0) -> dict[str, Line2D]:
    """Draws a sample on square axes `inches` wide; minority classes are triangles. Returns each class's legend handle.

    A class's name stands at its median point unless it would lie on another name there: the legend has it.
    """
    axes.set(xticks=[], yticks=[], box_aspect=1)
    order, majority = class_order(run)
    palette = matplotlib.colormaps["tab10" if len(order) <= 10 else "turbo"]
    em = 2 * fontsize / 72 / inches  # the height of a letter, where the points span 2
    handles: dict[str, Line2D] = {}
    written: list[tuple[np.ndarray, str]] = []
    for rank, index in enumerate(order):
        mine, name = sample.points[sample.labels == index], class_names(run)[index]
        if len(mine) == 0:
            continue
        color = palette(rank if len(order) <= 10 else rank / (len(order) - 1))
        marker = "^" if majority and rank >= majority else "o"
        axes.scatter(*mine.T, s=3 * inches, color=color, marker=marker, alpha=0.75, linewidths=0)
        handles[name] = Line2D([], [], color=color, marker=marker, linestyle="", label=name)
        centre = np.median(mine, axis=0)
        apart = [np.abs(centre - other) > (0.45 * em * len(name + text), 1.5 * em) for other, text in written]
        if len(order) <= LABELLED and all(each.any() for each in apart):
            written.append((centre, name))
            text = axes.text(*centre, name, ha="center", va="center", weight="bold", fontsize=fontsize)
            text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
    return handles
