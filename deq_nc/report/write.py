"""Run folders -> a page: read once, tables once, figures, pages, written. A single setting is a grid of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deq_nc.names import file_name, printable
from deq_nc.report.figures import figures
from deq_nc.report.files import locked, write
from deq_nc.report.pages import pages
from deq_nc.report.read import ReportError, Study, read
from deq_nc.report.tables import summary, tables


class Report(NamedTuple):
    """A page, whether it is that of a grid, the rows of its `summary`, and what it lacks."""

    page: Path
    grid: bool
    rows: list[dict[str, str]]
    damaged: list[str]  # a sentence on each folder that was left out and each run without its arrays


def report(run_dirs: Sequence[Path], out: Path | None = None, planned: Sequence[Path] = ()) -> Path:
    """The path of `out`/index.html, beside figures/, tables.*, runs.csv and cost.*.

    Runs of one setting: their page; `out` defaults to RUN/report for one run, COMMON PARENT/report for several. Runs
    that differ in data.imbalance, data.majority or data.ratio: the page of the grid, COMMON PARENT/RECIPE-grid.
    `planned`: run folders (RECIPE-SETTING/ARM-seedN) that belong to the grid, listed as missing while they are not
    there. Run folders that cannot be read are left out and said on the page.
    Raises ReportError: nothing to show, runs that differ in other fields or in package versions, a page that cannot be
    written.
    """
    return make_report(run_dirs, out, planned).page


def make_report(
    run_dirs: Sequence[Path], out: Path | None = None, planned: Sequence[Path] = (), wait: bool = False
) -> Report:
    """`report`, with what the command line prints of it; with `wait`, after another report of that page."""
    study = read(run_dirs, planned)
    damaged = [*study.left_out, *(f"{printable(run.path)} {line}" for run in study.all for line in run.damaged)]
    folder = _default_folder(study) if out is None else Path(out)
    if out is None and os.path.islink(folder):
        raise ReportError(f"{printable(folder)}: expected a folder of ours, got a link. Name the folder with --out.")
    with locked(folder, wait):
        found = tables(study)
        write(folder, pages(study, found, figures(study)))
    return Report(folder / "index.html", study.many, summary(study, found), damaged)


def _default_folder(study: Study) -> Path:
    parent = Path(os.path.commonpath([run.path for run in study.all]))
    return parent / (file_name(f"{study.all[0].config.get('recipe', 'runs')}-grid") if study.many else "report")
