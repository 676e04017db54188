"""A table of the grid: rows by settings, columns by arms and by paired differences; as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deq_nc.names import csv_cell, markdown
from deq_nc.report.grid import Grid, Setting
from deq_nc.report.quantities import quantity
from deq_nc.report.statistics import Interval
from deq_nc.report.tables import with_half

PERCENT = frozenset(("test_accuracy", "test_accuracy_majority", "test_accuracy_minority"))  # files keep the share
MARK = " *"  # the interval of a difference excludes 0


@dataclass(frozen=True)
class Entry:
    """One number: a mean over seeds, or (`paired`) over differences; `of` is the number of seeds of the grid."""

    key: str
    value: Interval | None
    of: int
    paired: bool = False

    @property
    def marked(self) -> bool:
        return self.paired and self.value is not None and self.value.excludes_zero()

    @property
    def text(self) -> str:
        """`97.31 ± 0.52`, `+1.20 ± 0.40 *`, with `(3/5)` where only 3 of 5 seeds are in."""
        if self.value is None:
            return "–"
        scale = 100 if self.key in PERCENT else 1
        mean, half = scale * self.value.mean, None if self.value.half is None else scale * self.value.half
        digits = ".2f" if scale == 100 else quantity(self.key).digits
        text = with_half(_signed(mean, half, digits) if self.paired else format(mean, digits), half)
        text += MARK if self.marked else ""
        return text if self.value.n == self.of else f"{text} ({self.value.n}/{self.of})"


def _signed(mean: float, half: float | None, digits: str) -> str:
    """A difference is as precise as its interval, not as its size: two digits of the half width."""
    if digits == "#.3g" and math.isfinite(mean):
        size = half if half and math.isfinite(half) else abs(mean)
        digits = f".{min(max(1 - math.floor(math.log10(size)), 0), 6) if size > 0 else 2}f"
    return format(mean, "+" + digits)


@dataclass(frozen=True)
class Row:
    """Words of the first columns and one entry per column; `setting` and `key` identify it in the CSV."""

    setting: Setting
    key: str
    words: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class GridTable:
    """`name` labels it in files, `stubs` head the first columns, `columns` the rest (arms, differences, iterates)."""

    name: str
    title: str
    note: str
    stubs: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def texts(self) -> list[list[str]]:
        return [[*row.words, *(entry.text for entry in row.entries)] for row in self.rows]

    def markdown(self) -> str:
        rule = ["---"] * len(self.stubs) + ["---:"] * len(self.columns)
        lines = [[*self.stubs, *map(markdown, self.columns)], rule, *self.texts()]
        note = f"\n{self.note}\n" if self.note else ""
        return f"## {self.title}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines) + note


def difference(pair: tuple[str, str]) -> str:
    return f"{pair[0]} − {pair[1]}"


def arm_table(
    grid: Grid, name: str, title: str, note: str, stubs: tuple[str, ...], keys: Sequence[str],
    words: Sequence[tuple[Setting, str, tuple[str, ...]]], pairs: Sequence[tuple[str, str]] = (),
) -> GridTable | None:  # fmt: skip
    """Rows (setting, key, words) by the grid's arms and the paired differences; empty rows and columns are left out.

    None where nothing has been measured. A column stays when any of `keys` has a number for it.
    """
    seeds = len(grid.seeds)
    rows = []
    for setting, key, words_ in words:
        means = [Entry(key, grid.mean(setting, arm, key), seeds) for arm in grid.arms]
        paired = [Entry(key, grid.paired(setting, *pair, key), seeds, paired=True) for pair in pairs]
        if any(entry.value is not None for entry in means):
            rows.append(Row(setting, key, words_, (*means, *paired)))
    used = [any(row.entries[i].value is not None for row in rows) for i in range(len(grid.arms) + len(pairs))]
    columns = [*grid.arms, *map(difference, pairs)]
    rows = [Row(row.setting, row.key, row.words, tuple(e for e, use in zip(row.entries, used) if use)) for row in rows]
    kept = tuple(column for column, use in zip(columns, used) if use)
    return GridTable(name, title, note, stubs, kept, tuple(rows)) if rows else None


def grid_csv(tables: Iterable[GridTable]) -> str:
    """Long form, full precision; accuracies as shares: table, setting, quantity, column, mean, half width, seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow("table imbalance majority ratio quantity column mean half_width_95 seeds excludes_0".split())
    for table in tables:
        for row in table.rows:
            place = [row.setting.kind, _or(row.setting.majority), _or(row.setting.ratio), row.key]
            for column, entry in zip(table.columns, row.entries):
                if (value := entry.value) is not None:
                    half = "" if value.half is None else repr(value.half)
                    marked = int(entry.marked) if entry.paired and value.half is not None else ""
                    column = csv_cell(column.replace("−", "-"))
                    writer.writerow([table.name, *place, column, repr(value.mean), half, value.n, marked])
    return out.getvalue()


def _or(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
