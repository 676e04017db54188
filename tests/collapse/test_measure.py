"""Exact collapse, invariances, guards and refusals of measure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.collapse import Collapse, measure, scalars

K, D, N = 6, 16, 240


def etf(k, d, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, k)))
    return (np.eye(k) - 1 / k) @ q.T * np.sqrt(k / (k - 1))


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(1)
    y = np.arange(N) % K
    mu = rng.standard_normal((K, D))
    h = mu[y] + 0.5 * rng.standard_normal((N, D))
    return h.astype(np.float32), y, (mu + 0.3 * rng.standard_normal((K, D))).astype(np.float32)


def labels_of(counts):
    return np.repeat(np.arange(K), counts)


@pytest.mark.parametrize("counts", [[40] * K, [100, 60, 40, 20, 15, 5]])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_exact_collapse(counts, offset):
    """An ETF is an ETF whatever the counts: mu_G is the mean of the class means, not of the samples."""
    y, means = labels_of(counts), etf(K, D)
    h = (means[y] + offset).astype(np.float32)
    means = np.stack([h[y == c][0] for c in range(K)]).astype(float)  # as float32 holds them
    w = (3 * (means - means.mean(0))).astype(np.float32)
    c = measure(h, y, w, -w @ np.full(D, offset, np.float32), num_classes=K, majority=np.arange(K) < 3)
    assert float(c.nc1) == 0 and float(c.nc1_ratio) == 0 and float(c.cdnv) == 0
    assert float(c.nc3) <= 1e-6
    if offset == 0:
        assert max(float(c.nc2_means), float(c.nc2_weights), float(c.nc3_product)) <= 1e-6
        assert float(c.nc4) == 0 and float(c.accuracy) == 1
        assert float(c.equinorm_means) <= 1e-6 and float(c.angle_gap_means) <= 1e-6
        for block in (c.blocks_means, c.blocks_weights):
            for name in ("cosine_majority", "cosine_cross", "cosine_minority", "max_cosine_minority"):
                assert float(getattr(block, name)) == pytest.approx(-1 / (K - 1), abs=1e-6)


def test_rotation_scale_and_label_permutation_change_nothing(noisy):
    h, y, w = noisy
    rng = np.random.default_rng(2)
    q, _ = np.linalg.qr(rng.standard_normal((D, D)))
    p = rng.permutation(K)
    want = scalars(measure(h, y, w, num_classes=K))
    rotated = scalars(measure((7 * h @ q).astype(np.float32), y, (3 * w @ q).astype(np.float32), num_classes=K))
    inverse = np.argsort(p)
    permuted = scalars(measure(h, inverse[y], w[p], num_classes=K))
    for name, value in want.items():
        assert rotated[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
        assert permuted[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


def test_decisions_without_the_shortcut_are_the_same(noisy):
    """Far samples take the products, near ones the radius; a set of both must count as argmax does."""
    h, y, w = noisy
    for scale in (0.01, 0.2, 1.0, 4.0):
        mu = np.stack([h[y == c].mean(0) for c in range(K)])
        x = (mu[y] + scale * (h - mu[y])).astype(np.float32)
        c = measure(x, y, w, num_classes=K)
        mu = np.stack([x[y == c].mean(0) for c in range(K)])
        near = ((x[:, None] - mu[None]) ** 2).sum(2).argmin(1)
        choice = (x @ w.T).argmax(1)
        assert float(c.nc4) == pytest.approx((near != choice).mean(), abs=1e-6)
        assert float(c.accuracy) == pytest.approx((choice == y).mean(), abs=1e-6)
        assert float(c.accuracy_nearest) == pytest.approx((near == y).mean(), abs=1e-6)


def test_one_trace_for_repeated_calls(noisy):
    traces = []

    @jax.jit
    def f(h, y, w):
        traces.append(1)
        return measure(h, y, w, num_classes=K)

    assert isinstance(f(*noisy), Collapse)
    f(*noisy)
    assert len(traces) == 1


def test_flags_for_empty_and_single_classes(noisy):
    h, y, w = noisy
    keep = (y != 2) & ((y != 4) | (np.arange(N) == 4))
    c = measure(h, y, w, num_classes=K, mask=keep)
    assert (int(c.empty), int(c.single), int(c.rank)) == (1, 1, K - 2)
    assert np.isnan(c.nc1_class[2]) and np.isnan(c.norm_means[2]) and float(c.variance_class[4]) == 0
    others = [0, 1, 3, 4, 5]
    without = measure(h[keep], np.searchsorted(others, y[keep]), w[others], num_classes=K - 1)
    for name in ("nc1", "nc2_means", "nc3", "nc3_product", "cdnv", "equinorm_means", "angle_gap_means", "nc1_ratio"):
        assert float(getattr(c, name)) == pytest.approx(float(getattr(without, name)), rel=1e-5), name


def test_flags_for_vectors_without_direction():
    y = np.arange(30) % 3
    means = np.array([[1.0, 0], [-1, 0], [0, 0]])  # the third coincides with the mean of the means
    w = np.array([[1.0, 0], [-1, 0], [0, 0]])
    c = measure(means[y].astype(np.float32), y, w.astype(np.float32), num_classes=3, majority=np.array([1, 1, 0], bool))
    assert (int(c.zero_means), int(c.zero_weights)) == (1, 1)
    assert float(c.max_cosine_means) == -1 and float(c.blocks_means.cosine_majority) == -1
    assert np.isnan(c.blocks_means.cosine_cross) and np.isnan(c.blocks_weights.cosine_minority)


def test_the_floor_is_reached_by_the_best_geometry_in_few_dimensions():
    """K = 3 means in one dimension cannot be an ETF; the floor is the least NC2 over tight Grams of rank D."""
    k, d = 8, 3
    q, _ = np.linalg.qr(np.c_[np.ones(k), np.random.default_rng(0).standard_normal((k, d))])
    means = q[:, 1 : d + 1]  # centred, with a projection of rank d as Gram
    y = np.arange(40) % k
    c = measure(means[y].astype(np.float32), y, means.astype(np.float32), num_classes=k)
    assert float(c.nc2_floor) == pytest.approx(np.sqrt(2 - 2 * np.sqrt(d / (k - 1))), rel=1e-6)
    assert float(c.nc2_means) == pytest.approx(float(c.nc2_floor), rel=1e-5)
    assert int(c.rank) == d


def test_without_weights_only_their_metrics_are_nan(noisy):
    h, y, w = noisy
    c, full = scalars(measure(h, y, None, num_classes=K)), scalars(measure(h, y, w, num_classes=K))
    missing = {name for name, value in c.items() if np.isnan(value)}
    names = {"nc2_weights", "nc3", "nc3_product", "nc4", "accuracy", "equinorm_weights", "equiangle_weights"}
    assert missing == names | {"angle_gap_weights", "max_cosine_weights"}
    assert c["accuracy_nearest"] == full["accuracy_nearest"] and c["nc1"] == full["nc1"]


class Tensor:
    """Stands for a PyTorch tensor: `__array__` refuses until it is detached."""

    def __init__(self, array, attached=True):
        self.array, self.attached = array, attached

    def detach(self):
        return Tensor(self.array, attached=False)

    def __array__(self, dtype=None, copy=None):
        assert not self.attached
        return self.array


def test_takes_anything_with_array(noisy):
    h, y, w = noisy
    c = measure(Tensor(h), Tensor(y), Tensor(w), num_classes=K)
    assert float(c.nc1) == float(measure(h, y, w, num_classes=K).nc1)
    half = measure(h.astype(np.float16), y.astype(np.uint8), w.astype(np.float16), num_classes=K)
    assert half.nc1.dtype == jnp.float32 and float(half.nc1) == pytest.approx(float(c.nc1), rel=1e-2)


def test_refusals_name_what_came_and_the_next_move(noisy):
    h, y, w = noisy
    bad = y.copy()
    bad[[7, 9]] = [K, -1]
    nan = h.copy()
    nan[[3, 11], 5] = np.nan, np.inf
    cases = [
        (dict(labels=bad), rf"expected 0\.\.{K - 1}, got {K} in row 7 \(2 such rows\)"),
        (dict(features=nan), r"not finite in 2 rows \(3, 11\)"),
        (dict(labels=y[:-1]), rf"shape \[{N}\] beside features \[{N}, {D}\], got \[{N - 1}\]"),
        (dict(weights=w.T), rf"got \[D, K\] = \[{D}, {K}\].*weights\.T"),
        (dict(weights=w[:, :-1]), rf"\[{K}, {D}\].*got \[{K}, {D - 1}\]"),
        (dict(weights=w * np.nan), "weights: not finite"),
        (dict(bias=np.zeros(K + 1, np.float32)), rf"bias: expected shape \[{K}\], got \[{K + 1}\]"),
        (dict(num_classes=1), "at least 2, got 1"),
        (dict(mask=np.zeros(N, bool)), "leaves no sample"),
        (dict(mask=np.ones(3, bool)), rf"mask: expected shape \[{N}\]"),
        (dict(majority=np.array([0, 1])), "booleans"),
        (dict(majority=np.arange(K)), "booleans, got int"),
        (dict(features=h[:, :, None]), r"\[N, D\]"),
        (dict(features=np.ones((N, D), int)), "floating point"),
        (dict(labels=y.astype(np.float32)), "integers"),
    ]
    for change, message in cases:
        args = dict(features=h, labels=y, weights=w, num_classes=K) | change
        with pytest.raises(ValueError, match=message):
            measure(**args)


def test_inside_jit_bad_values_are_flags_and_nan(noisy):
    h, y, w = noisy
    f = jax.jit(lambda h, y: measure(h, y, w, num_classes=K))
    bad = y.copy()
    bad[0] = K
    assert int(f(h, bad).outside) == 1 and np.isfinite(f(h, bad).nc1)
    nan = h.copy()
    nan[0] = np.nan
    assert np.isnan(f(nan, y).nc1)
