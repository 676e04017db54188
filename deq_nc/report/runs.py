"""Run folders as values: read, checked, and in one order (arm, then seed)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from deq_nc.config import ConfigError, differing_fields

ARM_ORDER = ("explicit", "deq", "unrolled", "residual")  # the reference first, then the question, then the controls
FREE = ("arm", "seed", "workdir", "data.allow_single")  # may differ between the runs of one setting
# May differ beside these between the settings of a grid; epochs, since imbalance leaves fewer updates in each.
SETTING = ("data.imbalance", "data.majority", "data.ratio", "train.epochs")


class ReportError(ConfigError):
    """Run folders that cannot be shown, or not together; the message says which, why, and what to do."""


class Arrays(Mapping):
    """The arrays of analysis.npz, each read when asked for and not kept: those of a grid would fill the memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = self._read(lambda archive: tuple(archive.files))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._read(lambda archive: archive[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _read(self, pick: Any) -> Any:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return pick(archive)
        except (ValueError, OSError, BadZipFile) as error:
            raise ReportError(f"{self.path}: expected plain arrays, got: {error}. Measure the run again.") from error


@dataclass(frozen=True)
class Run:
    """One run folder; `summary`, `analysis` and `along` are None until the run has finished."""

    path: Path
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]  # one row per measured epoch, ascending
    summary: dict[str, Any] | None
    analysis: Mapping[str, np.ndarray] | None
    along: dict[str, list[dict[str, Any]]] | None = None  # collapse by layer and along the solve
    data: dict[str, str] | None = None  # checksums of the train and the test images

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


def read_runs(run_dirs: Sequence[Path], free: Sequence[str] = FREE) -> list[Run]:
    """The runs under `run_dirs` (run folders, or folders of run folders), sorted by arm and seed.

    `free`: fields of the configuration that may differ. Raises ReportError: nothing to show, unreadable files, other
    fields that differ, or different package versions; and, where only FREE may, one arm and seed twice.
    """
    folders = [folder for given in run_dirs for folder in _run_folders(Path(given))]
    if not folders:
        raise ReportError("report: expected at least one run folder, got none. Train one first: deq-nc train RECIPE.")
    runs = sorted(map(_read_run, dict.fromkeys(folders)), key=lambda run: (_rank(run.arm), run.seed))
    if tuple(free) == FREE:
        check_once(runs)
    check_together(runs, free)
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
    if (given / "index.html").is_file() and (given / "tables.csv").is_file():
        return []  # a page of ours, which a wildcard over the settings catches too
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
    archive = path / "analysis.npz"
    analysis = Arrays(archive) if summary is not None and archive.is_file() else None
    along = _read_json(path / "along.json") if summary is not None and (path / "along.json").is_file() else None
    data = _read_json(path / "data.json") if (path / "data.json").is_file() else None
    return Run(path, config, _read_history(path / "history.jsonl"), summary, analysis, along, data)


def check_once(runs: Sequence[Run]) -> None:
    """Raises ReportError where two folders hold the same arm and seed."""
    seen: dict[tuple[str, int], Path] = {}
    for run in runs:
        if (other := seen.setdefault((run.arm, run.seed), run.path)) != run.path:
            raise ReportError(
                f"report: expected one run per arm and seed, got {run.arm} seed {run.seed} twice: {other} and "
                f"{run.path}. Leave one out."
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
                f"report: expected runs of one setting (only {allowed} may differ), got {runs[0].path} and {run.path} "
                f"which differ in {_pairs(differ)}. Report each setting on its own."
            )
    known = [run for run in runs if run.summary is not None and run.summary.get("versions")]
    for run in known[1:]:
        if differ := differing_fields(known[0].summary["versions"], run.summary["versions"]):
            raise ReportError(
                f"report: expected runs made with the same packages, got {known[0].path} and {run.path} which differ "
                f"in {_pairs(differ)}. Train those of one version again, or report them apart."
            )


def _pairs(differ: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{name}: {left!r} and {right!r}" for name, (left, right) in differ.items())
