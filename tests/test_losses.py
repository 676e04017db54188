"""Every loss against its formula in float64 NumPy."""

import numpy as np
import pytest

from deq_nc.losses import LOSSES


def log_softmax(f):
    f = f - f.max(axis=1, keepdims=True)
    return f - np.log(np.exp(f).sum(axis=1, keepdims=True))


def pick(table, y):
    return table[np.arange(len(y)), y]


FORMULAS = {
    "cross_entropy": lambda f, y, n: -pick(log_softmax(f), y),
    "mse": lambda f, y, n: ((f - np.eye(f.shape[1])[y]) ** 2).sum(axis=1) / 2,
    "logit_adjusted": lambda f, y, n: -pick(log_softmax(f + np.log(n / n.sum())), y),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_its_formula(name):
    rng = np.random.default_rng(0)
    f, y, n = 5 * rng.normal(size=(40, 6)), rng.integers(0, 6, 40), np.array([1, 2, 5, 10, 100, 1000.0])
    got = LOSSES[name](f.astype(np.float32), y, n.astype(np.float32))
    np.testing.assert_allclose(got, FORMULAS[name](f, y, n), rtol=1e-5, atol=1e-5)
