"""One, two and eight devices: the same values, gradients and steps; nothing crosses rows in the loop but one `any`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from problems import random_matrix, tanh_cell

from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, equilibrium

B, n = 16, 6
CONFIG = EquilibriumConfig(escalate=False)


def step(M, x, probe):
    def loss(M, probe):
        z, stats = equilibrium(tanh_cell, jnp.zeros_like(x), x, M, CONFIG, probe=probe)
        return jnp.sum(z**2), (z, stats)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(M, probe)


@pytest.fixture(scope="module")
def problem():
    x = np.random.default_rng(0).standard_normal((B, n)).astype(np.float32)
    return random_matrix(n, 0.9).astype(np.float32), x, adjoint_probe(B)


@pytest.fixture(scope="module")
def single(problem):
    return jax.jit(step)(*problem)


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_agree(problem, single, devices):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    rows, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    M, x, probe = problem
    args = jax.device_put((M, x, probe), (everywhere, rows, rows))
    compiled = jax.jit(step).lower(*args).compile()
    (value, (z, stats)), (M_bar, adjoint) = compiled(*args)
    (value_1, (z_1, stats_1)), (M_bar_1, adjoint_1) = single
    np.testing.assert_array_equal(stats.steps, stats_1.steps)
    np.testing.assert_array_equal(adjoint.steps, adjoint_1.steps)
    np.testing.assert_allclose(z, z_1, atol=1e-5)
    np.testing.assert_allclose(M_bar, M_bar_1, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(value, value_1, rtol=1e-5)

    # Of the collectives in the program, those on flags are the two loops' `any` and whether all rows are finite; the
    # others sum loss and gradient. What replaces a row that is not finite stands in a branch that is not taken.
    lines = [line for line in compiled.as_text().splitlines() if re.search(r" all-reduce(?:-start)?\(", line)]
    reductions = [re.search(r"= \(?(\w+)\[", line)[1] for line in lines if "branch_0_fun" not in line]
    flags = [kind for kind in reductions if kind == "pred"]
    assert len(flags) <= 3 and len(reductions) - len(flags) <= 2, lines
    assert not re.search(r"all-gather|all-to-all|collective-permute", compiled.as_text())


def test_devices_that_solve_their_own_rows_leave_those_that_stopped(problem):
    """Under shard_map the loops hold no collective at all, and each device may narrow its own batch."""
    M, x, _ = problem
    x, probe = np.concatenate([x] * 4), adjoint_probe(4 * B)  # 32 rows a device: 8 may go on alone
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rows, everywhere = PartitionSpec("data"), PartitionSpec()

    def loss(M, x, probe, compact):
        z, stats = equilibrium(tanh_cell, jnp.zeros_like(x), x, M, CONFIG, probe=probe, compact=compact)
        return jnp.sum(z**2), stats.steps

    def local(M, x, probe):
        (_, steps), (M_bar, adjoint) = jax.value_and_grad(loss, (0, 2), has_aux=True)(M, x, probe, True)
        return jax.lax.psum(M_bar, "data"), steps, adjoint

    shared = jax.shard_map(
        local, mesh=mesh, in_specs=(everywhere, rows, rows), out_specs=(everywhere, rows, rows), check_vma=False
    )
    args = jax.device_put((M, x, probe), tuple(NamedSharding(mesh, s) for s in (everywhere, rows, rows)))
    compiled = jax.jit(shared).lower(*args).compile()
    M_bar, steps, adjoint = compiled(*args)
    (_, steps_1), (M_bar_1, adjoint_1) = jax.value_and_grad(loss, (0, 2), has_aux=True)(M, x, probe, False)
    np.testing.assert_array_equal(steps, steps_1)
    np.testing.assert_array_equal(adjoint.steps, adjoint_1.steps)
    np.testing.assert_allclose(M_bar, M_bar_1, rtol=1e-4, atol=1e-4)
    assert len(re.findall(r" all-reduce(?:-start)?\(", compiled.as_text())) == 1
