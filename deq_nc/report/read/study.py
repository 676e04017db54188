"""All runs of a page: grouped by setting, arm and seed. One setting is a grid of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deq_nc.names import printable
from deq_nc.report.read.folders import FREE, VARYING, check_once, check_together, run_folders
from deq_nc.report.read.numbers import controls, scalars
from deq_nc.report.read.run import ReportError, Run, read_run
from deq_nc.runs import Setting, place

ARM_ORDER = ("explicit", "deq", "unrolled", "residual")  # the reference first, then the question, then the controls


@dataclass(frozen=True)
class Study:
    """Runs by setting (in order), each sorted by arm and seed; `planned` cells of a grid may be absent."""

    runs: Mapping[Setting, tuple[Run, ...]]
    planned: frozenset[tuple[Setting, str, int]] = frozenset()
    left_out: tuple[str, ...] = ()  # a sentence on each folder that could not be read

    @cached_property
    def all(self) -> list[Run]:
        return [run for group in self.runs.values() for run in group]

    @cached_property
    def settings(self) -> list[Setting]:
        """Those with a run, the planned ones, and every KA x R of the KA and R that occur."""
        known = {*self.runs, *(setting for setting, _, _ in self.planned)}
        step = [setting for setting in known if setting.kind == "step"]
        known |= {Setting("step", a.majority, b.ratio) for a in step for b in step}
        return sorted(known, key=lambda setting: setting.order)

    @property
    def many(self) -> bool:
        return len(self.settings) > 1

    @cached_property
    def arms(self) -> list[str]:
        return sorted({run.arm for run in self.all} | {arm for _, arm, _ in self.planned}, key=_rank)

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.all} | {seed for _, _, seed in self.planned})

    @cached_property
    def numbers(self) -> dict[Path, dict[str, Any]]:
        """Every number of each run; in a grid with those that tell why, of the finished ones."""
        return {run.path: scalars(run) | (controls(run) if self.many and run.finished else {}) for run in self.all}

    def counted(self, setting: Setting, arm: str) -> list[Run]:
        """The finished runs: a mean never mixes a final number with an early one.

        Of a single setting, while no run of the arm has finished, those with a history.
        """
        runs = [run for run in self.runs.get(setting, ()) if run.arm == arm]
        return [run for run in runs if run.finished] or [run for run in runs if run.history and not self.many]

    def values(self, setting: Setting, arm: str, key: str) -> dict[int, float]:
        """Seed -> number, of the counted runs that have it."""
        found = {run.seed: self.numbers[run.path].get(key) for run in self.counted(setting, arm)}
        return {seed: value for seed, value in found.items() if value is not None}

    def missing(self) -> list[str]:
        """A line per setting: which cells (arm, seed) of the grid have no run, or one that has not finished."""
        out = []
        for setting in self.settings:
            runs = {(run.arm, run.seed): run for run in self.runs.get(setting, ())}
            parts = []
            for arm in self.arms:
                if absent := [str(seed) for seed in self.seeds if (arm, seed) not in runs]:
                    parts.append(f"{arm} seed {', '.join(absent)} missing")
                mine = [runs[arm, seed] for seed in self.seeds if (arm, seed) in runs]
                parts += [f"{run.name} {run.state}" for run in mine if not run.finished]
            if parts:
                out.append(f"{setting.title}: {'; '.join(parts) if runs else 'no run yet'}.")
        return out


def read(run_dirs: Sequence[Path], planned: Sequence[Path] = ()) -> Study:
    """The runs under `run_dirs`: run folders, folders of run folders, roots of those; each read once.

    RUN-old-N only where it is named itself.

    `planned`: folders RECIPE-SETTING/ARM-seedN that belong to the grid and may not be there yet.
    Raises ReportError: nothing to show, no folder that can be read, one arm and seed twice, runs that differ in other
    fields than arm, seed and imbalance, in their data or in package versions.
    """
    folders = [folder for given in run_dirs for folder in run_folders(Path(given))]
    if not folders:
        raise ReportError("report: expected at least one run folder, got none. Train one first: deq-nc train RECIPE.")
    runs, left_out = [], []
    for folder in {folder.resolve(): folder for folder in reversed(folders)}.values():
        try:
            runs.append(read_run(folder))
        except ReportError as error:
            left_out.append(str(error))
    left_out.sort()
    if not runs:
        others = f" So are {len(left_out) - 1} others." if len(left_out) > 1 else ""
        raise ReportError(left_out[0] + others)
    runs.sort(key=lambda run: (run.setting.order, _rank(run.arm), run.seed, run.path))
    check_together(runs, VARYING)
    if not any(run.history for run in runs):
        where = ", ".join(printable(run.path) for run in runs)
        raise ReportError(f"report: expected a measured epoch, got an empty history in {where}. Let the run go on.")
    groups: dict[Setting, tuple[Run, ...]] = {}
    for run in runs:
        groups[run.setting] = (*groups.get(run.setting, ()), run)
    for group in groups.values():
        check_once(group)
        check_together(group, FREE)
    study = Study(groups, frozenset(map(_planned, planned)), tuple(left_out))
    return study if study.many else Study(groups, left_out=tuple(left_out))


def _rank(arm: str) -> tuple[int, str]:
    return (ARM_ORDER.index(arm) if arm in ARM_ORDER else len(ARM_ORDER), arm)


def _planned(folder: Path) -> tuple[Setting, str, int]:
    if (found := place(Path(folder))) is None:
        raise ReportError(
            f"{printable(folder)}: expected RECIPE-SETTING/ARM-seedN for a planned run. Name it as the sweep does."
        )
    return found
