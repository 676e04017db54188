"""compact=True leaves the examples that have stopped: the same answers and evidence, from fewer rows evaluated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import random_matrix

from deq_nc.equilibrium import CellError, EquilibriumConfig, adjoint_probe, equilibrium

B, n = 64, 8


def cell(z, x, M):
    return x["rate"][:, None] * jnp.tanh(z @ M.T) + x["drive"]


def data():
    rng = np.random.default_rng(0)
    rate = np.linspace(0.1, 0.9, B).astype(np.float32) ** 3  # most are easy, a few are hard
    x = {"rate": rng.permutation(rate), "drive": rng.standard_normal((B, n)).astype(np.float32)}
    return x, random_matrix(n, 1.0).astype(np.float32), rng.standard_normal((B, n)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("config", "compact"))
def solve(x, M, g, config, compact):
    def loss(M, x, probe):
        z, stats = equilibrium(
            cell, jnp.zeros_like(x["drive"]), x, M, config, probe=probe, compact=compact, trace=True
        )  # fmt: skip
        return jnp.sum(z * g), (z, stats)

    (_, (z, stats)), bars = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(M, x, adjoint_probe(B))
    return z, stats, bars


@pytest.mark.parametrize(
    "solver, adjoint", [("anderson", "anderson"), ("fixed_point", "neumann"), ("broyden", "gmres")]
)
def test_the_same_answers_and_evidence(solver, adjoint):
    x, M, g = data()
    x["drive"][5] = np.nan
    config = EquilibriumConfig(solver=solver, adjoint=adjoint, tol=1e-5, adjoint_tol=1e-4)
    whole, some = (solve(x, M, g, config, compact) for compact in (False, True))
    assert np.ptp(np.asarray(whole[1].steps)) > 5, "rows stop at different steps, or there is nothing to leave"

    def close(a, b):  # to rounding, on the scale of the array; NaN and Inf in the same places
        size = np.abs(np.asarray(a))[np.isfinite(a)].max(initial=1)
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * size)

    jax.tree.map(close, whole, some)
    for field in ("steps", "converged", "finite"):
        np.testing.assert_array_equal(getattr(whole[1], field), getattr(some[1], field))
    np.testing.assert_array_equal(whole[2][2].steps, some[2][2].steps)


def test_fewer_rows_are_evaluated():
    rows = []

    def counted(z, x, M):
        jax.debug.callback(lambda _: rows.append(z.shape[0]), z[0, 0])
        return cell(z, x, M)

    x, M, _ = data()
    config = EquilibriumConfig(solver="fixed_point", tol=1e-5)
    _, stats = equilibrium(counted, jnp.zeros((B, n)), x, M, config, compact=True)
    jax.effects_barrier()
    evaluations = np.asarray(stats.steps) + 1
    assert set(rows) == {64, 16} and len(rows) == evaluations.max()
    # The whole batch until a quarter is left, that quarter until the last is done.
    assert rows.count(64) == np.sort(evaluations)[-17] and sum(rows) < 0.8 * B * evaluations.max()


def test_second_derivatives_are_those_of_the_whole_batch():
    with jax.enable_x64(True):
        x, M, _ = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), data())
        config = EquilibriumConfig(
            solver="fixed_point", tol=1e-11, max_steps=400, adjoint="neumann", adjoint_tol=1e-11, adjoint_max_steps=400
        )

        def product(compact):  # the Hessian's product with M itself
            def loss(M):
                return jnp.sum(jnp.sin(equilibrium(cell, jnp.zeros((B, n)), x, M, config, compact=compact)[0]))

            return jax.jit(jax.grad(lambda M: jnp.vdot(jax.grad(loss)(M), M)))(M)

        np.testing.assert_allclose(product(True), product(False), rtol=1e-7)


def test_what_cannot_be_cut_into_rows_is_refused():
    x, M, _ = data()
    with pytest.raises(CellError, match="theta"):
        equilibrium(lambda z, x, M: cell(z, x[0], M), jnp.zeros((B, n)), (x, jnp.ones(3)), M, compact=True)
    with pytest.raises(CellError, match="batch size from z"):
        equilibrium(lambda z, x, M: cell(z, x, M) + jnp.zeros((B, n)), jnp.zeros((B, n)), x, M, compact=True)
