"""Examples do not know each other: neighbours, order, padding, NaN; rows that stopped stay where they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, equilibrium
from deq_nc.equilibrium.checks import own_leaves

SOLVERS = ["anderson", "fixed_point", "broyden"]
N = 16


def cell(z, x, theta):
    """Elementwise sums only, so that a row's bits cannot depend on how a matrix product blocks the batch.

    x["rate"] sets how hard the example is.
    """
    return x["rate"][:, None] * jnp.tanh(theta[None] * z + 0.5 * jnp.roll(z, 1, axis=1)) + x["drive"]


@functools.partial(jax.jit, static_argnames="config")
def solve(x, theta, config, g):
    def loss(theta, x, probe):
        z, stats = equilibrium(cell, jnp.zeros_like(x["drive"]), x, theta, config, probe=probe)
        return jnp.sum(z * g), (z, stats)

    (_, (z, stats)), (theta_bar, x_bar, adjoint) = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
        theta, x, adjoint_probe(g.shape[0])
    )
    return z, stats, theta_bar, x_bar, adjoint


def data(batch=8):
    rng = np.random.default_rng(0)
    x = {
        "rate": np.linspace(0.2, 0.6, batch).astype(np.float32),
        "drive": rng.standard_normal((batch, N)).astype(np.float32),
    }
    return x, np.linspace(0.5, 0.8, N).astype(np.float32), rng.standard_normal((batch, N)).astype(np.float32)


def rows(out, index):
    z, stats, _, x_bar, adjoint = out
    return jax.tree.map(lambda a: np.asarray(a)[index], (z, stats, x_bar, adjoint))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b):
    """Steps and flags equal, numbers to rounding: another batch shape is another program."""
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-5), a, b)


@pytest.mark.parametrize("solver", SOLVERS)
def test_order_padding_and_microbatches_change_nothing(solver):
    x, theta, g = data()
    config = EquilibriumConfig(solver=solver)
    whole = solve(x, theta, config, g)
    order = np.random.default_rng(1).permutation(8)
    take = lambda i: (jax.tree.map(lambda a: a[i], x), theta, config, g[i])  # noqa: E731
    same(rows(solve(*take(order)), slice(None)), rows(whole, order))
    close(rows(solve(*take(slice(0, 4))), slice(None)), rows(whole, slice(0, 4)))
    padded = jax.tree.map(lambda a: np.concatenate([a, np.zeros_like(a)]), (x, g))
    out = solve(padded[0], theta, config, padded[1])
    close(rows(out, slice(0, 8)), rows(whole, slice(None)))
    np.testing.assert_allclose(out[2], whole[2], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("neighbour", ["hard", "huge", "tiny", "nan", "inf"])
def test_a_neighbour_changes_nothing(solver, neighbour):
    x, theta, g = data()
    config = EquilibriumConfig(solver=solver)
    before = solve(x, theta, config, g)
    x["rate"], x["drive"] = x["rate"].copy(), x["drive"].copy()
    if neighbour == "hard":
        x["rate"][3] = 1.2
    else:
        x["drive"][3] *= {"huge": 1e15, "tiny": 1e-15, "nan": np.nan, "inf": np.inf}[neighbour]
    after = solve(x, theta, config, g)
    others = np.arange(8) != 3
    same(rows(after, others), rows(before, others))
    z, stats, theta_bar, x_bar, _ = after
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((z, theta_bar, x_bar)))
    if neighbour in ("nan", "inf"):
        assert not stats.finite[3] and not stats.converged[3] and (np.asarray(stats.finite)[others]).all()
        np.testing.assert_array_equal(x_bar["drive"][3], 0)
        # The parameter gradient is that of the batch without it.
        alone = solve(jax.tree.map(lambda a: a[others], x), theta, config, g[others])
        np.testing.assert_allclose(theta_bar, alone[2], rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_hard_among_63_easy(solver):
    """The easy ones' steps and values are bitwise those of a batch without the hard one."""
    x, theta, g = data(64)
    config = EquilibriumConfig(solver=solver, max_steps=200, tol=1e-5)
    easy = solve(x, theta, config, g)
    x["rate"], x["drive"] = x["rate"].copy(), x["drive"].copy()
    x["rate"][10], x["drive"][10] = 0.9, 1e-3  # unsaturated, spectral radius near 1
    hard = solve(x, theta, config, g)
    others = np.arange(64) != 10
    assert hard[1].steps[10] > 1.5 * np.max(easy[1].steps)
    same(rows(hard, others), rows(easy, others))


