"""Gradients of the layer against dense solves and unrolled twins, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import affine_cell, dense_gradients, non_normal, random_matrix, rotation, tanh_cell

from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, equilibrium

B, n = 3, 8
SOLVERS = ["anderson", "fixed_point", "broyden"]
ADJOINTS = ["anderson", "neumann", "gmres", "bicgstab", "normal_cg"]


def exact(solver, adjoint, **more):
    return EquilibriumConfig(
        solver=solver, adjoint=adjoint, tol=1e-11, max_steps=6000, adjoint_tol=1e-11, adjoint_max_steps=6000,
        ridge=1e-12, history=10, **more,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", params=[(s, a) for s in SOLVERS for a in ADJOINTS], ids="-".join)
def affine_gradient(request):
    config = exact(*request.param, escalate=False)

    def loss(M, x, g, probe):
        z, stats = equilibrium(affine_cell, jnp.zeros((B, n)), x, M, config, probe=probe)
        return jnp.sum(z * g), (z, stats)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 3), has_aux=True))


MATRICES = {
    "random": lambda radius: random_matrix(n, radius),
    "rotation": lambda radius: rotation(n, radius),
    "non_normal": lambda radius: non_normal(n, radius),
}


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("radius", [0.5, 0.9, 0.99])
def test_gradient_is_the_dense_one(affine_gradient, kind, radius):
    M = MATRICES[kind](radius)
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal((2, B, n))
    (_, (z, stats)), (dM, dx, adjoint) = affine_gradient(M, x, g, adjoint_probe(B))
    z_ref, dx_ref, dM_ref = dense_gradients(M, x, g)
    assert stats.converged.all() and (adjoint.converged == 1).all(), (stats, adjoint)
    # An error is at most ||(I - M)^-1|| times a residual of 1e-11; 1e4 bounds that amplification for these matrices.
    for came, expected in ((z, z_ref), (dx, dx_ref), (dM, dM_ref)):
        np.testing.assert_allclose(came, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


def test_implicit_is_the_unrolled_gradient():
    M = random_matrix(n, 0.9)
    x = np.random.default_rng(1).standard_normal((B, n))

    def twin(M, x):
        z = jnp.zeros((B, n))
        for _ in range(200):
            z = tanh_cell(z, x, M)
        return jnp.sum(jnp.sin(z))

    def loss(M, x, config):
        return jnp.sum(jnp.sin(equilibrium(tanh_cell, jnp.zeros((B, n)), x, M, config)[0]))

    expected = jax.jit(jax.grad(twin, (0, 1)))(M, x)
    unrolled = {"tol": 0.0, "max_steps": 200, "gradient": "unrolled"}
    for config in (
        exact("anderson", "anderson"),
        EquilibriumConfig(solver="fixed_point", **unrolled),
        EquilibriumConfig(solver="anderson", ridge=1e-10, **unrolled),
    ):
        came = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(M, x, config)
        for a, b in zip(came, expected):
            np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize(
    "config",
    [
        exact("anderson", "anderson"),
        EquilibriumConfig(solver="fixed_point", gradient="unrolled", tol=0.0, max_steps=100),
        EquilibriumConfig(solver="anderson", gradient="unrolled", tol=0.0, max_steps=40, history=4, ridge=0.0),
    ],
    ids=["implicit", "unrolled-fixed_point", "unrolled-anderson"],
)
def test_second_derivatives_match_a_dense_reference(config):
    """Hessian of sum(sin z*) for the affine cell against the same loss through a dense solve."""
    M = random_matrix(4, 0.7)  # 0.7^100 = 3e-16; anderson ends in 5 steps, for every M nearby as well
    x = np.random.default_rng(1).standard_normal((2, 4))

    def loss(M):
        return jnp.sum(jnp.sin(equilibrium(affine_cell, jnp.zeros((2, 4)), x, M, config)[0]))

    def reference(M):
        return jnp.sum(jnp.sin(jnp.linalg.solve(jnp.eye(4) - M, x.T)))

    came = jax.jit(jax.jacrev(jax.grad(loss)))(M)
    np.testing.assert_allclose(came, jax.jit(jax.hessian(reference))(M), atol=1e-7)
