"""Mistakes are named, with the next move; non-convergence raises only where it was asked to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import random_matrix, tanh_cell

from deq_nc.config import ConfigError
from deq_nc.equilibrium import CellError, EquilibriumConfig, NotConvergedError, equilibrium

x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
z0 = np.zeros_like(x)
M = random_matrix(3, 0.9).astype(np.float32)


@pytest.mark.parametrize(
    "f, message",
    [
        (lambda z, x, t: z[:, :2], "shape"),
        (lambda z, x, t: z.astype(jnp.bfloat16), "dtype"),
        (lambda z, x, t: (z, z), "structure"),
    ],
)
def test_a_cell_that_changes_the_state_is_refused(f, message):
    with pytest.raises(CellError, match=message):
        equilibrium(f, z0, x, M)


def test_captured_traced_values_are_named():
    def loss(M):
        return jnp.sum(equilibrium(lambda z, x, t: tanh_cell(z, x, M), z0, x, None)[0])

    with pytest.raises(CellError, match="captures 1 traced"):
        jax.grad(loss)(M)


def test_states_without_a_common_batch_axis_are_refused():
    with pytest.raises(CellError, match="leading axis"):
        equilibrium(lambda z, x, t: z, {"a": jnp.zeros(3), "b": jnp.zeros((4, 2))}, x, M)
    with pytest.raises(CellError, match="floating"):
        equilibrium(lambda z, x, t: z, jnp.zeros((4, 2), jnp.int32), x, M)


def test_debug_finds_mixed_examples_and_nan():
    def mixing(z, x, t):
        return 0.5 * (z - jnp.mean(z, 0, keepdims=True)) + x

    equilibrium(tanh_cell, z0, x, M, debug=True)
    with pytest.raises(CellError, match="mixes examples"):
        equilibrium(mixing, z0, x, M, debug=True)
    bad = x.copy()
    bad[2] = np.nan
    with pytest.raises(CellError, match=r"\[2\]"):
        equilibrium(tanh_cell, z0, bad, M, debug=True)


def test_strict_raises_with_the_worst_examples_outside_jit_only():
    config = EquilibriumConfig(max_steps=1, tol=1e-6)
    with pytest.raises(NotConvergedError, match=r"4 of 4 examples did not converge. Worst: \d: residual"):
        equilibrium(tanh_cell, z0, x, M, config, strict=True)
    equilibrium(tanh_cell, z0, x, M, EquilibriumConfig(tol=1e-5), strict=True)
    with pytest.raises(CellError, match="require_converged"):
        jax.jit(lambda x: equilibrium(tanh_cell, z0, x, M, config, strict=True)[0])(x)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match="anderson, fixed_point, broyden"):
        EquilibriumConfig(solver="newton")
