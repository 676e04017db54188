"""t-SNE of a run's test features: a sample of them, embedded and drawn with a colour and a name per class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deq_nc.names import figure as figure_text
from deq_nc.report.figures.classes import LABELLED, class_names, class_order
from deq_nc.report.figures.style import Picture, new_figure, picture
from deq_nc.report.read.run import Run, firsts
from deq_nc.sample import even_sample

POINTS = 1000  # about 3 s an arm on one core
FEWEST = 10


class Sample(NamedTuple):
    """points [n, 2] in [-1, 1], labels [n], and how many test images there were; or, without points, why."""

    points: np.ndarray
    labels: np.ndarray
    total: int
    reason: str = ""


def unfit(features: np.ndarray) -> str:
    """Why features [n, D] have no t-SNE, or nothing.

    Rows that float32 cannot tell apart must not reach scikit-learn: it divides by the spread of the first component,
    and reads outside of its arrays where that is 0.
    """
    x = np.asarray(features, dtype=np.float64)
    if len(x) < FEWEST:
        return f"fewer than {FEWEST} test images"
    if not np.isfinite(x).all():
        return "the test features hold NaN or infinity"
    size, spread = _extent(x)
    return "" if spread > len(x) * float(np.finfo(np.float32).eps) * size else "the test features do not vary"


def _extent(x: np.ndarray) -> tuple[float, float]:
    """Largest entry, and largest distance of an entry to its column's mean."""
    size = float(np.abs(x).max())
    return size, size * float(np.abs(x / size - (x / size).mean(0)).max()) if size else 0.0


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of features [n, D] -> [n, 2], scaled to unit size; the same input and seed give the same picture.

    Raises ValueError where they are `unfit`.
    """
    from sklearn.manifold import TSNE  # a second to import, and only this figure needs it
    from threadpoolctl import threadpool_limits

    if reason := unfit(features):
        raise ValueError(reason)
    x = np.asarray(features, dtype=np.float64)
    size, spread = _extent(x)
    if not (1e-10 < spread and size < 1e10):  # squares would leave the range of float32
        x = (x - x.mean(0)) / spread
    x = x.astype(np.float32)
    x = x if x.shape[1] > 1 else np.concatenate([x, np.zeros_like(x)], 1)
    with threadpool_limits(1):  # threads that wait for one another spin on busy cores
        points = TSNE(perplexity=min(30.0, (len(x) - 1) / 3), random_state=seed).fit_transform(x)
    return points / np.abs(points).max()


def sample(run: Run) -> Sample:
    """At most POINTS test images of a run with an analysis, evenly over their order."""
    features, labels = _chosen(run)
    reason = unfit(features)
    if reason:
        return Sample(np.empty((0, 2)), labels[:0], len(run.analysis["labels_test"]), reason)
    return Sample(embed(features), labels, len(run.analysis["labels_test"]))


def remarks(runs: Iterable[Run]) -> list[str]:
    """A sentence on each of the runs shown (the first with an analysis of its arm) that has no t-SNE."""
    found = [(run, unfit(_chosen(run)[0])) for run in firsts(runs, "analysis")]
    return [f"{run.name}: no t-SNE, since {reason}." for run, reason in found if reason]


def _chosen(run: Run) -> tuple[np.ndarray, np.ndarray]:
    labels = run.analysis["labels_test"]
    keep = even_sample(len(labels), POINTS)
    return run.analysis["features_test"][keep], labels[keep]


def scatter(axes: Axes, run: Run, sample: Sample, *, inches: float, fontsize: float = 9.0) -> dict[int, Line2D]:
    """Draws a sample on square axes `inches` wide; minority classes are triangles. Returns each class's legend handle.

    Without points, the reason is written there. A class's name stands at its median point unless it would lie on
    another name there: the legend has it.
    """
    axes.set(xticks=[], yticks=[], box_aspect=1)
    if sample.reason:
        axes.text(0.5, 0.5, f"no t-SNE:\n{sample.reason}", ha="center", va="center", transform=axes.transAxes)
        axes.grid(False)
        return {}
    order, majority = class_order(run)
    palette = matplotlib.colormaps["tab10" if len(order) <= 10 else "turbo"]
    em = 2 * fontsize / 72 / inches  # the height of a letter, where the points span 2
    handles: dict[int, Line2D] = {}
    written: list[tuple[np.ndarray, str]] = []
    for rank, index in enumerate(order):
        mine, name = sample.points[sample.labels == index], class_names(run)[index]
        if len(mine) == 0:
            continue
        color = palette(rank if len(order) <= 10 else rank / (len(order) - 1))
        marker = "^" if majority and rank >= majority else "o"
        axes.scatter(mine[:, 0], mine[:, 1], s=3 * inches, color=color, marker=marker, alpha=0.75, linewidths=0)
        handles[int(index)] = Line2D([], [], color=color, marker=marker, linestyle="", label=name)
        centre = np.median(mine, axis=0)
        apart = [np.abs(centre - other) > (0.45 * em * len(name + text), 1.5 * em) for other, text in written]
        if len(order) <= LABELLED and all(each.any() for each in apart):
            written.append((centre, name))
            text = axes.text(
                float(centre[0]), float(centre[1]), name, ha="center", va="center", weight="bold", fontsize=fontsize
            )
            text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
    return handles


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """The test features of the first run of each arm that has an analysis, where they are fit for it."""
    shown = firsts(runs, "analysis")
    samples = [(run, found) for run in shown if len((found := sample(run)).points)]
    if not samples:
        return []
    columns = min(len(samples), 2)
    rows = -(-len(samples) // columns)
    figure = new_figure(5.6 * columns, 5.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(samples) :]:
        axes.set_visible(False)
    handles: dict[int, Line2D] = {}
    for axes, (run, found) in zip(grid.flat, samples):
        handles |= scatter(axes, run, found, inches=4.4)
        what = f"{len(found.labels)} of {found.total} test images"
        axes.set_title(f"{figure_text(run.arm)}: {what}", color="black", fontsize=10)
        axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", aspect="equal", adjustable="datalim")
    named = ""
    if len(class_order(shown[0])[0]) <= LABELLED:
        figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=10, title="class")
        named = " and named"
    which = ", ".join(run.name for run, _ in samples)
    triangles = " Triangles are minority classes." if class_order(shown[0])[1] else ""
    caption = (
        f"Test features of {which}, coloured{named} by class.{triangles} Tight, separate islands are collapsed "
        "classes; distances between islands and their sizes mean nothing in t-SNE."
    )
    return [picture("tsne", "t-SNE of the test features", caption, figure)]
