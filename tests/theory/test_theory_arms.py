"""The arms: scales, budgets as norms of Z, the chain of inequalities, and direct minimisation of what is not proved."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from deq_nc.geometry import block_cosines, nc2, nc3
from deq_nc.theory import (
    ARMS,
    Budget,
    arm_scale,
    balanced_optimum,
    balanced_weight_decay,
    budget_spent,
    collapse_threshold,
    minimise,
    step_optimum,
)
from experiments.phase import cosine_curves, duality_map, frobenius_map, optimum_map, threshold_map

S5 = math.sqrt(5)


def cross_entropy(Z, pi):
    z = Z - np.diag(Z)[None, :]
    return float(pi @ np.logaddexp.reduce(z, axis=0))


def effective(arm, V):
    eye = np.eye(len(V))
    return {"explicit": V, "residual": eye + V, "deq": np.linalg.inv(eye - V)}[arm]


def test_oracle_losses_and_thresholds_under_the_spectral_budget():
    loss = {"explicit": 0.732921299067, "residual": 0.105336712944, "deq": 0.034295053686}
    for arm, want in loss.items():
        assert step_optimum(5, 5, 10, arm_scale(arm, S5, 0.5)).loss == pytest.approx(want, abs=6e-13)
    assert collapse_threshold(5, 5, arm_scale("explicit", S5, 0.5)) == pytest.approx(1.970269678, abs=6e-10)
    assert collapse_threshold(5, 5, arm_scale("deq", S5, 0.5)) == pytest.approx(1290.536884150, abs=6e-10)


def test_arm_scale_is_the_largest_amplification_of_a_spectral_ball():
    rng = np.random.default_rng(0)
    for arm in ARMS:
        bound = arm_scale(arm, 1.0, 0.7)
        for _ in range(20):
            V = rng.normal(size=(4, 4))
            V *= 0.7 / np.linalg.norm(V, 2)
            assert np.linalg.norm(effective(arm, V), 2) <= bound + 1e-12
        assert np.linalg.norm(effective(arm, 0.7 * np.eye(4)), 2) == pytest.approx(bound)


@pytest.mark.parametrize("arm", ARMS)
def test_direct_minimisation_with_a_free_matrix_reaches_the_scaled_optimum(arm):
    o = minimise(arm, [10, 10, 1, 1], Budget("spectral", 0.3, 1.5), seeds=6)
    assert o.loss == pytest.approx(step_optimum(2, 2, 10, arm_scale(arm, 1.5, 0.3)).loss, abs=1e-9)
    assert not o.proved and 1 <= o.agreeing <= 6 and o.losses.shape == (6,)


def test_frobenius_oracle_below_the_etf():
    o = minimise("deq", [1] * 4, Budget("frobenius", 0.9, 1.0), aligned=True)
    assert o.loss == pytest.approx(0.123905672692, abs=6e-13) and o.rank == 2
    etf = 4 / budget_spent("deq", [1.0, 1.0, 1.0], 0.9)  # singular value of the ETF that spends K s = 4
    assert balanced_optimum(4, 3 * etf / 4) == pytest.approx(0.171382804106, abs=6e-13)
    free = minimise("deq", [1] * 4, Budget("frobenius", 0.9, 1.0))
    assert free.loss == pytest.approx(o.loss, abs=1e-9)  # a diagonal V loses nothing


@pytest.mark.parametrize("arm", ARMS)
def test_budget_spent_is_a_lower_bound_that_is_attained(arm):
    rng = np.random.default_rng(1)
    for _ in range(60):
        gain = rng.uniform(0.1, 0.95)
        V = rng.normal(size=(3, 3))
        V *= gain / np.linalg.norm(V)
        W, H = rng.normal(size=(4, 3)), rng.normal(size=(3, 4))
        sv = np.linalg.svd(W @ effective(arm, V) @ H, compute_uv=False)[:3]
        assert np.linalg.norm(W) * np.linalg.norm(H) >= budget_spent(arm, sv, gain) * (1 - 1e-9)
    o = minimise(arm, [7.0, 2.0, 1.0], Budget("frobenius", 0.6, 2.0), aligned=True, dim=2)
    sv = np.linalg.svd(o.logits, compute_uv=False)
    assert budget_spent(arm, sv, 0.6) == pytest.approx(3 * 2.0, rel=1e-6)  # all of K s is spent


def test_residual_budget_equals_a_numerical_minimum():
    sv = np.array([3.0, 1.0, 0.2])

    # On the sphere ||v|| = g, v >= 0, in two angles.
    def spent(t):
        v = 0.8 * np.abs([np.cos(t[0]), np.sin(t[0]) * np.cos(t[1]), np.sin(t[0]) * np.sin(t[1])])
        return np.sum(sv / (1 + v))

    best = min(
        minimize(spent, x, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}).fun
        for x in ([0.3, 0.3], [1, 1])
    )
    assert budget_spent("residual", sv, 0.8) == pytest.approx(best, abs=1e-9)


def test_chain_on_200_random_cases_under_the_spectral_budget():
    # L_EX >= L_LPM(rho s) > L_LPM(s) >= L_DEQ; losses underflow together at large s, so compare logarithms.
    rng = np.random.default_rng(6)
    ka, kb = rng.integers(1, 12, (2, 200))
    R, s, rho = 10 ** rng.uniform(0, 4, 200), 10 ** rng.uniform(-1, 1, 200), rng.uniform(0.05, 0.95, 200)
    at = {arm: step_optimum(ka, kb, R, arm_scale(arm, s, rho)).log_loss for arm in ARMS}
    lower, same = step_optimum(ka, kb, R, rho * s).log_loss, step_optimum(ka, kb, R, s).log_loss
    assert np.allclose(at["explicit"], lower, atol=1e-12)
    assert np.all(lower > same) and np.all(same > at["residual"]) and np.all(at["residual"] > at["deq"])


def test_chain_on_120_random_cases_under_the_frobenius_budget():
    # ||V||_F <= rho implies ||V||_2 <= rho. K = 4 throughout, so that one program per arm is compiled.
    rng = np.random.default_rng(7)
    for _ in range(120):
        ka = int(rng.integers(1, 4))
        R, s, rho = 10 ** rng.uniform(0, 2), 10 ** rng.uniform(-0.5, 0.5), rng.uniform(0.1, 0.95)
        n = [R] * ka + [1.0] * (4 - ka)
        found = {
            arm: minimise(arm, n, Budget("frobenius", rho, s), aligned=True, seeds=2, max_steps=500).loss
            for arm in ("explicit", "deq")
        }
        lower, same = step_optimum(ka, 4 - ka, R, rho * s).loss, step_optimum(ka, 4 - ka, R, s).loss
        assert found["explicit"] >= lower * (1 - 1e-9)
        assert lower > same
        assert found["deq"] <= same * (1 + 1e-6)


def test_no_feasible_point_breaks_the_chain():
    rng = np.random.default_rng(8)
    for _ in range(150):
        ka, kb, d = (int(x) for x in (*rng.integers(1, 4, 2), 6))
        k, R, s, rho = ka + kb, 10 ** rng.uniform(0, 2), 10 ** rng.uniform(-0.5, 0.5), rng.uniform(0.1, 0.95)
        o = step_optimum(ka, kb, R, s)
        # Near the optimum of the explicit arm, and at random: W, H0 inside their balls, ||V||_2 <= rho.
        u, sv, vt = np.linalg.svd(o.logits())
        noise = 10 ** rng.uniform(-3, 1)
        W = np.pad(u * np.sqrt(sv), ((0, 0), (0, d - k))) + noise * rng.normal(size=(k, d))
        H = np.pad(np.sqrt(sv)[:, None] * vt, ((0, d - k), (0, 0))) + noise * rng.normal(size=(d, k))
        V = np.eye(d) + noise * rng.normal(size=(d, d))
        W, H, V = (
            W * math.sqrt(k * s) / np.linalg.norm(W),
            H * math.sqrt(k * s) / np.linalg.norm(H),
            V * rho / np.linalg.norm(V, 2),
        )
        pi = np.array([R] * ka + [1.0] * kb) / (ka * R + kb)
        for arm in ARMS:
            least = step_optimum(ka, kb, R, arm_scale(arm, s, rho)).loss
            assert cross_entropy(W @ effective(arm, V) @ H, pi) >= least * (1 - 1e-9)


def test_decay_without_an_arm_is_the_closed_form():
    budget = Budget("decay", 0.5, decay_weights=5e-3, decay_features=1e-3, decay_arm=1e-2)
    assert minimise("lpm", [5] * 4, budget, aligned=True).loss == pytest.approx(
        balanced_weight_decay(4, 5, 5e-3, 1e-3).loss, abs=1e-12
    )


def test_decay_regimes():
    # Weight decay 3e-3 on all of W, H0 and V, (2, 2) classes of 20 R and 20: who is lower depends on the gain.
    def loss(arm, gain, R=20.0):
        budget = Budget("decay", gain, decay_weights=3e-3, decay_features=3e-3, decay_arm=3e-3)
        return minimise(arm, [20 * R] * 2 + [20] * 2, budget, aligned=True, seeds=8).loss

    assert loss("deq", 0.9) < loss("explicit", 0.9) < loss("deq", 0.5)


def test_phase_maps_equal_the_points_they_are_made_of():
    R, s = np.array([1.0, 10.0, 300.0]), np.array([0.2, 1.0, 4.0])
    maps, o = duality_map(3, 4, R, s), optimum_map(3, 4, R, s)
    for i, j in np.ndindex(3, 3):
        one = step_optimum(3, 4, R[i], s[j])
        assert o.loss[i, j] == pytest.approx(one.loss, rel=1e-13)
        u, sv, vt = np.linalg.svd(one.logits())
        W, M = u * np.sqrt(sv), vt.T * np.sqrt(sv)
        Mc = M - M.mean(axis=0)
        assert maps["nc2_weights"][i, j] == pytest.approx(nc2(W @ W.T), abs=1e-7)
        assert maps["nc2_means"][i, j] == pytest.approx(nc2(Mc @ Mc.T), abs=1e-7)
        assert maps["nc3"][i, j] == pytest.approx(nc3(W, M), abs=1e-7)
    curves = cosine_curves(5, 5, np.array([10.0, 100.0]), S5, 0.5)
    assert math.isnan(curves["explicit"][0])  # s = sqrt(5)/2 is below the vanishing scale: W_B = 0
    assert curves["deq"][1] < curves["residual"][1]
    R0 = threshold_map("deq", 5, 5, np.array([0.5]), np.array([S5]))
    assert R0[0, 0] == pytest.approx(math.log10(1290.536884150), abs=1e-11)


def test_frobenius_map_equals_single_minima():
    m = frobenius_map("deq", 4, np.array([0.3, 0.9]), np.array([1.0]), seeds=8)
    assert m.loss[1, 0] == pytest.approx(0.123905672692, abs=1e-9) and m.rank[1, 0] == 2
    # Below some gain the ETF is optimal: its loss at the amplified scale.
    assert m.rank[0, 0] == 3 and m.nc2_weights[0, 0] == pytest.approx(0.0, abs=1e-5)
    assert m.loss[0, 0] == pytest.approx(balanced_optimum(4, 3 / budget_spent("deq", [1.0] * 3, 0.3)), abs=1e-9)
    assert np.all((0 < m.agreeing) & (m.agreeing <= 1))


def test_geometry_guards():
    assert math.isnan(nc2(np.zeros((3, 3)))) and math.isnan(nc3(np.zeros((3, 2)), np.ones((3, 2))))
    W = np.array([[1.0, 0.0], [-1.0, 0.0], [1e-9, 0.0], [0.0, 1e-9]])
    cos = block_cosines(W @ W.T, np.array([True, True, False, False]))
    assert cos["majority"] == -1.0 and math.isnan(cos["minority"]) and math.isnan(cos["cross"])


@pytest.mark.other_types
@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: arm_scale("dec", 1.0, 0.5), "arm: expected one of explicit, residual, deq, got 'dec'"),
        (lambda: arm_scale("deq", 1.0, 1.0), r"gain: expected a number in \[0, 1\), got 1.0"),
        (lambda: arm_scale("deq", 0.0, 0.5), "scale: expected a finite number > 0"),
        (lambda: Budget("nuclear", 0.5, 1.0), "budget.kind: expected one of spectral, frobenius, decay"),
        (lambda: Budget("frobenius", 1.2, 1.0), "gain: expected"),
        (lambda: Budget("frobenius", 0.5), "scale: expected"),
        (lambda: Budget("decay", 0.5, decay_weights=1e-3), "budget.decay_features: expected a number > 0"),
        (lambda: minimise("deq", [1, 1, 0], Budget("spectral", 0.5, 1.0)), "counts: expected every count > 0"),
        (lambda: minimise("deq", [1, 1, 1], Budget("spectral", 0.5, 1.0), dim=1), "dim: expected d >= K - 1 = 2"),
        (lambda: minimise("deq", [1, 1], Budget("spectral", 0.5, 1.0), seeds=0), "seeds: expected an integer >= 1"),
        (lambda: budget_spent("explicit", [1.0], 0.0), "gain: expected a number in"),
    ],
)
def test_bad_input_says_expected_came_and_next_move(call, says):
    with pytest.raises(ValueError, match=says):
        call()
