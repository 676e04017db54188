"""One kind of table: rows of words, then a mean over seeds per column; as Markdown and CSV (LaTeX: `latex`)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deq_nc.names import csv_cell, markdown
from deq_nc.report.read import Study
from deq_nc.report.tables.intervals import Interval, interval
from deq_nc.report.tables.quantities import quantity
from deq_nc.runs import Setting

PERCENT = frozenset(("test_accuracy", "test_accuracy_majority", "test_accuracy_minority"))  # files keep the share
MARK = " *"  # the interval of a difference excludes 0
ALONE = "table arm quantity mean half_width_95 seeds".split()  # columns of tables.csv: of one setting, of a grid
GRID = "table imbalance majority ratio quantity column mean half_width_95 seeds excludes_0".split()


@dataclass(frozen=True)
class Entry:
    """One number: a mean over seeds, or (`paired`) over differences; `of` counts the seeds asked.

    `alone`: in a table of one setting, which has room for words and shows accuracies as shares.
    """

    key: str
    value: Interval | None
    of: int
    paired: bool = False
    alone: bool = False

    @property
    def marked(self) -> bool:
        return self.paired and self.value is not None and self.value.excludes_zero()

    @property
    def text(self) -> str:
        """`97.31 ± 0.52`, `+1.20 ± 0.40 *`, with `(3/5)` where only 3 of 5 seeds are in."""
        if self.value is None:
            return "not reached" if self.alone and self.key == "terminal_epoch" and self.of else "–"
        scale = 100 if self.key in PERCENT and not self.alone else 1
        mean, half = scale * self.value.mean, None if self.value.half is None else scale * self.value.half
        digits = ".2f" if scale == 100 else quantity(self.key).digits
        text = with_half(_signed(mean, half, digits) if self.paired else format(mean, digits), half)
        text += MARK if self.marked else ""
        seeds = f"{self.value.n} of {self.of} seeds" if self.alone else f"{self.value.n}/{self.of}"
        return text if self.value.n == self.of else f"{text} ({seeds})"


def with_half(text: str, half: float | None) -> str:
    """`text ± half`, the half width to the decimals of the text; the text alone for one value or equal values."""
    if not half or math.isnan(half):
        return text
    mantissa, _, exponent = text.partition("e")
    decimals = len(mantissa.partition(".")[2])
    half = half / 10 ** int(exponent or 0)
    shown = f"{half:,.{decimals}f}" if half >= 0.5 * 10**-decimals else f"<{10**-decimals:.{decimals}f}"
    return f"({mantissa} ± {shown})e{exponent}" if exponent else f"{mantissa} ± {shown}"


def _signed(mean: float, half: float | None, digits: str) -> str:
    """A difference is as precise as its interval, not as its size: two digits of the half width."""
    if digits == "#.3g" and math.isfinite(mean):
        size = half if half and math.isfinite(half) else abs(mean)
        digits = f".{min(max(1 - math.floor(math.log10(size)), 0), 6) if size > 0 else 2}f"
    return format(mean, "+" + digits)


def mean(study: Study, setting: Setting, arm: str, key: str) -> Entry:
    of = len(study.seeds if study.many else study.counted(setting, arm))
    return Entry(key, interval(study.values(setting, arm, key).values()), of, alone=not study.many)


def paired(study: Study, setting: Setting, arm: str, other: str, key: str) -> Entry:
    """Mean of the differences arm - other over the seeds that both have."""
    left, right = study.values(setting, arm, key), study.values(setting, other, key)
    found = interval(left[seed] - right[seed] for seed in sorted(left.keys() & right.keys()))
    return Entry(key, found, len(study.seeds), paired=True)


def difference(pair: tuple[str, str]) -> str:
    return f"{pair[0]} − {pair[1]}"


@dataclass(frozen=True)
class Row:
    """Words of the first columns and one entry per column; `setting` and `key` identify it in the CSV."""

    setting: Setting
    key: str
    words: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def measured(self) -> bool:
        return any(entry.value is not None for entry in self.entries)


@dataclass(frozen=True)
class Table:
    """`name` labels it in files, `stubs` head the first columns, `columns` the rest (arms, differences, iterates)."""

    name: str
    title: str
    note: str
    stubs: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def texts(self) -> list[list[str]]:
        return [[*row.words, *(entry.text for entry in row.entries)] for row in self.rows]

    def trimmed(self) -> Table:
        """Without the columns in which nothing was measured."""
        used = [any(row.entries[i].value is not None for row in self.rows) for i in range(len(self.columns))]

        def keep(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(value for value, use in zip(values, used) if use)

        rows = tuple(Row(row.setting, row.key, row.words, keep(row.entries)) for row in self.rows)
        return Table(self.name, self.title, self.note, self.stubs, keep(self.columns), rows)

    def markdown(self) -> str:
        rule = ["---"] * len(self.stubs) + ["---:"] * len(self.columns)
        lines = [[*self.stubs, *map(markdown, self.columns)], rule, *self.texts()]
        note = f"\n{self.note}\n" if self.note else ""
        return f"## {self.title}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines) + note

    def records(self) -> list[dict[str, Any]]:
        """Long form, full precision, accuracies as shares: a row per number, with the columns of ALONE and GRID."""
        return [
            {
                "table": self.name, "imbalance": row.setting.kind, "majority": _or(row.setting.majority),
                "ratio": _or(row.setting.ratio), "quantity": row.key, "arm": column,
                "column": column.replace("−", "-"), "mean": value.mean,
                "half_width_95": value.half, "seeds": value.n,
                "excludes_0": int(entry.marked) if entry.paired and value.half is not None else "",
            }
            for row in self.rows
            for column, entry in zip(self.columns, row.entries)
            if (value := entry.value) is not None
        ]  # fmt: skip


def _or(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV, with `columns` or all that occur; a column that only some rows have is empty in the others."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row)) if columns is None else columns
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row.get(column, "")) for column in columns] for row in rows)
    return out.getvalue()
