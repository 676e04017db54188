"""The forward solve: exactness on affine maps, edges, evidence that is true, restarts and traces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import affine_cell, random_matrix, tanh_cell

from deq_nc.equilibrium import Broyden, EquilibriumConfig, Step, equilibrium, trajectory

SOLVERS = ["anderson", "fixed_point", "broyden"]


@functools.partial(jax.jit, static_argnames=("config", "trace", "cell"))
def solve(x, M, config, z0=None, trace=False, tol=None, max_steps=None, cell=tanh_cell):
    z0 = jnp.zeros_like(x) if z0 is None else z0
    return equilibrium(cell, z0, x, M, config, trace=trace, tol=tol, max_steps=max_steps)


def data(batch=6, n=5, radius=0.9, seed=0):
    x = np.random.default_rng(seed + 1).standard_normal((batch, n)).astype(np.float32)
    return x, random_matrix(n, radius, seed).astype(np.float32)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_anderson_with_history_n_solves_an_affine_map_in_n_plus_one_steps(n):
    with jax.enable_x64(True):
        M = random_matrix(n, 0.95)
        x = np.random.default_rng(1).standard_normal((3, n))
        config = EquilibriumConfig(tol=1e-9, history=n, ridge=1e-14, max_steps=40)
        z, stats = solve(x, M, config, cell=affine_cell)
        np.testing.assert_allclose(z, np.linalg.solve(np.eye(n) - M, x.T).T, rtol=1e-6)
    assert stats.converged.all() and (np.asarray(stats.steps) <= n + 1).all()
    assert (np.asarray(stats.steps) > n - 1).any()  # it did need the whole history


def test_history_one_is_the_plain_iteration():
    x, M = data()
    plain = solve(x, M, EquilibriumConfig(solver="fixed_point"))
    mixed = solve(x, M, EquilibriumConfig(history=1))
    jax.tree.map(np.testing.assert_array_equal, plain, mixed)


def test_broyden_keeps_the_secant_condition_with_a_full_memory():
    """H y = s for the newest pair, H rebuilt densely from the memory, also once old terms have been dropped."""
    n, m, damping = 4, 3, 0.7
    with jax.enable_x64(True):
        M = random_matrix(n, 0.9)
        x = np.random.default_rng(2).standard_normal((2, n))
        rule = Broyden(history=m, damping=damping)
        z = jnp.zeros((2, n))
        memory, previous = rule.start(z), None
        for k in range(6):
            g = tanh_cell(z, x, M)
            r = g - z
            z_next, memory = rule.update(memory, Step(jnp.asarray(k), z, g, r, jnp.ones(2), jnp.zeros(2, bool)))
            H = np.einsum("bmi,bmj->bij", memory.u * memory.valid[..., None], memory.v) - damping * np.eye(n)
            if previous is not None:
                s, y = z - previous[0], r - previous[1]
                np.testing.assert_allclose(np.einsum("bij,bj->bi", H, y), s, atol=1e-10)
            np.testing.assert_allclose(z_next, z - np.einsum("bij,bj->bi", H, r), atol=1e-10)
            previous, z = (z, r), z_next


@pytest.mark.parametrize("solver", SOLVERS)
def test_reported_residual_is_the_recomputed_one_and_the_least_of_the_trace(solver):
    x, M = data(radius=0.97)
    z, stats = solve(x, M, EquilibriumConfig(solver=solver, max_steps=12, tol=1e-6), trace=True)
    f = np.asarray(tanh_cell(z, x, M))
    true = np.linalg.norm(f - z, axis=1) / np.linalg.norm(f, axis=1)
    np.testing.assert_allclose(stats.residual, true, rtol=1e-3, atol=2e-7)
    trace = np.asarray(stats.trace)
    assert trace.shape == (6, 13)
    np.testing.assert_array_equal(np.nanmin(trace, axis=1), stats.residual)
    np.testing.assert_array_equal((~np.isnan(trace)).sum(1), np.asarray(stats.steps) + 1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("history", [1, 2, 8])
def test_edges_of_the_budget(solver, history):
    x, M = data()
    config = EquilibriumConfig(solver=solver, history=history, tol=0.0)
    z0 = 0.1 * np.ones_like(x)
    for steps in (0, 1, 2):
        z, stats = solve(x, M, config, z0=z0, max_steps=steps)
        assert (np.asarray(stats.steps) == steps).all() and not stats.converged.any()
        assert np.isfinite(z).all() and np.isfinite(stats.residual).all()
        if steps == 0:
            np.testing.assert_array_equal(z, z0)
    z, stats = solve(x, M, config, max_steps=200)
    assert (np.asarray(stats.residual) < 1e-5).all()


def test_one_example_scalar_states_and_several_leaves():
    config = EquilibriumConfig(tol=1e-6)
    z, stats = equilibrium(lambda z, x, t: jnp.cos(z), jnp.zeros(1), None, None, config)
    np.testing.assert_allclose(z, [0.7390851], rtol=1e-5)
    assert stats.steps.shape == (1,)

    def cell(z, x, t):
        return {"a": 0.5 * jnp.tanh(z["a"]) + z["b"][:, None] * x, "b": 0.3 * jnp.sin(z["b"]) + 1}

    start = {"a": jnp.zeros((4, 3)), "b": jnp.zeros(4)}
    z, stats = equilibrium(cell, start, jnp.ones((4, 3)), None, config)
    out = cell(z, jnp.ones((4, 3)), None)
    np.testing.assert_allclose(z["a"], out["a"], rtol=1e-5)
    np.testing.assert_allclose(z["b"], out["b"], rtol=1e-5)


def test_start_does_not_matter_for_a_contraction_and_a_warm_start_takes_no_step():
    x, M = data()
    M = 0.8 * M / np.linalg.norm(M, 2)
    config = EquilibriumConfig(tol=1e-6, max_steps=200)
    z, stats = solve(x, M, config)
    other, _ = solve(x, M, config, z0=3 * np.ones_like(x))
    np.testing.assert_allclose(z, other, atol=1e-5)
    _, again = solve(x, M, config, z0=z)
    assert (np.asarray(again.steps) == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(-90, 100), st.integers(0, 5))
def test_scale_invariance(power, seed):
    """Scaling an affine problem by a power of two scales z* by it, bit by bit, and changes nothing else."""
    x, M = data(seed=seed)
    config = EquilibriumConfig(tol=1e-5)
    z, stats = solve(x, M, config, cell=affine_cell)
    scale = np.float32(2.0**power)
    z_scaled, scaled = solve(scale * x, M, config, cell=affine_cell)
    np.testing.assert_array_equal(np.asarray(z) * scale, z_scaled)
    jax.tree.map(np.testing.assert_array_equal, stats, scaled)


def test_duplicate_and_zero_residuals_stay_finite():
    """A constant map (dr parallel at once), an identity (r = 0), and a zero input, side by side."""

    def cell(z, x, t):
        return jnp.where(x[:, :1] == 0, z, jnp.where(x[:, :1] == 1, 1.0, 0.5 * z))

    x = jnp.array([[0.0, 0], [1.0, 0], [2.0, 0]])
    for history in (2, 5):
        z, stats = equilibrium(cell, jnp.ones((3, 2)), x, None, EquilibriumConfig(history=history, tol=0.0))
        assert np.isfinite(z).all() and np.isfinite(stats.residual).all() and stats.finite.all()


def test_bfloat16_cells_are_solved_in_float32():
    x, M = data(batch=16, n=32, radius=0.7)
    with jax.enable_x64(True):
        exact, _ = equilibrium(
            tanh_cell, jnp.zeros(x.shape), x.astype(np.float64), M.astype(np.float64), EquilibriumConfig(tol=1e-10)
        )
    x, M = x.astype(jnp.bfloat16), M.astype(jnp.bfloat16)

    def cell(z, x, M):  # wide state, narrow arithmetic
        return jnp.tanh(z.astype(jnp.bfloat16) @ M.T + x).astype(z.dtype)

    z, stats = equilibrium(cell, jnp.zeros(x.shape, jnp.float32), x, M, EquilibriumConfig(tol=1e-2))
    assert stats.converged.all() and z.dtype == jnp.float32
    narrow, stats = equilibrium(tanh_cell, jnp.zeros_like(x), x, M, EquilibriumConfig(tol=1e-2))
    assert stats.converged.all() and narrow.dtype == jnp.bfloat16 and stats.residual.dtype == jnp.float32
    out = np.asarray(tanh_cell(narrow, x, M), np.float32)
    true = np.linalg.norm(out - np.asarray(narrow, np.float32), axis=1) / np.linalg.norm(out, axis=1)
    # Compiled, XLA keeps float32 between the fused operations of the cell; op by op it does not.
    np.testing.assert_allclose(stats.residual, true, rtol=0.2)
    for came in (z, narrow):
        assert np.abs(np.asarray(came, np.float64) - np.asarray(exact)).max() < 0.05


def test_trajectory_is_the_solve_step_by_step():
    x, M = data()
    config = EquilibriumConfig(tol=1e-5)
    z, stats = solve(x, M, config)
    states, residuals = trajectory(tanh_cell, jnp.zeros_like(x), x, M, config, steps=30)
    assert states.shape == (31, *x.shape)
    np.testing.assert_allclose(states[-1], z, atol=1e-5)
    np.testing.assert_allclose(residuals[-1], stats.residual, rtol=0.5, atol=1e-6)
    assert ((np.asarray(residuals) <= 1e-5).argmax(0) == np.asarray(stats.steps)).all()


def test_jaxopt_finds_the_same_equilibrium():
    """The peers of fact 2: the batch-wide solvers of jaxopt agree with ours where they converge."""
    import jaxopt

    x, M = data(radius=0.8)
    ours, _ = solve(x, M, EquilibriumConfig(tol=1e-6))
    for peer in (jaxopt.FixedPointIteration(tanh_cell, tol=1e-6), jaxopt.AndersonAcceleration(tanh_cell, tol=1e-6)):
        np.testing.assert_allclose(peer.run(jnp.zeros_like(x), x, M).params, ours, atol=1e-5)
