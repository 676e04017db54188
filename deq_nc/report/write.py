"""Run folders -> a page: of one setting, or of the whole grid where the runs differ in imbalance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from deq_nc.report.grid import default_folder, read_grid
from deq_nc.report.grid_page import grid_page
from deq_nc.report.page import single_page


def report(run_dirs: Sequence[Path], out: Path | None = None, planned: Sequence[Path] = ()) -> Path:
    """The path of `out`/index.html, beside figures/, tables.*, runs.csv and cost.*.

    Runs of one setting: their page; `out` defaults to RUN/report for one run, COMMON PARENT/report for several. Runs
    that differ in data.imbalance, data.majority or data.ratio: the page of the grid, COMMON PARENT/RECIPE-grid.
    `planned`: run folders (RECIPE-SETTING/ARM-seedN) that belong to the grid, listed as missing while they are not
    there.
    Raises ReportError: nothing to show, unreadable files, runs that differ in other fields or in package versions.
    """
    grid = read_grid(run_dirs, planned)
    if len(grid.settings) > 1:
        return grid_page(grid, Path(out) if out is not None else default_folder(grid))
    folder = Path(out) if out is not None else Path(os.path.commonpath([run.path for run in grid.all])) / "report"
    return single_page(grid.all, folder)


def is_grid(run_dirs: Sequence[Path], planned: Sequence[Path] = ()) -> bool:
    """Whether `report` writes the page of a grid; then `grid_summary` has its result, not `summary_rows`."""
    return len(read_grid(run_dirs, planned).settings) > 1
