"""Which tables the page of a grid has: accuracy as in the paper, collapse, controls, the solve, the price."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from deq_nc.report.controls import ALONG, ITERATES, run_numbers
from deq_nc.report.grid import Grid, Setting, read_grid
from deq_nc.report.grid_table import Entry, GridTable, Row, arm_table, difference
from deq_nc.report.quantities import TIMES, quantity

PAIRS = (("deq", "explicit"), ("deq", "unrolled"), ("deq", "residual"))
WHY = {"explicit": "equal parameters", "unrolled": "about equal compute", "residual": "one residual layer, no solve"}
ACCURACY = {
    "test_accuracy": "overall", "test_accuracy_majority": "majority", "test_accuracy_minority": "minority",
}  # fmt: skip
COLLAPSE = (
    "nc1 nc1_ratio cdnv condition nc2_means nc2_weights nc3 nc4 cosine_minority_means cosine_minority_weights "
    "norm_ratio_means norm_ratio_weights norm_majority_means norm_minority_means norm_majority_weights "
    "norm_minority_weights"
).split()
MEASURES = "measures of collapse"
CONTROLS = (
    "train_accuracy amplification norm_gain initial_norm feature_norm weight_norm weights_to_etf weights_to_seli "
    "weights_to_optimum means_to_etf means_to_seli means_to_optimum"
).split()
EVIDENCE = (
    "solver_residual unconverged unconverged_worst adjoint_residual adjoint_unconverged spectral_radius "
    "spectral_radius_error"
).split()
WORK = "parameters parameters_arm solver_steps adjoint_steps cell_forward cell_backward terminal_epoch".split()
PRICE = "step_seconds step_memory_bytes seconds".split()


def pairs(grid: Grid) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if set(pair) <= set(grid.arms)]


def accuracy_tables(grid: Grid) -> list[GridTable]:
    """Balanced, then one table per KA (and one for long tails): test accuracy in percent, and paired differences."""
    blocks: dict[str, list[Setting]] = {}
    for setting in grid.settings:
        blocks.setdefault(setting.block, []).append(setting)
    out = []
    for block, settings in blocks.items():
        balanced = settings[0].kind == "none"
        title = "Test accuracy (%), " + (block if balanced else f"imbalanced, {block}")
        stubs = ("classes",) if balanced else ("R", "classes")
        words = [
            (setting, key, (name,) if balanced else (f"{setting.ratio:g}", name))
            for setting in settings
            for key, name in ACCURACY.items()
        ]
        name = "accuracy-" + block.lower().replace(" = ", "").replace(" ", "-")
        out.append(arm_table(grid, name, title, _accuracy_note(grid), stubs, list(ACCURACY), words, pairs(grid)))
    return [table for table in out if table is not None]


def _accuracy_note(grid: Grid) -> str:
    which = "; ".join(f"{difference(pair)}: {WHY[pair[1]]}" for pair in pairs(grid))
    half = "Mean ± half of the 95 % t-interval over seeds; (3/5): three of five seeds are in."
    if not which:
        return half
    return f"{half} Differences are paired by seed, in percentage points ({which}); * : the interval excludes 0."


def comparisons(tables: Sequence[GridTable], what: str = "accuracy") -> str:
    """How many differences were tested in `tables`, how many exclude 0, and how many would by chance."""
    tested = [
        entry for table in tables for row in table.rows for entry in row.entries
        if entry.paired and entry.value is not None and entry.value.half is not None
    ]  # fmt: skip
    if not tested:
        return "No difference has two seeds or more: nothing is compared."
    count, excluding = len(tested), sum(entry.marked for entry in tested)
    strict = sum(entry.value.excludes_zero(count) for entry in tested)
    exclude, remain = "excludes" if excluding == 1 else "exclude", "remains" if strict == 1 else "remain"
    return (
        f"The intervals are not corrected for multiple comparisons: of {count} paired differences in {what} "
        f"{excluding} {exclude} 0, where about {0.05 * count:.1f} would by chance if no arm differed; {strict} "
        f"{remain} with intervals at the Bonferroni level (1 − 0.05/{count})."
    )


def _by_quantity(
    grid: Grid, prefix: str, keys: Sequence[str], compared: Sequence[tuple[str, str]] = (),
) -> list[GridTable]:  # fmt: skip
    """One table per quantity: rows settings, columns arms (and the paired differences `compared`)."""
    out = []
    for key in keys:
        words = [(setting, key, (setting.title,)) for setting in grid.settings]
        note, name = quantity(key).hint, f"{prefix}-{key.replace('_', '-')}"
        out.append(arm_table(grid, name, quantity(key).label, note, ("setting",), [key], words, compared))
    return [table for table in out if table is not None]


def collapse_tables(grid: Grid) -> list[GridTable]:
    return _by_quantity(grid, "collapse", COLLAPSE, pairs(grid)[:1])


def control_tables(grid: Grid) -> list[GridTable]:
    return _by_quantity(grid, "control", CONTROLS)


def evidence_tables(grid: Grid) -> list[GridTable]:
    return _by_quantity(grid, "evidence", EVIDENCE)


def work_tables(grid: Grid) -> list[GridTable]:
    return _by_quantity(grid, "work", WORK)


def price_tables(grid: Grid) -> list[GridTable]:
    """Times and memory, which are never the same twice: kept apart from every other table."""
    return _by_quantity(grid, "cost", PRICE)


def solve_tables(grid: Grid) -> list[GridTable]:
    """One table per quantity of the deq arm: rows settings, columns the solver's iterates."""
    out, seeds = [], len(grid.seeds)
    for key in ALONG:
        rows = []
        for setting in grid.settings:
            found = [grid.mean(setting, "deq", f"solve_{key}_{name}") for name in ITERATES]
            if any(value is not None for value in found):
                entries = tuple(Entry(f"solve_{key}", value, seeds) for value in found)
                rows.append(Row(setting, f"solve_{key}", (setting.title,), entries))
        if rows:
            shown, columns = quantity(f"solve_{key}"), tuple(f"deq z_{name}" for name in ITERATES)
            name = f"solve-{key.replace('_', '-')}"
            out.append(GridTable(name, shown.label, shown.hint, ("setting",), columns, tuple(rows)))
    return out


