"""Moments merge in any order, ignore padding, and agree over vmap and over 1, 2 and 8 devices without a gather."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import deq_nc.collapse.moments as moments_module
from deq_nc.collapse import class_moments, make_tables, measure, merge, merge_axis, residual_sums, scalars, summarise
from deq_nc.collapse.sums import lanes_of

N, D, K = 640, 12, 5


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, K, N)
    h = 1e3 + rng.standard_normal((K, D))[y] + 0.1 * rng.standard_normal((N, D))
    return h.astype(np.float32), y, rng.standard_normal((K, D)).astype(np.float32)


def check_moments(moments, h, y):
    h = h.astype(float)
    mean = np.stack([h[y == c].mean(0) for c in range(K)])
    scatter = [((h[y == c] - mean[c]) ** 2).sum() for c in range(K)]
    away = np.asarray(moments.origin, float) + np.asarray(moments.shift, float) - mean
    np.testing.assert_array_equal(moments.count, np.bincount(y, minlength=K))
    assert np.abs(away).max() < 2e-7  # the mean itself is 1e3, where one float32 step is 6e-5
    np.testing.assert_allclose(moments.scatter, scatter, rtol=1e-5)
    np.testing.assert_allclose(moments.centred(), mean - mean.mean(0), atol=1e-6)
    assert int(moments.outside) == 0


def test_moments_of_one_batch(data):
    check_moments(class_moments(data[0], data[1], K), *data[:2])


def test_merge_in_any_order_equals_the_whole(data):
    h, y, _ = data
    order = np.argsort(y, kind="stable")  # sorted: most batches lack most classes
    batches = [class_moments(h[order[i : i + 64]], y[order[i : i + 64]], K) for i in range(0, N, 64)]
    check_moments(functools.reduce(merge, batches), h, y)
    check_moments(functools.reduce(merge, batches[::-1]), h, y)
    check_moments(functools.reduce(lambda a, b: merge(b, a), batches), h, y)
    check_moments(merge(functools.reduce(merge, batches[:3]), functools.reduce(merge, batches[3:])), h, y)


def test_merge_with_nothing_changes_nothing(data):
    whole = class_moments(data[0], data[1], K)
    nothing = class_moments(data[0], data[1], K, mask=np.zeros(N, bool))
    for merged in (merge(whole, nothing), merge(nothing, whole)):
        for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(whole)):
            np.testing.assert_array_equal(a, b)


def test_padding_does_not_matter(data):
    h, y, w = data
    pad = np.full((8, D), np.nan, np.float32)
    mask = np.r_[np.zeros(4, bool), np.ones(N, bool), np.zeros(4, bool)]
    padded = np.r_[pad[:4], h, pad[4:]], np.r_[[-1] * 4, y, [99] * 4]
    check_moments(class_moments(*padded, K, mask), h, y)
    a, b = measure(*data, num_classes=K), measure(*padded, w, num_classes=K, mask=mask)
    for name, value in scalars(a).items():
        assert scalars(b)[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_rows_outside_the_classes_are_counted(data):
    h, y, _ = data
    moments = class_moments(np.r_[h, h[:3]], np.r_[y, [-1, K, K + 5]], K)
    assert int(moments.outside) == 3
    np.testing.assert_array_equal(moments.count, np.bincount(y, minlength=K))


def test_vmap_over_seeds(data):
    h, y, w = data
    stacked = np.stack([h, h[::-1].copy()])
    both = jax.vmap(lambda h: measure(h, y, w, num_classes=K))(stacked)
    for i in range(2):
        one = scalars(measure(stacked[i], y, w, num_classes=K))
        for name, value in scalars(jax.tree.map(lambda x, i=i: x[i], both)).items():
            assert value == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_sharded_features_agree_and_stay_where_they_are(data, devices):
    h, y, w = data
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    rows, all_of_it = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    args = jax.device_put(h, rows), jax.device_put(y.astype(np.int32), rows), jax.device_put(w, all_of_it)
    f = jax.jit(lambda h, y, w: measure(h, y, w, num_classes=K, lanes=devices), out_shardings=all_of_it)
    want = scalars(measure(h, y, w, num_classes=K))
    assert lanes_of(args[0]) == devices and lanes_of(h) == lanes_of(jax.device_put(h, all_of_it)) == 1
    for got in (f(*args), measure(*args, num_classes=K)):
        for name, value in scalars(got).items():
            assert value == pytest.approx(want[name], rel=1e-4, abs=1e-5), name
    if devices > 1:
        # one for each pass: the moments of every device; five sums of each class
        assert reductions(f, *args) == [5 * K, devices * (2 * K * D + 2 * K + 1)]


def test_lanes_follow_from_where_the_rows_lie(data):
    """Rows that lie on one device, or in somebody's jit, are one lane, whatever the number of devices divides."""
    h, y, w = data
    assert jax.device_count() == 8 and N % 8 == 0
    f = jax.jit(lambda h, y, w: measure(h, y, w, num_classes=K))
    assert scalars(f(h, y, w)) == scalars(measure(h, y, w, num_classes=K))
    assert "stablehlo.case" in (text := f.lower(h, y, w).as_text()) and "lane" not in text
    with pytest.raises(ValueError, match="lanes: expected a divisor of N = 640, got 3"):
        class_moments(h, y, K, lanes=3)


def reductions(f, *args):
    """Sizes of the all-reduces of f compiled; no other communication."""
    text = f.lower(*args).compile().as_text()
    for kind in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {kind}(" not in text and f" {kind}-start(" not in text
    shapes = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    return sorted(math.prod(map(int, s.split(","))) for shape in shapes for s in re.findall(r"\[([0-9,]+)\]", shape))


@pytest.mark.parametrize("slots", [moments_module.SLOTS, 0], ids=["few", "many"])
@pytest.mark.parametrize("arranged", ["mixed", "sorted", "one class alone, elsewhere one sample of it"])
def test_sharded_moments_take_one_reduction_or_two(data, monkeypatch, arranged, slots):
    monkeypatch.setattr(moments_module, "SLOTS", slots)
    h, y, _ = data
    order = np.arange(N) if arranged == "mixed" else np.argsort(y, kind="stable")
    h, y = h[order], y[order].astype(np.int32)
    if arranged.startswith("one"):  # a device's mean of class 0 is about 5 from the others', 50 times their spread
        y[-1] = 0
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    f = jax.jit(lambda h, y: class_moments(h, y, K, lanes=8), out_shardings=NamedSharding(rows.mesh, P()))
    args = jax.device_put(h, rows), jax.device_put(y, rows)
    check_moments(f(*args), h, y)
    assert reductions(f, *args) == ([8 * (2 * K * D + 2 * K + 1)] if slots else [K * D, K * D + 2 * K + 1])
    merged = jax.shard_map(
        lambda h, y: merge_axis(class_moments(h, y, K), "data"),
        mesh=rows.mesh,
        in_specs=P("data"),
        out_specs=P(),
    )
    check_moments(jax.jit(merged)(*args), h, y)


def test_shard_map_reduces_to_the_whole(data):
    h, y, w = data
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def local(h, y, w):
        tables = make_tables(merge_axis(class_moments(h, y, K), "data"), w)
        sums = jax.tree.map(lambda x: jax.lax.psum(x, "data"), residual_sums(h, y, tables))
        return summarise(tables, sums)

    f = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P("data"), P()), out_specs=P()))
    want = scalars(measure(h, y, w, num_classes=K))
    for name, value in scalars(f(h, jnp.asarray(y, jnp.int32), w)).items():
        assert value == pytest.approx(want[name], rel=1e-4, abs=1e-5), name
