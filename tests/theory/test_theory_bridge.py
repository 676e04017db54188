"""The bridge and the command: a run that is the optimum must read as the optimum, and a wrong one must not."""

import math

import numpy as np
import pytest

from deq_nc.cli.theory import TheoryOptions, run
from deq_nc.theory import ARMS, arm_scale, bridge, collapse_threshold, counts_optimum, step_optimum


def factors(Z, dim, e_w, e_h, seed=0):
    """W [K,d] and class means [K,d] with these per-class budgets and W M^T = Z up to scale, in a random basis."""
    u, s, vt = np.linalg.svd(Z)
    s, k = np.where(s > 1e-9 * s[0], s, 0.0), len(Z)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    W = np.pad(u * np.sqrt(s), ((0, 0), (0, dim - k))) @ q
    M = np.pad(vt.T * np.sqrt(s), ((0, 0), (0, dim - k))) @ q
    return W * math.sqrt(k * e_w) / np.linalg.norm(W), M * math.sqrt(k * e_h) / np.linalg.norm(M)


def test_the_balanced_optimum_is_recognised_whatever_the_offset():
    k, e_w, e_h = 10, 4.0, 9.0
    W, M = factors(np.eye(k) - 1 / k, 16, e_w, e_h)
    offset = np.linspace(-3, 3, 16)
    feature_norm = e_h + float(offset @ offset)  # the means sum to zero
    bias = 2.0 - (W + 0.7) @ offset  # what a trained bias does with a common offset
    b = bridge(W + 0.7, M + offset, feature_norm, [50] * k, arm="deq", bias=bias, amplification=4.0)
    assert b.scale == pytest.approx(6.0, rel=1e-12)
    assert b.gain == pytest.approx(0.75) and b.scale_before_arm == pytest.approx(1.5)
    assert b.threshold is None and b.majority.all()
    table = b.as_dict()
    for name in ("W: norm, all", "means: norm, all", "W: cosine, majority", "means: cosine, majority"):
        assert table[name]["measured"] == pytest.approx(table[name]["predicted"], rel=1e-9)
    assert table["W: cosine, majority"]["predicted"] == pytest.approx(-1 / 9)
    assert table["W: cosine, minority"] == {"measured": None, "predicted": None}
    for name in ("W: distance to this prediction", "means: distance to the ETF", "self-duality NC3"):
        assert table[name]["measured"] == pytest.approx(0.0, abs=1e-7)
    assert table["share of the norm budget in the logits of the class means"]["measured"] == pytest.approx(1.0)


def test_the_step_optimum_is_recognised_in_any_class_order():
    exact = step_optimum(2, 3, 20.0, 1.9)
    Z, order = exact.logits(), np.array([4, 0, 3, 1, 2])  # minority, majority, minority, majority, minority
    W, M = factors(Z[np.ix_(order, order)], 8, 1.9, 1.9)
    # An offset outside the span of W is invisible; the optimum's own mean feature, inside it, is part of its budget.
    _, _, basis = np.linalg.svd(W)
    offset = 5.0 * basis[-1]
    counts = np.array([400, 400, 20, 20, 20])[order]
    b = bridge(W, M + offset, 1.9 + 25.0, counts, arm="explicit", train_loss=exact.loss)
    assert b.ratio == 20.0 and b.threshold == pytest.approx(collapse_threshold(2, 3, b.scale))
    assert b.majority.tolist() == [False, True, False, True, False]
    table = b.as_dict()
    assert b.scale == pytest.approx(1.9) and table["train loss"]["measured"] == pytest.approx(
        table["train loss"]["predicted"]
    )
    for block in ("majority", "cross", "minority"):
        for side in ("W", "means"):
            row = table[f"{side}: cosine, {block}"]
            assert row["measured"] == pytest.approx(row["predicted"], abs=1e-9)
    assert table["self-duality NC3"]["measured"] == pytest.approx(table["self-duality NC3"]["predicted"], abs=1e-7)
    assert table["W: distance to this prediction"]["measured"] < 1e-7 < table["W: distance to the ETF"]["measured"]


def test_a_long_tail_and_an_unrolled_arm():
    n = [90, 30, 10, 5]
    W, M = factors(counts_optimum(n, 1.2).logits, 6, 1.2, 1.2)
    b = bridge(W, M, 1.2, n, arm="unrolled", amplification=2.0)
    assert b.gain is None and b.scale_before_arm == pytest.approx(0.6) and b.threshold is None
    assert b.as_dict()["W: distance to this prediction"]["measured"] < 1e-2  # two solves, each to a gap of 1e-6
    assert b.majority.tolist() == [True, True, False, False]


