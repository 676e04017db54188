"""The compiled functions of training: the first state, the order of an epoch, one step.

Letters: B rows of a batch (padded to the devices), N training images, y labels, n [K] training counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from deq_nc.config import Experiment
from deq_nc.data import Batch, Dataset, epoch_permutation, gather
from deq_nc.equilibrium import AdjointStats, adjoint_probe, jacobian_penalty
from deq_nc.losses import LOSSES
from deq_nc.models import Network, Problem
from deq_nc.training.mesh import padded, replicated, split
from deq_nc.training.optimizer import optimizer
from deq_nc.training.state import Logs, TrainState, stream

Array = jax.Array


class Corpus(NamedTuple):
    """A data set on the device."""

    image: Array  # uint8 [N, H, W, C]
    label: Array  # int32 [N]
    mean: Array  # [C]
    std: Array  # [C]
    counts: Array  # float32 [K]


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


def make_draw(
    experiment: Experiment, size: int, steps: int, mesh: Mesh
) -> Callable[[Corpus, Array, Array, Array], Batch]:
    """draw(corpus, order, seed, step) -> the batch of that step: augmented, normalised, its rows over the mesh.

    Padded to the devices, and the last batch of an epoch to the others; mask is False there.
    """
    size_of_batch = experiment.train.batch_size
    rows = padded(size_of_batch, mesh)

    def draw(corpus: Corpus, order: Array, seed: Array, step: Array) -> Batch:
        row = jnp.arange(rows, dtype=jnp.int32)
        place = (step % steps) * size_of_batch + row
        mask = (row < size_of_batch) & (place < size)
        index = order[place % size]
        key = jax.random.fold_in(stream(seed, "augment"), step)
        batch = gather(corpus.image, corpus.label, index, mask, corpus.mean, corpus.std, key, experiment.data.augment)
        return jax.lax.with_sharding_constraint(batch, split(mesh))

    return draw


@runtime_checkable
class TrainStep(Protocol):
    """(state, corpus, order) -> (state after one batch, logs of the epoch so far), jitted."""

    def __call__(self, state: TrainState, corpus: Corpus, order: Array, /) -> tuple[TrainState, Logs]: ...

    def lower(self, *arguments: Any) -> Any: ...


def make_train_step(network: Network, size: int, steps: int, mesh: Mesh) -> TrainStep:
    """step(state, corpus, order) -> (state after one batch, logs of the epoch so far); the state is donated.

    The batch is drawn inside.
    """
    experiment = network.experiment
    config, loss_of = experiment.train, LOSSES[experiment.train.loss]
    update = optimizer(config, steps)
    draw = make_draw(experiment, size, steps, mesh)

    def penalty(problem: Problem, mask: Any, key: Array) -> Array:
        z, x, theta = problem
        size = sum(leaf[0].size for leaf in jax.tree.leaves(z))
        norms = jacobian_penalty(network.f, z, x, theta, jax.random.fold_in(key, 1))
        return jnp.where(mask, norms, 0).sum() / size

    def train_step(state: TrainState, corpus: Corpus, order: Array) -> tuple[TrainState, Logs]:
        batch = draw(corpus, order, state.seed, state.step)
        count = batch.mask.sum()

        rngs = {"dropout": jax.random.fold_in(stream(state.seed, "dropout"), state.step)}

        def objective(params: Any, probe: AdjointStats) -> tuple[Array, Any]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            output, updated = network.apply(
                variables, batch.image, True, batch.mask, probe, rngs=rngs, mutable=["batch_stats"]
            )
            losses = jnp.where(batch.mask, loss_of(output.logits, batch.label, corpus.counts), 0.0)
            value = losses.sum() / count
            if config.jacobian_penalty > 0:
                value += config.jacobian_penalty * penalty(output.problem, batch.mask, rngs["dropout"]) / count
            return value, (losses, output._replace(problem=None), updated.get("batch_stats", {}))

        # The probe is zero and changes nothing; its gradient is the evidence of the adjoint solve.
        (_, (losses, output, batch_stats)), (gradient, evidence) = jax.value_and_grad(
            objective, argnums=(0, 1), has_aux=True
        )(state.params, adjoint_probe(len(batch.mask)))
        updates, opt_state = update.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        def total(values: Array) -> Array:
            return jnp.where(batch.mask, values, 0).sum().astype(jnp.float32)

        norm = optax.tree.norm(gradient)
        bad = ~(jnp.isfinite(losses.sum()) & jnp.isfinite(norm))
        stats = output.stats
        implicit = experiment.arm == "deq" and experiment.solver.gradient == "implicit"
        logs = Logs(
            examples=count.astype(jnp.float32),
            loss=losses.sum(),
            correct=total(output.logits.argmax(-1) == batch.label),
            solver_steps=total(stats.steps) if stats is not None else jnp.zeros(()),
            unconverged=total(~stats.converged) if stats is not None else jnp.zeros(()),
            adjoint_steps=total(evidence.steps),
            adjoint_unconverged=total(1 - evidence.converged) if implicit else jnp.zeros(()),
            adjoint_escalated=total(evidence.escalated),
            adjoint_residual=jnp.where(batch.mask, evidence.residual, 0).max(),
            gradient_norm=norm,
            bad_step=jnp.where(bad, state.step, -1),
        )
        fresh = state.step % steps == 0
        earlier = jax.tree.map(lambda zero, old: jnp.where(fresh, zero, old), Logs.zero(), state.logs)
        logs = earlier.merge(logs)
        return TrainState(state.seed, state.step + 1, params, batch_stats, opt_state, logs), logs

    return jax.jit(train_step, donate_argnums=0, out_shardings=replicated(mesh))
