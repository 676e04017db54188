"""Spectra, norms and penalties at z* against dense linear algebra in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import affine_cell, non_normal, random_matrix, rotation, tanh_cell

from deq_nc.equilibrium import (
    EquilibriumConfig,
    amplification,
    equilibrium,
    gradient_fidelity,
    jacobian_norm,
    jacobian_penalty,
    spectral_radius,
)
from deq_nc.equilibrium.spectrum import gelfand

n = 12
JORDAN = 0.9 * np.eye(n) + 0.3 * np.eye(n, k=1)


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def at(fn, M, *more, **kwargs):
    z = jnp.zeros((3, len(M)))
    return np.asarray(jax.jit(lambda M: fn(affine_cell, z, z, M, jax.random.key(0), *more, **kwargs))(M))


@pytest.mark.parametrize("M", [rotation(n, 0.9), JORDAN, random_matrix(n, 0.9), non_normal(n, 0.9), np.zeros((n, n))])
def test_spectral_radius_norm_and_amplification(M):
    radius = np.abs(np.linalg.eigvals(M)).max()
    np.testing.assert_allclose(at(spectral_radius, M), radius, rtol=0.05, atol=1e-12)
    np.testing.assert_allclose(at(jacobian_norm, M), np.linalg.norm(M, 2), rtol=1e-3, atol=1e-12)
    inverse = np.linalg.norm(np.linalg.inv(np.eye(n) - M), 2)
    np.testing.assert_allclose(at(amplification, M, steps=n, tol=1e-9, products=600), inverse, rtol=1e-2)


def test_gelfand_needs_no_eigensolver():
    """The path of accelerators, on a rotation, a random matrix and a small Jordan block."""
    for M in (rotation(6, 0.9), random_matrix(6, 0.9), 0.9 * np.eye(3) + np.eye(3, k=1), np.zeros((2, 2))):
        radius = np.abs(np.linalg.eigvals(M)).max()
        np.testing.assert_allclose(gelfand(jnp.asarray(M)[None]), radius, rtol=1e-4, atol=1e-12)


def test_a_large_random_jacobian_within_five_percent_in_float32():
    M = random_matrix(100, 0.9).astype(np.float32)
    z = jnp.zeros((2, 100), jnp.float32)
    came = jax.jit(lambda M: spectral_radius(affine_cell, z, z, M, jax.random.key(1), steps=60))(M)
    np.testing.assert_allclose(came, 0.9, rtol=0.05)


def test_radius_differs_per_example_and_is_that_of_the_dense_jacobian():
    M = random_matrix(6, 0.95)
    x = np.random.default_rng(0).standard_normal((4, 6))
    z, _ = equilibrium(tanh_cell, jnp.zeros_like(x), x, M, EquilibriumConfig(tol=1e-10))
    dense = (1 - np.tanh(z @ M.T + x) ** 2)[:, :, None] * M[None]
    expected = np.abs(np.linalg.eigvals(dense)).max(1)
    np.testing.assert_allclose(spectral_radius(tanh_cell, z, x, M, jax.random.key(0)), expected, rtol=1e-4)


def test_hutchinson_penalty_is_unbiased_and_differentiable():
    M = random_matrix(n, 0.9)
    samples = at(jacobian_penalty, M, samples=4000)
    # The variance of ||J^T v||^2 is 2 ||J J^T||_F^2; five standard errors of 4000 samples.
    bound = 5 * np.sqrt(2 / 4000) * np.linalg.norm(M @ M.T)
    np.testing.assert_allclose(samples, np.sum(M**2), atol=bound)
    z = jnp.zeros((3, n))
    slope = jax.grad(lambda M: jnp.mean(jacobian_penalty(affine_cell, z, z, M, jax.random.key(0), 4000)))(M)
    assert np.linalg.norm(slope - 2 * M) < 0.2 * np.linalg.norm(2 * M)


def test_gradient_fidelity_orders_the_modes():
    M = random_matrix(6, 0.9)
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 4, 6))
    config = EquilibriumConfig(tol=1e-11, max_steps=300, adjoint_tol=1e-10, adjoint_max_steps=300, phantom_steps=5)
    report = gradient_fidelity(tanh_cell, jnp.zeros_like(x), x, M, g, config)
    assert report["implicit"]["error"] < 1e-7 < report["phantom"]["error"] < report["jfb"]["error"]
    np.testing.assert_allclose(report["implicit"]["cosine"], 1, atol=1e-10)
