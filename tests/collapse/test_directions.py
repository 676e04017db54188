"""The pseudo-inverse of the class means by either path, its rank, and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.collapse.directions import _by_cholesky, pseudo_inverse


def means(k, d, seed=0, close=None):
    m = np.random.default_rng(seed).standard_normal((k, d))
    if close is not None:
        m[1] = m[0] + close * m[1]
    return m - m.mean(0)


@pytest.mark.parametrize("k, d", [(10, 64), (10, 5), (80, 100), (100, 70)])
@pytest.mark.parametrize("close", [None, 1e-3])
def test_equals_the_float64_pinv(k, d, close):
    m = means(k, d, close=close).astype(np.float32)
    want = np.linalg.pinv(m.astype(float), rcond=1e-6)
    got, rank = jax.jit(pseudo_inverse)(m)
    assert int(rank) == min(k - 1, d)
    assert np.linalg.norm(got - want) <= 1e-3 * np.linalg.norm(want)
    if min(k, d) > 64:
        error = float(_by_cholesky(jnp.asarray(m))[1])
        nearly_singular = close is not None and k <= d
        assert not error < 1e-3 if nearly_singular else error < 1e-3  # which path was taken


@pytest.mark.parametrize("k, d", [(5, 8), (70, 90), (90, 70)])
def test_derivative(k, d):
    with jax.enable_x64(True):
        m, dm = jnp.asarray(means(k, d)), jnp.asarray(means(k, d, 1))
        f = jax.jit(lambda m: pseudo_inverse(m)[0])
        _, ours = jax.jvp(f, (m,), (dm,))
        eps = 1e-6
        slope = (np.linalg.pinv(m + eps * dm, rcond=1e-9) - np.linalg.pinv(m - eps * dm, rcond=1e-9)) / (2 * eps)
        np.testing.assert_allclose(ours, slope, atol=1e-6 * np.abs(slope).max())


def test_means_that_coincide_lower_the_rank():
    m = means(6, 20, close=0.0).astype(np.float32)
    got, rank = pseudo_inverse(jnp.asarray(m))
    assert int(rank) == 4
    np.testing.assert_allclose(got, np.linalg.pinv(m.astype(float), rcond=1e-5), atol=1e-5)
