"""A collapse penalty can be trained on: every metric has a finite, right gradient, also at exact collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.collapse import measure

K, D, N = 4, 6, 40
NAMES = ["nc1", "nc1_trace", "nc1_ratio", "cdnv", "nc2_means", "nc3", "nc3_product", "nc1_minority", "nc1_majority"]
NAMES += ["equinorm_means", "equiangle_means", "angle_gap_means", "max_cosine_means", "nc4", "accuracy_nearest"]
NAMES += ["nc2_weights", "equinorm_weights", "accuracy"]


def all_of(h, y, w):
    c = measure(h, y, w, num_classes=K, majority=jnp.arange(K) < 2)
    blocks = [*c.blocks_means, *c.blocks_weights]
    return jnp.stack([getattr(c, name) for name in NAMES] + blocks)


@pytest.fixture(scope="module")
def jacobian():
    with jax.enable_x64(True):
        return jax.jit(jax.jacrev(all_of, (0, 2))), jax.jit(jax.vmap(all_of, (0, None, 0)))


def case(seed, d=D):
    rng = np.random.default_rng(seed)
    y = np.arange(N) % K
    mu = rng.standard_normal((K, d))
    return mu[y] + 0.3 * rng.standard_normal((N, d)), y, mu + 0.3 * rng.standard_normal((K, d))


@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_match_finite_differences(jacobian, seed):
    reverse, batch = jacobian
    rng = np.random.default_rng(10 + seed)
    with jax.enable_x64(True):
        h, y, w = map(jnp.asarray, case(seed))
        dh, dw = reverse(h, y, w)
        assert bool(jnp.all(jnp.isfinite(dh)) & jnp.all(jnp.isfinite(dw)))
        for _ in range(3):
            u, v, eps = rng.standard_normal((N, D)), rng.standard_normal((K, D)), 1e-5
            ends = batch(jnp.stack([h + eps * u, h - eps * u]), y, jnp.stack([w + eps * v, w - eps * v]))
            slope = (ends[0] - ends[1]) / (2 * eps)
            ours = jnp.einsum("mnd,nd->m", dh, u) + jnp.einsum("mkd,kd->m", dw, v)
            np.testing.assert_allclose(ours, slope, rtol=2e-5, atol=1e-7)
        assert float(jnp.abs(dh[NAMES.index("nc4")]).max()) == 0  # piecewise constant


def test_gradients_are_finite_at_exact_collapse():
    """Every singular value of an ETF is the same: the derivative of an SVD divides by their differences."""
    y = np.arange(N) % K
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((D, K)))
    means = ((np.eye(K) - 1 / K) @ q.T).astype(np.float32)
    f = jax.jit(jax.jacrev(all_of, (0, 2)))
    for h in (means[y], means[y] + 1e-3 * np.random.default_rng(1).standard_normal((N, D)).astype(np.float32)):
        for g in f(h, y, means):
            assert bool(jnp.all(jnp.isfinite(g)))
    mask = np.arange(N) < N - 4
    padded = np.where(mask[:, None], means[y], np.nan)
    g = jax.grad(lambda h: measure(h, y, means, num_classes=K, mask=mask).nc1 + 1.0)(padded)
    assert bool(jnp.all(jnp.isfinite(g[:-4])))


def test_descent_on_nc1_collapses_the_features():
    h, y, w = case(3)
    h, w = jnp.asarray(h, jnp.float32), jnp.asarray(w, jnp.float32)
    value = jax.jit(jax.value_and_grad(lambda h: measure(h, y, w, num_classes=K).nc1))
    start = float(value(h)[0])
    for _ in range(200):
        now, g = value(h)
        h = h - 0.5 * now / jnp.maximum(jnp.sum(g * g), 1e-20) * g  # half a Newton step towards 0
    assert float(value(h)[0]) < 1e-3 * start
