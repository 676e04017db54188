"""Run folders as values: read, checked, and in one order (arm, then seed).

A folder that cannot be read is left out and named; files that only figures need are a sentence on the page.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deq_nc.config import ConfigError, differing_fields
from deq_nc.names import clean, printable
from deq_nc.npz import Npz, NpzError
from deq_nc.report import checks
from deq_nc.runs import RunError, read_history, read_json
from deq_nc.runs.files import checksum, read_bytes

ARM_ORDER = ("explicit", "deq", "unrolled", "residual")  # the reference first, then the question, then the controls
log = logging.getLogger("deq_nc.report")
OLD = re.compile(r"-old-[0-9]+$")
FREE = ("arm", "seed", "workdir", "data.allow_single")  # may differ between the runs of one setting
# May differ beside these between the settings of a grid; epochs, since imbalance leaves fewer updates in each.
SETTING = ("data.imbalance", "data.majority", "data.ratio", "train.epochs")


class ReportError(ConfigError):
    """Run folders that cannot be shown, or not together; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Run:
    """One run folder; `summary`, `analysis` and `along` are None until the run has finished."""

    path: Path
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]  # one row per measured epoch, ascending
    summary: dict[str, Any] | None
    analysis: Mapping[str, np.ndarray] | None
    along: dict[str, list[dict[str, Any]]] | None = None  # collapse by layer and along the solve
    data: dict[str, Any] | None = None  # checksums of the train and the test images
    damaged: tuple[str, ...] = ()  # sentences on the files of a finished run that could not be used

    @property
    def arm(self) -> str:
        return self.config["arm"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def epoch(self) -> int:
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def epochs(self) -> int | None:
        return self.config.get("train", {}).get("epochs")

    @property
    def terminal_epoch(self) -> int | None:
        """First measured epoch whose train error is 0, or None; the summary's own when it is there."""
        if self.summary is not None and "terminal_epoch" in self.summary:
            return self.summary["terminal_epoch"]
        return next((row["epoch"] for row in self.history if (row.get("train_accuracy") or 0) >= 1), None)


class Found(NamedTuple):
    """The runs that could be read, sorted by arm and seed, and a sentence on each folder that could not."""

    runs: list[Run]
    left_out: list[str]


def find_runs(run_dirs: Sequence[Path], free: Sequence[str] = FREE) -> Found:
    """The runs under `run_dirs`: run folders, folders of run folders, roots of those; RUN-old-N only where named.

    `free`: fields of the configuration that may differ. Raises ReportError: nothing to show, no folder that can be
    read, other fields that differ, or different package versions; and, where only FREE may, one arm and seed twice.
    """
    folders = [folder for given in run_dirs for folder in _run_folders(Path(given))]
    if not folders:
        raise ReportError("report: expected at least one run folder, got none. Train one first: deq-nc train RECIPE.")
    runs, left_out = [], []
    for folder in {folder.resolve(): folder for folder in reversed(folders)}.values():
        try:
            runs.append(_read_run(folder))
        except ReportError as error:
            left_out.append(str(error))
    left_out.sort()
    if not runs:
        others = f" So are {len(left_out) - 1} others." if len(left_out) > 1 else ""
        raise ReportError(left_out[0] + others)
    runs.sort(key=lambda run: (_rank(run.arm), run.seed, run.path))
    if tuple(free) == FREE:
        check_once(runs)
    check_together(runs, free)
    if not any(run.history for run in runs):
        where = ", ".join(printable(run.path) for run in runs)
        raise ReportError(f"report: expected a measured epoch, got an empty history in {where}. Let the run go on.")
    return Found(runs, left_out)


def read_runs(run_dirs: Sequence[Path], free: Sequence[str] = FREE) -> list[Run]:
    """The runs of `find_runs`."""
    return find_runs(run_dirs, free).runs


def _rank(arm: str) -> tuple[int, str]:
    return (ARM_ORDER.index(arm) if arm in ARM_ORDER else len(ARM_ORDER), arm)


def _run_folders(given: Path) -> list[Path]:
    """Links are kept as they are named: a page goes beside what was named, not beside what a link points to."""
    given = Path(os.path.abspath(given))
    try:
        if not given.is_dir():
            raise ReportError(f"{printable(given)}: expected a run folder, got no folder of that name. Check the path.")
        if _is_run(given):
            return [given]
        if _is_page(given):
            return []  # a page of ours, which a wildcard over the settings catches too
        children = [child for child in sorted(given.iterdir()) if child.is_dir()]
        inside = [child for child in children if _is_run(child)]
        # A root: folders of settings, each with its runs.
        inside += [run for child in children if not _is_run(child) for run in sorted(child.iterdir()) if _is_run(run)]
        if old := [run for run in inside if OLD.search(run.name)]:
            log.info(f"left out, renamed by --fresh: {', '.join(printable(run) for run in old)}")
            inside = [run for run in inside if run not in old]
    except OSError as error:
        raise ReportError(f"{printable(given)}: could not be read ({error.strerror}). Check the path.") from error
    if not inside:
        raise ReportError(
            f"{printable(given)}: expected a run folder (config.json, history.jsonl) or a folder of them, got a folder "
            "without either. Pass the folder that `deq-nc train` wrote."
        )
    return inside


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _is_page(folder: Path) -> bool:
    return (folder / "index.html").is_file() and (folder / "tables.csv").is_file()


def _read_json(path: Path, check: Callable[[dict[str, Any]], str | None] = lambda value: None) -> dict[str, Any]:
    try:
        value = clean(read_json(path))
    except RunError as error:
        raise ReportError(printable(error)) from error
    if problem := check(value):
        raise ReportError(f"{printable(path)}: {problem}. Train again, or leave this folder out.")
    return value


def _read_history(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        found = read_history(path)
    except RunError as error:
        raise ReportError(printable(error)) from error
    rows = [clean(line) for line in found.lines]
    problem = found.damage or next((said for row in rows if (said := checks.row(row))), None)
    if problem:
        raise ReportError(
            f"{printable(path)}: {printable(problem)}. Only the last line may be cut off; continue the run from its "
            "checkpoint, or leave this folder out."
        )
    return tuple(rows)


def _read_run(path: Path) -> Run:
    """Raises ReportError for a damaged configuration, history or summary; what only figures need may be damaged."""
    config = _read_json(path / "config.json", checks.config)
    data = _read_json(path / "data.json") if (path / "data.json").is_file() else None
    history = _read_history(path / "history.jsonl")
    if not (path / "summary.json").exists():
        return Run(path, config, history, None, None, None, data)
    summary = _read_json(path / "summary.json", checks.summary)
    if altered := _altered(path / "history.jsonl", summary):
        raise ReportError(f"{printable(path / 'history.jsonl')}: {altered}. Leave this folder out.")
    analysis, along, damaged = None, None, []
    try:
        if not (path / "analysis.npz").exists():
            raise NpzError("analysis.npz is not there")
        analysis = Npz(path / "analysis.npz")
        if problem := _altered(path / "analysis.npz", summary) or checks.arrays(analysis):
            raise NpzError(f"analysis.npz: {problem}")
    except (NpzError, ReportError) as error:
        analysis = None
        damaged.append(f"lacks its arrays, and figures and predictions made of them ({_short(error, path)}).")
    file = path / "along.json"
    try:
        if file.exists():
            along = _read_json(file, lambda value: _altered(file, summary) or checks.along(value))
    except ReportError as error:
        damaged.append(f"is not shown by layer and along its solve ({_short(error, path)}).")
    return Run(path, config, history, summary, analysis, along, data, tuple(damaged))


def _altered(path: Path, summary: dict[str, Any]) -> str | None:
    """What is wrong where the summary's checksum is of other bytes; older summaries have none."""
    expected = (summary.get("checksums") or {}).get(path.name)
    try:
        return None if expected in (None, checksum(read_bytes(path))) else "other bytes than the run wrote (checksum)"
    except (RunError, OSError) as error:
        raise ReportError(printable(error)) from error


def _short(error: Exception, folder: Path) -> str:
    """The message without the folder, which is named beside it."""
    return printable(error).replace(printable(folder) + os.sep, "").rstrip(".")


def check_once(runs: Sequence[Run]) -> None:
    """Raises ReportError where two folders hold the same arm and seed."""
    seen: dict[tuple[str, int], Path] = {}
    for run in runs:
        if (other := seen.setdefault((run.arm, run.seed), run.path)) != run.path:
            raise ReportError(
                f"report: expected one run per arm and seed, got {run.arm} seed {run.seed} twice: {printable(other)} "
                f"and {printable(run.path)}. Leave one out."
            )


def check_together(runs: Sequence[Run], free: Sequence[str] = FREE) -> None:
    """Raises ReportError where runs differ in another field of their configuration than `free`, in data or versions.

    The folder of the data may differ where checksums say that they are the same.
    """
    one_setting = tuple(free) == FREE
    allowed = "arm and seed" if one_setting else "arm, seed, imbalance and its epochs"
    for run in runs[1:]:
        differ = differing_fields(runs[0].config, run.config)
        if runs[0].data is not None and run.data is not None:
            differ.pop("data.dir", None)
            for split in ("train", "test") if one_setting else ("test",):
                if (pair := (runs[0].data.get(split), run.data.get(split)))[0] != pair[1]:
                    differ[f"checksum of the {split} images"] = pair
        if differ := {name: values for name, values in differ.items() if name not in free}:
            raise ReportError(
                f"report: expected runs of one setting (only {allowed} may differ), got {printable(runs[0].path)} and "
                f"{printable(run.path)} which differ in {_pairs(differ)}. Report each setting on its own."
            )
    known = [run for run in runs if run.summary is not None and run.summary.get("versions")]
    for run in known[1:]:
        if differ := differing_fields(known[0].summary["versions"], run.summary["versions"]):
            raise ReportError(
                f"report: expected runs made with the same packages, got {printable(known[0].path)} and "
                f"{printable(run.path)} which differ in {_pairs(differ)}. Train those of one version again, or report "
                "them apart."
            )


def _pairs(differ: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{name}: {left!r} and {right!r}" for name, (left, right) in differ.items())
