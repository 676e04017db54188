"""Arms: contraction by construction, equal parameters, and the forward pass against plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig
from deq_nc.models import CELLS, Network, count_parameters

BASE = Experiment(
    data=DataConfig(name="synthetic"),
    model=ModelConfig(encoder="identity", cell="dense", features=16, inner=12, gain=0.9),
    solver=EquilibriumConfig(tol=1e-6, max_steps=100, adjoint_tol=1e-5, adjoint_max_steps=100),
)
IMAGE = jax.random.normal(jax.random.key(1), (6, 1, 1, 16))


def build(arm, image=IMAGE, **model):
    experiment = dataclasses.replace(BASE, arm=arm, model=dataclasses.replace(BASE.model, **model))
    network = Network(experiment, 4)
    return network, jax.jit(network.init)(jax.random.key(0), image)


def weights(variables, cell="cells_0", gain=0.9):
    """u, v, b of a dense cell as the network uses them, in float64, normalised by the true spectral norm's bound."""
    from deq_nc.models.norms import spectral_bound

    p = variables["params"][cell]
    u, v = (np.sqrt(gain) * np.asarray(p[k], np.float64) / float(spectral_bound(p[k])) for k in "uv")
    return u, v, np.asarray(p["b"], np.float64)


def g(z, parameters):
    u, v, b = parameters
    return np.maximum(z @ u + b, 0) @ v


def test_deq_features_are_the_fixed_point_of_the_cell():
    network, variables = build("deq")
    output = network.apply(variables, IMAGE)
    x, z = np.asarray(IMAGE).reshape(6, 16), np.asarray(output.features, np.float64)
    np.testing.assert_allclose(z, x + g(z, weights(variables)), atol=1e-5)
    assert output.stats.converged.all()
    np.testing.assert_allclose(output.initial, x)


@pytest.mark.parametrize("arm, depth", [("explicit", 1), ("explicit", 3), ("residual", 2), ("unrolled", 1)])
def test_other_arms_match_numpy(arm, depth):
    network, variables = build(arm, depth=depth)
    z = x = np.asarray(IMAGE, np.float64).reshape(6, 16)
    if arm == "unrolled":
        for _ in range(network.experiment.model.unroll):
            z = x + g(z, weights(variables))
    else:
        for layer in range(depth):
            step = g(z, weights(variables, f"cells_{layer}"))
            z = z + step if arm == "residual" else step
    output = network.apply(variables, IMAGE)
    np.testing.assert_allclose(output.features, z, atol=1e-5)
    assert output.stats is None


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_arms_have_the_same_matrices(depth):
    counts = {arm: count_parameters(build(arm, depth=depth)[1]["params"]) for arm in ("deq", "explicit", "residual")}
    matrices = 2 * 16 * 12
    assert {arm: c["arm"] - matrices for arm, c in counts.items()} == {"deq": 12, "explicit": 12, "residual": 12}
    assert len({c["total"] for c in counts.values()}) == 1
    assert counts["deq"]["total"] == matrices + 12 + 16 * 4 + 4


@pytest.mark.parametrize("cell, image", [("dense", IMAGE), ("linear", IMAGE), ("conv", jnp.ones((2, 4, 4, 16)))])
def test_every_cell_contracts_whatever_its_weights(cell, image):
    """||g(a) - g(b)|| <= gain ||a - b|| for weights of any size, and the bound is not idle."""
    kind = CELLS[cell]
    x = image if kind.spatial else image.reshape(image.shape[0], -1)
    module = kind.weights(16, 16, 0.9)
    params = module.init(jax.random.key(0), x)
    theta_at = jax.jit(lambda scale: module.apply(jax.tree.map(lambda p: scale * (p + 0.1), params), x))
    g, jacobian_of = jax.jit(kind.g), jax.jit(jax.jacobian(lambda z, theta: kind.g(z[None], theta)[0].ravel()))
    a, b = jax.random.normal(jax.random.key(1), (2, 64, *x.shape[1:]))
    for scale in (1e-3, 1e3):
        theta = theta_at(scale)
        gap = np.linalg.norm((g(a, theta) - g(b, theta)).reshape(64, -1), axis=1)
        moved = np.linalg.norm((a - b).reshape(64, -1), axis=1)
        assert (gap <= 0.9 * moved * (1 + 1e-4)).all()
        jacobian = jacobian_of(100 * jnp.ones(x.shape[1:]), theta)
        norm = np.linalg.norm(np.asarray(jacobian).reshape(x[0].size, x[0].size), 2)
        assert norm <= 0.9 * (1 + 1e-4)
        if cell == "linear":
            assert norm >= 0.9 / 1.1


@pytest.mark.parametrize("encoder, norm", [("conv", "batch"), ("conv", "group"), ("resnet18", "batch")])
def test_padding_rows_do_not_enter_the_statistics(encoder, norm):
    shape = (8, 8, 3)
    real = jax.random.normal(jax.random.key(2), (4, *shape))
    mask = jnp.arange(8) < 4
    network, variables = build("explicit", real, encoder=encoder, norm=norm, width=8)

    @jax.jit
    def run(image, rows):
        return network.apply(variables, image, True, rows, mutable=["batch_stats"])

    beside = [run(jnp.concatenate([real, value * jnp.ones((4, *shape))]), mask) for value in (1e3, -1.0)]
    if encoder == "conv":  # a program more, which takes a minute of the deeper one
        beside.append(run(real, mask[:4]))
    for output, stats in beside[1:]:
        np.testing.assert_allclose(output.logits[:4], beside[0][0].logits[:4], rtol=1e-4, atol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stats, beside[0][1])


def test_implicit_gradient_equals_the_unrolled_twin():
    """The deq arm's gradient against 100 tied layers of the same weights on the tape."""
    deq, variables = build("deq")
    twin = Network(dataclasses.replace(BASE, arm="unrolled", model=dataclasses.replace(BASE.model, unroll=100)), 4)

    def loss(network):
        return lambda v: (network.apply(v, IMAGE).logits ** 2).sum()

    one, two = jax.jit(jax.grad(loss(deq)))(variables), jax.jit(jax.grad(loss(twin)))(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), one, two)
