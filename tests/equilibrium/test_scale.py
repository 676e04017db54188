"""Nothing changes with the scale of a loss, a cotangent or a state, from one end of float32 to the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import affine_cell, rotation

from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, equilibrium, trajectory

B, n = 2, 4
R = rotation(n, 0.9).astype(np.float32)
x = np.random.default_rng(0).standard_normal((B, n)).astype(np.float32)
U = np.linalg.solve((np.eye(n) - R.astype(np.float64)).T, np.ones((n, B))).T  # the gradient to x of sum(z*)


@functools.partial(jax.jit, static_argnames="config")
def gradient(g, config):
    """(u, evidence) for the cotangent g [B, n]; the cell is affine, so u is the gradient to x."""
    _, vjp = jax.vjp(lambda x, p: equilibrium(affine_cell, jnp.zeros_like(x), x, R, config, probe=p)[0], x, probe)
    return vjp(g)


probe = adjoint_probe(B)


@pytest.mark.parametrize("adjoint", ["anderson", "neumann", "gmres", "bicgstab", "normal_cg"])
def test_a_gradient_is_the_same_at_every_scale_of_the_loss(adjoint):
    config = EquilibriumConfig(adjoint=adjoint, adjoint_tol=1e-5, adjoint_max_steps=300, tol=1e-6, escalate=False)
    ones = np.ones((B, n), np.float32)
    u, stats = gradient(ones, config)
    for power in (-100, -57, -50, 50, 100):  # 1e-30 to 1e30; squares leave float32 beyond 1e-19 and 1e19
        s = np.float32(2.0**power)
        scaled, scaled_stats = gradient(s * ones, config)
        np.testing.assert_array_equal(np.asarray(scaled) / s, u)
        jax.tree.map(np.testing.assert_array_equal, scaled_stats, stats)
    error = np.linalg.norm(u - U, axis=1) / np.linalg.norm(U, axis=1)
    # Near 1 - R the residual is at most 1.9 and at least 0.1 of the relative error, for |R| = 0.9.
    assert (stats.converged == 1).all() and (error < 20 * np.maximum(stats.residual, 1e-7)).all()


@pytest.mark.parametrize("adjoint", ["anderson", "gmres"])
def test_what_falls_out_of_the_type_is_counted_and_zero_is_zero(adjoint):
    config = EquilibriumConfig(adjoint=adjoint, adjoint_tol=1e-5, adjoint_max_steps=300, escalate=False)
    g = np.random.default_rng(1).standard_normal((B, n))
    for scale in (1e-37, 1e-40):  # some of u is below 1.2e-38; all of g is
        given = (scale * g).astype(np.float32)
        u, stats = gradient(given, config)
        true = np.linalg.solve((np.eye(n) - R.astype(np.float64)).T, given.astype(np.float64).T).T
        error = np.linalg.norm(np.asarray(u, np.float64) - true, axis=1) / np.linalg.norm(true, axis=1)
        assert (error <= np.asarray(stats.residual) * 2 + 1e-4).all(), (scale, error, stats.residual)
        np.testing.assert_array_equal(stats.converged, (np.asarray(stats.residual) <= 1e-5))
    given = np.full((B, n), 1e-36, np.float32)
    given[0, 1] = 8e-39  # XLA's CPU code reads 0 there, and 5e-3 of g has not been seen
    u, stats = gradient(given, config)
    true = np.linalg.solve((np.eye(n) - R.astype(np.float64)).T, given.astype(np.float64).T).T
    error = np.linalg.norm(np.asarray(u, np.float64) - true, axis=1) / np.linalg.norm(true, axis=1)
    np.testing.assert_array_equal(stats.converged, error < 1e-4)
    u, stats = gradient(np.full((B, n), 3e38, np.float32), config)  # u would be larger than the type
    assert np.isfinite(u).all() and (stats.converged == (np.abs(u) > 0).all(1)).all()
    u, stats = gradient(np.zeros((B, n), np.float32), config)
    assert (np.asarray(u) == 0).all() and (stats.converged == 1).all() and (stats.residual == 0).all()


@functools.partial(jax.jit, static_argnames="config")
def solve(x, config, z0=0.0):
    return equilibrium(affine_cell, jnp.broadcast_to(z0, x.shape), x, R, config, trace=True)


@pytest.mark.parametrize("solver", ["anderson", "fixed_point", "broyden"])
def test_a_state_is_the_same_at_every_scale(solver):
    """Bit by bit; from a start that is 1e30 times too large or too small the evidence stays true."""
    config = EquilibriumConfig(solver=solver, tol=1e-5, max_steps=200, history=8)
    z, stats = solve(x, config)
    for power in (-90, -50, 50, 100):
        s = np.float32(2.0**power)
        scaled, scaled_stats = solve(s * x, config)
        np.testing.assert_array_equal(np.asarray(scaled) / s, z)
        jax.tree.map(np.testing.assert_array_equal, scaled_stats, stats)
    for s, start in ((1e-35, 0.0), (1e-30, 1.0), (1.0, 1e-30), (1e-12, 1e12), (1e-30, 1e30)):
        given = (s * x).astype(np.float32)
        z, stats = solve(given, config, np.float32(start))
        z = np.asarray(z, np.float64)
        f = z @ R.astype(np.float64).T + given
        true = np.linalg.norm(f - z, axis=1) / np.linalg.norm(f, axis=1)
        np.testing.assert_allclose(stats.residual, true, rtol=0.05, atol=5e-7)
        np.testing.assert_array_equal(stats.converged, np.asarray(stats.residual) <= 1e-5)
        assert stats.finite.all() or solver == "broyden"  # which may diverge beyond the type from such a start
        assert solver != "anderson" or stats.converged.all(), (s, start, stats)


def test_a_trajectory_of_tiny_states_shows_their_residuals():
    config = EquilibriumConfig(tol=1e-5)
    whole = trajectory(affine_cell, jnp.zeros_like(x), x, R, config, steps=12)
    tiny = trajectory(affine_cell, jnp.zeros_like(x), np.float32(2.0**-80) * x, R, config, steps=12)
    np.testing.assert_array_equal(tiny[1], whole[1])


def test_a_state_that_reaches_zero_is_an_equilibrium():
    """f = 0 from a start that is not: the first residual is infinite, the second exactly zero."""
    z, stats = equilibrium(lambda z, x, t: jnp.where(z > 0.5, 0.0, 0.0) * z, jnp.ones((B, n)), None, None)
    assert (np.asarray(z) == 0).all() and stats.converged.all() and stats.finite.all()
