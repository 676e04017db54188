"""Decisions by bounds are the decisions by products: against float64, on every path, and the share of each."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.collapse import ClassMoments, class_moments, decisions, make_probe
from deq_nc.collapse.decisions import by_projection, decide, decide_by_products, own_chosen, within_bounds

K, D, N = 12, 64, 601


@partial(jax.jit, static_argnames="many")
def run(h, y, w, many):
    assert many == decisions.MANY
    moments = class_moments(h, y, K)
    probe = make_probe(moments, w)
    e = ((h - moments.origin[y]) - moments.shift[y]) * probe.scale
    x, square = e @ probe.inverse, jnp.sum(e * e, 1)
    length, nobody = jnp.sqrt(square), jnp.zeros(len(y), bool)
    within = within_bounds(jnp.sqrt(jnp.sum(x * x, 1)), length, probe, y)
    short, sure = by_projection(e, x, length, probe, y, jnp.ones((3, len(y))), nobody)
    chosen = nobody if w is None else own_chosen(x @ probe.gram, x, length, probe, y)
    staged = decide(e, x, square, probe, y, ~nobody)
    return staged, decide_by_products(e, probe, y), within, chosen, short, sure


def oracle(h, y, w):
    """Decisions [3, N] and the gap of the closer of the two choices [N], in float64."""
    h, w = h.astype(float), w.astype(float)
    means = np.stack([h[y == c].mean(0) for c in range(K)])
    near = -((h[:, None] - means[None]) ** 2).sum(2) / 2
    logits = h @ w.T
    gap = np.minimum(*(np.diff(np.sort(s, 1)[:, -2:], axis=1)[:, 0] for s in (near, logits)))
    near, choice = near.argmax(1), logits.argmax(1)
    return np.stack([choice == y, near == y, choice == near]), gap


@pytest.mark.parametrize("many", [decisions.MANY, K], ids=["by product", "by bound first"])
@pytest.mark.parametrize(
    "noise, lean, shared, path",
    [
        (0.1, 0.1, 0, "radius"),
        (1.0, 0.1, 0, "projection"),
        (1.0, 0.2, 0, "few"),
        (3.0, 0.0, 0, "logits"),  # W is Mc, but many errors
        (1.0, 3.0, 0, "logits"),
        (3.0, 0.3, 5, "logits"),
    ],
)
def test_bounds_never_change_a_decision(monkeypatch, noise, lean, shared, path, many):
    monkeypatch.setattr(decisions, "MANY", many)
    rng = np.random.default_rng(3)
    y = np.arange(N) % K
    mu = rng.standard_normal((K, D))
    h = (mu[y] + noise * rng.standard_normal((N, D))).astype(np.float32)
    w = mu + lean * rng.standard_normal((K, D)) + shared * rng.standard_normal(D)
    if lean == 0:
        w = np.stack([h[y == c].mean(0) for c in range(K)])
    w = w.astype(np.float32)
    staged, products, within, chosen, short, sure = map(np.asarray, run(h, y, w, many))
    want, gap = oracle(h, y, w)
    clear = gap > 1e-3
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(staged[:, clear], want[:, clear])
    np.testing.assert_array_equal(products[:, clear], want[:, clear])
    np.testing.assert_array_equal(short[:, sure & clear], want[:, sure & clear])
    np.testing.assert_array_equal(short[1, sure], want[1, sure])  # what a bound calls sure is so, gap or not
    assert want[:, within].all() and want[0, chosen].all()
    assert (within.mean() == 1) == (path == "radius")
    share, few = (chosen & want[1].astype(bool)).mean(), 1 - 1 / decisions.FEW
    low, high = {"radius": (1, 1), "projection": (0.99, 1), "few": (few, 0.99), "logits": (0, few)}[path]
    assert low <= share <= high, (path, share)


@pytest.mark.parametrize("weights", ["none", "random", "means, one longer"])
@pytest.mark.parametrize("close", [20, N // 6], ids=["few", "many"])
@pytest.mark.parametrize("apart", [3e-6, 3e-5, 1e-3, 0.1])
def test_a_direction_too_small_for_the_projection_is_not_called_sure(apart, close, weights):
    """Means closer than x sees, samples further: no bound may decide. At 0.1 x sees both, and the errors."""
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
    staged, products, within, chosen, short, sure = map(np.asarray, run(h, y, w, decisions.MANY))
    want, _ = oracle(h, y, mu if w is None else w)
    assert not want[1, y == 0].all() and want[1, y >= 2].all()
    assert want[1, within].all() and (weights == "random" or within[y >= 2].all())
    assert chosen[y == 0].all() == (weights == "means, one longer")  # the logits are sure where the means are not
    np.testing.assert_array_equal(short[1, sure], want[1, sure])
    for decided in (staged, products):
        for row in range(1 if w is None else 0, 2 if w is None else 3):
            np.testing.assert_array_equal(decided[row], want[row])


@pytest.mark.parametrize("outside", [False, True], ids=["along the means", "along what W has outside them"])
def test_bounds_end_just_before_the_decision_changes(outside):
    """Two classes, a bias that moves the boundary towards class 0: Cauchy-Schwarz is tight along its normal."""
    mc = np.zeros((2, D), np.float32)
    mc[:, 0] = 1.5, -1.5
    w = 0.5 * mc
    w[:, 1] = (2.0, -2.0) if outside else 0
    bias = np.array([0.0, 1.0], np.float32)  # the logits at mu_0 are 1.125 and -1.125 + 1
    zero = jnp.zeros(2)
    moments = ClassMoments(zero + 5, jnp.asarray(mc), jnp.zeros_like(mc), zero, jnp.zeros((), int))
    probe = make_probe(moments, jnp.asarray(w), jnp.asarray(bias))
    change = 1.25 / (4.0 if outside else 1.5)
    e = np.zeros((3, D), np.float32)
    e[:, 1 if outside else 0] = -change * np.array([0.95, 1.001, 1.2])
    logits = (mc[0] + e) @ w.T + bias
    np.testing.assert_array_equal(logits.argmax(1), [0, 1, 1])
    e = e * probe.scale
    x, row = e @ probe.inverse, np.zeros(3, int)
    # within_bounds has a radius and a plane; each must hold alone
    for radius in (probe.bounds.radius, zero):
        alone = replace(probe, bounds=replace(probe.bounds, radius=radius))
        sure = within_bounds(jnp.linalg.norm(x, axis=1), jnp.linalg.norm(e, axis=1), alone, row)
        np.testing.assert_array_equal(sure, [True, False, False])
