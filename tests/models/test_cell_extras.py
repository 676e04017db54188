"""Batch norm and dropout inside a cell, and bfloat16 cells: bounds, statistics, masks, evidence and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from deq_nc.config import ConfigError, DataConfig, EquilibriumConfig, Experiment, ModelConfig
from deq_nc.equilibrium import check_rows_independent, equilibrium
from deq_nc.models import CELLS, Network
from deq_nc.models.norms import spectral_bound

GAIN, D, INNER, B = 0.8, 16, 12, 6
BASE = Experiment(
    data=DataConfig(name="synthetic"),
    model=ModelConfig(encoder="identity", cell="dense", features=D, inner=INNER, gain=GAIN, unroll=60),
    solver=EquilibriumConfig(tol=1e-6, max_steps=100, adjoint_tol=1e-5, adjoint_max_steps=100),
)
IMAGE = jax.random.normal(jax.random.key(1), (B, 1, 1, D))
MASK = jnp.arange(B) < 4
KEY = jax.random.key(9)


def build(arm="deq", solver=None, **model):
    experiment = dataclasses.replace(
        BASE, arm=arm, model=dataclasses.replace(BASE.model, **model), solver=solver or BASE.solver
    )
    return Network(experiment, 4)


def bound(matrix):
    return float(spectral_bound(np.asarray(matrix, np.float32)))


def train(network, variables, key=KEY):
    return network.apply(variables, IMAGE, True, MASK, mutable=["batch_stats"], rngs={"dropout": key})


@pytest.fixture(scope="module")
def normed():
    """A dense cell with batch norm whose statistics and scales are far from their start."""
    network = build(cell_norm="batch")
    variables = jax.jit(network.init)(jax.random.key(0), IMAGE)
    cell, stats = variables["params"]["cells_0"], variables["batch_stats"]["cells_0"]["hidden"]
    cell["hidden"]["gamma"] = jax.random.normal(jax.random.key(2), (INNER,))
    cell["b"] = jax.random.normal(jax.random.key(3), (INNER,))
    stats["mean"] = jax.random.normal(jax.random.key(4), (INNER,))
    stats["var"] = jax.random.uniform(jax.random.key(5), (INNER,), minval=0.01, maxval=3.0)
    return network, variables


def test_statistics_are_fixed_in_the_solve_and_move_once_from_z_star(normed):
    network, variables = normed
    output, updated = train(network, variables)
    assert output.stats.converged.all()
    evaluated = network.apply(variables, IMAGE)
    np.testing.assert_array_equal(output.features, evaluated.features)  # the solve of the step used the old statistics

    u = np.asarray(variables["params"]["cells_0"]["u"], np.float64)
    h = (np.asarray(output.features, np.float64) @ u / bound(u))[:4]  # unmasked rows
    old, new = (v["cells_0"]["hidden"] for v in (variables["batch_stats"], updated["batch_stats"]))
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * h.mean(0), atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * h.var(0), atol=1e-5)


def test_the_folded_cell_is_batch_norm_up_to_one_factor(normed):
    """g(z) = V relu(c BN(z U / |U|)) in float64, with the c that makes the constant `gain`."""
    network, variables = normed
    p, s = variables["params"]["cells_0"], variables["batch_stats"]["cells_0"]["hidden"]
    u, v, b, gamma, mean, var = (
        np.asarray(a, np.float64) for a in (p["u"], p["v"], p["b"], p["hidden"]["gamma"], s["mean"], s["var"])
    )
    z = np.asarray(IMAGE, np.float64).reshape(B, D)
    unit = u / bound(p["u"])
    normalised = gamma * (z @ unit - mean) / np.sqrt(var + 1e-5) + b
    c = np.sqrt(GAIN) / bound(unit * gamma / np.sqrt(var + 1e-5))
    expected = np.maximum(c * normalised, 0) @ (np.sqrt(GAIN) * v / bound(p["v"]))
    problem = network.apply(variables, IMAGE, method=network.problem)
    came = network.f(jnp.asarray(z, jnp.float32), jnp.zeros((B, D)), problem.theta)
    np.testing.assert_allclose(came, expected, atol=1e-5)


@pytest.mark.parametrize("cell", ["dense", "conv", "multiscale"])
def test_the_bound_holds_in_both_modes_for_any_scale_and_statistics(cell):
    kind = CELLS[cell]
    x = jnp.ones((1, 4, 4, 3)) if kind.spatial else jnp.ones((1, 3))
    module = kind.weights(3, 5, GAIN, norm="batch", dropout=0.3)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(30 * rng.standard_normal(p.shape), jnp.float32), variables["params"])
    stats = jax.tree.map(lambda s: jnp.asarray(rng.uniform(1e-4, 4, s.shape), jnp.float32), variables["batch_stats"])
    flat, tree = ravel_pytree(kind.start(100 * jax.random.normal(jax.random.key(1), x.shape)))

    @jax.jit
    def jacobians(key):
        def jacobian(mode):
            theta = module.apply({"params": params, "batch_stats": stats}, x, mode, rngs={"dropout": key})
            return jax.jacobian(lambda v: ravel_pytree(kind.g(tree(v), theta))[0])(flat)

        return jacobian(True), jacobian(False)

    norms = [np.linalg.norm(j, 2) for j in jacobians(KEY)]
    assert 0 < max(norms) <= GAIN * (1 + 1e-4)


def test_gradient_with_norm_and_dropout_is_that_of_the_unrolled_twin(normed):
    _, variables = normed
    options = {"cell_norm": "batch", "dropout": 0.4}

    def gradient(network):
        def loss(params):
            output, updated = train(network, variables | {"params": params})
            return (output.logits**2).sum(), updated["batch_stats"]

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    (one, stats), (two, others) = gradient(build(**options)), gradient(build("unrolled", **options))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        assert np.linalg.norm(b) > 0
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, others)


def test_layers_of_the_explicit_arm_move_their_own_statistics_from_their_own_inputs():
    network = build("explicit", cell_norm="batch", depth=2)
    variables = jax.jit(network.init)(jax.random.key(0), IMAGE)
    _, updated = train(network, variables)
    z = np.asarray(IMAGE, np.float64).reshape(B, D)[:4]
    for layer in range(2):
        p = {k: np.asarray(v, np.float64) for k, v in variables["params"][f"cells_{layer}"].items() if k != "hidden"}
        h = z @ p["u"] / bound(p["u"])
        moved = updated["batch_stats"][f"cells_{layer}"]["hidden"]
        np.testing.assert_allclose(moved["mean"], 0.1 * h.mean(0), atol=1e-5)
        s = 1 / np.sqrt(1 + 1e-5)
        c = np.sqrt(GAIN) / bound(s * p["u"] / bound(p["u"]))
        z = np.maximum(c * s * h, 0) @ (np.sqrt(GAIN) * p["v"] / bound(p["v"]))


def test_dropout_draws_one_mask_per_example_and_step():
    network, plain = build(dropout=0.5), build()
    variables = jax.jit(lambda key: network.init(key, IMAGE, True))(jax.random.key(0))
    same = jnp.broadcast_to(IMAGE[:1], IMAGE.shape)

    def features(key):
        output = network.apply(variables, same, True, rngs={"dropout": key})
        assert output.stats.converged.all()  # a mask that changed between evaluations would leave no fixed point
        return np.asarray(output.features)

    one, again, other = features(KEY), features(KEY), features(jax.random.key(10))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one[0] - one[1]).max() > 1e-3
    # In evaluation: V times 1 - p, no mask.
    halved = plain.apply(variables, IMAGE, method=plain.problem).theta
    evaluated = network.apply(variables, IMAGE, method=network.problem).theta
    np.testing.assert_allclose(evaluated["v"], 0.5 * halved["v"], rtol=1e-6)
    with pytest.raises(ValueError, match=r"dropout: expected a random key.*rngs=\{'dropout': key\}"):
        network.apply(variables, IMAGE, True)


def test_a_mask_in_theta_keeps_the_examples_apart():
    module = CELLS["dense"].weights(D, INNER, GAIN, norm="batch", dropout=0.5)
    x = IMAGE.reshape(B, D)
    variables = module.init(jax.random.key(0), x)
    theta = module.apply(variables, x, True, rngs={"dropout": KEY})
    assert theta["keep"].shape == (B, INNER) and set(np.unique(theta["keep"])) == {0.0, 1.0}

    def f(z, x, theta):
        return x + CELLS["dense"].g(z, theta)

    check_rows_independent(f, x, x, theta)
    together, _ = equilibrium(f, x, x, theta, BASE.solver)
    alone, _ = equilibrium(f, x[2:3], x[2:3], theta | {"keep": theta["keep"][2:3]}, BASE.solver)
    np.testing.assert_allclose(together[2], alone[0], atol=1e-6)


@pytest.mark.parametrize("cell", ["dense", "monotone"])
def test_a_bfloat16_cell_is_solved_in_float32_and_says_how_well(cell):
    image, kind = IMAGE, CELLS[cell]
    solver = dataclasses.replace(BASE.solver, tol=5e-3, adjoint_tol=1e-2)
    low, high = build(solver=solver, cell=cell, dtype="bfloat16"), build(cell=cell)
    variables = jax.jit(high.init)(jax.random.key(0), image)

    def run(network):
        def loss(v):
            output = network.apply(v, image)
            return (output.logits**2).sum(), output

        return jax.jit(jax.grad(loss, has_aux=True))(variables)

    (rounded, output), (exact, reference) = run(low), run(high)
    assert output.features.dtype == output.logits.dtype == output.stats.residual.dtype == jnp.float32
    assert output.stats.converged.all() and reference.stats.converged.all()
    assert np.linalg.norm(output.features - reference.features) <= 0.02 * np.linalg.norm(reference.features)
    assert np.linalg.norm(output.features - reference.features) > 0  # it did compute in bfloat16
    one, two = ravel_pytree(rounded)[0], ravel_pytree(exact)[0]
    assert one.dtype == jnp.float32
    assert np.linalg.norm(one - two) <= 0.04 * np.linalg.norm(two)

    # The residual is that of the rounded cell at that z, recomputed; asked for more than bfloat16 holds, it says so.
    problem = low.apply(variables, image, method=low.problem)
    f = low.f(problem.z, problem.x, problem.theta)
    residual = np.linalg.norm(f - problem.z, axis=1) / np.linalg.norm(f, axis=1)
    np.testing.assert_allclose(output.stats.residual, residual, rtol=0.1, atol=1e-7)
    theta = problem.theta
    _, stats = equilibrium(low.f, problem.z, problem.x, theta, BASE.solver, tol=1e-9)
    assert ((stats.residual <= 1e-9) == stats.converged).all()
    f32 = problem.x + kind.g(problem.z, theta)
    assert (np.linalg.norm(f32 - problem.z, axis=1) <= 0.02 * np.linalg.norm(f32, axis=1)).all()


def test_bfloat16_of_both_scales_keeps_the_state_wide():
    kind = CELLS["multiscale"]
    network = build(encoder="conv", norm="group", width=8, cell="multiscale", features=8, dtype="bfloat16")
    image = jnp.ones((1, 8, 8, 1))
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    problem = jax.eval_shape(lambda v: network.apply(v, image, method=network.problem), shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(problem)} == {jnp.dtype("float32")}
    assert len(problem.z) == 2 and kind.spatial


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cell": "linear", "cell_norm": "batch"}, "model.cell_norm: expected none, got 'batch'. The cell linear"),
        ({"cell": "monotone", "dropout": 0.1}, "model.dropout: expected 0, got 0.1. The cell monotone"),
        ({"dropout": 1.0}, r"model.dropout: expected a number in \[0, 1\)"),
        ({"cell": "monotone_conv", "dtype": "bfloat16"}, "model.dtype: expected float32"),
        ({"dtype": "float16"}, "model.dtype: expected one of float32, bfloat16"),
        ({"cell_norm": "layer"}, "model.cell_norm: expected one of none, batch"),
        ({"cell": "mdeq"}, "model.cell: expected one of .*monotone.*multiscale"),
    ],
)
def test_what_no_cell_offers_is_refused_at_birth(options, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**options)