@pytest.mark.parametrize("solver", SOLVERS)
def test_stopped_examples_are_frozen(solver):
    x, theta, g = data()

    @functools.partial(jax.jit, static_argnames="solver")
    def run(max_steps, solver):
        return equilibrium(
            cell, jnp.zeros_like(x["drive"]), x, theta, EquilibriumConfig(solver=solver, tol=1e-4), max_steps=max_steps
        )

    z, stats = run(200, solver=solver)
    first = int(np.min(stats.steps))
    early, early_stats = run(first, solver=solver)
    done = np.asarray(early_stats.converged)
    assert done.any() and not done.all()
    same(np.asarray(early)[done], np.asarray(z)[done])


def test_vmap_of_the_solve_is_the_batched_solve():
    x, theta, g = data()
    config = EquilibriumConfig()
    z, stats = equilibrium(cell, jnp.zeros_like(x["drive"]), x, theta, config)
    pairs = jax.tree.map(lambda a: a.reshape(4, 2, *a.shape[1:]), x)
    z_v, stats_v = jax.vmap(lambda x: equilibrium(cell, jnp.zeros_like(x["drive"]), x, theta, config))(pairs)
    np.testing.assert_allclose(z_v.reshape(z.shape), z, atol=1e-6)
    np.testing.assert_array_equal(stats_v.steps.reshape(-1), stats.steps)
    jitted, _ = jax.jit(lambda x: equilibrium(cell, jnp.zeros_like(x["drive"]), x, theta, config))(x)
    np.testing.assert_allclose(jitted, z, atol=1e-6)


def unit_cell(z, x, M):
    """x / |x| inside: NaN on a row of zeros too, so zeros are nothing to put in the place of a bad row."""
    return jnp.tanh(z @ M.T + x / jnp.linalg.norm(x, axis=1, keepdims=True))


@functools.partial(jax.jit, static_argnames="config")
def unit_gradient(M, x, config):
    def loss(M, x, probe):
        z, stats = equilibrium(unit_cell, jnp.zeros_like(x), x, M, config, probe=probe)
        return jnp.sum(jnp.sin(z)), stats

    return jax.grad(loss, (0, 1, 2), has_aux=True)(M, x, adjoint_probe(len(x)))


@pytest.mark.parametrize("mode", ["implicit", "jfb", "phantom", "unrolled"])
def test_a_nan_example_contributes_exactly_nothing_in_every_mode(mode):
    config = EquilibriumConfig(gradient=mode, max_steps=20, escalate=False)
    rng = np.random.default_rng(0)
    x, M = rng.standard_normal((4, 3)).astype(np.float32), 0.3 * np.eye(3, dtype=np.float32)
    x[2] = 0
    (M_bar, x_bar, _), stats = unit_gradient(M, x, config)
    np.testing.assert_array_equal(stats.finite, [True, True, False, True])
    (without, _, _), _ = unit_gradient(M, x[[0, 1, 3]], config)
    np.testing.assert_allclose(M_bar, without, rtol=1e-5)
    np.testing.assert_array_equal(x_bar[2], 0)
    (M_bar, x_bar, _), stats = unit_gradient(M, 0 * x, config)  # nobody is left to take the place
    assert (np.asarray(M_bar) == 0).all() and (np.asarray(x_bar) == 0).all() and not stats.finite.any()


def shared_cell(z, x, theta):
    return jnp.tanh(z @ x["w"] + x["own"] + jnp.mean(x["book"], 0)[None])


def test_what_the_examples_share_is_told_from_their_own_by_shape():
    """Both shared leaves have B rows; a NaN example must not take any of them away."""
    rng = np.random.default_rng(0)
    x = {
        "own": rng.standard_normal((3, 3)).astype(np.float32),
        "book": rng.standard_normal((3, 3)).astype(np.float32),
        "w": 0.1 * rng.standard_normal((3, 3)).astype(np.float32),
    }
    assert own_leaves(shared_cell, jnp.zeros((3, 3)), x, None) == [False, True, False]  # book, own, w
    assert own_leaves(cell, jnp.zeros((8, N)), *data()[:2]) == [True, True]
    loss = lambda x: jnp.sum(equilibrium(shared_cell, jnp.zeros_like(x["own"]), x, None)[0])  # noqa: E731
    bad, fewer = x | {"own": x["own"].copy()}, x | {"own": x["own"][:2]}
    bad["own"][2] = np.nan
    came, expected = jax.jit(jax.grad(loss))(bad), jax.jit(jax.grad(loss))(fewer)
    np.testing.assert_allclose(came["w"], expected["w"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(came["book"], expected["book"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(came["own"][2], 0)
    equilibrium(shared_cell, jnp.zeros((3, 3)), x, None, debug=True)  # a shared leaf mixes nobody
