"""The two-scalar reduction against oracle numbers, the convex program, direct minimisation and its own certificate."""

import math
import time

import cvxpy as cp
import numpy as np
import pytest

from deq_nc.geometry import block_cosines
from deq_nc.theory import (
    Budget,
    balanced_optimum,
    collapse_threshold,
    counts_optimum,
    log_collapse_threshold,
    minimise,
    step_optimum,
    threshold_asymptote,
    vanishing_scale,
    weight_decay_threshold,
)

S5 = math.sqrt(5)


def random_cases(number, seed=0, most=6):
    """(KA, KB, R, s): every group size, R over three decades, s from hardly trained to well trained."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        ka, kb = (int(k) for k in rng.integers(1, most + 1, 2))
        yield ka, kb, float(10 ** rng.uniform(0, 3)), float(10 ** rng.uniform(-0.5, 0.6))


@pytest.mark.parametrize(
    "R, s, loss, cosine",
    [
        (10, S5, 0.261677038637, 0.5174962815),
        (100, S5, 0.091299164075, 1.0),
        (10, 0.5 * S5, 0.732921299067, None),
        (10, 1.5 * S5, 0.105336712944, None),
        (10, 2.0 * S5, 0.034295053686, None),
    ],
)
def test_oracle_optima(R, s, loss, cosine):
    o = step_optimum(5, 5, R, s)
    assert o.loss == pytest.approx(loss, abs=6e-13)
    assert abs(o.relative_gap) < 1e-12
    if cosine is not None:
        assert o.cos_minority == pytest.approx(cosine, abs=6e-11)


@pytest.mark.parametrize(
    "ka, kb, s, R0",
    [
        (5, 5, S5, 12.192447080),
        (5, 5, math.sqrt(10), 81.102206097),
        (3, 7, S5, 245.496930598),
        (5, 5, 0.5 * S5, 1.970269678),
        (5, 5, 2.0 * S5, 1290.536884150),
    ],
)
def test_oracle_thresholds(ka, kb, s, R0):
    assert collapse_threshold(ka, kb, s) == pytest.approx(R0, abs=6e-10)


def test_threshold_is_the_stated_condition_and_separates():
    for ka, kb, s in ((5, 5, S5), (3, 7, 1.3), (2, 2, 3.0)):
        R0 = collapse_threshold(ka, kb, s)
        p = np.exp(step_optimum(ka, kb, R0, s).logits()[:, 0])
        p /= p.sum()
        assert R0 * (ka * p[1] + kb * p[-1]) == pytest.approx(1.0, abs=1e-9)
        below, above = step_optimum(ka, kb, R0 * (1 - 1e-6), s), step_optimum(ka, kb, R0 * (1 + 1e-6), s)
        assert not below.collapsed and below.e1 > 0 and below.cos_minority < 1
        assert above.collapsed and above.e1 == 0 and above.cos_minority == 1


def test_certificate_over_ten_thousand_random_cases():
    rng = np.random.default_rng(3)
    ka, kb = rng.integers(1, 40, (2, 10_000))
    o = step_optimum(ka, kb, 10 ** rng.uniform(0, 6, ka.size), 10 ** rng.uniform(-2, 1.5, ka.size))
    assert np.all(np.abs(o.gap) < 1e-10)
    assert np.all(np.abs(o.relative_gap) < 1e-10)  # also where the loss itself is 1e-20
    assert o.vanished.any() and (o.collapsed & ~o.vanished).any() and (~o.collapsed).any()


def test_collapse_agrees_with_the_threshold_everywhere():
    rng = np.random.default_rng(4)
    ka, kb = rng.integers(1, 12, 3000), rng.integers(2, 12, 3000)
    log_R, s = rng.uniform(0, 12, ka.size), 10 ** rng.uniform(-1, 1, ka.size)
    log_R0 = log_collapse_threshold(ka, kb, s)
    o = step_optimum(ka, kb, np.exp(log_R), s)
    assert np.array_equal(o.collapsed, log_R >= log_R0)


def test_equals_the_nuclear_norm_program_on_24_random_cases():
    for ka, kb, R, s in random_cases(24, most=4):
        k = ka + kb
        Z = cp.Variable((k, k))
        pi = np.array([R] * ka + [1.0] * kb) / (ka * R + kb)
        ce = sum(p * (cp.log_sum_exp(Z[:, i]) - Z[i, i]) for i, p in enumerate(pi))
        value = cp.Problem(cp.Minimize(ce), [cp.norm(Z, "nuc") <= k * s])
        value.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert value.value == pytest.approx(step_optimum(ka, kb, R, s).loss, abs=1e-7), (ka, kb, R, s)


def test_equals_direct_minimisation_on_20_random_cases():
    # Three shapes of the matrices, so that three programs are compiled and not twenty.
    rng = np.random.default_rng(5)
    worst = 0.0
    for ka, kb in ((2, 2), (3, 2), (2, 5)):
        for _ in range(7):
            R, s = float(10 ** rng.uniform(0, 2.5)), float(10 ** rng.uniform(-0.5, 0.5))
            o = minimise("lpm", [R] * ka + [1.0] * kb, Budget("spectral", 0.5, s), seeds=4)
            worst = max(worst, abs(o.loss - step_optimum(ka, kb, R, s).loss))
    assert worst < 1e-5  # 2e-15 when it was written


def test_counts_optimum_equals_the_reduction_with_a_gap_that_holds():
    for R, s in ((1.0, 1.0), (30.0, 0.8), (8.0, 3.0), (200.0, 5.0)):
        o, exact = counts_optimum([R] * 2 + [1.0] * 3, s), step_optimum(2, 3, R, s)
        assert o.converged and o.gap <= 1e-8 * o.loss
        assert o.loss - o.gap - 1e-15 <= exact.loss <= o.loss + 1e-15
        assert np.allclose(o.gram_weights(), exact.gram_weights(), atol=2e-3)


def test_counts_optimum_on_a_long_tail_equals_the_convex_program():
    n = np.array([100.0, 46.0, 22.0, 10.0, 5.0])
    Z = cp.Variable((5, 5))
    ce = sum(p * (cp.log_sum_exp(Z[:, i]) - Z[i, i]) for i, p in enumerate(n / n.sum()))
    program = cp.Problem(cp.Minimize(ce), [cp.norm(Z, "nuc") <= 5 * 1.5])
    program.solve(solver=cp.CLARABEL)
    assert counts_optimum(n, 1.5).loss == pytest.approx(program.value, abs=1e-7)
    short = counts_optimum(n, 1.5, max_steps=25)
    assert not short.converged and short.gap > 0 and short.loss - short.gap <= program.value + 1e-7


def test_balanced_is_the_closed_form():
    for ka, kb, s in ((5, 5, S5), (1, 3, 0.5), (2, 7, 4.0)):
        o = step_optimum(ka, kb, 1.0, s)
        assert o.loss == pytest.approx(balanced_optimum(ka + kb, s), rel=1e-12)
        etf = np.eye(ka + kb) - 1 / (ka + kb)
        assert np.allclose(o.gram_weights(), etf * o.gram_weights()[0, 0] / etf[0, 0], atol=1e-7)


def test_scalars_norms_and_cosines_are_those_of_the_matrices():
    o = step_optimum(3, 4, 6.0, 1.7)
    Z, W, H = o.logits(), o.gram_weights(), o.gram_means()
    u, sv, vt = np.linalg.svd(Z)
    assert sv.sum() == pytest.approx(7 * 1.7, rel=1e-13)
    assert np.allclose(W, (u * sv) @ u.T, atol=1e-12) and np.allclose(H, (vt.T * sv) @ vt, atol=1e-12)
    z = Z - np.diag(Z)[None, :]
    pi = np.array([6.0] * 3 + [1.0] * 4) / 22
    assert pi @ np.log(np.exp(z).sum(axis=0)) == pytest.approx(o.loss, rel=1e-13)
    cos = block_cosines(W, np.arange(7) < 3)
    assert o.cos_majority == pytest.approx(cos["majority"], abs=1e-12)
    assert o.cos_minority == pytest.approx(cos["minority"], abs=1e-12)
    assert o.cos_cross == pytest.approx(cos["cross"], abs=1e-12)
    assert o.norm_majority == pytest.approx(W[0, 0]) and o.norm_minority == pytest.approx(W[-1, -1])


def test_vanished_minority_has_no_cosine():
    s = 0.9 * vanishing_scale(5, 5)
    o = step_optimum(5, 5, 1e9, s)
    assert o.vanished and o.norm_minority == 0 and math.isnan(o.cos_minority) and abs(o.relative_gap) < 1e-12
    assert not step_optimum(5, 5, 1e9, 1.01 * vanishing_scale(5, 5)).vanished


def test_threshold_asymptote():
    for ka, kb in ((5, 5), (3, 7), (1, 4)):
        # The difference is O(1): the slope is what the asymptote states.
        slope = (log_collapse_threshold(ka, kb, 4000.0) - log_collapse_threshold(ka, kb, 2000.0)) / 2000.0
        assert slope == pytest.approx(threshold_asymptote(ka, kb, 1.0), rel=1e-3)
    assert collapse_threshold(2, 2, 1e4) == math.inf  # the logarithm has it
    assert log_collapse_threshold(2, 2, 1e4) == pytest.approx(threshold_asymptote(2, 2, 1e4), rel=1e-3)


def test_weight_decay_threshold_separates_direct_minima():
    R0 = weight_decay_threshold(2, 3, 20, 5e-3, 1e-3)
    budget = Budget("decay", 0.5, decay_weights=5e-3, decay_features=1e-3, decay_arm=1.0)
    cosines = []
    for R in (0.9 * R0, 1.1 * R0):
        o = minimise("lpm", [20 * R] * 2 + [20] * 3, budget, seeds=4)
        cosines.append(block_cosines(o.W @ o.W.T, np.arange(5) < 2)["minority"])
    assert cosines[0] < 0.9 and cosines[1] == pytest.approx(1.0, abs=1e-4)


def test_log_domain_far_below_the_smallest_float():
    o = step_optimum(5, 5, 10.0, 1000.0)
    terms = o.logits() - np.diag(o.logits())[None, :] + np.log(np.array([10.0] * 5 + [1.0] * 5) / 55)[None, :]
    off_diagonal = terms[~np.eye(10, dtype=bool)]  # log(1 + x) = x here
    assert o.loss == 0.0 and o.log_loss == pytest.approx(np.logaddexp.reduce(off_diagonal), abs=1e-9)
    assert abs(o.relative_gap) < 1e-9


def test_fast_enough():
    step_optimum(5, 5, 10.0, 2.0)
    seconds = []
    for i in range(20):
        start = time.perf_counter()
        step_optimum(5, 5, 10.0 + i, 2.0)
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[10] < 0.010


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: step_optimum(0, 5, 10, 1.0), "majority: expected an integer >= 1, got 0"),
        (lambda: step_optimum(5, 2.5, 10, 1.0), "minority: expected an integer >= 1, got 2.5"),
        (lambda: step_optimum(5, 5, 0.1, 1.0), "ratio: expected a finite number >= 1, got 0.1.*swap"),
        (lambda: step_optimum(5, 5, 10, -1.0), "scale: expected a finite number > 0, got -1.0"),
        (lambda: step_optimum(5, 5, 10, [1.0, math.inf]), "scale: expected"),
        (lambda: step_optimum(5, 5, 10, 1.0, dim=3), "dim: expected d >= K - 1 = 9, got 3.*NC2 stays >="),
        (lambda: collapse_threshold(5, 1, 1.0), "minority: expected KB >= 2 classes, got 1"),
        (lambda: weight_decay_threshold(5, 5, 0, 1e-3, 1e-3), "minority_samples: expected a finite number > 0, got 0"),
        (lambda: counts_optimum([5, 3, 0], 1.0), "counts: expected every count > 0"),
        (lambda: counts_optimum([5], 1.0), "num_classes: expected an integer K >= 2"),
        (lambda: counts_optimum([5, 3], 1.0, tol=0.0), "tol: expected a number > 0"),
    ],
)
def test_bad_input_says_expected_came_and_next_move(call, says):
    with pytest.raises(ValueError, match=says):
        call()
