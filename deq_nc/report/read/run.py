"""One run folder as a value. Files that only figures need may be damaged: that is a sentence on the page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from deq_nc.config import ConfigError
from deq_nc.names import clean, printable
from deq_nc.npz import Npz, NpzError
from deq_nc.report.read import checks
from deq_nc.runs import Along, Line, RunError, RunFolder, Setting, Summary, read_history, read_json
from deq_nc.runs.files import checksum, read_bytes

SLACK = 1.05  # the residuals along the solve are computed once more, in another program


class ReportError(ConfigError):
    """Run folders that cannot be shown, or not together; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Run:
    """One run folder; `summary`, `analysis` and `along` are empty until the run has finished."""

    path: Path
    config: dict[str, Any]
    history: tuple[Line, ...]  # one row per measured epoch, ascending
    finished: bool
    summary: Summary
    analysis: Mapping[str, np.ndarray]
    along: Along | None  # collapse by layer and along the solve; None where it cannot be shown
    data: Mapping[str, str]  # checksums of the train and the test images; of no run before 0.2
    damaged: tuple[str, ...] = ()  # sentences on the files of a finished run that could not be used

    @property
    def arm(self) -> str:
        return self.config["arm"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def setting(self) -> Setting:
        return Setting.of(self.config.get("data", {}))

    @property
    def last(self) -> Mapping[str, Any]:
        """The row of the last measured epoch, never of the best."""
        return self.history[-1] if self.history else {}

    @property
    def epoch(self) -> int:
        return self.last.get("epoch", 0)

    @property
    def epochs(self) -> int | None:
        return self.config.get("train", {}).get("epochs")

    @property
    def state(self) -> str:
        return "finished" if self.finished else f"unfinished, epoch {self.epoch} of {self.epochs or 'unknown'}"

    @property
    def terminal_epoch(self) -> int | None:
        """First measured epoch whose train error is 0, or None; the summary's own when it is there."""
        if "terminal_epoch" in self.summary:
            return self.summary["terminal_epoch"]
        return next((row["epoch"] for row in self.history if (row.get("train_accuracy") or 0) >= 1), None)

    @property
    def num_classes(self) -> int | None:
        if "class_means" in self.analysis:
            return len(self.analysis["class_means"])
        return len(self.summary.get("class_names") or []) or None

    @property
    def solve(self) -> Sequence[Mapping[str, Any]]:
        """The rows along the solve, [] of an arm that does not solve."""
        return (self.along.get("by_step") if self.along else None) or []

    @property
    def cut_short(self) -> bool:
        """Whether the record along the solve stops before the solve did: above the tolerance, with steps left."""
        if not self.solve or (residual := self.solve[-1]["residual"]) is None:
            return False
        tol, most = (self.config.get("solver", {}).get(name) for name in ("tol", "max_steps"))
        return tol is not None and residual > SLACK * tol and (most is None or self.solve[-1]["step"] < most)


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by arm, in the order given."""
    out: dict[str, list[Run]] = {}
    for run in runs:
        out.setdefault(run.arm, []).append(run)
    return out


def firsts(runs: Iterable[Run], part: str) -> list[Run]:
    """The first run of each arm that has `part`: analysis or along, or is `finished`."""
    return [group[0] for group in by_arm(run for run in runs if getattr(run, part)).values()]


def read_run(path: Path) -> Run:
    """Raises ReportError for a damaged configuration, history or summary."""
    config = _read_json(path / "config.json", checks.config)
    data = _read_json(path / "data.json") if (path / "data.json").is_file() else {}
    history = _read_history(path / "history.jsonl")
    if not RunFolder(path).finished:
        return Run(path, config, history, False, {}, {}, None, data)
    summary = _read_summary(path)
    if altered := _altered(path / "history.jsonl", summary):
        raise ReportError(f"{printable(path / 'history.jsonl')}: {altered}. Leave this folder out.")
    analysis: Mapping[str, np.ndarray] = {}
    along, damaged = None, []
    try:
        analysis = _read_arrays(path / "analysis.npz", summary)
    except (NpzError, ReportError) as error:
        damaged.append(f"lacks its arrays, and figures and predictions made of them ({_short(error, path)}).")
    file = path / "along.json"
    try:
        if file.exists():
            along = cast(Along, _read_json(file, lambda value: _altered(file, summary) or checks.along(value)))
    except ReportError as error:
        damaged.append(f"is not shown by layer and along its solve ({_short(error, path)}).")
    return Run(path, config, history, True, summary, analysis, along, data, tuple(damaged))


def _read_json(path: Path, check: Callable[[dict[str, Any]], str | None] = lambda value: None) -> dict[str, Any]:
    try:
        value = clean(read_json(path))
    except RunError as error:
        raise ReportError(printable(error)) from error
    if problem := check(value):
        raise ReportError(f"{printable(path)}: {problem}. Train again, or leave this folder out.")
    return value


def _read_history(path: Path) -> tuple[Line, ...]:
    try:
        found = read_history(path)
    except RunError as error:
        raise ReportError(printable(error)) from error
    if found.damage:
        raise ReportError(
            f"{printable(path)}: {printable(found.damage)}. Only the last line may be cut off; continue the run from "
            "its checkpoint, or leave this folder out."
        )
    return tuple(clean(line) for line in found.lines)


def _read_summary(path: Path) -> Summary:
    try:
        return clean(RunFolder(path).summary())
    except RunError as error:
        raise ReportError(printable(error)) from error


def _read_arrays(path: Path, summary: Summary) -> Npz:
    if not path.exists():
        raise NpzError("analysis.npz is not there")
    arrays = Npz(path)
    if problem := _altered(path, summary) or checks.arrays(arrays):
        raise NpzError(f"analysis.npz: {problem}")
    return arrays


def _altered(path: Path, summary: Summary) -> str | None:
    """What is wrong where the summary's checksum is of other bytes; older summaries have none."""
    expected = (summary.get("checksums") or {}).get(path.name)
    try:
        return None if expected in (None, checksum(read_bytes(path))) else "other bytes than the run wrote (checksum)"
    except (RunError, OSError) as error:
        raise ReportError(printable(error)) from error


def _short(error: Exception, folder: Path) -> str:
    """The message without the folder, which is named beside it."""
    return printable(error).replace(printable(folder) + os.sep, "").rstrip(".")
