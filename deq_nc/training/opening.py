"""Before the first step: whether anything is left to do, the folder made the run's own, what a person should know."""

from __future__ import annotations

from typing import Any

from deq_nc.config import Experiment
from deq_nc.data import Dataset
from deq_nc.models import count_parameters
from deq_nc.runs import RunError, RunFolder
from deq_nc.training.mesh import agreed
from deq_nc.training.progress import Display


def finished(folder: RunFolder, experiment: Experiment, checksums: dict[str, str], display: Display) -> bool:
    """Whether the folder holds the results of this run, sound. Raises ConfigError where it holds another run."""
    folder.check(experiment, checksums)
    done = folder.finished and not folder.damaged()
    if done:
        display.say(f"already finished: {folder.path} (--fresh runs it again and keeps this one)")
    return agreed(done)


def set_up(folder: RunFolder, experiment: Experiment, checksums: dict[str, str], display: Display) -> None:
    """Once the lock is held: claim the folder, or have the results of a finished run that are damaged made again."""
    if folder.finished and not folder.checkpoints.is_dir():
        raise RunError(
            f"workdir: results in {folder.path} are damaged, and there is no checkpoint to make them again from: "
            f"{' '.join(folder.damaged())} Nothing was changed; start over with --fresh, which renames that folder."
        )
    folder.claim(experiment, checksums)
    if not folder.finished:
        return
    for wrong in folder.damaged():
        display.say(wrong)
    display.say(f"summary.json is renamed to {folder.set_aside(folder.summary_path)}; results are made again")


def introduce(dataset: Dataset, params: Any, mesh: Any, display: Display) -> None:
    parameters = count_parameters(params)
    counts = ", ".join(f"{n}{'' if m else '*'}" for n, m in zip(dataset.train_counts, dataset.majority))
    display.say(
        f"{dataset.name}: {len(dataset.train_labels)} train images, {len(dataset.test_labels)} test images, "
        f"{dataset.num_classes} classes; train images a class: {counts}"
        + ("" if dataset.majority.all() else "  (* minority)")
    )
    for note in dataset.notes:
        display.say(f"note: {note}")
    display.say(
        f"{parameters['total']:,} parameters (encoder {parameters['encoder']:,}, arm {parameters['arm']:,}, "
        f"classifier {parameters['classifier']:,}); {mesh.size} {mesh.devices.flat[0].platform} device(s)"
    )