def test_natural_variation_of_counts_is_one_group():
    n = [52, 50, 49, 55]
    W, M = factors(counts_optimum(n, 1.2).logits, 6, 1.2, 1.2)
    b = bridge(W, M, 1.2, n, arm="deq")
    assert b.majority.all() and b.threshold is None and b.ratio == pytest.approx(55 / 49)
    assert b.as_dict()["W: cosine, majority"]["measured"] == pytest.approx(-1 / 3, abs=5e-3)


def test_a_collapsed_run_does_not_read_as_the_prediction():
    exact = step_optimum(3, 3, 2.0, 3.0)
    W, M = factors(exact.logits(), 8, 3.0, 3.0)
    W[3:] = W[3:].mean(axis=0)
    row = bridge(W, M, 3.0, [20] * 3 + [10] * 3, arm="deq").as_dict()["W: cosine, minority"]
    assert row["measured"] == pytest.approx(1.0) and row["predicted"] < 0.0


def test_gain_of_the_amplification_inverts_arm_scale():
    W, M = factors(np.eye(3) - 1 / 3, 4, 1.0, 1.0)
    for arm in ARMS:
        b = bridge(W, M, 1.0, [1, 1, 1], arm=arm, amplification=arm_scale(arm, 1.0, 0.35))
        assert b.gain == pytest.approx(0.35)
    assert bridge(W, M, 1.0, [1, 1, 1], arm="explicit", amplification=3.0).gain is None


@pytest.mark.parametrize(
    "change, says",
    [
        ({"weights": np.ones((4, 4))}, r"weights: expected shape \[K=3, D\], got \(4, 4\)"),
        ({"means": np.ones((3, 5))}, "means: expected the shape of weights"),
        ({"means": np.full((3, 4), np.nan)}, "means: expected finite numbers"),
        ({"feature_norm": 0.5}, "feature_norm: expected a number >= 1"),
        ({"bias": np.ones(4)}, r"bias: expected shape \[K=3\], got \(4,\)"),
        ({"counts": [5, 0, 5]}, "counts: expected every count > 0"),
        ({"weights": np.eye(3)[:, :1], "means": np.eye(3)[:, :1]}, "dim: expected d >= K - 1 = 2, got 1.*NC2 stays >="),
        ({"arm": "linear"}, "arm: expected one of explicit, residual, deq, unrolled, got 'linear'"),
        ({"amplification": -1.0}, "amplification: expected a finite number > 0"),
        ({"weights": np.ones((3, 4))}, "weights, feature_norm: expected non-zero after centring"),
    ],
)
def test_bad_input_says_expected_came_and_next_move(change, says):
    W, M = factors(np.eye(3) - 1 / 3, 4, 1.0, 1.0)
    good = {"weights": W, "means": M, "feature_norm": 1.0, "counts": [5, 5, 5], "arm": "deq"}
    with pytest.raises(ValueError, match=says):
        bridge(**(good | change))


def test_command_prints_the_numbers_of_the_functions(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # the narrowest terminal: nothing may be cut
    run(TheoryOptions(gain=0.5))
    text = capsys.readouterr().out
    for want in ("0.2616770386", "0.7329212991", "0.0342950537", "1290.54", "vanished", "apart"):
        assert want in text
    run(TheoryOptions(counts=(100, 30, 10), scale=1.0, arm="deq"))
    assert f"{counts_optimum((100, 30, 10), 2.0).loss:.8g}" in capsys.readouterr().out
    run(TheoryOptions(minority=1))
    assert "R0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, says",
    [
        (TheoryOptions(gain=1.0), "gain: expected a number in"),
        (TheoryOptions(gain=0.0), "gain: expected a number in .* for the explicit arm"),
        (TheoryOptions(scale=0.0), "scale: expected a finite number > 0"),
        (TheoryOptions(minority=0), "minority: expected an integer >= 1"),
        (TheoryOptions(dim=4), "dim: expected d >= K - 1 = 9"),
        (TheoryOptions(counts=(5, 0)), "counts: expected every count > 0"),
    ],
)
def test_command_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        run(options)
