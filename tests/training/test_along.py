"""Collapse along the solve: recorded to the end that the layer comes to."""

import dataclasses

import jax
import numpy as np
import pytest

from deq_nc.training import along
from tests.training.test_measure import prepare


@pytest.mark.parametrize("max_steps", [40, 5])
def test_the_last_iterate_is_the_end_of_the_solve(tiny, max_steps):
    """Of one with more steps than are recorded at first, and of one cut short; to the rounding of another batch."""
    solver = dataclasses.replace(tiny.solver, solver="fixed_point", max_steps=max_steps, damping=0.3)
    compiled, state, measurer = prepare(dataclasses.replace(tiny, solver=solver))
    states, residuals, labels = along._iterates(compiled, state, measurer.train, measurer.pulse)
    part = jax.tree.map(np.asarray, measurer.collect(state, measurer.train))
    last = len(states) - 1
    np.testing.assert_array_equal(labels, part.labels)
    np.testing.assert_allclose(states[0], part.initial, atol=1e-5)
    np.testing.assert_allclose(states[-1], part.features, atol=1e-4)
    np.testing.assert_allclose(residuals[-1], part.residual, rtol=0.05)
    assert abs(last - part.steps.max()) <= 1
    if max_steps == 40:
        assert along.FIRST < last < max_steps and residuals[-1].max() <= solver.tol < residuals[-2].max()
    else:
        assert last == max_steps and residuals[-1].min() > solver.tol


def test_images_that_never_stop_end_at_their_best():
    residuals = np.array([[0.5, 0.5, 0.5], [0.2, 0.01, 0.1], [0.4, 0.01, 0.05], [0.3, 0.01, np.nan]])
    features = np.arange(4.0)[:, None, None] + np.zeros((4, 3, 2))
    states, found = along._ended(features, residuals, tol=0.02)
    assert states.shape == (4, 3, 2)
    np.testing.assert_array_equal(states[-1, :, 0], [1, 1, 2])
    np.testing.assert_array_equal(found[-1], [0.2, 0.01, 0.05])
    np.testing.assert_array_equal(states[:-1], features[:-1])


def test_nothing_is_shown_after_the_last_image_has_stopped():
    residuals = np.array([[0.5, 0.5], [0.01, 0.1], [0.01, 0.01], [0.01, 0.01]])
    states, found = along._ended(np.zeros((4, 2, 3)), residuals, tol=0.02)
    assert len(states) == len(found) == 3
