"""What comes out of a backward pass beside the gradient, gradient modes by name, and run-time budgets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import affine_cell, random_matrix, rotation, tanh_cell

from deq_nc.equilibrium import CellError, EquilibriumConfig, adjoint_probe, equilibrium

B, n = 4, 8


@functools.partial(jax.jit, static_argnames=("config", "cell"))
def gradients(M, x, g, config, adjoint_tol=None, adjoint_max_steps=None, cell=tanh_cell):
    def loss(M, x, probe):
        z, _ = equilibrium(
            cell, jnp.zeros_like(x), x, M, config, probe=probe,
            adjoint_tol=adjoint_tol, adjoint_max_steps=adjoint_max_steps,
        )  # fmt: skip
        return jnp.sum(z * g), z

    return jax.grad(loss, (0, 1, 2), has_aux=True)(M, x, adjoint_probe(x.shape[0]))


def data(radius=0.9):
    x, g = np.random.default_rng(1).standard_normal((2, B, n))
    return random_matrix(n, radius), x, g


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("adjoint", ["anderson", "neumann", "gmres", "bicgstab", "normal_cg"])
def test_adjoint_residual_is_the_true_one_and_failure_is_flagged(adjoint):
    """For the affine cell dL/dx is u itself, so the residual can be recomputed outside from the gradient."""
    M, x, g = data(0.99)
    config = EquilibriumConfig(adjoint=adjoint, tol=1e-10, max_steps=500, escalate=False)
    for budget in (4, 9, 3000):
        (_, u, adjoint_stats), _ = gradients(M, x, g, config, 1e-8, budget, cell=affine_cell)
        true = np.linalg.norm(u - g - u @ M, axis=1) / np.linalg.norm(g, axis=1)
        np.testing.assert_allclose(adjoint_stats.residual, true, rtol=1e-5, atol=1e-12)
        np.testing.assert_array_equal(adjoint_stats.converged, (true <= 1e-8).astype(np.float32))
        assert (np.asarray(adjoint_stats.steps) <= budget + 1).all()
        assert (np.linalg.norm(u, axis=1) > 0).all(), "a gradient is never silently zero"
    assert (adjoint_stats.converged == 1).all()


def test_escalation_repairs_what_a_cheap_solver_misses_and_counts_it():
    M, x, g = data(1.0)
    M = 1.05 * rotation(n, 1.0)  # radius above 1: the Neumann series diverges, the gradient exists
    config = EquilibriumConfig(solver="broyden", adjoint="neumann", history=30, tol=1e-9, max_steps=300)
    (_, u, stats), z = gradients(M, x, g, config, 1e-8, 60, cell=affine_cell)
    np.testing.assert_allclose(z, np.linalg.solve(np.eye(n) - M, x.T).T, rtol=1e-5)
    np.testing.assert_allclose(u, np.linalg.solve((np.eye(n) - M).T, g.T).T, rtol=1e-5)
    assert (stats.escalated == 1).all() and (stats.converged == 1).all()
    with_none = EquilibriumConfig(**{**config.__dict__, "escalate": False})
    (_, _, stats), _ = gradients(M, x, g, with_none, 1e-8, 60, cell=affine_cell)
    assert (stats.converged == 0).all() and (stats.residual > 1e-8).all() and (stats.escalated == 0).all()


def test_jfb_is_one_neumann_term_phantom_is_k_and_tends_to_implicit():
    M, x, g = data(0.7)
    budget = {"tol": 1e-12, "max_steps": 500}
    (_, _, stats), z = gradients(M, x, g, EquilibriumConfig(gradient="jfb", **budget))
    D = 1 - np.tanh(z @ M.T + x) ** 2  # J = D M, df/dx = D

    def by_series(k, beta):
        u, term = np.zeros_like(g), beta * g
        for _ in range(k):
            u, term = u + term, (1 - beta) * term + beta * (term * D) @ M
        return D * u, u

    for config, k, beta in (
        (EquilibriumConfig(gradient="jfb", **budget), 1, 1.0),
        (EquilibriumConfig(gradient="phantom", phantom_steps=4, phantom_damping=0.6, **budget), 4, 0.6),
    ):
        (_, x_bar, stats), _ = gradients(M, x, g, config)
        expected, u = by_series(k, beta)
        np.testing.assert_allclose(x_bar, expected, atol=1e-9)
        residual = np.linalg.norm(g + (u * D) @ M - u, axis=1) / np.linalg.norm(g, axis=1)
        np.testing.assert_allclose(stats.residual, residual, rtol=1e-5)
        np.testing.assert_array_equal(stats.steps, k)
    exact = gradients(M, x, g, EquilibriumConfig(adjoint_tol=1e-12, adjoint_max_steps=200, **budget))[0][0]
    long = gradients(M, x, g, EquilibriumConfig(gradient="phantom", phantom_steps=150, **budget))[0][0]
    np.testing.assert_allclose(long, exact, atol=1e-9)


@pytest.mark.parametrize("mode", ["jfb", "phantom"])
def test_second_derivative_of_an_approximate_gradient_is_refused(mode):
    M, x, g = data()

    def loss(M):
        return jnp.sum(equilibrium(tanh_cell, jnp.zeros((B, n)), x, M, EquilibriumConfig(gradient=mode))[0])

    with pytest.raises(CellError, match="second"):
        jax.grad(lambda M: jnp.sum(jax.grad(loss)(M) ** 2))(M)


def test_the_start_has_exactly_no_gradient():
    M, x, _ = data()
    out = jax.grad(lambda z0: jnp.sum(equilibrium(tanh_cell, z0, x, M, EquilibriumConfig(max_steps=2))[0]))(x)
    np.testing.assert_array_equal(out, 0)


def test_a_probe_that_no_gradient_reached_reads_as_not_converged():
    M, x, _ = data()

    def loss(probe):
        z, _ = equilibrium(tanh_cell, jnp.zeros((B, n)), x, M, probe=probe)
        return jnp.sum(jax.lax.stop_gradient(z))

    assert (jax.grad(loss)(adjoint_probe(B)).converged == 0).all()


def test_budgets_are_run_time_values():
    traces = []

    def cell(z, x, M):
        traces.append(1)
        return tanh_cell(z, x, M)

    M, x, g = data()

    @jax.jit
    def step(M, tol, max_steps, adjoint_tol, adjoint_max_steps):
        def loss(M):
            z, stats = equilibrium(
                cell, jnp.zeros((B, n)), x, M, EquilibriumConfig(), tol=tol, max_steps=max_steps,
                adjoint_tol=adjoint_tol, adjoint_max_steps=adjoint_max_steps,
            )  # fmt: skip
            return jnp.sum(z), stats

        return jax.grad(loss, has_aux=True)(M)

    _, loose = step(M, 1e-2, 50, 1e-2, 50)
    count = len(traces)
    _, tight = step(M, 1e-6, 80, 1e-5, 60)
    assert len(traces) == count and step._cache_size() == 1
    assert (np.asarray(tight.steps) > np.asarray(loose.steps)).all()


def test_memory_of_a_step_does_not_grow_with_the_budget():
    """Compiled temporary memory at budgets 10, 30 and 100: at most 2 % apart; unrolled must grow."""
    M, x, g = (np.asarray(a, np.float32) for a in (random_matrix(64, 0.9), *np.ones((2, 16, 64))))

    def temporary(budget, gradient):
        config = EquilibriumConfig(gradient=gradient, max_steps=budget, adjoint_max_steps=budget, escalate=False)

        def loss(M):
            return jnp.sum(equilibrium(tanh_cell, jnp.zeros_like(x), x, M, config)[0] * g)

        return jax.jit(jax.grad(loss)).lower(M).compile().memory_analysis().temp_size_in_bytes

    sizes = [temporary(b, "implicit") for b in (10, 30, 100)]
    assert max(sizes) <= 1.02 * min(sizes)
    assert temporary(30, "unrolled") > 2 * temporary(10, "unrolled")


def test_dropout_mask_and_integer_inputs_ride_along():
    """A mask drawn once and passed through x stays fixed over the solve; integers have no gradient."""
    M, x, _ = data()
    mask = jax.random.bernoulli(jax.random.key(0), 0.5, (B, n))

    def cell(z, x, M):
        return jnp.where(x["mask"], tanh_cell(z, x["x"], M), 0) + 0.0 * x["index"][:, None]

    def loss(M, x):
        z, stats = equilibrium(cell, jnp.zeros((B, n)), {"x": x, "mask": mask, "index": jnp.arange(B)}, M)
        return jnp.sum(z), (z, stats)

    (M_bar, _), (z, stats) = jax.grad(loss, (0, 1), has_aux=True)(M, x)
    assert stats.converged.all() and np.isfinite(M_bar).all()
    np.testing.assert_array_equal(np.asarray(z)[~np.asarray(mask)], 0)
