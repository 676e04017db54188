"""Measure a run again from its newest checkpoint, on whatever devices are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deq_nc.config import ConfigError, Experiment
from deq_nc.data import load, steps_per_epoch
from deq_nc.models import Network
from deq_nc.training.checkpoint import Checkpoints
from deq_nc.training.folder import RunFolder
from deq_nc.training.measure import Measurer
from deq_nc.training.mesh import data_mesh
from deq_nc.training.optimizer import optimizer
from deq_nc.training.step import corpus, initial_state


def remeasure(path: Path) -> dict[str, Any]:
    """One history line of the newest checkpoint in the run folder `path`. Raises ConfigError if there is none."""
    if not (path / "config.json").exists():
        raise ConfigError(f"run: expected a run folder with config.json, got {path}. `deq-nc train` makes one.")
    experiment = Experiment.from_json((path / "config.json").read_text())
    folder, dataset, mesh = RunFolder(path), load(experiment.data), data_mesh()
    steps = steps_per_epoch(len(dataset.train_labels), experiment.train.batch_size)
    network, update = Network(experiment, dataset.num_classes), optimizer(experiment.train, steps)
    state = initial_state(network, update, dataset.image_shape, mesh)
    with Checkpoints(folder.checkpoints, experiment.train.keep_checkpoints) as checkpoints:
        restored = checkpoints.restore(state, mesh, print)
    if restored is None:
        raise ConfigError(f"run: {path} has no checkpoint to measure yet. Train it first.")
    step = int(restored.step)
    measurer = Measurer(network, dataset, corpus(dataset, "train", mesh), mesh)
    return {"epoch": step // steps, "step": step, **measurer.line(restored, restored.logs)}
