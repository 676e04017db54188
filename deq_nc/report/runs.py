"""Run folders as values: read, checked, and in one order (arm, then seed)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from deq_nc.config import ConfigError, differing_fields

ARM_ORDER = ("explicit", "deq", "unrolled", "residual")  # the reference first, then the question, then the controls
FREE = ("arm", "seed", "workdir")  # what may differ between the runs of one report


class ReportError(ConfigError):
    """Run folders that cannot be shown, or not together; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Run:
    """One run folder; `summary`, `analysis` and `along` are None until the run has finished."""

    path: Path
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]  # one row per measured epoch, ascending
    summary: dict[str, Any] | None
    analysis: dict[str, np.ndarray] | None
    along: dict[str, list[dict[str, Any]]] | None = None  # collapse by layer and along the solve

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


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """The runs under `run_dirs` (run folders, or folders of run folders), sorted by arm and seed.

    Raises ReportError: nothing to show, unreadable files, one arm and seed twice, or runs of different settings.
    """
    folders = [folder for given in run_dirs for folder in _run_folders(Path(given))]
    if not folders:
        raise ReportError("report: expected at least one run folder, got none. Train one first: deq-nc train RECIPE.")
    runs = sorted(map(_read_run, dict.fromkeys(folders)), key=lambda run: (_rank(run.arm), run.seed))
    _check_together(runs)
    if not any(run.history for run in runs):
        where = ", ".join(str(run.path) for run in runs)
        raise ReportError(f"report: expected a measured epoch, got an empty history in {where}. Let the run go on.")
    return runs


def _rank(arm: str) -> tuple[int, str]:
    return (ARM_ORDER.index(arm) if arm in ARM_ORDER else len(ARM_ORDER), arm)


def _run_folders(given: Path) -> list[Path]:
    if not given.is_dir():
        raise ReportError(f"{given}: expected a run folder, got no folder of that name. Check the path.")
    if (given / "config.json").is_file():
        return [given.resolve()]
    inside = sorted(child.resolve() for child in given.iterdir() if (child / "config.json").is_file())
    if not inside:
        raise ReportError(
            f"{given}: expected a run folder (config.json, history.jsonl) or a folder of them, got a folder without "
            "either. Pass the folder that `deq-nc train` wrote."
        )
    return inside


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: expected JSON, got: {error}. Train again, or leave this folder out.") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path}: expected a JSON object, got {type(value).__name__}. Leave this folder out.")
    return value


def _read_history(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.is_file():
        return ()
    lines = path.read_bytes().splitlines()
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[row["epoch"]] = row
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # a killed run leaves its last line half written
            raise ReportError(
                f"{path}, line {number}: expected a JSON object with an epoch, got: {error!r}. Only the last line may "
                "be cut off; continue the run from its checkpoint, or leave this folder out."
            ) from error
    return tuple(rows[epoch] for epoch in sorted(rows))


def _read_run(path: Path) -> Run:
    config = _read_json(path / "config.json")
    if missing := [name for name in ("arm", "seed") if name not in config]:
        raise ReportError(f"{path / 'config.json'}: expected an experiment, got one without {', '.join(missing)}.")
    summary = _read_json(path / "summary.json") if (path / "summary.json").is_file() else None
    analysis = None
    if summary is not None and (path / "analysis.npz").is_file():
        try:
            with np.load(path / "analysis.npz", allow_pickle=False) as archive:
                analysis = {name: archive[name] for name in archive.files}
        except (ValueError, OSError, BadZipFile) as error:
            raise ReportError(
                f"{path / 'analysis.npz'}: expected plain arrays, got: {error}. Measure the run again."
            ) from error
    along = _read_json(path / "along.json") if summary is not None and (path / "along.json").is_file() else None
    return Run(path, config, _read_history(path / "history.jsonl"), summary, analysis, along)


def _check_together(runs: list[Run]) -> None:
    seen: dict[tuple[str, int], Path] = {}
    for run in runs:
        if (other := seen.setdefault((run.arm, run.seed), run.path)) != run.path:
            raise ReportError(
                f"report: expected one run per arm and seed, got {run.arm} seed {run.seed} twice: {other} and "
                f"{run.path}. Leave one out."
            )
    first = runs[0]
    for run in runs[1:]:
        differ = {
            name: values
            for name, values in differing_fields(first.config, run.config).items()
            if name.split(".")[0] not in FREE
        }
        if differ:
            fields = "; ".join(f"{name}: {left!r} and {right!r}" for name, (left, right) in differ.items())
            raise ReportError(
                f"report: expected runs of one setting (only arm and seed may differ), got {first.path} and {run.path} "
                f"which differ in {fields}. Report each setting on its own."
            )
