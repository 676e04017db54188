"""0/0 is NaN beside a flag, in memory and in a stream alike; what is defined stays."""

import numpy as np
import pytest

from deq_nc.collapse import measure, measure_stream, scalars, seli
from deq_nc.collapse.checks import as_inputs
from deq_nc.collapse.measure import measure_arrays

K, D, N = 5, 12, 200
MAJORITY = np.arange(K) < 2
rng = np.random.default_rng(0)
Y = (np.arange(N) % K).astype(np.int32)
H = (rng.standard_normal((K, D))[Y] + 0.5 * rng.standard_normal((N, D))).astype(np.float32)
W = rng.standard_normal((K, D)).astype(np.float32)
B = rng.standard_normal(K).astype(np.float32)
ALL = np.ones(N, bool)
OF_MEANS = {"nc1", "nc1_trace", "nc1_ratio", "nc1_majority", "nc1_minority", "cdnv", "nc2_means", "equinorm_means"}
OF_MEANS |= {"equiangle_means", "angle_gap_means", "max_cosine_means", "cosine_majority_means", "cosine_cross_means"}
OF_MEANS |= {"cosine_minority_means", "max_cosine_minority_means", "nc3", "nc3_product", "nc4", "accuracy_nearest"}
OF_MEANS |= {"condition"}
OF_WEIGHTS = {"nc2_weights", "equinorm_weights", "equiangle_weights", "angle_gap_weights", "max_cosine_weights", "nc3"}
OF_WEIGHTS |= {"cosine_majority_weights", "cosine_cross_weights", "cosine_minority_weights", "nc3_product"}
OF_WEIGHTS |= {"max_cosine_minority_weights"}


def all_ways(h=H, y=Y, w=W, b=B, mask=ALL, majority=MAJORITY):
    """Scalars in memory, after comparing them with those of a stream, and the names of those that are NaN."""
    batches = lambda: ((h[i : i + 50], y[i : i + 50], mask[i : i + 50]) for i in range(0, N, 50))  # noqa: E731
    got = scalars(measure(h, y, w, b, num_classes=K, mask=mask, majority=majority))
    stream = scalars(measure_stream(batches, w, b, num_classes=K, majority=majority))
    for name, value in got.items():
        assert stream[name] == pytest.approx(value, rel=2e-5, abs=2e-6, nan_ok=True), name
    return got, {name for name, value in got.items() if np.isnan(value)}


def test_one_class():
    for mask in (ALL, Y == 3):
        got, nan = all_ways(y=np.full_like(Y, 3), mask=mask)
        assert nan == OF_MEANS | {"nc2_floor", "norm_minority_means" if MAJORITY[3] else "norm_majority_means"}
        assert (got["empty"], got["rank"]) == (K - 1, 0)
        assert got["accuracy"] == pytest.approx(((H @ W.T + B)[mask].argmax(1) == 3).mean(), abs=1e-6)


@pytest.mark.parametrize("value", [0, 0.37, 1e4])
def test_all_features_equal(value):
    got, nan = all_ways(h=np.full_like(H, value))
    assert nan == OF_MEANS and (got["rank"], got["zero_means"]) == (0, K)
    assert got["accuracy"] == pytest.approx(1 / K)


def test_all_weights_zero():
    got, nan = all_ways(w=0 * W)
    assert nan == OF_WEIGHTS and got["zero_weights"] == K
    assert got["accuracy"] == pytest.approx(1 / K)  # of the bias
    _, nan = all_ways(w=0 * W, b=0 * B)  # no decision at all
    assert nan == OF_WEIGHTS | {"accuracy", "nc4"}
    _, nan = all_ways(h=0 * H, w=0 * W, b=0 * B)
    assert nan == OF_WEIGHTS | OF_MEANS | {"accuracy"}


def test_one_row_a_class_is_zero_and_flagged():
    got, nan = all_ways(mask=np.arange(N) < K)
    assert not nan and got["nc1"] == got["cdnv"] == got["nc1_ratio"] == 0 and got["single"] == K


def test_means_that_coincide_show_in_the_rank():
    h = H.copy()
    h[Y == 1] = h[Y == 0]
    got, nan = all_ways(h=h)
    assert not nan and got["rank"] == K - 2 and np.isinf(got["cdnv"]) and 0 < got["nc1"] < np.inf


@pytest.mark.parametrize("everyone", [True, False])
def test_a_block_without_classes(everyone):
    got, nan = all_ways(majority=np.full(K, everyone))
    gone = "minority" if everyone else "majority"
    assert {name for name in got if gone in name} | {"cosine_cross_means", "cosine_cross_weights"} == nan


def test_no_rows():
    nothing = np.zeros(N, bool)
    with pytest.raises(ValueError, match="leaves no sample"):
        measure(H, Y, W, B, num_classes=K, mask=nothing, majority=MAJORITY)
    with pytest.raises(ValueError, match="leaves no sample"):
        measure_stream(lambda: [(H[:50], Y[:50], nothing[:50])], W, num_classes=K)
    with pytest.raises(ValueError, match="at least one row"):
        measure(H[:0], Y[:0], W, num_classes=K)
    got = measure_arrays(*as_inputs(H, Y, W, B, K, nothing, MAJORITY), num_classes=K)  # as inside jit
    assert int(got.empty) == K and int(got.rank) == 0
    nan = {name for name, value in scalars(got).items() if np.isnan(value)}
    assert nan >= OF_MEANS | {"accuracy", "nc2_floor"}


def test_seli_of_an_empty_class_is_nan():
    assert all(np.isnan(gram).all() for gram in seli([10, 10, 0]))
