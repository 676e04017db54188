"""The mean and variance that BatchNorm measures with, at weights that stand still.

Letters: mu_b, v_b mean and biased variance of a layer's input over batch b of n_b images, n = sum_b n_b.

    mu = sum_b n_b mu_b / n,   v = sum_b n_b (v_b + (mu_b - mu)^2) / n

over the batches of an epoch as training would draw them next, augmented as it does, the layers before in training mode.
Running statistics are a mean over about the last ten steps, each at weights of its own: where weights move fast, those
of no network. Digits, explicit, rate 0.1, epoch 11: training accuracy 0.997 in training mode, 0.769 in eval mode with
the running statistics, 0.999 with these (docs/experiment.md). Statistics inside a cell stay the running ones, which
training uses there too: they are a part of f. Measuring them again at the state they give need not even converge.
Sources: Ioffe and Szegedy 2015, algorithm 2; Wu and Johnson 2021, Rethinking "Batch" in BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from deq_nc.data import Corpus
from deq_nc.models import Network
from deq_nc.models.encoders import MOMENTUM
from deq_nc.training.mesh import replicated
from deq_nc.training.state import TrainState
from deq_nc.training.step import make_draw

Array = jax.Array


class Moments(NamedTuple):
    """n, and {"mean", "var"} of every layer of the encoder, in the tree of its batch_stats; a monoid."""

    n: Array
    layers: Any

    @classmethod
    def zero(cls, like: Any) -> Moments:
        return cls(jnp.zeros(()), jax.tree.map(jnp.zeros_like, like))

    def merge(self, other: Moments) -> Moments:
        n = self.n + other.n
        share = other.n / jnp.maximum(n, 1)

        def layer(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
            between = share * (1 - share) * (b["mean"] - a["mean"]) ** 2
            return {name: (1 - share) * a[name] + share * b[name] + (name == "var") * between for name in a}

        return Moments(n, jax.tree.map(layer, self.layers, other.layers, is_leaf=lambda node: "mean" in node))


def make_moments(
    network: Network, steps: int, mesh: Mesh
) -> Callable[[Moments, TrainState, Corpus, Array, Array], Moments]:
    """more(moments, state, corpus, order, ahead) -> moments and those of the batch `ahead` steps from the state's."""
    draw = make_draw(network.experiment, steps, mesh)

    def more(moments: Moments, state: TrainState, corpus: Corpus, order: Array, ahead: Array) -> Moments:
        batch = draw(corpus, order, state.seed, state.step + ahead)
        variables = {"params": state.params, "batch_stats": {"encoder": Moments.zero(moments.layers).layers}}
        _, moved = network.apply(
            variables, batch.image, True, batch.mask, method=network.inject, mutable=["batch_stats"]
        )
        layers = jax.tree.map(lambda new: new / (1 - MOMENTUM), moved["batch_stats"]["encoder"])  # moved from zero
        return moments.merge(Moments(batch.mask.sum().astype(jnp.float32), layers))

    return jax.jit(more, out_shardings=replicated(mesh))