def with_numbers(grid: Grid, *, distances: bool = True) -> Grid:
    """The grid with the numbers of its finished runs."""
    numbers = {run.path: run_numbers(run, distances=distances) for run in grid.all if run.finished}
    return dataclasses.replace(grid, numbers=numbers)


def run_rows(grid: Grid) -> list[dict[str, object]]:
    """One row per finished run, every number but times and memory: what the means were made of."""
    rows = []
    for setting, runs in grid.runs.items():
        for run in runs:
            if run.finished:
                numbers = {key: value for key, value in grid.numbers[run.path].items() if key not in TIMES}
                rows.append({"setting": setting.name, "arm": run.arm, "seed": run.seed, **numbers})
    return rows


def grid_summary(run_dirs: Sequence[Path], planned: Sequence[Path] = ()) -> list[dict[str, str]]:
    """One row per setting, column -> text: finished runs; test and minority accuracy (%) of each arm, deq − explicit.

    Raises ReportError as `report` does.
    """
    return summary_table(with_numbers(read_grid(run_dirs, planned), distances=False))


def summary_table(grid: Grid) -> list[dict[str, str]]:
    """The rows of `grid_summary`, of a grid with its numbers."""
    seeds, rows = len(grid.seeds), []
    minority = any(setting.kind != "none" for setting in grid.settings)
    for setting in grid.settings:
        done = sum(run.finished for run in grid.runs.get(setting, []))
        row = {"setting": setting.title, "runs": f"{done}/{seeds * len(grid.arms)}"}
        for key, name in {"test_accuracy": "test", "test_accuracy_minority": "minority"}.items():
            if name == "minority" and not minority:
                continue
            for arm in grid.arms:
                row[f"{name}, {arm}"] = Entry(key, grid.mean(setting, arm, key), seeds).text
            if pairs(grid)[:1] == [PAIRS[0]]:
                value = grid.paired(setting, *PAIRS[0], key)
                row[f"{name}, {difference(PAIRS[0])}"] = Entry(key, value, seeds, paired=True).text
        rows.append(row)
    return rows
