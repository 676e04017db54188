"""A run small enough to compile in seconds: synthetic clusters, no encoder, a dense cell of 16 features."""

import dataclasses
import importlib
from functools import lru_cache

import pytest

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig


@pytest.fixture(scope="session", autouse=True)
def more_programs():
    """All of these tests' programs are kept, where a process of a user keeps the last four."""
    module = importlib.import_module("deq_nc.training.program")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_program", lru_cache(maxsize=64)(module._program.__wrapped__))
        yield


@pytest.fixture(scope="session")
def tiny() -> Experiment:
    return Experiment(
        recipe="tiny",
        data=DataConfig(name="synthetic", synthetic_classes=4),
        model=ModelConfig(encoder="identity", cell="dense", features=16, inner=16),
        solver=EquilibriumConfig(tol=1e-5, max_steps=40, adjoint_tol=1e-4),
        train=TrainConfig(
            epochs=4, batch_size=64, learning_rate=0.05, weight_decay=1e-3, measurements=3, checkpoint_seconds=0.0
        ),
    )


@pytest.fixture
def in_folder(tmp_path, tiny):
    """experiment(**changes): the tiny run in a fresh folder; `train__epochs=2` reaches into a section."""

    def make(name="run", **changes) -> Experiment:
        experiment = dataclasses.replace(tiny, workdir=str(tmp_path / name))
        for key, value in changes.items():
            section, _, field = key.rpartition("__")
            if section:
                value = dataclasses.replace(getattr(experiment, section), **{field: value})
                key = section
            experiment = dataclasses.replace(experiment, **{key: value})
        return experiment

    return make
