"""The page of a grid: what was run, the answer, why, at what price, then every setting on its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from deq_nc.config import Experiment, differing_fields
from deq_nc.report import tsne
from deq_nc.report.along import along_pictures
from deq_nc.report.curves import curve_pictures
from deq_nc.report.grid import Grid, Setting
from deq_nc.report.grid_controls import amplification_pictures, cost_pictures
from deq_nc.report.grid_figures import accuracy_pictures, forest_pictures, geometry_pictures
from deq_nc.report.grid_files import table_files
from deq_nc.report.grid_table import GridTable
from deq_nc.report.grid_tables import (
    MEASURES,
    accuracy_tables,
    collapse_tables,
    comparisons,
    control_tables,
    evidence_tables,
    price_tables,
    solve_tables,
    work_tables,
)
from deq_nc.report.page import dataset_name, num_classes, template
from deq_nc.report.remarks import arms_text, by_text, cautions, flags, last_row
from deq_nc.report.runs import FREE, SETTING
from deq_nc.report.side import side_pictures
from deq_nc.report.style import Picture, style_context

TEMPLATE = "grid.html.j2"
DETAIL_DPI = 85  # ten settings of four figures: 5 MB instead of 9


@dataclass(frozen=True)
class Section:
    """A heading, the sentence under it, figures, tables; `folded` tables open on a click."""

    name: str
    title: str
    text: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[GridTable] = ()
    folded: bool = False


def grid_page(grid: Grid) -> dict[str, bytes]:
    """A grid with its numbers -> its files: tables.{md,csv,tex}, runs.csv, cost.{md,csv}, figures, index.html."""
    classes = next((n for run in grid.all if (n := num_classes(run))), None)
    files = {name: text.encode() for name, text in table_files(grid, title(grid), remarks(grid)).items()}
    with style_context():
        sections = _sections(grid, classes)
    with style_context(DETAIL_DPI):
        details = [(setting, _setting_pictures(grid, setting, classes)) for setting in grid.runs]

    figures = {picture.name: picture for section in sections for picture in section.pictures}
    figures |= {f"{setting.name}/{picture.name}": picture for setting, pictures in details for picture in pictures}
    files |= {f"figures/{name}.png": picture.png for name, picture in figures.items()}
    return files | {"index.html": _render(grid, sections, details).encode()}


def _sections(grid: Grid, classes: int | None) -> list[Section]:
    answers, collapse = accuracy_tables(grid), collapse_tables(grid)
    found = [
        Section(
            "answer", "Test accuracy",
            "Each number is of the last epoch of finished runs, never of the best epoch. " + comparisons(answers),
            [*forest_pictures(grid), *accuracy_pictures(grid)], answers,
        ),
        Section(
            "collapse", "Neural collapse",
            "On the training set, at the last epoch. Every NC number is 0 under full collapse of balanced classes. "
            + comparisons(collapse, MEASURES),
            geometry_pictures(grid, classes), collapse, folded=True,
        ),
        Section(
            "why", "Why: implicitness or amplification",
            "An arm that amplifies more may win by its norms alone: the layer-peeled models give all arms the same "
            "geometry at the same scale. Distances are those of the run's centred Gram matrices to the simplex ETF, to "
            "SELI and to the norm-constrained layer-peeled optimum at the run's own norms (docs/theory.md).",
            amplification_pictures(grid), control_tables(grid), folded=True,
        ),
        Section(
            "solve", "Does the solve do anything?",
            "The deq arm, up to 2,000 training images, the trained classifier on each iterate of the solver: z_0 is "
            "what the encoder gives, z_T the last one recorded: the equilibrium, unless a remark above says that the "
            "record stops earlier. Where a row hardly changes, the solve does not do it.",
            (), solve_tables(grid), folded=False,
        ),
        Section(
            "evidence", "Evidence that each equilibrium was solved", "At the last epoch, worst examples of each run.",
            (), evidence_tables(grid), folded=True,
        ),
        Section(
            "work", "Parameters and compute", "Counts, which do not depend on the machine.", cost_pictures(grid),
            work_tables(grid), folded=True,
        ),
        Section("cost", "Time and memory", "As measured on the machine of each run.", (), price_tables(grid), True),
    ]  # fmt: skip
    return [section for section in found if section.tables or section.pictures]


def _setting_pictures(grid: Grid, setting: Setting, classes: int | None) -> list[Picture]:
    runs = grid.runs[setting]
    if not any(run.history for run in runs):
        return []
    return [*curve_pictures(runs, classes, ("accuracy", "collapse")), *side_pictures(runs), *along_pictures(runs)]


def title(grid: Grid) -> str:
    """Data set, the grid, arms, number of seeds."""
    seeds = len(grid.seeds)
    settings = f"{len(grid.settings)} settings of class balance"
    return f"{dataset_name(grid.all)}, {settings}: {', '.join(grid.arms)}, {seeds} seed{'s' * (seeds != 1)}"


def remarks(grid: Grid) -> list[str]:
    """What a reader must know before believing a number: missing runs, unconverged solves, notes, devices."""
    out = [*(f"Left out: {line}" for line in grid.left_out), *grid.missing()]
    found: list[tuple[str, str]] = []
    for setting, runs in grid.runs.items():
        for run in runs:
            out += [f"{setting.title}, {run.arm} seed {run.seed} {line}" for line in run.damaged]
            if not run.finished:
                continue
            texts = [*flags(run), *cautions(run)]
            if last_row(run).get("unconverged"):
                texts.append("equilibria that did not reach the tolerance at the last epoch (see the evidence).")
            found += [(f"{setting.title}, {run.arm}", text) for text in [*texts, *(run.summary.get("notes") or [])]]
        out += [f"{setting.title}, {line}" for line in tsne.remarks(runs)]
    total = sum(run.finished for run in grid.all)
    for text, names in by_text(found).items():
        out.append(text if len(names) == total else f"{text} ({len(names)} runs: {'; '.join(dict.fromkeys(names))})")
    if len({run.summary.get("device") for run in grid.all if run.summary}) > 1:
        out.append("The runs were made on different devices: see below.")
    return out


def _coverage(grid: Grid) -> list[list[str]]:
    """Rows setting, then finished runs of each arm."""
    seeds = len(grid.seeds)
    return [
        [setting.title, *(f"{len(grid.finished(setting, arm))} of {seeds}" for arm in grid.arms)]
        for setting in grid.settings
    ]


def _render(grid: Grid, sections: Sequence[Section], details: Sequence[tuple[Setting, list[Picture]]]) -> str:
    first = grid.all[0].config
    varying = (*FREE, *SETTING)
    changed = differing_fields(dataclasses.asdict(Experiment()), first)
    summaries = [run.summary for run in grid.all if run.summary]
    versions = next((summary["versions"] for summary in summaries if summary.get("versions")), {})
    counts = []
    for setting, runs in grid.runs.items():
        summary = next((run.summary for run in runs if run.summary and run.summary.get("train_counts")), None)
        if summary is not None:
            counts.append(
                [
                    setting.title,
                    str(runs[0].epochs),
                    f"{sum(summary['train_counts']):,}",
                    ", ".join(map(str, summary["train_counts"])),
                ]
            )
    shared = {key: value for key, value in first.items() if key not in FREE}
    shared["train"] = {key: value for key, value in first.get("train", {}).items() if f"train.{key}" not in varying}
    shared["data"] = {key: value for key, value in first.get("data", {}).items() if f"data.{key}" not in varying}
    return template(TEMPLATE).render(
        title=title(grid),
        remarks=remarks(grid),
        arms_text=arms_text(grid.arms),
        arms=grid.arms,
        coverage=_coverage(grid),
        counts=counts,
        sections=sections,
        details=details,
        devices=sorted({summary.get("device") or "unknown" for summary in summaries}),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        changed=[(name, *values) for name, values in changed.items() if name not in varying],
        config=json.dumps(shared, indent=2),
    )
