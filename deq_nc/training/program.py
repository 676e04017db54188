"""Everything compiled for one experiment, made once and shared by the seeds that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.sharding import Mesh

from deq_nc.collapse import Collapse
from deq_nc.config import Experiment
from deq_nc.data import Batch, Corpus, Dataset, gather, steps_per_epoch
from deq_nc.models import Network
from deq_nc.training import evaluate
from deq_nc.training.evaluate import Features
from deq_nc.training.mesh import replicated, split
from deq_nc.training.state import TrainState
from deq_nc.training.statistics import Moments, make_moments
from deq_nc.training.step import TrainStep, make_init, make_order, make_train_step


class Program(NamedTuple):
    """The functions of training and measuring, each jitted with its shardings; `steps` an epoch."""

    steps: int
    mesh: Mesh
    network: Network
    init: Callable[[int], TrainState]
    order: Callable[[Array, Array], Array]
    step: TrainStep
    moments: Callable[[Moments, TrainState, Corpus, Array, Any], Moments]
    rows: Callable[[Corpus, Array, Array], Batch]
    forward: Callable[[Any, Batch, Array], Features]
    join: Callable[[list[Features]], Features]
    summary: Callable[[Features], dict[str, Array]]
    collapse: Callable[[Features, Any, Any], Collapse]
    solve: Solve | None  # of the deq arm


class Solve(NamedTuple):
    """What is measured of an equilibrium: its spectrum, and the iterates that lead to it."""

    radius: Callable[[Any, Batch, Array], tuple[Array, Array]]
    amplification: Callable[[Any, Batch, Array], Array]
    iterates: Callable[[Any, Batch, int], tuple[Array, Array]]


def step_memory(compiled: Program, *arguments: Any) -> int | None:
    """Bytes of temporary memory of the compiled training step, as XLA planned it; None where XLA does not say.

    Asks for the executable that training used: nothing is compiled again.
    """
    plan = compiled.step.lower(*arguments).compile().memory_analysis()
    return None if plan is None else int(plan.temp_size_in_bytes)


def program(experiment: Experiment, dataset: Dataset, mesh: Mesh) -> Program:
    """The program of an experiment on a mesh; experiments that differ in seed and folder share it."""
    anonymous = dataclasses.replace(experiment, seed=0, workdir=None)
    return _program(anonymous, dataset.num_classes, dataset.image_shape, len(dataset.train_labels), mesh)


@lru_cache(maxsize=4)
def _program(experiment: Experiment, num_classes: int, image_shape: tuple[int, ...], size: int, mesh: Mesh) -> Program:
    steps = steps_per_epoch(size, experiment.train.batch_size)
    network = Network(experiment, num_classes)
    radius, amplification = evaluate.make_spectrum(network)
    whole, divided = replicated(mesh), split(mesh)
    return Program(
        steps=steps,
        mesh=mesh,
        network=network,
        init=make_init(network, image_shape, steps, mesh),
        order=make_order(size, steps, mesh),
        step=make_train_step(network, steps, mesh),
        moments=make_moments(network, steps, mesh),
        rows=jax.jit(gather, out_shardings=divided),
        forward=jax.jit(evaluate.make_forward(network), out_shardings=divided),
        join=jax.jit(evaluate.join, out_shardings=whole),  # on every device, so that each host can read it
        summary=jax.jit(evaluate.summary),
        collapse=jax.jit(evaluate.make_collapse(num_classes)),
        solve=Solve(
            jax.jit(radius, out_shardings=whole),
            jax.jit(amplification, out_shardings=whole),
            jax.jit(evaluate.make_iterates(network), static_argnums=2, out_shardings=whole),
        )
        if experiment.arm == "deq"
        else None,
    )
