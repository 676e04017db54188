"""The monotone and the two-scale cell: contraction, uniqueness and gradients for weights of any size."""

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.equilibrium import EquilibriumConfig, equilibrium, jacobian_norm
from deq_nc.models.monotone import monotone_cell, monotone_weights
from deq_nc.models.multiscale import down, multiscale_cell, multiscale_weights, up

D = 6


def test_monotone_cell_solves_the_relu_equation_for_weights_of_any_size():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        # An equilibrium at exactly 0 has no relative residual: keep some unit of every row active.
        x = rng.standard_normal((4, D)) + 1
        config = EquilibriumConfig(tol=1e-11, max_steps=4000)
        for size in (0.3, 3.0):
            a, s = size * rng.standard_normal((2, D, D))
            theta = monotone_weights(a, s, 0.5)
            w = np.asarray(theta["w"])
            symmetric = np.eye(D) - (w + w.T) / 2
            assert np.linalg.eigvalsh(symmetric).min() >= 0.5 - 1e-9
            z, stats = equilibrium(monotone_cell, jnp.zeros_like(x), x, theta, config)
            other, _ = equilibrium(monotone_cell, jnp.full_like(x, 5.0), x, theta, config)
            assert stats.converged.all()
            np.testing.assert_allclose(z, np.maximum(z @ w.T + x, 0), atol=1e-6)
            if size < 1:  # at 3 the contraction factor is 1 - 1e-9, and the detour from 5 takes too long for a test
                np.testing.assert_allclose(z, other, atol=1e-6)


def test_monotone_step_contracts_as_stated():
    rng = np.random.default_rng(1)
    a, s = rng.standard_normal((2, D, D)).astype(np.float32)
    theta = monotone_weights(a, s, 0.5)
    linear = np.asarray((1 - theta["step"]) * np.eye(D) + theta["step"] * theta["w"])
    rate = np.sqrt(1 - 0.5**2 * np.linalg.norm(np.eye(D) - theta["w"], 2) ** -2)
    assert np.linalg.norm(linear, 2) < 1
    assert np.linalg.norm(linear, 2) <= rate + 0.05  # the bound of the norm is a few percent high


def free_weights(rng, features=4, inner=6):
    shapes = {"u": (3, 3, features, inner), "v": (3, 3, inner, features)}
    out = {f"{k}_{s}": rng.standard_normal(v) for k, v in shapes.items() for s in ("fine", "coarse")}
    out |= {f"b_{s}": rng.standard_normal(inner) for s in ("fine", "coarse")}
    out |= {name: rng.standard_normal((features, features)) for name in ("down", "up")}
    return {k: v.astype(np.float32) for k, v in out.items()}


def test_down_and_up_are_transposes_of_norm_one():
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype(np.float32)
    y, vjp = jax.vjp(down, x)
    np.testing.assert_allclose(vjp(y)[0], up(y), rtol=1e-6)
    np.testing.assert_allclose(down(up(y)), y, rtol=1e-5)


def test_multiscale_cell_contracts_and_trains():
    rng = np.random.default_rng(0)
    free = free_weights(rng)
    x = {
        "fine": rng.standard_normal((2, 4, 4, 4)).astype(np.float32),
        "coarse": rng.standard_normal((2, 2, 2, 4)).astype(np.float32),
    }

    theta = jax.jit(multiscale_weights, static_argnums=1)(free, (4, 4), 0.8)

    def loss(theta):
        start = jax.tree.map(jnp.zeros_like, x)
        z, stats = equilibrium(multiscale_cell, start, x, theta, EquilibriumConfig(tol=1e-5, escalate=False))
        return jnp.sum(z["fine"] ** 2) + jnp.sum(z["coarse"] ** 2), (z, stats)

    gradient, (z, stats) = jax.jit(jax.grad(loss, has_aux=True))(theta)
    assert stats.converged.all()
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))
    norm = jacobian_norm(multiscale_cell, z, x, theta, jax.random.key(0), steps=10)
    assert (np.asarray(norm) <= 0.8).all() and (np.asarray(norm) > 0.1).all()
