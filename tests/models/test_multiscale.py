"""The two-scale cell: a contraction of the joint state, equal parameters in both arms, the same answer without JAX."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig
from deq_nc.equilibrium import equilibrium, spectral_radius
from deq_nc.models import CELLS, Network, count_parameters
from deq_nc.models.multiscale import multiscale, patches, repeat, scales

GAIN = 0.9
BASE = Experiment(
    data=DataConfig(name="synthetic"),
    model=ModelConfig(encoder="conv", norm="group", width=8, cell="multiscale", features=8, inner=6, gain=GAIN),
    solver=EquilibriumConfig(tol=1e-6, max_steps=100, adjoint_tol=1e-5, adjoint_max_steps=100),
)
IMAGE = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))


def joint(z):
    return np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in z], axis=1)


@pytest.fixture(scope="module")
def theta():
    kind, x = CELLS["multiscale"], jnp.ones((1, 4, 4, 3))
    module = kind.weights(3, 5, GAIN)
    params = module.init(jax.random.key(0), x)

    @jax.jit
    def at(scale):
        return module.apply(jax.tree.map(lambda p: scale * (p + 0.1), params), x)

    return at


def test_it_contracts_the_joint_state_whatever_its_weights(theta):
    a, b = (scales(10 * jax.random.normal(jax.random.key(k), (64, 4, 4, 3))) for k in (1, 2))
    flat, tree = ravel_pytree(jax.tree.map(lambda s: 100 * jnp.ones_like(s[:1]), a))
    g = jax.jit(multiscale)
    jacobian_of = jax.jit(jax.jacobian(lambda v, weights: ravel_pytree(multiscale(tree(v), weights))[0]))
    for scale in (1e-3, 1.0, 1e3):
        weights = theta(scale)
        gap = np.linalg.norm(joint(g(a, weights)) - joint(g(b, weights)), axis=1)
        assert (gap <= GAIN * np.linalg.norm(joint(a) - joint(b), axis=1) * (1 + 1e-4)).all()
        jacobian = jacobian_of(flat, weights)
        norm = np.linalg.norm(jacobian, 2)
        assert 0.2 * GAIN <= norm <= GAIN * (1 + 1e-4)
        # Both scales feel each other.
        high = 4 * 4 * 3
        assert np.abs(jacobian[:high, high:]).max() > 0 and np.abs(jacobian[high:, :high]).max() > 0


def test_repeat_has_norm_two_and_patches_is_an_isometry():
    z = jnp.arange(2.0 * 2 * 2 * 3).reshape(2, 2, 2, 3)
    up = repeat(z)
    np.testing.assert_array_equal(up, np.repeat(np.repeat(z, 2, axis=1), 2, axis=2))
    np.testing.assert_allclose(np.linalg.norm(up), 2 * np.linalg.norm(z), rtol=1e-6)
    image = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    np.testing.assert_array_equal(
        patches(image)[1, 1, 2], np.concatenate([image[1, 2, 4], image[1, 2, 5], image[1, 3, 4], image[1, 3, 5]])
    )
    assert sorted(np.ravel(patches(image)).tolist()) == sorted(np.ravel(image).tolist())


def plain(z, theta):
    """g in float64 NumPy, pixel by pixel."""

    def conv(z, kernel):
        padded = np.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h, w = z.shape[1:3]
        return sum(padded[:, p : p + h, q : q + w] @ kernel[p, q] for p in range(3) for q in range(3))

    t = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    fine, coarse = (np.maximum(conv(s, u) + b, 0) for s, u, b in zip(z, t["u"], t["b"]))
    up = np.repeat(np.repeat(coarse @ t["up"], 2, axis=1), 2, axis=2)
    m = fine.shape[-1]
    corners = ((0, 0), (0, 1), (1, 0), (1, 1))
    down = sum(fine[:, p::2, q::2] @ t["down"][i * m : (i + 1) * m] for i, (p, q) in enumerate(corners))
    return conv(fine, t["v"][0]) + up, down + conv(coarse, t["v"][1])


def iterated(x, theta, steps=300):
    z = x = [np.asarray(leaf, np.float64) for leaf in x]
    for _ in range(steps):
        z = [a + b for a, b in zip(x, plain(z, theta))]
    return z


def test_the_equilibrium_of_both_scales_and_its_gradient_are_those_of_a_plain_iteration():
    network = Network(BASE, 4)
    variables = jax.jit(network.init)(jax.random.key(0), IMAGE)

    def run(v):
        output = network.apply(v, IMAGE)
        return output, spectral_radius(network.f, *output.problem, jax.random.key(3), steps=8)

    output, radius = jax.jit(run)(variables)
    problem = output.problem
    assert [leaf.shape for leaf in problem.x] == [(3, 4, 4, 8), (3, 2, 2, 8)]
    z = iterated(problem.x, problem.theta)
    for came, expected in zip(problem.z, z):
        np.testing.assert_allclose(came, expected, atol=2e-5)
    np.testing.assert_allclose(output.features, sum(leaf.mean(axis=(1, 2)) for leaf in z) / 2, atol=2e-5)
    assert output.stats.converged.all() and (radius <= GAIN).all()
    np.testing.assert_allclose(output.initial, problem.x[0].mean(axis=(1, 2)), atol=1e-5)

    def loss(theta):
        z, _ = equilibrium(network.f, problem.z, problem.x, theta, BASE.solver)
        return sum(jnp.sum(leaf**2) for leaf in z)

    gradient = jax.jit(jax.grad(loss))(problem.theta)
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape) * np.abs(leaf).mean(), problem.theta)
    ends = (
        jax.tree.map(lambda t, d, h=h: np.asarray(t, np.float64) + h * d, problem.theta, way) for h in (1e-5, -1e-5)
    )
    up, down = (sum(np.sum(leaf**2) for leaf in iterated(problem.x, end)) for end in ends)
    slope = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True))
    assert slope == pytest.approx((up - down) / 2e-5, rel=1e-3) and abs(slope) > 0.1


def test_arms_have_equal_parameters():
    deq = Network(BASE, 4)
    counts = [count_parameters(jax.eval_shape(deq.init, jax.random.key(0), IMAGE)["params"])]
    for arm, depth in (("explicit", 1), ("explicit", 2), ("residual", 2)):
        model = dataclasses.replace(BASE.model, depth=depth)
        other = Network(dataclasses.replace(BASE, arm=arm, model=model), 4)
        shapes = jax.eval_shape(other.init, jax.random.key(0), IMAGE)
        counts.append(count_parameters(shapes["params"]))
        out = jax.eval_shape(other.apply, shapes, IMAGE)
        assert out.features.shape == (3, 8) and out.stats is None
    assert len({c["total"] for c in counts}) == 1


def test_an_odd_grid_is_refused():
    with pytest.raises(ValueError, match=r"even grid of features, got 3 x 4"):
        scales(jnp.ones((1, 3, 4, 2)))
