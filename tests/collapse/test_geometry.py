"""Target Grams against their definitions and known numbers; distances to them."""

import numpy as np
import pytest

from deq_nc.collapse import (
    centre_gram,
    gof,
    gram_distance,
    gram_distance_blocks,
    measure,
    orthogonal_frame,
    seli,
    simplex_etf,
)


def cosines(gram):
    norm = np.sqrt(np.diag(gram))
    return gram / np.outer(norm, norm)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_simplex_etf(k):
    gram = np.asarray(simplex_etf(k))
    np.testing.assert_allclose(cosines(gram), np.where(np.eye(k), 1, -1 / (k - 1)), atol=1e-6)
    assert np.linalg.norm(gram) == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(gram @ np.ones(k), 0, atol=1e-6)
    assert float(gram_distance(centre_gram(orthogonal_frame(k)), gram)) <= 1e-6
    with pytest.raises(ValueError, match="at least 2, got 1"):
        simplex_etf(1)


def test_seli_known_values():
    """Five majority and five minority classes, ratio 10: cosines and norms from high-precision arithmetic."""
    w, _ = map(np.asarray, seli(np.r_[[10.0] * 5, [1.0] * 5]))
    c = cosines(w)
    assert c[0, 1] == pytest.approx(-0.1439527425, abs=1e-6)
    assert c[0, 9] == pytest.approx(-0.1386806204, abs=1e-6)
    assert c[8, 9] == pytest.approx(0.0333688684, abs=1e-6)
    assert np.sqrt(w[0, 0] / w[9, 9]) == pytest.approx(1.6346559030, rel=1e-6)
    for gram in seli(np.full(10, 7)):
        np.testing.assert_allclose(cosines(np.asarray(gram)), np.where(np.eye(10), 1, -1 / 9), atol=1e-6)


@pytest.mark.parametrize("counts", [[3, 1, 8], [100, 1, 1, 1, 50, 7]])
def test_seli_is_the_svd_of_the_label_matrix(counts):
    """Definition: Z = Y - 1/K = V L U^T over all samples, G_W = V L V^T, means of U L U^T within each class."""
    k = len(counts)
    y = np.repeat(np.arange(k), counts)
    z = np.eye(k)[:, y] - 1 / k
    v, s, ut = np.linalg.svd(z, full_matrices=False)
    s, v, ut = s[: k - 1], v[:, : k - 1], ut[: k - 1]
    means = np.stack([(np.sqrt(s)[:, None] * ut)[:, y == c].mean(1) for c in range(k)])
    w, h = map(np.asarray, seli(np.array(counts)))
    np.testing.assert_allclose(w, v * s @ v.T, atol=2e-5)
    np.testing.assert_allclose(h, means @ means.T, atol=2e-5)


def test_gof_is_the_optimum_of_the_ridge_problem():
    """Its product W H is the soft-thresholded label matrix (the nuclear-norm relaxation), its lengths balance."""
    counts, lw, lh = np.array([50, 20, 5, 1]), 2e-3, 4e-4
    n = counts.sum()
    w, h = map(np.asarray, gof(counts, lw, lh))
    soft = np.maximum(np.sqrt(counts) - n * np.sqrt(lw * lh), 0)
    np.testing.assert_allclose(np.sqrt(np.diag(w) * np.diag(h) * counts), soft, rtol=1e-5)
    np.testing.assert_allclose(lw * np.diag(w), lh * counts * np.diag(h), rtol=1e-5)
    assert np.diag(gof(np.array([50, 1]), 2e-2, 4e-2)[0])[1] == 0  # n_k <= N^2 l_W l_H: the class vanishes
    w, h = gof(np.full(4, 9), lw, lh)
    assert float(gram_distance(w, orthogonal_frame(4))) <= 1e-6


def test_distances_by_block_add_up():
    rng = np.random.default_rng(0)
    a, b = (x @ x.T for x in rng.standard_normal((2, 6, 9)).astype(np.float32))
    majority = np.arange(6) < 2
    d = gram_distance_blocks(a, b, majority)
    assert float(d.total) == pytest.approx(float(gram_distance(a, b)), rel=1e-6)
    gap = a / np.linalg.norm(a) - b / np.linalg.norm(b)
    assert float(d.majority) == pytest.approx(np.linalg.norm(gap[:2, :2]), rel=1e-5)
    assert float(d.minority) == pytest.approx(np.linalg.norm(gap[2:, 2:]), rel=1e-5)
    assert float(d.total) ** 2 == pytest.approx(sum(float(x) ** 2 for x in d[1:]), rel=1e-5)
    assert float(gram_distance(a, 5 * a)) <= 1e-6
    assert float(gram_distance(np.zeros((6, 6), np.float32), a)) == pytest.approx(1, rel=1e-6)  # nothing has no shape


def test_measured_grams_meet_the_seli_they_were_made_from():
    counts = np.array([40, 40, 10, 10])
    grams = [np.asarray(g, float) for g in seli(counts)]
    values = [np.linalg.eigh(g) for g in grams]
    w, h = (v * np.sqrt(np.maximum(s, 0)) for s, v in values)
    y = np.repeat(np.arange(4), counts)
    c = measure(h[y].astype(np.float32), y, w.astype(np.float32), num_classes=4)
    assert float(gram_distance(c.gram_weights, seli(counts)[0])) <= 1e-5
    assert float(gram_distance(c.gram_means, centre_gram(seli(counts)[1]))) <= 1e-5
    assert float(c.nc2_weights) > 0.05
