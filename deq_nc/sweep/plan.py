"""Which runs: settings x arms x seeds, and everything that would stop them, said before the first begins.

Letters: K classes, KA majority classes, R = n_A / n_B.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deq_nc.config import Arm, ConfigError, DataConfig, Experiment
from deq_nc.data import DataError, Dataset, load, steps_per_epoch
from deq_nc.runs import RunError, RunFolder, default_workdir, folder_of
from deq_nc.runs.lock import holder_of
from deq_nc.training import versions

Kind = Literal["began", "ended", "failed", "held"]
Note = Callable[[Path, Kind, str], Any]  # hears of the run in a folder


@dataclass(frozen=True)
class Job:
    """One setting and one arm, all seeds: they share a compiled program, so one worker runs them in a row."""

    setting: str  # the folder that holds its runs
    arm: str
    runs: tuple[Experiment, ...]  # one a seed, each with its folder in `workdir`
    steps: int  # training steps of each run
    checksums: dict[str, str]  # of the images


def grid(
    base: Experiment, majorities: Sequence[int], ratios: Sequence[float], balanced: bool = True
) -> list[Experiment]:
    """Settings of Sun & Shi 2024: balanced, and step imbalance for every KA and R.

    KA counts majority classes of ten; on K classes it is KA K / 10 (CIFAR-100: 3 of 10 is 30 of 100).
    Raises ConfigError where that is no integer, DataError where the data set is not there.
    """
    data = dataclasses.replace(base.data, imbalance="none")
    classes = load(data).num_classes
    settings = [dataclasses.replace(base, data=data)]
    for majority in majorities:
        if majority * classes % 10 or not 0 < majority * classes // 10 < classes:
            raise ConfigError(
                f"majorities: expected numbers of ten classes that K = {classes} classes can be divided by, got "
                f"{majority}. Leave it out, or sweep one setting with --data.imbalance step --data.majority KA."
            )
        for ratio in ratios:
            step = dataclasses.replace(data, imbalance="step", majority=majority * classes // 10, ratio=ratio)
            settings.append(dataclasses.replace(base, data=step))
    return settings


def sweep(
    settings: Sequence[Experiment], arms: Sequence[Arm], seeds: int, workdir: Path, updates: int = 0
) -> list[Job]:
    """The jobs of settings x arms; a setting whose epochs hold fewer than `updates` steps gets more epochs.

    Raises DataError for a data set that is not there or leaves a class empty.
    """
    jobs = []
    for setting, dataset in zip(settings, _datasets([setting.data for setting in settings])):
        count, checksums = steps_per_epoch(len(dataset.train_labels), setting.train.batch_size), dataset.checksums()
        epochs = max(setting.train.epochs, math.ceil(updates / count))
        setting = dataclasses.replace(setting, train=dataclasses.replace(setting.train, epochs=epochs))
        for arm in arms:
            runs = []
            for seed in range(seeds):
                experiment = dataclasses.replace(setting, arm=arm, seed=seed)
                folder = default_workdir(experiment, workdir)
                runs.append(dataclasses.replace(experiment, workdir=str(folder)))
            jobs.append(Job(folder.parent.name, arm, tuple(runs), count * epochs, checksums))
    return jobs


def _datasets(data: Sequence[DataConfig]) -> list[Dataset]:
    """The data of each setting. Raises DataError that lists every setting a class of which would be empty."""
    found: list[Dataset] = []
    refused = []
    for config in data:
        try:
            found.append(load(config))
        except DataError as error:
            if config.imbalance == "none":
                raise
            refused.append(f"KA={config.majority}, R={config.ratio:g}: {error}")
    if refused:
        raise DataError("some settings cannot be run.\n" + "\n".join(refused))
    return found


def check(jobs: Sequence[Job]) -> None:
    """Raises ConfigError if a run's folder holds another configuration, other data, or results of other versions."""
    now, seen = versions(), set[Path]()
    for job in jobs:
        for experiment in job.runs:
            folder = RunFolder(folder_of(experiment))
            if folder.path in seen:
                raise ConfigError(
                    f"workdir: two runs of this sweep share {folder.path}: two ratios print alike, or are equal."
                )
            seen.add(folder.path)
            try:
                folder.check(experiment, job.checksums)
                then = (folder.summary() or {}).get("versions")
            except RunError:
                continue  # this run's failure, or made again: `train` says
            if not isinstance(then, dict):
                continue
            differ = [
                f"{name} {then.get(name)} there, {now.get(name)} here" for name in now if then.get(name) != now[name]
            ]
            if differ:
                raise ConfigError(
                    f"workdir: {folder.path} was made with other versions: {'; '.join(differ)}. One table must not mix "
                    "them: choose another --workdir, start over with --fresh, or install those versions."
                )


def holders(jobs: Sequence[Job]) -> dict[Path, str]:
    """The runs not finished that another process is at work on, and which."""
    found = {}
    for job in jobs:
        for run in job.runs:
            path = folder_of(run)
            if not RunFolder(path).finished and (holder := holder_of(path)) is not None:
                found[path] = holder
    return found
