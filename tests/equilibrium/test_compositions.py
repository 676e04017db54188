"""The layer inside the rest of JAX: export, checkify, Explicit meshes, shard_map that checks types, forward mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import checkify
from jax.sharding import NamedSharding, PartitionSpec
from problems import random_matrix, tanh_cell

from deq_nc.equilibrium import CellError, EquilibriumConfig, adjoint_probe, equilibrium, equilibrium_jvp
from deq_nc.models.conv import conv

B, n = 4, 5
M = random_matrix(n, 0.9).astype(np.float32)
x = np.random.default_rng(0).standard_normal((B, n)).astype(np.float32)
x[1] = 0  # its equilibrium is 0, reached at once
CONFIG = EquilibriumConfig(escalate=False)


def loss(M, x, probe):
    z, stats = equilibrium(tanh_cell, jnp.zeros_like(x), x, M, CONFIG, probe=probe)
    return jnp.sum(z**2), (z, stats)


gradient = jax.value_and_grad(loss, (0, 2), has_aux=True)


@pytest.fixture(scope="module")
def plain():
    return jax.jit(gradient)(M, x, adjoint_probe(B))


def close(came, expected):
    (value, (z, stats)), (M_bar, adjoint) = came
    (value_1, (z_1, stats_1)), (M_bar_1, adjoint_1) = expected
    np.testing.assert_allclose(value, value_1, rtol=1e-5)
    np.testing.assert_allclose(z, z_1, atol=1e-5)
    np.testing.assert_allclose(M_bar, M_bar_1, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stats.steps, stats_1.steps)
    np.testing.assert_array_equal(adjoint.steps, adjoint_1.steps)


def test_export_with_a_symbolic_batch(plain):
    (b,) = export.symbolic_shape("b")
    rows = jax.ShapeDtypeStruct((b, n), jnp.float32)

    def step(M, x):
        (value, (z, _)), (M_bar, _) = gradient(M, x, adjoint_probe(x.shape[0]))
        return value, z, M_bar

    exported = export.export(jax.jit(step))(jax.ShapeDtypeStruct(M.shape, M.dtype), rows)
    value, z, M_bar = exported.call(M, x)
    np.testing.assert_allclose(z, plain[0][1][0], atol=1e-5)
    np.testing.assert_allclose(M_bar, plain[1][0], rtol=1e-4, atol=1e-5)
    with pytest.raises(CellError, match="known batch size"):
        compact = lambda x: equilibrium(tanh_cell, jnp.zeros_like(x), x, M, compact=True)[0]  # noqa: E731
        export.export(jax.jit(compact))(rows)


def test_checkify_finds_nothing_to_divide_by_zero(plain):
    step = checkify.checkify(jax.jit(gradient), errors=checkify.float_checks)
    error, came = step(M, x, adjoint_probe(B))
    error.throw()
    close(came, plain)


def test_a_mesh_with_explicit_axes(plain):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])  # Explicit is the default
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    came = jax.jit(gradient)(*jax.device_put((M, x, adjoint_probe(B)), (everywhere, rows, rows)))
    close(came, plain)
    assert jax.typeof(came[0][1][0]).sharding.spec[0] == "data"


@pytest.mark.parametrize("probe_outside", [True, False])
def test_shard_map_with_its_types_checked(plain, probe_outside):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    rows, everywhere = PartitionSpec("data"), PartitionSpec()

    def local(M, x, probe):  # M's gradient comes summed over devices: that is what a value the same on all means
        (value, aux), bars = gradient(M, x, probe if probe_outside else adjoint_probe(x.shape[0]))
        return (jax.lax.psum(value, "data"), aux), bars

    split = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(everywhere, rows, rows), out_specs=((everywhere, rows), (everywhere, rows))
        )
    )
    args = [
        jax.device_put(v, NamedSharding(mesh, s)) for v, s in ((M, everywhere), (x, rows), (adjoint_probe(B), rows))
    ]
    if probe_outside:
        close(split(*args), plain)
    else:
        with pytest.raises(CellError, match="in_specs"):
            split(*args)


def test_forward_mode_is_refused_by_name():
    f = jax.jit(lambda M: loss(M, x, adjoint_probe(B))[0])
    for differentiate in (
        lambda: jax.jvp(f, (M,), (M,)),
        lambda: jax.jit(jax.jacfwd(f))(M),
        lambda: jax.hessian(f)(M),
        lambda: jax.jit(jax.jvp, static_argnums=0)(f, (M,), (M,)),
    ):
        with pytest.raises(CellError, match="equilibrium_jvp"):
            differentiate()
    unrolled = EquilibriumConfig(gradient="unrolled", solver="fixed_point", max_steps=8, tol=0.0)
    g = lambda M: jnp.sum(equilibrium(tanh_cell, jnp.zeros_like(x), x, M, unrolled)[0])  # noqa: E731
    _, slope = jax.jit(lambda M: jax.jvp(g, (M,), (M,)))(M)
    np.testing.assert_allclose(slope, jnp.vdot(jax.jit(jax.grad(g))(M), M), rtol=1e-5)


@pytest.mark.parametrize("adjoint", ["anderson", "gmres"])
def test_the_tangent_is_the_dense_one(adjoint):
    """(I - J)^-1 (df/dx x_dot + df/dM M_dot) in float64, a NaN example apart."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        M, M_dot = random_matrix(n, 0.9), rng.standard_normal((n, n))
        x, x_dot = rng.standard_normal((2, B, n))
        x[2] = np.nan
        config = EquilibriumConfig(tol=1e-11, max_steps=500, adjoint=adjoint, adjoint_tol=1e-11, adjoint_max_steps=500)
        tangent = jax.jit(lambda *given: equilibrium_jvp(tanh_cell, jnp.zeros((B, n)), *given, config))
        z, z_dot, stats, evidence = tangent(x, M, x_dot, M_dot)
        good = [0, 1, 3]
        for b in good:
            D = np.diag(1 - np.asarray(z[b]) ** 2)
            expected = np.linalg.solve(np.eye(n) - D @ M, D @ (M_dot @ z[b] + x_dot[b]))
            np.testing.assert_allclose(z_dot[b], expected, rtol=1e-8)
        assert (np.asarray(z_dot[2]) == 0).all() and not stats.finite[2] and (evidence.converged == 1).all()


def test_the_tangent_of_a_cell_that_knows_reverse_mode_only():
    """models/conv has its own transpose and no forward rule; finite differences along one direction."""
    kernel = 0.1 * np.random.default_rng(0).standard_normal((3, 3, 2, 2)).astype(np.float32)
    image = np.random.default_rng(1).standard_normal((2, 3, 3, 2)).astype(np.float32)
    cell = lambda z, x, kernel: jnp.tanh(conv(z, kernel) + x)  # noqa: E731
    config = EquilibriumConfig(solver="fixed_point", adjoint="neumann", tol=1e-6, adjoint_tol=1e-6, escalate=False)
    z0, h = jnp.zeros_like(image), np.float32(1e-2)
    _, z_dot, _, evidence = equilibrium_jvp(cell, z0, image, kernel, 0 * image, kernel, config)
    ahead, behind = (equilibrium(cell, z0, image, s * kernel, config)[0] for s in (1 + h, 1 - h))
    np.testing.assert_allclose(z_dot, (ahead - behind) / (2 * h), atol=2e-3)
    assert (evidence.converged == 1).all()
