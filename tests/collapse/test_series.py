"""Collapse along iterates and layers equals collapse one by one."""

import numpy as np
import pytest

from deq_nc.collapse import measure, measure_layers, measure_trajectory

from .oracle import clusters

N, D, K = 60, 8, 3


@pytest.fixture(scope="module")
def data():
    return clusters(N, D, K)


def test_trajectory_of_a_linear_solver(data):
    """z_t = (I + V + ... + V^t) h: every entry is measure of that iterate, a diverged one is NaN alone."""
    h, y, w = data
    v = 0.1 * np.random.default_rng(1).standard_normal((D, D)).astype(np.float32)
    z, path = h, []
    for _ in range(4):
        path.append(z)
        z = h + z @ v.T
    path.append(np.full_like(h, np.inf))
    got = measure_trajectory(np.stack(path), y, w, num_classes=K, majority=np.arange(K) < 1)
    assert got.nc1.shape == (5,) and got.gram_means.shape == (5, K, K) and got.blocks_means.norm_majority.shape == (5,)
    assert np.isnan(got.nc1[4])
    for t in range(4):
        one = measure(path[t], y, w, num_classes=K)
        for name in ("nc1", "nc2_means", "nc3", "nc4", "cdnv"):
            assert float(getattr(got, name)[t]) == pytest.approx(float(getattr(one, name)), rel=1e-5), name
    with pytest.raises(ValueError, match=r"\[T, N, D\]"):
        measure_trajectory(h, y, w, num_classes=K)


def test_layers(data):
    h, y, w = data
    got = measure_layers({"H0": h.reshape(N, 2, 4), "z": h}, y, {"z": w}, num_classes=K)
    assert list(got) == ["H0", "z"]
    assert np.isnan(got["H0"].nc3) and float(got["H0"].nc1) == float(got["z"].nc1)
    assert float(got["z"].nc3) == float(measure(h, y, w, num_classes=K).nc3)
