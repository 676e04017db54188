"""The compiled functions of a measurement: features in eval mode, their summary, their collapse, the solve's spectrum.

Letters: H [N, D] features, y [N] labels, W [K, D] classifier weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from deq_nc.collapse import Collapse, measure
from deq_nc.data import Batch
from deq_nc.equilibrium import amplification, measured_radius
from deq_nc.losses import LOSSES
from deq_nc.models import Network

Array = jax.Array
Measured = TypeVar("Measured")


class Features(NamedTuple):
    """One pass over a data set, rows in its order, padding rows masked; the evidence of the solve that gave H."""

    features: Array  # H [N, D]
    initial: Array  # pooled H0 [N, D]
    labels: Any  # y [N]
    mask: Any  # [N]
    correct: Array  # bool [N]
    loss: Array  # [N]
    steps: Array  # [N], 0 where nothing is solved
    residual: Array  # [N]
    converged: Array  # [N]


def join(parts: list[Features]) -> Features:
    """Batches, in order, as one."""
    return Features(*(jnp.concatenate(leaves) for leaves in zip(*parts)))


def summary(part: Features) -> dict[str, Array]:
    """Means over the unmasked rows; `residual` is the worst."""

    def mean(values: Array) -> Array:
        return jnp.where(part.mask, values, 0).sum() / part.mask.sum()

    return {
        "loss": mean(part.loss),
        "accuracy": mean(part.correct),
        "feature_norm": mean(jnp.linalg.norm(part.features, axis=1)),
        "initial_norm": mean(jnp.linalg.norm(part.initial, axis=1)),
        "steps": mean(part.steps),
        "unconverged": mean(~part.converged),
        "residual": jnp.where(part.mask, part.residual, 0).max(),
    }


@jax.jit
def all_finite(state: Any) -> Array:
    """True if no number of a state (weights, statistics, momentum, logs) is NaN or infinite; bool []."""
    numbers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.asarray([jnp.isfinite(leaf).all() for leaf in numbers]))


def classifier(params: Any) -> tuple[Array, Array]:
    """W [K, D] and bias [K] of a network's parameters."""
    return params["classifier"]["kernel"].T, params["classifier"]["bias"]


def make_collapse(num_classes: int) -> Callable[[Features, Any, Array | None], Collapse]:
    """collapse(features, params, majority): every metric, blocks where majority [K] is given."""

    def collapse(part: Features, params: Any, majority: Array | None) -> Collapse:
        weights, bias = classifier(params)
        given = (part.features, part.labels, weights, bias)
        return measure(*given, num_classes=num_classes, mask=part.mask, majority=majority)

    return collapse


def make_forward(network: Network) -> Callable[[Any, Batch, Array], Features]:
    """forward(variables, batch, counts): one batch in eval mode."""
    loss_of = LOSSES[network.experiment.train.loss]

    def forward(variables: Any, batch: Batch, counts: Array) -> Features:
        output: Any = network.apply(variables, batch.image, False)
        zeros = jnp.zeros(batch.label.shape)
        stats = output.stats
        return Features(
            output.features,
            output.initial,
            batch.label,
            batch.mask,
            output.logits.argmax(-1) == batch.label,
            loss_of(output.logits, batch.label, counts),
            zeros if stats is None else stats.steps.astype(jnp.float32),
            zeros if stats is None else stats.residual,
            zeros == 0 if stats is None else stats.converged,
        )

    return forward


def make_spectrum(
    network: Network,
) -> tuple[Callable[[Any, Batch, Array], tuple[Array, Array]], Callable[[Any, Batch, Array], Array]]:
    """(radius with its error, amplification)(variables, batch, key) [B] at z*: of df/dz, and ||(I - df/dz)^-1||_2."""

    def at(measure: Callable[..., Measured]) -> Callable[[Any, Batch, Array], Measured]:
        def measured(variables: Any, batch: Batch, key: Array) -> Measured:
            problem: Any = network.apply(variables, batch.image, method=network.problem)
            return measure(network.f, problem.z, problem.x, problem.theta, key)

        return measured

    return at(measured_radius), at(amplification)


def make_iterates(network: Network) -> Callable[[Any, Batch, int], tuple[Array, Array]]:
    """iterates(variables, batch, steps): features of z_0 ... z_steps [steps + 1, B, D], residuals [steps + 1, B]."""

    def iterates(variables: Any, batch: Batch, steps: int) -> tuple[Array, Array]:
        found: Any = network.apply(variables, batch.image, steps, method=network.iterates)
        return found

    return iterates
