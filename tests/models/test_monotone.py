"""Monotone cells against float64 forward-backward iterations of the equation they stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.config import DataConfig, EquilibriumConfig, Experiment, ModelConfig
from deq_nc.equilibrium import equilibrium
from deq_nc.models import CELLS, Network
from deq_nc.models.monotone import accretive_inverse, circular, splitting

GAIN, D, INNER = 0.8, 8, 6
BASE = Experiment(
    data=DataConfig(name="synthetic"),
    model=ModelConfig(encoder="identity", cell="monotone", features=D, inner=INNER, gain=GAIN),
    solver=EquilibriumConfig(tol=1e-6, max_steps=200, adjoint_tol=1e-5, adjoint_max_steps=200),
)
IMAGE = jax.random.normal(jax.random.key(1), (5, 1, 1, D))


def forward_backward(W, x, b, m=1 - GAIN):
    """relu(z W + x + b) = z in float64, step m / L^2: slow, and nothing of ours."""
    F = np.eye(len(W)) - W
    alpha = m / np.linalg.norm(F, 2) ** 2
    z = np.zeros_like(x)
    for _ in range(200_000):
        new = np.maximum(z - alpha * (z @ F - x - b), 0)
        if np.abs(new - z).max() < 1e-13:
            break
        z = new
    return z


def raw_matrix(p):
    a, skew = (np.asarray(p[name], np.float64) for name in ("a", "skew"))
    return GAIN * np.eye(D) - a @ a.T + skew - skew.T


@pytest.fixture(scope="module")
def dense():
    network = Network(BASE, 3)
    variables = jax.jit(network.init)(jax.random.key(0), IMAGE)
    bias = jax.random.normal(jax.random.key(5), (D,))
    variables["params"]["cells_0"]["b"] = bias
    return network, variables


@pytest.mark.parametrize("scale", [1.0, 3.0])  # |F| is about 2 and 12: far outside what a contraction may have
def test_the_fixed_point_is_that_of_a_float64_forward_backward_iteration(dense, scale):
    network, variables = dense
    cell = jax.tree.map(lambda p: scale * p, variables["params"]["cells_0"])
    params = variables["params"] | {"cells_0": cell}
    output = network.apply({"params": params}, IMAGE)
    x = np.asarray(IMAGE, np.float64).reshape(5, D)
    exact = forward_backward(raw_matrix(cell), x, np.asarray(cell["b"], np.float64))
    assert output.stats.converged.all()
    np.testing.assert_allclose(output.features, exact, atol=2e-5 * np.abs(exact).max())
    assert (exact > 0).any() and (exact == 0).any()


def test_every_start_ends_at_the_same_fixed_point(dense):
    network, variables = dense
    problem = network.apply(variables, IMAGE, method=network.problem)
    for scale in (0.0, 1.0, 100.0):
        z0 = scale * jax.random.normal(jax.random.key(7), problem.z.shape)
        z, stats = equilibrium(network.f, z0, problem.x, problem.theta, BASE.solver)
        assert stats.converged.all()
        np.testing.assert_allclose(z, problem.z, atol=2e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e2])
def test_strong_monotonicity_and_the_contraction_constant_hold_for_any_weights(scale):
    rng, m = np.random.default_rng(0), 1 - GAIN
    with jax.enable_x64(True):
        a, skew = scale * rng.standard_normal((D, INNER)), scale * rng.standard_normal((D, D))
        theta = {k: np.asarray(v) for k, v in splitting(jnp.asarray(a), jnp.asarray(skew), m).items()}
    F = np.eye(D) - theta["w"]
    lowest = np.linalg.eigvalsh((F + F.T) / 2).min()
    assert lowest >= m - 1e-12 * np.linalg.norm(F, 2)
    norm = np.linalg.norm(F, 2)
    bound = norm * D ** (1 / 64)  # of norms.spectral_bound
    assert np.linalg.norm(theta["c"], 2) <= np.sqrt(1 - m / bound) + 1e-12
    if scale == 1.0:  # plain iteration has no such constant
        assert np.linalg.norm(theta["w"], 2) > 5


def test_circular_blocks_are_a_strongly_monotone_operator_and_a_contraction():
    """The dense matrix of W * z on a 4 x 5 grid."""
    rng, grid, m = np.random.default_rng(0), (4, 5), 1 - GAIN
    size = grid[0] * grid[1] * 3
    with jax.enable_x64(True):
        a, skew = (jnp.fft.rfft2(rng.standard_normal((3, 3, 3, n)), grid, axes=(0, 1)) for n in (2, 3))
        theta = splitting(a, skew, m)
        basis = np.eye(size).reshape(size, *grid, 3)
        W, C = (np.asarray(circular(basis, theta[k])).reshape(size, size) for k in "wc")
    F = np.eye(size) - W
    assert np.linalg.eigvalsh((F + F.T) / 2).min() >= m - 1e-10
    assert np.linalg.norm(F - F.T) > 1  # not symmetric: the skew part is there
    assert np.linalg.norm(C, 2) <= np.sqrt(1 - m / (np.linalg.norm(F, 2) * 3 ** (1 / 64))) + 1e-12


def test_the_convolutional_fixed_point_is_that_of_its_dense_matrix():
    kind, grid = CELLS["monotone_conv"], (4, 4)
    size = 16 * 3
    x = jax.random.normal(jax.random.key(2), (2, *grid, 3))
    module = kind.weights(3, 4, GAIN)

    @jax.jit
    def solve(key):
        theta = module.apply(module.init(key, x), x)
        drive = kind.drive(x, theta)
        return theta, *equilibrium(lambda u, x, theta: x + kind.g(u, theta), x, drive, theta, BASE.solver)

    theta, u, stats = solve(jax.random.key(0))
    assert stats.converged.all()
    basis = np.eye(size, dtype=np.float32).reshape(size, *grid, 3)
    W = np.asarray(circular(basis, theta["w"]), np.float64).reshape(size, size)
    exact = forward_backward(W, np.asarray(x, np.float64).reshape(2, size), 0.0)
    np.testing.assert_allclose(np.asarray(kind.read(u)).reshape(2, size), exact, atol=1e-4)


def test_the_implicit_gradient_is_that_of_the_unrolled_twin(dense):
    deq, variables = dense
    model = dataclasses.replace(BASE.model, unroll=80)
    twin = Network(dataclasses.replace(BASE, arm="unrolled", model=model), 3)

    def gradient(network):
        return jax.jit(jax.grad(lambda v: (network.apply(v, IMAGE).logits ** 2).sum()))(variables)

    one, two = gradient(deq), gradient(twin)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        assert np.linalg.norm(b) > 0
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)


@pytest.mark.parametrize("arm", ["explicit", "residual"])
def test_explicit_arms_stack_relu_of_the_same_matrix(dense, arm):
    _, variables = dense
    network = Network(dataclasses.replace(BASE, arm=arm), 3)
    cell = variables["params"]["cells_0"]
    x = np.asarray(IMAGE, np.float64).reshape(5, D)
    layer = np.maximum(x @ raw_matrix(cell) + np.asarray(cell["b"], np.float64), 0)
    output = network.apply(variables, IMAGE)
    np.testing.assert_allclose(output.features, layer + (x if arm == "residual" else 0), atol=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.complex64])
def test_the_inverse_of_an_accretive_matrix_and_its_gradient_are_those_of_a_float64_solve(kind):
    """a with |a| <= 2 and Re <v, a v> >= |v|^2: 1 + alpha F of the splitting, at both ends of its range."""
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((3, D, D)) + (1j * rng.standard_normal((3, D, D)) if kind is np.complex64 else 0)
    turn = np.linalg.qr(raw)[0]
    skew = raw - np.conj(np.swapaxes(raw, 1, 2))
    skew /= np.linalg.norm(skew, 2, axis=(1, 2), keepdims=True)
    stretch = turn * np.linspace(0, 1, D) @ np.conj(np.swapaxes(turn, 1, 2))  # hermitian, eigenvalues 0 .. 1
    a = np.eye(D) + np.stack([skew[0], stretch[1], 0.5 * (stretch[2] + skew[2])])
    exact, g = (
        np.linalg.inv(a),
        rng.standard_normal(a.shape) + (1j * rng.standard_normal(a.shape) if np.iscomplexobj(a) else 0),
    )
    assert np.linalg.norm(a, 2, axis=(1, 2)).max() <= 2 + 1e-9
    with jax.default_matmul_precision("float32"):
        came, back = jax.vjp(accretive_inverse, jnp.asarray(a, kind))
        (gradient,) = back(jnp.asarray(g, kind))
    np.testing.assert_allclose(came, exact, atol=3e-6)
    turned = np.swapaxes(exact, 1, 2)  # jax's cotangents carry no conjugate
    np.testing.assert_allclose(gradient, -turned @ g @ turned, atol=3e-5)
