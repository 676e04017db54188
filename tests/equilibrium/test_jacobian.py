"""Spectra, norms and penalties at z* against dense linear algebra in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from problems import affine_cell, non_normal, random_matrix, rotation, tanh_cell

from deq_nc.equilibrium import (
    EquilibriumConfig,
    amplification,
    equilibrium,
    gradient_fidelity,
    jacobian_norm,
    jacobian_penalty,
    measured_radius,
    spectral_radius,
)
from deq_nc.equilibrium.hessenberg import eigen
from deq_nc.equilibrium.krylov import back_substitute

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


def test_eigen_is_that_of_numpy():
    """Random, symmetric, orthogonal, defective, cyclic and zero: moduli of LAPACK's, vectors that are eigenvectors."""
    rng = np.random.default_rng(0)
    random, upper = rng.standard_normal((n, n)), np.eye(n, k=-1)
    kinds = [random, random + random.T, rotation(n, 1.0), np.roll(np.eye(n), 1, 0), JORDAN, upper, np.zeros((n, n))]
    h = np.array([scipy.linalg.hessenberg(kind) for kind in kinds])
    values, vectors = jax.jit(eigen)(h)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    np.testing.assert_allclose(h @ np.asarray(vectors), np.asarray(vectors * values[:, None]), atol=1e-12)
    for kind, value in zip(kinds, np.asarray(values)):
        np.testing.assert_allclose(np.sort(np.abs(value)), np.sort(np.abs(np.linalg.eigvals(kind))), atol=2e-2)
    for i in (0, 1, 2, 3):  # not defective: to rounding
        gap = np.abs(np.asarray(values[i])[:, None] - np.linalg.eigvals(kinds[i])[None])
        assert gap.min(0).max() < 1e-12
    assert np.isnan(eigen(jnp.full((1, 3, 3), jnp.nan))[0]).all()


def test_back_substitution_is_a_dense_solve():
    triangle = np.triu(random_matrix(n, 0.9) + 3 * np.eye(n))
    b = np.random.default_rng(0).standard_normal((1, n))
    np.testing.assert_allclose(back_substitute(triangle[None], b)[0], np.linalg.solve(triangle, b[0]), rtol=1e-10)


# What 20 steps of a 40-dimensional J do not settle: a disc of eigenvalues, a circle, and a condition of 1e7.
UNSETTLED = [random_matrix(40, 1.04, seed) for seed in range(4)] + [random_matrix(40, 0.97, seed) for seed in range(4)]
UNSETTLED += [rotation(40, 1.02), rotation(40, 0.98), np.roll(np.eye(40), 1, 0) * 1.03]
UNSETTLED += [non_normal(40, radius, seed) for radius in (0.9, 0.97, 1.03) for seed in range(3)]


def test_the_radius_never_crosses_one_silently():
    """Beside the eigenvalues of float64: within the error that comes with it, and NaN where that reaches across 1."""
    M = jnp.asarray(np.array(UNSETTLED))
    f = lambda z, x, M: jnp.einsum("bij,bj->bi", M, z)  # noqa: E731
    args = (f, jnp.zeros(M.shape[:2]), None, M, jax.random.key(0))
    radius = jax.jit(lambda: measured_radius(*args))()
    value, error = np.asarray(radius.value), np.asarray(radius.error)
    true = np.array([np.abs(np.linalg.eigvals(m)).max() for m in UNSETTLED])
    assert (np.abs(value - true) <= error)[error < 0.1].all()  # wider ones are estimates of a first order
    assert ((value < 1) == (true < 1))[radius.sure].all()
    assert radius.sure[:8].all()  # it goes on until it knows
    np.testing.assert_array_equal(jax.jit(lambda: spectral_radius(*args))(), np.where(radius.sure, value, np.nan))


def test_what_is_not_finite_or_has_no_bound_is_nan_and_not_zero():
    x = jnp.asarray([[1.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [jnp.nan, 0.5, 0.5, 0.5]])
    args = (lambda z, x, theta: z * x, jnp.zeros((3, 4)), x, None, jax.random.key(0))
    np.testing.assert_allclose(amplification(*args), [np.nan, 2, np.nan], rtol=1e-3)  # the first is infinite
    np.testing.assert_allclose(jacobian_norm(*args), [1, 0.5, np.nan], rtol=1e-5)
    np.testing.assert_allclose(spectral_radius(*args), [np.nan, 0.5, np.nan], rtol=1e-5)  # 1 is on no side of 1


def test_an_amplification_that_was_not_reached_is_nan():
    """n = 100 at radius 1.2: eigenvalues all around 1, where restarted GMRES stalls; near 1 or NaN, and never 0."""
    M = [random_matrix(100, 1.2, seed) for seed in range(4)]
    truth = [1 / np.linalg.svd(np.eye(100) - m, compute_uv=False)[-1] for m in M]
    f = lambda z, x, M: jnp.einsum("bij,bj->bi", M, z)  # noqa: E731
    came = np.asarray(amplification(f, jnp.zeros((4, 100)), None, jnp.asarray(np.array(M)), jax.random.key(0)))
    assert (np.isnan(came) | (np.abs(came / truth - 1) < 0.1)).all()


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
