"""What a measurement reports: nothing that is not finite passes unseen."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.config import ConfigError
from deq_nc.data import load
from deq_nc.training.evaluate import all_finite
from deq_nc.training.measure import SPECTRUM_EXAMPLES, Measurer
from deq_nc.training.mesh import data_mesh
from deq_nc.training.program import program
from deq_nc.training.remeasure import remeasure
from deq_nc.training.stop import Stopped


def prepare(experiment, devices=1):
    """(program, state before the first step, Measurer) on so many devices."""
    dataset, mesh = load(experiment.data), data_mesh(jax.devices()[:devices])
    compiled = program(experiment, dataset, mesh)
    return compiled, compiled.init(experiment.seed), Measurer(compiled, dataset)


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


def test_a_run_whose_loss_is_not_shipped_is_told_the_known_ones(tiny, tmp_path):
    (tmp_path / "config.json").write_text(tiny.to_json().replace("cross_entropy", "focal"))
    with pytest.raises(ConfigError, match="train.loss: expected one of cross_entropy, mse, .* got 'focal'"):
        remeasure(tmp_path)


def test_of_a_set_sorted_by_class_every_class_is_kept(begun, monkeypatch):
    compiled, state, measurer = begun
    dataset = measurer.dataset
    parts = {}
    for part in ("train", "test"):
        images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
        order = np.argsort(labels, kind="stable")
        parts |= {f"{part}_images": images[order], f"{part}_labels": labels[order]}
    dataset = dataclasses.replace(dataset, **parts)
    monkeypatch.setattr("deq_nc.training.measure.SAVED_FEATURES", 40)
    by_class = Measurer(compiled, dataset)
    by_class.features(state)
    found, everyone = by_class.analysis(state), set(range(dataset.num_classes))
    for part in ("train", "test"):
        assert len(found[f"features_{part}"]) == 40 and set(found[f"labels_{part}"]) == everyone
    batch = by_class._few()[1]
    assert set(np.asarray(batch.label)[np.asarray(batch.mask)]) == everyone
    assert len(found["amplification"]) == SPECTRUM_EXAMPLES
    whole, _ = by_class.features(state)
    square = np.square(np.asarray(whole.features, np.float64)).sum(1)
    expected = [square[np.asarray(whole.labels) == k].mean() for k in range(dataset.num_classes)]
    np.testing.assert_allclose(found["class_squares"], expected, rtol=1e-5)


def test_a_signal_is_heard_between_the_parts_of_the_final_analysis(begun):
    def stopped():
        raise Stopped

    compiled, state, other = begun
    measurer = Measurer(compiled, other.dataset)
    measurer.features(state)
    measurer.pulse = stopped
    for part in (measurer.analysis, measurer.along):
        with pytest.raises(Stopped):
            part(state)


def test_images_for_the_spectrum_are_the_same_on_any_number_of_devices(begun, tiny):
    (_, state, measurer), (_, other_state, other) = begun, prepare(tiny, devices=3)
    measurer._state, other._state, measurer._at = state, other_state, None
    one, many = measurer._few()[1], other._few()[1]
    assert len(many.mask) % 3 == 0 and np.asarray(many.mask).sum() == SPECTRUM_EXAMPLES
    np.testing.assert_array_equal(np.asarray(many.image)[np.asarray(many.mask)], one.image)
