"""A run folder: config.json, data.json (checksums of the images), history.jsonl, checkpoints/, and when finished
summary.json, analysis.npz and along.json."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from deq_nc.config import ConfigError, Experiment, differing_fields

# Fields that may differ when a run is continued: where it and its data lie does not change its numbers. What the data
# are is in data.json; folders from before it have data.dir to go by.
IGNORED = ("workdir", "data.dir")


class RunFolder:
    """The files of one run. Lines of the history are on disk before a checkpoint that follows them is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history_path = path / "history.jsonl"
        self.summary_path = path / "summary.json"
        self.checkpoints = (path / "checkpoints").absolute()

    def open(self, experiment: Experiment, checksums: dict[str, str] | None = None, write: bool = True) -> None:
        """Create the folder (where `write`), or check that it belongs to this configuration and, by `checksums`, data.

        Raises ConfigError naming the fields that differ, or if the folder cannot be written.
        """
        config, data = self.path / "config.json", self.path / "data.json"
        wanted = json.loads(experiment.to_json())
        if config.exists():
            # Read through Experiment: a field that is younger than the folder counts as its default.
            found = json.loads(Experiment.from_json(json.dumps(_read_json(config))).to_json())
            differing = differing_fields(found, wanted)
            ignored = IGNORED if data.exists() else ("workdir",)
            differing = {name: pair for name, pair in differing.items() if name not in ignored}
            if data.exists() and checksums is not None:
                differing |= differing_fields(_read_json(data), checksums, "checksum of the images, ")
            if differing:
                lines = "\n".join(
                    f"  {name}: {old!r} in the folder, {new!r} asked" for name, (old, new) in differing.items()
                )
                raise ConfigError(
                    f"workdir: {self.path} holds a run of another configuration:\n{lines}\n"
                    "Choose another --workdir, or delete that folder to start over."
                )
            return
        if self.history_path.exists():
            raise ConfigError(
                f"workdir: {self.path} holds a history.jsonl but no config.json, so nothing says what it belongs to. "
                "Choose another --workdir, or delete that folder."
            )
        if not write:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if checksums is not None:
                self.write_json(data.name, checksums)
            write_text(config, experiment.to_json())
        except OSError as error:
            raise ConfigError(
                f"workdir: cannot write to {self.path}: {error.strerror}. Choose another --workdir."
            ) from None

    def require_space(self, needed: int) -> None:
        """Raise ConfigError unless `needed` bytes (checkpoints and results of the run) are free on the disk."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise ConfigError(
                f"workdir: this run writes about {needed / 2**20:.0f} MiB to {self.path}, the disk has "
                f"{free / 2**20:.0f} MiB free. Free some space, or choose another --workdir."
            )

    def history(self) -> list[dict[str, Any]]:
        """The measurements so far; a line cut off by a kill is dropped."""
        if not self.history_path.exists():
            return []
        lines = []
        for text in self.history_path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines

    def rewind(self, step: int, write: bool = True) -> list[dict[str, Any]]:
        """Drop the measurements after `step`, the one that training continues from; returns what is kept."""
        kept = [line for line in self.history() if line["step"] <= step]
        if write and self.history_path.exists():
            write_text(self.history_path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def append(self, line: dict[str, Any]) -> None:
        with self.history_path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        temporary = self.path / (name + ".tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        temporary.replace(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        write_text(self.path / name, json.dumps(value, indent=2) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        self.write_json(self.summary_path.name, summary)

    @property
    def finished(self) -> bool:
        return self.summary_path.exists()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a temporary file, synced, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ConfigError(f"workdir: {path} is not valid JSON. Delete that folder to start over.") from None


def default_workdir(experiment: Experiment, root: Path = Path("runs")) -> Path:
    """ROOT/RECIPE-SETTING/ARM-seedN, for example runs/digits-step-KA3-R10/deq-seed0."""
    return root / f"{experiment.recipe}-{setting(experiment)}" / f"{experiment.arm}-seed{experiment.seed}"


def setting(experiment: Experiment) -> str:
    """`balanced`, `step-KA3-R10` or `longtail-R100`."""
    data = dataclasses.asdict(experiment.data)
    if data["imbalance"] == "none":
        return "balanced"
    ratio = f"R{data['ratio']:g}"
    return f"step-KA{data['majority']}-{ratio}" if data["imbalance"] == "step" else f"longtail-{ratio}"
