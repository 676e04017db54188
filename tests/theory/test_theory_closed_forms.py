"""Closed forms against the numbers of an independent high-precision derivation and against convex programs."""

import math

import cvxpy as cp
import numpy as np
import pytest

from deq_nc.theory import (
    balanced_mse,
    balanced_mse_weight_decay,
    balanced_optimum,
    balanced_weight_decay,
    nc2_floor,
    seli,
)


def _program(objective, constraints=()):
    problem = cp.Problem(cp.Minimize(objective), list(constraints))
    problem.solve(solver=cp.CLARABEL)
    return problem.value


def _cross_entropy(Z, pi):
    return sum(p * (cp.log_sum_exp(Z[:, k]) - Z[k, k]) for k, p in enumerate(pi))


def test_oracle_norm_constrained():
    assert balanced_optimum(10, math.sqrt(5)) == pytest.approx(0.559781524010, abs=5e-13)


def test_oracle_weight_decay():
    o = balanced_weight_decay(4, 5, 5e-3, 1e-3)
    assert o.loss == pytest.approx(0.094361693741, abs=5e-13)
    assert o.scale == pytest.approx(3.962402796553, abs=5e-13)


@pytest.mark.parametrize("K, s", [(2, 0.7), (4, 2.0)])
def test_norm_constrained_equal_the_convex_programs(K, s):
    Z, b = cp.Variable((K, K)), cp.Variable((K, 1))
    ball = [cp.norm(Z, "nuc") <= K * s]
    assert _program(_cross_entropy(Z, [1 / K] * K), ball) == pytest.approx(balanced_optimum(K, s), abs=1e-7)
    s = 0.4
    ball = [cp.norm(Z, "nuc") <= K * s]
    for bias in (False, True):
        shifted = Z + (b @ np.ones((1, K)) if bias else 0)
        mse = _program(cp.sum_squares(shifted - np.eye(K)) / (2 * K), ball)
        assert mse == pytest.approx(balanced_mse(K, s, bias=bias), abs=1e-7)


def test_a_bias_does_not_help_balanced_cross_entropy():
    Z, b = cp.Variable((3, 3)), cp.Variable((3, 1))
    value = _program(_cross_entropy(Z + b @ np.ones((1, 3)), [1 / 3] * 3), [cp.norm(Z, "nuc") <= 3 * 1.2])
    assert value == pytest.approx(balanced_optimum(3, 1.2), abs=1e-7)


@pytest.mark.parametrize("K, n, decay", [(3, 7, 2e-3), (4, 5, 0.3)])  # the second has c >= 1/K: all zero
def test_weight_decay_equals_the_convex_program(K, n, decay):
    c = math.sqrt(n) * decay
    Z, b = cp.Variable((K, K)), cp.Variable((K, 1))
    ce = _program(_cross_entropy(Z, [1 / K] * K) + c * cp.norm(Z, "nuc"))
    assert ce == pytest.approx(balanced_weight_decay(K, n, decay, decay).loss, abs=1e-7)
    for bias in (False, True):
        shifted = Z + (b @ np.ones((1, K)) if bias else 0)
        mse = _program(cp.sum_squares(shifted - np.eye(K)) / (2 * K) + c * cp.norm(Z, "nuc"))
        assert mse == pytest.approx(balanced_mse_weight_decay(K, n, decay, decay, bias=bias).loss, abs=1e-7)


def test_weight_decay_and_norm_constraint_coincide_at_its_scale():
    c = math.sqrt(5 * 5e-3 * 1e-3)
    o = balanced_weight_decay(4, 5, 5e-3, 1e-3)
    assert o.loss == pytest.approx(balanced_optimum(4, o.scale) + 4 * c * o.scale, abs=1e-14)


def test_seli_oracle():
    W, H = seli([10] * 5 + [1] * 5)
    cos = W / np.sqrt(np.outer(np.diag(W), np.diag(W)))
    assert cos[0, 1] == pytest.approx(-0.1439527425, abs=5e-11)
    assert cos[5, 6] == pytest.approx(0.0333688684, abs=5e-11)
    assert cos[0, 5] == pytest.approx(-0.1386806204, abs=5e-11)
    # The ratio of the norms; the squared norms have 2.672099925.
    assert math.sqrt(W[0, 0] / W[5, 5]) == pytest.approx(1.6346559030, abs=5e-11)


def test_seli_is_the_nuclear_norm_support_vector_machine():
    n = np.array([8.0, 5.0, 2.0, 1.0])
    Z = cp.Variable((4, 4))
    margins = [Z[k, k] - Z[j, k] >= 1 for k in range(4) for j in range(4) if j != k]
    _program(cp.norm(Z @ np.diag(np.sqrt(n)), "nuc"), margins)
    u, s, vt = np.linalg.svd(Z.value @ np.diag(np.sqrt(n)))
    W, H = seli(n)
    assert np.allclose((u * s) @ u.T, W, atol=1e-5)
    assert np.allclose((vt.T * s) @ vt / np.sqrt(np.outer(n, n)), H, atol=1e-5)


def test_seli_balanced_is_the_etf():
    for gram in seli([3] * 10):
        assert np.allclose(gram / gram[0, 0], (np.eye(10) - 0.1) / 0.9, atol=1e-12)


def test_small_loss_keeps_its_digits():
    assert balanced_optimum(10, 90.0) == pytest.approx(9 * math.exp(-100.0), rel=1e-12)


def test_nc2_floor():
    assert nc2_floor(10, 9) == 0.0
    k, d = 10, 4
    best = np.diag([1.0] * d + [0.0] * (k - 1 - d)) / math.sqrt(d)
    assert nc2_floor(k, d) == pytest.approx(np.linalg.norm(best - np.eye(k - 1) / math.sqrt(k - 1)), abs=1e-12)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: balanced_optimum(1, 1.0), "num_classes: expected an integer K >= 2, got 1"),
        (lambda: balanced_optimum(10, 0.0), "scale: expected a finite number > 0, got 0.0"),
        (lambda: balanced_optimum(10, float("nan")), "scale: expected"),
        (lambda: balanced_optimum(10, 1.0, dim=8), "dim: expected d >= K - 1 = 9, got 8.*NC2 stays >= 0.338"),
        (lambda: balanced_mse(10, 1.0, dim=9), "dim: expected d >= K = 10.*best possible loss .* is 0.05"),
        (lambda: balanced_mse(10, 1.0, bias=True, dim=8), "dim: expected d >= K - 1 = 9"),
        (lambda: balanced_weight_decay(4, 0, 1e-3, 1e-3), "per_class: expected a finite number > 0, got 0"),
        (lambda: balanced_weight_decay(4, 5, 0.0, 1e-3), "decay_weights"),
        (lambda: seli([5, 0, 3]), "counts: expected every count > 0"),
    ],
)
def test_bad_input_says_expected_came_and_next_move(call, says):
    with pytest.raises(ValueError, match=says):
        call()
