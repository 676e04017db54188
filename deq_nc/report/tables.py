"""Tables over arms: mean and 95 % interval over seeds, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deq_nc.names import csv_cell, markdown
from deq_nc.report.quantities import BLOCKS, EVIDENCE, HEADLINE, TIMES, quantity, scalars
from deq_nc.report.runs import Run, read_runs
from deq_nc.report.statistics import Interval, interval

EVIDENCE_TITLE = "Evidence that each equilibrium was solved"


def with_half(text: str, half: float | None) -> str:
    """`text ± half`, the half width to the decimals of the text; the text alone for one value or equal values."""
    if not half or math.isnan(half):
        return text
    mantissa, _, exponent = text.partition("e")
    decimals = len(mantissa.partition(".")[2])
    half = half / 10 ** int(exponent or 0)
    shown = f"{half:,.{decimals}f}" if half >= 0.5 * 10**-decimals else f"<{10**-decimals:.{decimals}f}"
    return f"({mantissa} ± {shown})e{exponent}" if exponent else f"{mantissa} ± {shown}"


@dataclass(frozen=True)
class Cell:
    """One arm's value of one quantity; `of` counts the runs asked, `value.n` those that had it."""

    key: str
    value: Interval | None
    of: int

    @property
    def text(self) -> str:
        if self.value is None:
            return "not reached" if self.key == "terminal_epoch" and self.of else "–"
        text = with_half(format(self.value.mean, quantity(self.key).digits), self.value.half)
        return text if self.value.n == self.of else f"{text} ({self.value.n} of {self.of} seeds)"


@dataclass(frozen=True)
class Table:
    """Quantities (rows) by arms (columns)."""

    title: str
    arms: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]  # key, one cell per arm

    def texts(self) -> list[list[str]]:
        return [[quantity(key).label, *(cell.text for cell in cells)] for key, cells in self.rows]

    def markdown(self) -> str:
        lines = [["quantity", *map(markdown, self.arms)], ["---"] + ["---:"] * len(self.arms), *self.texts()]
        return f"## {self.title}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def arm_runs(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by arm, in the order given."""
    out: dict[str, list[Run]] = {}
    for run in runs:
        out.setdefault(run.arm, []).append(run)
    return out


def settled(runs: Sequence[Run]) -> list[Run]:
    """The finished runs, or, while none is, all: a mean never mixes a final number with an early one."""
    return [run for run in runs if run.finished] or [run for run in runs if run.history]


def table(title: str, runs: Sequence[Run], keys: Sequence[str]) -> Table:
    """Mean and interval of each key over each arm's seeds; a key that no arm has is left out."""
    arms = arm_runs(runs)
    values = {arm: [scalars(run) for run in settled(group)] for arm, group in arms.items()}
    rows = []
    for key in keys:
        cells = tuple(
            Cell(key, interval(row[key] for row in of if row.get(key) is not None), len(of)) for of in values.values()
        )
        if key == "terminal_epoch" or any(cell.value is not None for cell in cells):
            rows.append((key, cells))
    return Table(title, tuple(arms), tuple(rows))


def headline(runs: Sequence[Run]) -> Table:
    return table("Result at the last epoch", runs, HEADLINE)


def evidence(runs: Sequence[Run]) -> Table:
    """Residuals of solve and adjoint, of the arms that solve."""
    solving = [run for run in runs if any(scalars(run).get(key) is not None for key in EVIDENCE)]
    return table(EVIDENCE_TITLE, solving, EVIDENCE)


def blocks(runs: Sequence[Run]) -> Table:
    return table("Geometry by block of classes", runs, BLOCKS)


def summary_rows(run_dirs: Sequence[Path]) -> list[dict[str, str]]:
    """One row per arm, column name -> text: seeds, then mean (± 95 % t-interval) of each headline quantity.

    Raises ReportError as `read_runs` does.
    """
    return arm_summary(read_runs(run_dirs))


def arm_summary(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The rows of `summary_rows`."""
    found = headline(runs)
    groups = arm_runs(runs)
    rows = []
    for index, arm in enumerate(found.arms):
        cells = {quantity(key).label: cells[index].text for key, cells in found.rows}
        rows.append({"arm": arm, "seeds": str(len(settled(groups[arm]))), **cells})
    return rows


def tables_csv(tables: Iterable[Table]) -> str:
    """Long form, full precision: table, arm, quantity, mean, half width of the 95 % interval, seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "arm", "quantity", "mean", "half_width_95", "seeds"])
    for each in tables:
        for key, cells in each.rows:
            for arm, cell in zip(each.arms, cells):
                if cell.value is not None:
                    half = "" if cell.value.half is None else repr(cell.value.half)
                    writer.writerow([each.title, csv_cell(arm), key, repr(cell.value.mean), half, cell.value.n])
    return out.getvalue()


def runs_csv(runs: Iterable[Run]) -> str:
    """One line per run with every number of its last epoch but times: what the means were made of."""
    rows = [{"arm": run.arm, "seed": run.seed, "finished": run.finished, **scalars(run)} for run in runs]
    return rows_csv([{key: value for key, value in row.items() if key not in TIMES} for row in rows])


def rows_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV; a column that only some rows have is empty in the others."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row.get(column, "")) for column in columns] for row in rows)
    return out.getvalue()
