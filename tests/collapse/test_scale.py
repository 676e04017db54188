"""Metrics are the same at every scale of features and weights that float32 holds, and bitwise so by powers of two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deq_nc.collapse import (
    class_moments,
    gram_distance,
    gram_distance_blocks,
    make_tables,
    measure,
    measure_stream,
    merge,
    residual_sums,
    scalars,
    seli,
    simplex_etf,
    summarise,
)

K, D, N = 5, 12, 200
MAJORITY = np.arange(K) < 2
SCALES = [1e-15, 1e-10, 1e9, 1e15]
rng = np.random.default_rng(0)
Y = (np.arange(N) % K).astype(np.int32)
MU = rng.standard_normal((K, D))
H = (MU[Y] + 0.5 * rng.standard_normal((N, D))).astype(np.float32)
W = (MU + 0.3 * rng.standard_normal((K, D))).astype(np.float32)
B = rng.standard_normal(K).astype(np.float32)
ALL = np.ones(N, bool)
HALVES = slice(0, N // 2), slice(N // 2, N)


def in_memory(h, w, b):
    return measure(h, Y, w, b, num_classes=K, mask=ALL, majority=MAJORITY)


def streamed(h, w, b):
    batches = lambda: ((h[i : i + 50], Y[i : i + 50], ALL[:50]) for i in range(0, N, 50))  # noqa: E731
    return measure_stream(batches, w, b, num_classes=K, majority=MAJORITY)


@jax.jit
def merged(h, w, b):
    tables = make_tables(merge(*(class_moments(h[part], Y[part], K) for part in HALVES)), w, b)
    return summarise(tables, residual_sums(h, Y, tables), MAJORITY)


def sharded(h, w, b):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    h = jax.device_put(h, NamedSharding(mesh, P("data")))
    return in_memory(h, *jax.device_put((w, b), NamedSharding(mesh, P())))


@pytest.mark.parametrize("way", [in_memory, streamed, merged, sharded])
def test_every_metric_at_every_scale(way):
    want = scalars(way(H, W, B))
    for s, t in [(s, 1) for s in SCALES] + [(1, t) for t in SCALES] + [(1e-15, 1e15), (1e15, 1e15), (1e-15, 1e-15)]:
        got = way(H * np.float32(s), W * np.float32(t), B * np.float32(s) * np.float32(t))
        norms = {"norm_means": s, "norm_weights": t}
        for name, value in scalars(got).items():
            unit = norms[f"norm_{name.split('_')[-1]}"] if name.startswith("norm_") else 1
            assert value / unit == pytest.approx(want[name], rel=2e-5, abs=2e-6), (name, s, t)
        np.testing.assert_allclose(got.gram_means / s / s, in_memory(H, W, B).gram_means, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got.variance_class / s / s, in_memory(H, W, B).variance_class, rtol=1e-5)


def test_powers_of_two_change_no_bit():
    want, got = in_memory(H, W, B), in_memory(H * 2.0**50, W * 2.0**-50, B)
    for name, value in scalars(want).items():
        assert scalars(got)[name] == value or name.startswith("norm_"), name
    np.testing.assert_array_equal(got.gram_means, want.gram_means * 2.0**100)
    np.testing.assert_array_equal(got.norm_weights, want.norm_weights * 2.0**-50)


def test_the_gradient_is_finite_and_scales():
    def loss(h):
        c = in_memory(h, W, B)
        return c.nc1 + c.nc2_means

    g = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(g(H * 2.0**-40) * 2.0**-40, g(H), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("s", [1e-30, 1e-15, 1e15, 1e30])
def test_distances_between_grams(s):
    a, b, majority = seli([40, 10, 5, 5])[0], simplex_etf(4), jnp.arange(4) < 2
    parts = gram_distance_blocks(a, b, majority)
    for x, y in ((a * s, b), (a, b * s), (a * s, b * s)):
        assert float(gram_distance(x, y)) == pytest.approx(float(parts.total), rel=1e-5)
        np.testing.assert_allclose(gram_distance_blocks(x, y, majority), parts, rtol=1e-5, atol=1e-7)
    w, h = seli(jnp.array([40.0, 10, 5, 5]) * s**0.5)
    assert float(gram_distance(w, a)) < 1e-5 and float(gram_distance(h, seli([40, 10, 5, 5])[1])) < 1e-5
