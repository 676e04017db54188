"""A run folder by its files' names: what it belongs to, what stands in it, and how a file is added."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

from deq_nc.config import ConfigError, Experiment, differing_fields
from deq_nc.disk import patiently, write_whole
from deq_nc.runs.files import RunError, checksum, read_bytes, read_json, write_json, write_text
from deq_nc.runs.history import History, dump, read_history
from deq_nc.runs.records import Line, Summary, misfit
from deq_nc.runs.setting import Setting

# Fields that may differ when a run is continued: where it and its data lie does not change its numbers. What the data
# are is in data.json; folders from before it have data.dir to go by.
IGNORED = ("workdir", "data.dir")
RESULTS = ("history.jsonl", "analysis.npz", "along.json")  # their checksums are in the summary


class RunFolder:
    """The files of one run. Lines of the history are on disk before a checkpoint that follows them is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.data_path = path / "data.json"
        self.history_path = path / "history.jsonl"
        self.summary_path = path / "summary.json"
        self.failure_path = path / "failed.txt"
        self.checkpoints = (path / "checkpoints").absolute()

    # -- What it belongs to --------------------------------------------------------------------------------------

    def check(self, experiment: Experiment, checksums: dict[str, str] | None = None) -> bool:
        """True if the folder holds a run of this configuration and, by `checksums`, data; False if it holds none.

        Raises ConfigError naming the fields that differ, RunError where config.json is damaged. Writes nothing.
        """
        if not self.config_path.exists():
            if self.history_path.exists():
                raise ConfigError(
                    f"workdir: {self.path} holds a history.jsonl but no config.json, so nothing says what it belongs "
                    "to. Choose another --workdir, or rename that folder."
                )
            return False
        wanted = json.loads(experiment.to_json())
        # Read through Experiment: a field that is younger than the folder counts as its default.
        found = json.loads(self.experiment().to_json())
        differing = differing_fields(found, wanted)
        ignored = IGNORED if self.data_path.exists() else ("workdir",)
        differing = {name: pair for name, pair in differing.items() if name not in ignored}
        if self.data_path.exists() and checksums is not None:
            differing |= differing_fields(read_json(self.data_path), checksums, "checksum of the images, ")
        if differing:
            lines = "\n".join(
                f"  {name}: {old!r} in the folder, {new!r} asked" for name, (old, new) in differing.items()
            )
            raise ConfigError(
                f"workdir: {self.path} holds a run of another configuration:\n{lines}\n"
                "Choose another --workdir, or start over with --fresh, which renames that folder."
            )
        return True

    def claim(self, experiment: Experiment, checksums: dict[str, str] | None = None) -> None:
        """Write config.json and data.json where they are not there. The caller holds the folder's lock."""
        if self.config_path.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if checksums is not None:
            write_json(self.data_path, checksums)
        write_text(self.config_path, experiment.to_json())

    def experiment(self) -> Experiment:
        """Raises RunError where config.json is damaged, or of another version."""
        fields = read_json(self.config_path)
        try:
            return Experiment.from_json(json.dumps(fields))
        except ConfigError as error:
            raise RunError(f"{self.config_path}: {error}") from error

    def require_space(self, needed: int) -> None:
        """Raise ConfigError unless `needed` bytes (checkpoints and results of the run) are free on the disk."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise ConfigError(
                f"workdir: this run writes about {needed / 2**20:.0f} MiB to {self.path}, the disk has "
                f"{free / 2**20:.0f} MiB free. Free some space, or choose another --workdir."
            )

    # -- Measurements --------------------------------------------------------------------------------------------

    def history(self) -> History:
        return read_history(self.history_path)

    def write_history(self, lines: Iterable[Line]) -> None:
        write_text(self.history_path, dump(lines))

    def append(self, line: Line) -> None:
        # A link would lead out of the folder.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(self.history_path, flags, 0o644), "w") as file:
            file.write(dump([line]))
            file.flush()
            os.fsync(file.fileno())

    # -- Results -------------------------------------------------------------------------------------------------

    def write_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        write_whole({self.path / name: lambda file: np.savez_compressed(file, **arrays)})

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def finish(self, summary: Summary) -> None:
        """The last file of a run; it holds the checksums of the others."""
        there = [path for name in RESULTS if (path := self.path / name).exists()]
        sums = {path.name: checksum(patiently(path.read_bytes)) for path in there}
        write_json(self.summary_path, {**summary, "checksums": sums})
        self.failure_path.unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """Whether there is a summary, sound or not: see `summary`."""
        return self.summary_path.exists()

    def summary(self) -> Summary | None:
        """summary.json, None before the end. Raises RunError where it is damaged."""
        if not self.finished:
            return None
        found = cast(Summary, read_json(self.summary_path))
        problem = misfit(found, Summary)
        if not problem:
            a_class = (found.get("class_names"), found.get("train_counts"), found.get("majority"))
            if len(lengths := {len(each) for each in a_class if each}) > 1:
                problem = f"expected class_names, train_counts and majority with one entry a class, got {lengths}"
        if problem:
            raise RunError(f"{self.summary_path}: {problem}. Train again, or leave this folder out.")
        return found

    def damaged(self) -> list[str]:
        """What is wrong with the results of a finished run, a sentence each; [] where all is sound.

        By the checksums in the summary; a run from before them is checked by reading.
        """
        try:
            sums = (self.summary() or {}).get("checksums") or {}
            history = self.history()
        except RunError as error:
            return [str(error)]
        wrong = [f"{self.history_path}: {history.damage}"] if history.damage else []
        for name, expected in sums.items():
            path = self.path / name
            try:
                if not path.exists():
                    wrong.append(f"{path} is not there, the summary lists it.")
                elif checksum(read_bytes(path)) != expected:
                    wrong.append(f"{path}: other bytes than the run wrote (checksum). The file is damaged.")
            except RunError as error:
                wrong.append(str(error))
        return wrong

    # -- What went wrong -----------------------------------------------------------------------------------------

    def record_failure(self, text: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.failure_path, text)

    def set_aside(self, path: Path) -> Path:
        """Rename a file or folder of this run that cannot be used into damaged/; returns its new place."""
        room = self.path / "damaged"
        room.mkdir(exist_ok=True)
        number = 0
        while (place := room / f"{path.name}-{number}").exists():
            number += 1
        path.rename(place)
        return place


def default_workdir(experiment: Experiment, root: Path = Path("runs")) -> Path:
    """ROOT/RECIPE-SETTING/ARM-seedN, for example runs/digits-step-KA3-R10/deq-seed0."""
    setting = Setting.of(dataclasses.asdict(experiment.data))
    return root / f"{experiment.recipe}-{setting.name}" / f"{experiment.arm}-seed{experiment.seed}"


def folder_of(experiment: Experiment) -> Path:
    """The run folder of an experiment: its `workdir`, or the default one."""
    return Path(experiment.workdir) if experiment.workdir else default_workdir(experiment)


def place(folder: Path) -> tuple[Setting, str, int] | None:
    """Setting, arm and seed by the folder's name, as `default_workdir` gives it; None for another name."""
    arm, _, seed = folder.name.rpartition("-seed")
    setting = Setting.parse(folder.parent.name)
    return (setting, arm, int(seed)) if setting and arm and re.fullmatch("[0-9]+", seed) else None
