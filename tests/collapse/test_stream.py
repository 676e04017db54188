"""Streaming equals the array; its memory does not grow with the number of samples."""

import os
import subprocess
import sys

import numpy as np
import pytest

from deq_nc.collapse import measure, measure_stream, scalars, stream_moments

N, D, K, B = 1_000, 12, 5, 128


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.sort(rng.integers(0, K, N))
    h = 50 + rng.standard_normal((K, D))[y] + 0.3 * rng.standard_normal((N, D))
    return h.astype(np.float32), y, rng.standard_normal((K, D)).astype(np.float32)


def batches(h, y, order=None):
    order = np.arange(len(y)) if order is None else order
    for i in range(0, len(y), B):
        rows = order[i : i + B]
        pad = B - len(rows)  # the last batch is padded to the shape of the others, as a loader would
        mask = np.arange(B) < len(rows)
        yield np.r_[h[rows], np.full((pad, D), np.nan, np.float32)], np.r_[y[rows], np.full(pad, -1)], mask


def test_stream_equals_array(data):
    h, y, w = data
    majority = np.arange(K) < 2
    rng = np.random.default_rng(1)
    want = scalars(measure(h, y, w, num_classes=K, majority=majority))
    shuffled = lambda: batches(h, y, rng.permutation(N))  # noqa: E731  another order in each pass
    got = scalars(measure_stream(shuffled, w, num_classes=K, majority=majority))
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=2e-5, abs=2e-6, nan_ok=True), name


@pytest.mark.other_types
def test_refusals(data):
    h, y, w = data
    with pytest.raises(TypeError, match="function returning an iterable, got generator"):
        measure_stream(batches(h, y), w, num_classes=K)
    once = batches(h, y)
    with pytest.raises(ValueError, match="1000 samples in the first pass, 0 in the second"):
        measure_stream(lambda: once, w, num_classes=K)
    with pytest.raises(ValueError, match="got none"):
        stream_moments([], K)
    bad = h.copy()
    bad[B + 3] = np.nan
    with pytest.raises(ValueError, match="batch 1, row 3"):
        measure_stream(lambda: batches(bad, y), w, num_classes=K)
    with pytest.raises(ValueError, match="rows outside 0..2"):
        measure_stream(lambda: batches(h, y), w[:3], num_classes=3)
    with pytest.raises(ValueError, match="weights"):
        measure_stream(lambda: batches(h, y), w.T, num_classes=K)


MEMORY = """
import resource
import jax
import numpy as np
from deq_nc.collapse import measure_stream
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
jax.block_until_ready(jax.numpy.ones(8) + 1)
before = peak()
N, D, K, B = {n}, 512, 10, 10_000
mu = np.random.default_rng(0).standard_normal((K, D), dtype=np.float32)
noise = 0.3 * np.random.default_rng(1).standard_normal((B, D), dtype=np.float32)
def batches():
    for i in range(N // B):
        y = np.random.default_rng(i).integers(0, K, B)
        yield mu[y] + np.roll(noise, i, 1), y
c = measure_stream(batches, mu, num_classes=K)
assert int(c.count.sum()) == N and 0 < float(c.nc1) < 1, c.nc1
print(peak() - before)
"""


def test_a_million_samples_in_300_mb():
    """1,000,000 x 512 floats are 2 GB; the peak above the imports is a few batches of 20 MB."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", MEMORY.format(n=1_000_000)], capture_output=True, text=True, env=env, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert float(run.stdout) < 300, run.stdout
