"""The page of a grid: what was run, the answer, why, at what price, then every setting on its own."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from deq_nc.report.figures import Figures
from deq_nc.report.pages import html
from deq_nc.report.pages.html import Section
from deq_nc.report.pages.remarks import COMPARED, comparisons
from deq_nc.report.read import Study
from deq_nc.report.tables import Tables
from deq_nc.runs import Setting

SEEDS = "Mean ± half of the 95 % t-interval over seeds; (3/5): three of five seeds have this number."
SECTIONS = (  # of tables and figures: id, title, text, figures, tables, whether these are folded
    ("answer", "Test accuracy",
     "Each number is of the last epoch of finished runs, never of the best epoch.",
     ("forest", "minority", "overall"), "answer", False),
    ("collapse", "Neural collapse",
     "On the training set, at the last epoch. Every NC number is 0 under full collapse of balanced classes.",
     ("angles",), "collapse", True),
    ("why", "Why: implicitness or amplification",
     "An arm that amplifies more may win by its norms alone: the layer-peeled models give all arms the same geometry "
     "at the same scale. Distances are those of the run's centred Gram matrices to the simplex ETF, to SELI and to the "
     "norm-constrained layer-peeled optimum at the run's own norms (docs/theory.md).",
     ("amplification",), "control", True),
    ("solve", "Does the solve do anything?",
     "The deq arm, up to 2,000 training images, the trained classifier on each iterate of the solver: z_0 is what the "
     "encoder gives, z_T the last one recorded: the equilibrium, unless a remark above says that the record stops "
     "earlier. Where a row hardly changes, the solve does not do it.",
     (), "solve", False),
    ("evidence", "Evidence that each equilibrium was solved", "At the last epoch, worst examples of each run.",
     (), "evidence", True),
    ("work", "Parameters and compute", "Counts, which do not depend on the machine.", ("cost",), "work", True),
    ("cost", "Time and memory", "As measured on the machine of each run.", (), "cost", True),
)  # fmt: skip


def sections(study: Study, tables: Tables, figures: Figures, remarks: Sequence[str]) -> list[Section]:
    out = [Section("runs", "What was run, and what is missing", _runs(study, remarks), link="What was run")]
    for name, title, text, drawn, group, folded in SECTIONS:
        found, shown = tables[group], [html.shown(figures[each]) for each in drawn if each in figures]
        said = f"{text} {comparisons(found, COMPARED[group])}" if group in COMPARED else text
        if name == "answer":  # the numbers first, a table a group of settings
            notes = [html.words(found[-1].note, note=True)] if found else []
            parts = [*(html.sheet(html.titled_cells(table, note=False)) for table in found), *notes, *shown]
        elif found:
            numbers = [html.sheet(*map(html.titled_cells, found)), html.words(SEEDS, note=True)]
            titles = "Numbers: " + ", ".join(table.title for table in found)
            parts = [*shown, html.fold(titles, *numbers)] if folded else [*shown, *numbers]
        else:
            parts = shown
        if parts:
            out.append(Section(name, title, [html.words(said), *parts]))
    out.append(Section("settings", "Setting by setting", [_details(setting, figures) for setting in study.runs]))
    return out


def _runs(study: Study, remarks: Sequence[str]) -> list[Markup]:
    """The remarks, finished runs of each arm by setting, and what the settings hold."""
    coverage, counts = [], []
    for setting in study.settings:
        done = [len(study.counted(setting, arm)) for arm in study.arms]
        coverage.append([setting.title, *(f"{count} of {len(study.seeds)}" for count in done)])
    for setting, runs in study.runs.items():
        kept = next((run.summary["train_counts"] for run in runs if run.summary.get("train_counts")), None)
        if kept is not None:
            counts.append([setting.title, str(runs[0].epochs), f"{sum(kept):,}", ", ".join(map(str, kept))])
    said = html.remarks(remarks) if remarks else html.words("Every run of the grid has finished.")
    parts = [said, html.table(["finished runs", *study.arms], coverage)]
    if counts:
        table = html.table(["setting", "epochs", "images", "per class"], counts, {3: "words"})
        parts.append(html.fold("Training images and epochs", table))
    return parts


def _details(setting: Setting, figures: Figures) -> Markup:
    shown = [html.shown(each) for name, each in figures.items() if name.startswith(f"{setting.name}/")]
    return html.fold(setting.title, *(shown or [html.words("Nothing measured yet.")]))
