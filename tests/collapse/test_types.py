"""What measure takes: arrays of any library and precision, under strict promotion; no label is wrapped into another."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from deq_nc.collapse import class_moments, measure, measure_stream, scalars, seli, simplex_etf
from deq_nc.collapse.checks import as_inputs

K, D, N = 5, 12, 200
MAJORITY = np.arange(K) < 2
rng = np.random.default_rng(0)
Y = np.arange(N) % K
H = (rng.standard_normal((K, D))[Y] + 0.5 * rng.standard_normal((N, D))).astype(np.float32)
W = rng.standard_normal((K, D)).astype(np.float32)
B = rng.standard_normal(K).astype(np.float32)


class Tensor:
    """A bfloat16 tensor of PyTorch, which NumPy cannot take before it is widened, detached and on the CPU."""

    def __init__(self, array, steps=()):
        self.array, self.steps = array, steps

    def detach(self):
        return Tensor(self.array, (*self.steps, "detach"))

    def cpu(self):
        return Tensor(self.array, (*self.steps, "cpu"))

    def float(self):
        return Tensor(self.array, (*self.steps, "float"))

    def __array__(self, dtype=None, copy=None):
        if set(self.steps) != {"detach", "cpu", "float"}:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.mark.parametrize(
    "h, exact",
    [
        (H.astype(np.float64), True),
        (H.astype(">f4"), True),
        (H.astype(np.longdouble), True),
        (H.tolist(), True),
        (H.astype(ml_dtypes.bfloat16), False),
        (jnp.asarray(H, jnp.bfloat16), False),
        (H.astype(np.float16), False),
        (Tensor(H), True),
    ],
    ids=["float64", "big-endian", "80 bits", "lists", "bfloat16", "bfloat16 of jax", "float16", "tensor"],
)
def test_features_of_any_library_and_precision(h, exact):
    got = as_inputs(h, Y, W, B, K, None, MAJORITY)[0]
    assert got.dtype == jnp.float32 and got.shape == (N, D)
    np.testing.assert_allclose(got, H, rtol=0 if exact else 2**-8)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.uint32, np.int64, np.uint64, ">i4", list])
def test_labels_of_any_integers(dtype):
    y = Y.tolist() if dtype is list else Y.astype(dtype)
    np.testing.assert_array_equal(as_inputs(H, y, None, None, K, None, None)[1], Y)


@pytest.mark.parametrize("bad", [2**32, 2**40, 2**63 - 1, -(2**32), 2**31])
def test_no_label_is_wrapped_into_another(bad):
    y = Y.copy()
    y[7] = bad
    with pytest.raises(ValueError, match=f"labels: expected 0..{K - 1}, got {bad} in row 7"):
        measure(H, y, W, B, num_classes=K, mask=np.ones(N, bool), majority=MAJORITY)
    moments = class_moments(H, y, K)
    assert int(moments.outside) == 1 and int(moments.count.sum()) == N - 1
    masked = measure(H, y, W, B, num_classes=K, mask=np.arange(N) != 7, majority=MAJORITY)
    assert int(masked.outside) == 0


@pytest.mark.parametrize("bad", [np.array(["a"] * N), np.zeros(N, object), ["a"] * N, np.zeros(N, "M8[s]"), object()])
def test_what_is_not_numbers_is_a_sentence(bad):
    for change in ("labels", "mask"):
        with pytest.raises(ValueError, match=f"^{change}: expected an array of numbers, got"):
            measure(**{"features": H, "labels": Y, "weights": W, change: bad}, num_classes=K)
    with pytest.raises(ValueError, match=r"labels: expected integers 0..4, got float64. Convert them: labels.astype"):
        measure(H, Y.astype(float), W, num_classes=K)


def test_strict_promotion_changes_nothing():
    """Rank promotion raises in every test; dtypes must not be mixed either."""
    batches = lambda: ((H[i : i + 50], Y[i : i + 50], np.ones(50, bool)) for i in range(0, N, 50))  # noqa: E731
    args = dict(num_classes=K, mask=np.ones(N, bool), majority=MAJORITY)
    want = scalars(measure(H, Y, W, B, **args))
    with jax.numpy_dtype_promotion("strict"):
        strict = scalars(measure(H.astype(np.float16).astype(np.float64), Y.astype(np.uint8), W, B, **args))
        assert strict["nc1"] == pytest.approx(want["nc1"], rel=1e-2)
        assert scalars(measure(H, Y, W, B, **args)) == want
        stream = scalars(measure_stream(batches, W, B, num_classes=K, majority=MAJORITY))
        assert stream == pytest.approx(want, rel=2e-5, abs=2e-6)
        assert np.isfinite(seli([10, 10, 1])[0]).all() and simplex_etf(3).shape == (3, 3)
