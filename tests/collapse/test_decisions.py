"""Decisions with a radius are the decisions by products: against float64, on every path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.collapse import ClassMoments, class_moments, decisions, make_tables
from deq_nc.collapse.decisions import decide, decide_by_products

K, D, N = 12, 64, 601


@jax.jit
def run(h, y, w):
    moments = class_moments(h, y, K)
    tables = make_tables(moments, w)
    e = ((h - moments.origin[y]) - moments.shift[y]) * tables.scale
    square, everyone = jnp.sum(e * e, 1), jnp.ones(len(y), bool)
    within = jnp.sqrt(square) < tables.radius[y]
    return decide(e, square, tables, y, everyone), decide_by_products(e, tables, y), within


def oracle(h, y, w):
    """Decisions [3, N] and the gap of the closer of the two choices [N], in float64."""
    h, w = h.astype(float), w.astype(float)
    means = np.stack([h[y == c].mean(0) for c in range(K)])
    near = -((h[:, None] - means[None]) ** 2).sum(2) / 2
    logits = h @ w.T
    gap = np.minimum(*(np.diff(np.sort(s, 1)[:, -2:], axis=1)[:, 0] for s in (near, logits)))
    near, choice = near.argmax(1), logits.argmax(1)
    return np.stack([choice == y, near == y, choice == near]), gap


@pytest.mark.parametrize(
    "noise, lean, shared, far, low, high",
    [
        (0.1, 0.1, 0, 0, 1, 1),
        (0.1, 0.1, 0, N // 20, 0.94, 0.96),  # few: their products alone
        (1.0, 0.2, 0, 0, 0, 0.5),
        (3.0, 0.3, 5, 0, 0, 0.5),  # what all weights share moves no decision
    ],
)
def test_a_radius_never_changes_a_decision(noise, lean, shared, far, low, high):
    rng = np.random.default_rng(3)
    y = np.arange(N) % K
    mu = rng.standard_normal((K, D))
    scale = np.where(np.arange(N) < far, 30, 1)[:, None]
    h = (mu[y] + noise * scale * rng.standard_normal((N, D))).astype(np.float32)
    w = (mu + lean * rng.standard_normal((K, D)) + shared * rng.standard_normal(D)).astype(np.float32)
    staged, products, within = map(np.asarray, run(h, y, w))
    want, gap = oracle(h, y, w)
    clear = gap > 1e-3
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(staged[:, clear], want[:, clear])
    np.testing.assert_array_equal(products[:, clear], want[:, clear])
    assert want[:, within].all() and low <= within.mean() <= high
    if far:  # the rows beyond the radius are few, and some of them are errors
        assert 0 < (~within).sum() <= N / decisions.FEW and not want[:, ~within].all()


@pytest.mark.parametrize("weights", ["none", "random", "means, one longer"])
@pytest.mark.parametrize("close", [20, N // 6], ids=["few", "many"])
@pytest.mark.parametrize("apart", [3e-6, 1e-3])
def test_means_that_all_but_coincide(apart, close, weights):
    """Means closer than the rounding of their Gram, samples further: the radius may not take these for sure."""
    rng = np.random.default_rng(4)
    i = np.arange(N)
    y = np.where(i < close, i % 2, 2 + i % (K - 2))
    mu = rng.standard_normal((K, D))
    mu[:, 0] = 0
    mu[1] = mu[0]
    mu[1, 0] = apart
    h = mu[y].astype(np.float32)
    h[:, 0] += (3 * apart * rng.standard_normal(N) * (y < 2)).astype(np.float32)
    w = rng.standard_normal((K, D)) if weights == "random" else mu * np.where(np.arange(K) == 0, 1.1, 1)[:, None]
    w = None if weights == "none" else w.astype(np.float32)
    staged, products, within = map(np.asarray, run(h, y, w))
    want, _ = oracle(h, y, mu if w is None else w)
    assert not want[1, y == 0].all() and want[1, y >= 2].all()
    assert want[1, within].all() and (weights == "random" or within[y >= 2].all())
    for decided in (staged, products):
        for row in range(1 if w is None else 0, 2 if w is None else 3):
            np.testing.assert_array_equal(decided[row], want[row])


@pytest.mark.parametrize("outside", [False, True], ids=["along the means", "along what W has outside them"])
def test_the_radius_ends_just_before_a_decision_changes(outside):
    """Two classes, a bias that moves the boundary towards class 0: Cauchy-Schwarz is tight along w_1 - w_0."""
    mc = np.zeros((2, D), np.float32)
    mc[:, 0] = 1.5, -1.5
    w = 0.5 * mc
    w[:, 1] = (2.0, -2.0) if outside else 0
    bias = np.array([0.0, 1.0], np.float32)  # the logits at mu_0 are 1.125 and -1.125 + 1
    zero = jnp.zeros(2)
    moments = ClassMoments(zero + 5, jnp.asarray(mc), jnp.zeros_like(mc), zero, jnp.zeros((), int))
    tables = make_tables(moments, jnp.asarray(w), jnp.asarray(bias))
    normal = (w[1] - w[0]) / np.linalg.norm(w[1] - w[0])
    change = 1.25 / np.linalg.norm(w[1] - w[0])
    e = np.array([0.99, 1.001, 1.2], np.float32)[:, None] * change * normal[None]
    np.testing.assert_array_equal(((mc[0] + e) @ w.T + bias).argmax(1), [0, 1, 1])
    within = np.linalg.norm(e * tables.scale, axis=1) < tables.radius[0]
    np.testing.assert_array_equal(within, [True, False, False])
