"""measure of a file equals measure of its arrays; what cannot be measured is refused from the headers."""

import ml_dtypes
import numpy as np
import pytest

import deq_nc.collapse.npz as npz_module
from deq_nc.collapse import measure, measure_npz, scalars
from deq_nc.npz import Npz, NpzError

from .oracle import clusters

N, D, K = 60, 8, 3


@pytest.fixture(scope="module")
def data():
    """Every key at once, and so one compiled program for all that is measured with weights."""
    h, y, w = clusters(N, D, K)
    more = dict(bias=np.ones(K, np.float32), majority=np.arange(K) < 1, mask=np.arange(N) < 50)
    return dict(features=h, labels=y, weights=w) | more


def test_a_file_is_its_arrays(data, tmp_path):
    path = tmp_path / "f.npz"
    half = {name: data[name].astype(ml_dtypes.bfloat16) for name in ("features", "weights")}
    no_weights = dict(features=data["features"], labels=data["labels"].astype(np.uint8))  # K from the labels
    for arrays, save in ((data, np.savez), (data | half, np.savez_compressed), (no_weights, np.savez)):
        save(path, **arrays | ({"mask": data["mask"].astype(np.uint8)} if "mask" in arrays else {}))
        want = scalars(measure(**{"weights": None, **arrays}, num_classes=K))
        assert scalars(measure_npz(path)) == pytest.approx(want, nan_ok=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(labels=None), r"missing labels \[N\]; found features, weights, bias"),
        (dict(features=np.zeros((N, D), int)), "features: expected floating point, got int64"),
        (dict(features=np.zeros((N, D, 1))), r"features: expected shape \[N, D\], got \[60, 8, 1\]"),
        (dict(labels=np.array(["a"] * N)), "labels: expected integers, got .*<U1"),
        (dict(labels=np.zeros(N, [("a", int)])), "labels: expected integers, got"),
        (dict(labels=np.zeros(N, object)), "labels would need pickle.*refused"),
        (dict(labels=np.zeros(N)), "labels: expected integers, got float64"),
        (dict(labels=np.zeros(N - 1, int)), r"labels: expected shape \[N\] with N = 60, got \[59\]"),
        (dict(labels=np.arange(N) % K + 2**32), r"labels: expected 0..2, got 4294967296 in row 0 \(50 such rows\)"),
        (dict(labels=np.full(N, 2**64 - 1, np.uint64)), "labels: expected 0..2, got 18446744073709551615"),
        (
            dict(labels=np.arange(N) + 2**40, weights=None, bias=None, majority=None),
            "labels: expected .* K <= N = 60, got 1099511627825",
        ),
        (dict(weights=np.zeros((D, K))), r"weights: expected shape \[K, D\] with .*, got \[8, 3\]. Pass weights.T"),
        (dict(weights=np.zeros(K)), r"weights: expected shape \[K, D\], got \[3\]"),
        (dict(weights=np.float32(1)), r"weights: expected shape \[K, D\], got \[\]"),
        (dict(bias=np.zeros(K + 1)), r"bias: expected shape \[K\] with K = 3, got \[4\]"),
        (dict(weights=None), "bias: given without weights"),
        (dict(majority=np.arange(K)), "majority: expected booleans, got int64"),
        (dict(mask=np.ones(N)), "mask: expected booleans, got float64"),
        (dict(mask=np.ones((N, 1), bool)), r"mask: expected shape \[N\], got \[60, 1\]"),
        (dict(mask=np.zeros(N, bool)), "mask: it leaves no sample"),
        (dict(features=np.full((N, D), np.nan)), "features: not finite in 50 rows"),
    ],
)
def test_refusals_name_the_file_and_what_came(data, tmp_path, change, message):
    arrays = {name: value for name, value in (data | change).items() if value is not None}
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(NpzError, match=f"f.npz: {message}"):
        measure_npz(tmp_path / "f.npz")


def test_what_does_not_fit_in_memory_is_not_read(data, tmp_path, monkeypatch):
    np.savez(tmp_path / "f.npz", **data)
    monkeypatch.setattr(npz_module, "free_memory", lambda: 4000.0)
    monkeypatch.setattr(Npz, "__getitem__", lambda *_: pytest.fail("read"))
    with pytest.raises(NpzError, match=r"f.npz: expected arrays to measure in 0.0 GB .*measure_stream"):
        measure_npz(tmp_path / "f.npz")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="numpy.savez"):
        measure_npz(tmp_path / "f.npz")
