"""The compiled functions of training: the first state, the order of an epoch, one step.

Letters: B rows of a batch (padded to the devices), N training images, y labels, n [K] training counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from deq_nc.config import Experiment
from deq_nc.data import Batch, Corpus, Dataset, drawn, epoch_permutation, gather
from deq_nc.equilibrium import AdjointStats, adjoint_probe, jacobian_penalty
from deq_nc.losses import LOSSES
from deq_nc.models import Network, Output, Problem
from deq_nc.training.mesh import padded, replicated, split
from deq_nc.training.optimizer import optimizer
from deq_nc.training.state import Logs, TrainState, stream

Array = jax.Array


def corpus(dataset: Dataset, part: str, mesh: Mesh) -> Corpus:
    """The `train` or `test` part, whole, on every device."""
    images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
    parts = (images, labels, dataset.mean, dataset.std, dataset.train_counts.astype("float32"))
    return Corpus(*jax.device_put(parts, replicated(mesh)))


def make_init(network: Network, image_shape: tuple[int, ...], steps: int, mesh: Mesh) -> Callable[[int], TrainState]:
    """init(seed) -> the state before the first step; the same on every number of devices."""
    update = optimizer(network.experiment.train, steps)

    def init(seed: Array) -> TrainState:
        images = jnp.zeros((mesh.size, *image_shape))
        variables = network.init(stream(seed, "init"), images, True)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        return TrainState(seed, jnp.zeros((), jnp.int32), params, batch_stats, update.init(params), Logs.zero())

    compiled = jax.jit(init, out_shardings=replicated(mesh))
    return lambda seed: compiled(jnp.asarray(seed, jnp.int32))


def make_order(size: int, steps: int, mesh: Mesh) -> Callable[[Array, Array], Array]:
    """order(seed, step) -> the permutation of the epoch that `step` falls in, int32 [N]."""

    def order(seed: Array, step: Array) -> Array:
        return epoch_permutation(jax.random.fold_in(stream(seed, "order"), step // steps), size)

    return jax.jit(order, out_shardings=replicated(mesh))


def make_draw(experiment: Experiment, steps: int, mesh: Mesh) -> Callable[[Corpus, Array, Array, Array], Batch]:
    """draw(corpus, order, seed, step) -> the batch of that step: augmented, normalised, its rows over the mesh.

    Padded to the devices, and the last batch of an epoch to the others; mask is False there.
    """
    size = experiment.train.batch_size

    def draw(corpus: Corpus, order: Array, seed: Array, step: Array) -> Batch:
        index, mask = drawn(order, step % steps, size, padded(size, mesh))
        key = jax.random.fold_in(stream(seed, "augment"), step)
        batch = gather(corpus, index, mask, key, experiment.data.augment)
        return jax.lax.with_sharding_constraint(batch, split(mesh))

    return draw


@runtime_checkable
class TrainStep(Protocol):
    """(state, corpus, order) -> (state after one batch, logs of the epoch so far), jitted."""

    def __call__(self, state: TrainState, corpus: Corpus, order: Array, /) -> tuple[TrainState, Logs]: ...

    def lower(self, *arguments: Any) -> Any: ...


def make_objective(
    network: Network,
) -> Callable[[Any, AdjointStats, Any, Batch, Array, Array], tuple[Array, tuple[Array, Output, Any]]]:
    """objective(params, probe, batch_stats, batch, counts, key) -> (loss, (losses [B], output, batch_stats))."""
    config = network.experiment.train
    loss_of = LOSSES[config.loss]

    def penalty(problem: Problem, mask: Any, key: Array) -> Array:
        z, x, theta = problem
        size = sum(leaf[0].size for leaf in jax.tree.leaves(z))
        norms = jacobian_penalty(network.f, z, x, theta, jax.random.fold_in(key, 1))
        return jnp.where(mask, norms, 0).sum() / size

    def objective(
        params: Any, probe: AdjointStats, batch_stats: Any, batch: Batch, counts: Array, key: Array
    ) -> tuple[Array, tuple[Array, Output, Any]]:
        variables, count = {"params": params, "batch_stats": batch_stats}, batch.mask.sum()
        output, updated = network.apply(
            variables, batch.image, True, batch.mask, probe, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        losses = jnp.where(batch.mask, loss_of(output.logits, batch.label, counts), 0.0)
        value = losses.sum() / count
        if config.jacobian_penalty > 0:
            value += config.jacobian_penalty * penalty(output.problem, batch.mask, key) / count
        return value, (losses, output._replace(problem=None), updated.get("batch_stats", {}))

    return objective


def make_train_step(network: Network, steps: int, mesh: Mesh) -> TrainStep:
    """step(state, corpus, order) -> (state after one batch, logs of the epoch so far); the state is donated.

    The batch is drawn inside.
    """
    experiment = network.experiment
    implicit = experiment.arm == "deq" and experiment.solver.gradient == "implicit"
    update, draw = optimizer(experiment.train, steps), make_draw(experiment, steps, mesh)
    gradients = jax.value_and_grad(make_objective(network), argnums=(0, 1), has_aux=True)

    def train_step(state: TrainState, corpus: Corpus, order: Array) -> tuple[TrainState, Logs]:
        batch = draw(corpus, order, state.seed, state.step)
        key = jax.random.fold_in(stream(state.seed, "dropout"), state.step)
        # The probe is zero and changes nothing; its gradient is the evidence of the adjoint solve.
        probe = adjoint_probe(len(batch.mask))
        (_, (losses, output, batch_stats)), (gradient, evidence) = gradients(
            state.params, probe, state.batch_stats, batch, corpus.counts, key
        )
        updates, opt_state = update.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        fresh = state.step % steps == 0
        earlier = jax.tree.map(lambda zero, old: jnp.where(fresh, zero, old), Logs.zero(), state.logs)
        logs = earlier.merge(logs_of(batch, losses, output, evidence, optax.tree.norm(gradient), state.step, implicit))
        return TrainState(state.seed, state.step + 1, params, batch_stats, opt_state, logs), logs

    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated(mesh))


def logs_of(
    batch: Batch, losses: Array, output: Output, adjoint: AdjointStats, norm: Array, step: Array, implicit: bool
) -> Logs:
    """The logs of one step: losses [B], the norm of its gradient, the evidence of both solves."""

    def total(values: Array) -> Array:
        return jnp.where(batch.mask, values, 0).sum().astype(jnp.float32)

    bad, stats = ~(jnp.isfinite(losses.sum()) & jnp.isfinite(norm)), output.stats
    return Logs(
        examples=batch.mask.sum().astype(jnp.float32),
        loss=losses.sum(),
        correct=total(output.logits.argmax(-1) == batch.label),
        solver_steps=total(stats.steps) if stats is not None else jnp.zeros(()),
        unconverged=total(~stats.converged) if stats is not None else jnp.zeros(()),
        adjoint_steps=total(adjoint.steps),
        adjoint_unconverged=total(1 - adjoint.converged) if implicit else jnp.zeros(()),
        adjoint_escalated=total(adjoint.escalated),
        adjoint_residual=jnp.where(batch.mask, adjoint.residual, 0).max(),
        gradient_norm=norm,
        bad_step=jnp.where(bad, step, -1),
    )
