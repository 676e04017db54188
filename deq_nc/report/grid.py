"""The grid: runs of several settings that differ in imbalance alone, the numbers of each, means and differences."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deq_nc.names import file_name, printable
from deq_nc.report.runs import ARM_ORDER, FREE, SETTING, ReportError, Run, check_once, check_together, find_runs
from deq_nc.report.statistics import Interval, interval

KINDS = ("none", "step", "longtail")
PLANNED = re.compile(r"(balanced|step-KA(\d+)-R([\d.e+]+)|longtail-R([\d.e+]+))$")


@dataclass(frozen=True)
class Setting:
    """How the classes are balanced: `kind` none, step (KA = `majority` classes, R = `ratio`) or longtail (`ratio`)."""

    kind: str
    majority: int | None = None
    ratio: float | None = None

    @property
    def name(self) -> str:
        """As the folders are called: balanced, step-KA3-R10, longtail-R100."""
        if self.kind == "none":
            return "balanced"
        return f"step-KA{self.majority}-R{self.ratio:g}" if self.kind == "step" else f"longtail-R{self.ratio:g}"

    @property
    def title(self) -> str:
        if self.kind == "none":
            return "balanced"
        return f"{self.block}, R = {self.ratio:g}"

    @property
    def block(self) -> str:
        """The settings that share a table and a panel."""
        return {"none": "balanced", "step": f"KA = {self.majority}"}.get(self.kind, "long tail")

    @property
    def order(self) -> tuple[int, int, float]:
        return KINDS.index(self.kind), self.majority or 0, self.ratio or 0.0


def setting_of(config: dict[str, Any]) -> Setting:
    """The setting of a configuration; `majority` and `ratio` mean nothing where the classes are balanced."""
    data = config.get("data", {})
    kind = data.get("imbalance", "none")
    ratio = None if kind == "none" else float(data["ratio"])
    return Setting(kind, data["majority"] if kind == "step" else None, ratio)


@dataclass(frozen=True)
class Grid:
    """Runs by setting (in order), and the numbers of each finished run by its path; `planned` cells may be absent."""

    runs: dict[Setting, list[Run]]
    numbers: dict[Path, dict[str, Any]] = field(default_factory=dict)
    planned: frozenset[tuple[Setting, str, int]] = frozenset()
    left_out: tuple[str, ...] = ()  # a sentence on each folder that could not be read

    @property
    def all(self) -> list[Run]:
        return [run for group in self.runs.values() for run in group]

    @property
    def settings(self) -> list[Setting]:
        """Those with a run, the planned ones, and every KA x R of the KA and R that occur."""
        known = {*self.runs, *(setting for setting, _, _ in self.planned)}
        step = [setting for setting in known if setting.kind == "step"]
        known |= {Setting("step", a.majority, b.ratio) for a in step for b in step}
        return sorted(known, key=lambda setting: setting.order)

    @property
    def arms(self) -> list[str]:
        found = {run.arm for run in self.all} | {arm for _, arm, _ in self.planned}
        return [*(arm for arm in ARM_ORDER if arm in found), *sorted(found - set(ARM_ORDER))]

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.all} | {seed for _, _, seed in self.planned})

    def finished(self, setting: Setting, arm: str) -> list[Run]:
        return [run for run in self.runs.get(setting, []) if run.arm == arm and run.finished]

    def values(self, setting: Setting, arm: str, key: str) -> dict[int, float]:
        """Seed -> number, of the finished runs that have it."""
        found = {run.seed: self.numbers[run.path].get(key) for run in self.finished(setting, arm)}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, setting: Setting, arm: str, key: str) -> Interval | None:
        return interval(self.values(setting, arm, key).values())

    def paired(self, setting: Setting, arm: str, other: str, key: str) -> Interval | None:
        """Mean of the differences arm - other over the seeds that both have, and its t-interval."""
        left, right = self.values(setting, arm, key), self.values(setting, other, key)
        return interval(left[seed] - right[seed] for seed in sorted(left.keys() & right.keys()))

    def missing(self) -> list[str]:
        """A line per setting: which cells (arm, seed) of the grid have no run, or one that has not finished."""
        out = []
        for setting in self.settings:
            runs = {(run.arm, run.seed): run for run in self.runs.get(setting, [])}
            if not runs:
                out.append(f"{setting.title}: no run yet.")
                continue
            parts = []
            for arm in self.arms:
                absent = [seed for seed in self.seeds if (arm, seed) not in runs]
                if absent:
                    parts.append(f"{arm} seed {', '.join(map(str, absent))} missing")
                for seed in self.seeds:
                    run = runs.get((arm, seed))
                    if run is not None and not run.finished:
                        parts.append(f"{arm} seed {seed} unfinished, epoch {run.epoch} of {run.epochs or 'unknown'}")
            if parts:
                out.append(f"{setting.title}: {'; '.join(parts)}.")
        return out


def read_grid(run_dirs: Sequence[Path], planned: Sequence[Path] = ()) -> Grid:
    """Runs grouped by setting, without their numbers. Raises ReportError as `read_runs` does."""
    runs, left_out = find_runs(run_dirs, (*FREE, *SETTING))
    groups: dict[Setting, list[Run]] = {}
    for run in runs:
        groups.setdefault(setting_of(run.config), []).append(run)
    for group in groups.values():
        check_once(group)
        check_together(group)
    ordered = {setting: groups[setting] for setting in sorted(groups, key=lambda setting: setting.order)}
    return Grid(ordered, {}, frozenset(_planned(Path(folder)) for folder in planned), tuple(left_out))


def _planned(folder: Path) -> tuple[Setting, str, int]:
    setting, run = PLANNED.search(folder.parent.name), re.fullmatch(r"(\w+)-seed(\d+)", folder.name)
    if setting is None or run is None:
        raise ReportError(
            f"{printable(folder)}: expected RECIPE-SETTING/ARM-seedN for a planned run. Name it as the sweep does."
        )
    _, majority, step, tail = setting.groups()
    if step:
        found = Setting("step", int(majority), float(step))
    else:
        found = Setting("longtail", None, float(tail)) if tail else Setting("none")
    return found, run.group(1), int(run.group(2))


def default_folder(grid: Grid) -> Path:
    """COMMON PARENT/RECIPE-grid."""
    parent = Path(os.path.commonpath([run.path for run in grid.all]))
    return parent / file_name(f"{grid.all[0].config.get('recipe', 'runs')}-grid")
