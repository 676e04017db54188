"""What a measurement reports: nothing that is not finite passes unseen."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from deq_nc.config import ConfigError
from deq_nc.data import load
from deq_nc.training.evaluate import all_finite
from deq_nc.training.measure import Measurer
from deq_nc.training.mesh import data_mesh
from deq_nc.training.program import program
from deq_nc.training.step import corpus


def prepare(experiment, devices=1):
    """(program, state before the first step, Measurer) on so many devices."""
    dataset, mesh = load(experiment.data), data_mesh(jax.devices()[:devices])
    compiled = program(experiment, dataset, mesh)
    return compiled, compiled.init(experiment.seed), Measurer(compiled, dataset, corpus(dataset, "train", mesh))


@pytest.fixture(scope="module")
def begun(tiny):
    return prepare(tiny)


def spoiled(state, value):
    """`state` with one weight of the classifier replaced."""
    head = state.params["classifier"] | {"kernel": state.params["classifier"]["kernel"].at[0, 0].set(value)}
    return state._replace(params=state.params | {"classifier": head})


def test_a_state_is_finite_only_if_every_number_is(begun):
    _, state, _ = begun
    assert all_finite(state)
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        assert not all_finite(spoiled(state, value))
        assert not all_finite(state._replace(logs=state.logs._replace(loss=jnp.asarray(value))))
        momentum = jax.tree.map(
            lambda leaf, by=value: leaf * by if leaf.dtype == jnp.float32 else leaf, state.opt_state
        )
        assert not all_finite(state._replace(opt_state=momentum))


def test_a_loss_that_is_not_finite_is_shown_and_an_undefined_metric_is_null(begun):
    _, state, measurer = begun
    logs = state.logs._replace(examples=jnp.ones(()))
    json.dumps(measurer.line(state, logs), allow_nan=False)
    measurer._at = None
    line = measurer.line(spoiled(state, jnp.nan), logs)
    measurer._at = None
    assert line["train_loss"] != line["train_loss"] and line["test_loss"] != line["test_loss"]
    rest = {name: value for name, value in line.items() if name not in ("train_loss", "test_loss")}
    json.dumps(rest, allow_nan=False)
    assert rest["nc3"] is None and rest["weight_norm"] is None


def test_a_loss_that_is_not_shipped_is_named_with_the_known_ones(tiny):
    other = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, loss="focal"))
    with pytest.raises(ConfigError, match="train.loss: expected one of cross_entropy, mse, .* got 'focal'"):
        prepare(other)
