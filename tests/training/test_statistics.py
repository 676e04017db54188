"""The statistics that BatchNorm measures with: exact, the same on any number of devices, and nothing to training."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from deq_nc.config import ConfigError, Experiment, ModelConfig
from deq_nc.training.measure import Measurer
from tests.training.test_measure import prepare

RATE = 0.3  # moves the weights enough in 8 steps for running statistics to lag


@pytest.fixture(scope="module")
def normed(tiny) -> Experiment:
    """Batches of 60 on 512 images: the last one of an epoch is filled up."""
    model = ModelConfig(encoder="conv", norm="batch", width=8, cell="dense", features=16, inner=16)
    train = dataclasses.replace(tiny.train, batch_size=60, learning_rate=RATE)
    return dataclasses.replace(tiny, arm="explicit", model=model, train=train)


def stepped(experiment, devices=1, steps=9):
    compiled, state, measurer = prepare(experiment, devices)
    for _ in range(steps):
        order = compiled.order(state.seed, state.step)
        state, logs = compiled.step(state, measurer.train, order)
    return compiled, state, logs, measurer


@pytest.fixture(scope="module")
def trained(normed):
    return stepped(normed)


def test_the_first_layer_has_the_mean_and_variance_of_the_whole_set(trained):
    compiled, state, _, measurer = trained
    fresh = measurer._fresh(state).batch_stats["encoder"]["BatchNorm_0"]
    part = measurer.train
    image = (np.asarray(part.image, np.float64) / 255 - np.asarray(part.mean)) / np.asarray(part.std)
    kernel = state.params["encoder"]["Conv_0"]["kernel"]
    seen = nn.Conv(kernel.shape[-1], (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, image)
    seen = np.asarray(seen, np.float64).reshape(-1, kernel.shape[-1])
    np.testing.assert_allclose(fresh["mean"], seen.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fresh["var"], seen.var(0), rtol=1e-4)
    running = state.batch_stats["encoder"]["BatchNorm_0"]
    assert np.abs(running["var"] / seen.var(0) - 1).max() > 0.02  # the test can fail


def test_every_layer_has_them_given_the_layers_before_in_training_mode(trained):
    """Against NumPy, batch by batch, over the inputs of each BatchNorm as flax captures them."""
    compiled, state, _, measurer = trained
    fresh = measurer._fresh(state).batch_stats["encoder"]
    order, size = np.asarray(compiled.order(state.seed, state.step)), len(measurer.dataset.train_labels)
    seen: dict[str, list[np.ndarray]] = {}

    def keep(run, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            seen.setdefault(context.module.name, []).append(np.asarray(args[0], np.float64))
        return run(*args, **kwargs)

    begun = int(state.step) % compiled.steps
    for i in (np.arange(compiled.steps) + begun) % compiled.steps:
        rows = order[i * 60 : (i + 1) * 60]
        batch = compiled.rows(measurer.train, rows, np.ones(len(rows), bool))
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        with nn.intercept_methods(keep):
            compiled.network.apply(variables, batch.image, True, method="inject", mutable=["batch_stats"])
    assert sum(len(x) for x in seen["BatchNorm_2"]) == size
    for name, inputs in seen.items():
        rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in inputs])
        np.testing.assert_allclose(fresh[name]["mean"], rows.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fresh[name]["var"], rows.var(0), rtol=1e-4)


def test_they_are_the_same_on_eight_devices_and_twice(normed, trained):
    _, state, _, measurer = trained
    one, again = (measurer._fresh(state).batch_stats for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    compiled, _, other = prepare(normed, 8)
    there = jax.device_put(jax.tree.map(np.asarray, state), other.train.label.sharding)
    many = other._fresh(there).batch_stats
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, many)


def test_measuring_leaves_training_as_it_is(normed, trained):
    compiled, expected, _, _ = trained
    _, state, measurer = prepare(normed)
    for _ in range(9):
        state, logs = compiled.step(state, measurer.train, compiled.order(state.seed, state.step))
        measurer.line(state, logs)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_the_loss_is_that_of_this_network_and_not_of_weights_that_are_gone(trained):
    compiled, state, logs, measurer = trained
    lagging = compiled.summary(measurer.collect(state, measurer.train))
    line = measurer.line(state, logs)
    assert line["train_accuracy_in_training"] == float(logs.correct / logs.examples)
    assert line["train_loss"] < 0.95 * lagging["loss"] and line["train_accuracy"] > lagging["accuracy"] + 0.02


def test_running_statistics_are_used_where_they_are_asked_for(trained):
    compiled, state, _, measurer = trained
    experiment = compiled.network.experiment
    asked = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, statistics="running"))
    program = compiled._replace(network=compiled.network.clone(experiment=asked))
    assert Measurer(program, measurer.dataset)._fresh(state) is state


def test_statistics_inside_a_cell_are_a_part_of_it(normed):
    model = dataclasses.replace(normed.model, cell_norm="batch")
    _, state, measurer = prepare(dataclasses.replace(normed, model=model))
    fresh = measurer._fresh(state).batch_stats
    assert fresh.keys() == state.batch_stats.keys() and len(fresh) == 2
    for name in fresh.keys() - {"encoder"}:
        jax.tree.map(np.testing.assert_array_equal, fresh[name], state.batch_stats[name])


def test_a_network_without_batch_norm_is_measured_as_it_is(tiny):
    _, state, measurer = prepare(tiny)
    assert measurer._fresh(state) is state


def test_runs_from_before_the_field_stay_with_running_statistics(normed):
    old = json.loads(normed.to_json())
    assert old["train"].pop("statistics") == "fresh"
    assert Experiment.from_json(json.dumps(old)).train.statistics == "running"
    assert Experiment.from_json(normed.to_json()) == normed
    with pytest.raises(ConfigError, match="train.statistics: expected one of fresh, running"):
        dataclasses.replace(normed.train, statistics="exact")
