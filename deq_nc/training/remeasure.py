"""Measure a run again from its newest checkpoint, on whatever devices are at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from deq_nc.config import ConfigError
from deq_nc.data import load
from deq_nc.runs import RunFolder
from deq_nc.training.checkpoint import restore
from deq_nc.training.measure import Measurer
from deq_nc.training.mesh import data_mesh
from deq_nc.training.program import program


def remeasure(path: Path) -> dict[str, Any]:
    """One history line of the newest checkpoint in the run folder `path`.

    Raises ConfigError if there is none, or where the images are not those of the run.
    """
    if not (path / "config.json").exists():
        raise ConfigError(f"run: expected a run folder with config.json, got {path}. `deq-nc train` makes one.")
    folder, mesh = RunFolder(path), data_mesh()
    experiment = folder.experiment()
    dataset = load(experiment.data)
    folder.check(experiment, dataset.checksums())
    compiled = program(experiment, dataset, mesh)
    found = restore(
        folder, compiled.init(experiment.seed), mesh, lambda text: print(text, file=sys.stderr), write=False
    )
    if found is None:
        raise ConfigError(f"run: {path} has no checkpoint to measure yet. Train it first.")
    state, step = found.state, int(found.state.step)
    measured = Measurer(compiled, dataset).line(state, state.logs)
    return {"epoch": step // compiled.steps, "step": step, **measured}
