"""The page of one setting: the result and its evidence, figures, more numbers, the theory, classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from deq_nc.report.figures import Figures
from deq_nc.report.pages import html
from deq_nc.report.pages.html import Section
from deq_nc.report.read import Run, Study
from deq_nc.report.read.numbers import amplification, run_bridge
from deq_nc.report.read.run import firsts
from deq_nc.report.tables import Tables
from deq_nc.runs import Summary

MANY_CLASSES = 20  # more than these are folded
MEANS = (
    "Mean over seeds ± half of the 95 % t-interval (none for one seed, or where all seeds agree exactly); each number "
    "is of the last measured epoch, never the best one."
)
OPTIMUM = (
    "Predicted is the optimum of the norm-constrained layer-peeled model at the run's own norms (docs/theory.md); "
    "training has weight decay, an encoder and a finite end, so agreement is a finding and never a check."
)
LAYERS = "H0 is what the encoder gives the arm, features is what the classifier sees; first finished seed of each arm."


def sections(study: Study, tables: Tables, figures: Figures, remarks: Sequence[str]) -> list[Section]:
    runs = study.all
    shown = {
        name: Section(f"table-{name}", table.title, [html.sheet(html.hinted_cells(table))])
        for name, (table,) in tables.items()
    }
    # Before any figure: no number without its residual.
    first = [shown.pop(name) for name in ("headline", "evidence") if name in shown]
    head = [Section("", "", [html.remarks(remarks)] if remarks else []), *first, Section("", "", [html.words(MEANS)])]
    head += [Section(name, each.title, [html.shown(each, titled=False)]) for name, each in figures.items()]
    tail = [
        Section("layers", "Collapse by layer", _layers(runs)),
        Section("theory", "Beside the layer-peeled optimum", _optimum(runs), link="Beside the theory"),
        Section("classes", "Classes", _classes(runs)),
    ]
    return [*head, *shown.values(), *(section for section in tail if section.parts)]


def _layers(runs: Sequence[Run]) -> list[Markup]:
    rows = [
        [run.arm, row["layer"], row["images"], *map(_text, (row["nc1"], row["nc2_means"], row["nc3"], row["accuracy"]))]
        for run in firsts(runs, "along")
        for row in (run.along["layers"] if run.along else ())
    ]
    heading = ["arm", "layer", "images", "NC1", "NC2 means", "NC3", "accuracy"]
    return [html.words(LAYERS), html.table(heading, rows)] if rows else []


def _optimum(runs: Sequence[Run]) -> list[Markup]:
    found = [part for run in firsts(runs, "analysis") for part in _prediction(run)]
    return [html.words(OPTIMUM), *found] if found else []


def _prediction(run: Run) -> list[Markup]:
    """A sentence with the estimates and a table measured, predicted; or why there is none."""
    try:
        found = run_bridge(run)
    except ValueError as error:
        return [html.words(f"No prediction: {error}", run.arm)]
    parts = [f"scale s = {found.scale:.3g}"]
    if (gain := amplification(run)) is not None:
        parts.append(f"amplification ‖(I − J)⁻¹‖ = {gain:.3g} at z*")
    if found.threshold is not None:
        parts.append(f"minority collapse predicted from R₀ = {found.threshold:.3g} on, here R = {found.ratio:.3g}")
    rows = [
        [row.name, _finite(row.measured), _finite(row.predicted)]
        for row in found.rows
        if row.measured is not None or row.predicted is not None
    ]
    said = html.words(f"seed {run.seed}: {'; '.join(parts)}.", run.arm)
    return [said, html.table(["quantity", "measured", "predicted"], rows)]


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _finite(value: float | None) -> str:
    return _text(value if value is not None and np.isfinite(value) else None)


def _classes(runs: Sequence[Run]) -> list[Markup]:
    """Class, block (when divided), training images, test accuracy of each arm's first finished seed."""
    found = firsts(runs, "finished")
    summary: Summary = found[0].summary if found else {}
    names, counts = summary.get("class_names") or [], summary.get("train_counts") or []
    majority = summary.get("majority") or []
    divided = any(majority) and not all(majority)
    measured = {run.name: run.analysis.get("test_accuracy_per_class") for run in found}
    accuracies = {name: each for name, each in measured.items() if each is not None and len(each) == len(names)}
    heading = ["class", *(["block"] if divided else []), "training images"]
    rows = []
    for index, (name, count) in enumerate(zip(names, counts)):
        block = [("minority", "majority")[bool(majority[index])]] if divided else []
        rows.append([str(name), *block, f"{count:,}", *(f"{values[index]:.4f}" for values in accuracies.values())])
    if not rows:
        return [html.words("Known once a run has finished.")]
    table = html.table(heading + [f"test accuracy, {name}" for name in accuracies], rows)
    return [html.fold(f"{len(rows)} classes", table) if len(rows) > MANY_CLASSES else table]
