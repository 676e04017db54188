"""Means, intervals, curves and cosines against closed forms."""

import math

import numpy as np
import pytest

from deq_nc.report import read
from deq_nc.report.figures.epochs import terminal_epoch
from deq_nc.report.figures.gram import cosines
from deq_nc.report.figures.style import ARM_STYLE
from deq_nc.report.tables.intervals import curve, interval
from deq_nc.report.tables.table import with_half

from .folders import make_run


def test_interval():
    assert interval([]) is None
    assert interval([2.0]).half is None
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.n) == (2.5, 4)
    assert found.half == pytest.approx(3.18245 * math.sqrt(5 / 3) / 2, rel=1e-5)  # t table, 3 degrees of freedom
    assert interval([0.1, 0.1, 0.1]).half == 0.0
    assert math.isnan(interval([1.0, math.nan]).mean)


@pytest.mark.parametrize(
    ("text", "half", "shown"),
    [
        ("0.9845", 0.00029, "0.9845 ± 0.0003"),
        ("4.1e-05", 3.7e-06, "(4.1 ± 0.4)e-05"),
        ("28,001", 1234.4, "28,001 ± 1,234"),
        ("0.203", 0.0001, "0.203 ± <0.001"),
        ("nan", math.nan, "nan"),
        ("40", 0.0, "40"),
        ("40", None, "40"),
    ],
)
def test_half_width_has_the_decimals_of_the_mean(text, half, shown):
    assert with_half(text, half) == shown


def test_curve_averages_each_epoch_over_the_seeds_that_have_it():
    histories = [
        [{"epoch": 1, "nc1": 1.0}, {"epoch": 2, "nc1": 4.0}],
        [{"epoch": 1, "nc1": 100.0}, {"epoch": 3, "nc1": None}],
        [{"epoch": 1, "nc1": 10.0}],
    ]
    found = curve(histories, "nc1", log=True)
    assert found.epochs.tolist() == [1, 2]
    np.testing.assert_allclose(found.mean, [10.0, 4.0], rtol=1e-12)  # geometric
    ratio = math.exp(4.30265 * math.log(10) / math.sqrt(3))
    np.testing.assert_allclose([found.low[0], found.high[0]], [10 / ratio, 10 * ratio], rtol=1e-4)
    assert math.isnan(found.low[1])  # one seed has no band
    assert curve(histories, "nc2_means") is None


def test_cosines_of_a_simplex_are_the_etf_value():
    k = 5
    gram = cosines(np.eye(k) + 7.0, centre=True)
    np.testing.assert_allclose(gram, (k * np.eye(k) - 1) / (k - 1), atol=1e-12)
    assert np.isnan(cosines(np.zeros((2, 3)))).all()


def test_terminal_epoch_of_unfinished_runs_comes_from_the_history(tmp_path):
    finished, unfinished = make_run(tmp_path, seed=0), make_run(tmp_path, seed=1, finished=False)
    runs = read([finished, unfinished]).all
    assert runs[0].terminal_epoch == runs[1].terminal_epoch == terminal_epoch(runs) == 27
    assert terminal_epoch(read([make_run(tmp_path, seed=2, finished=False, epochs=(1, 2))]).all) is None


def test_each_arm_has_a_look_of_its_own():
    for what in ("color", "linestyle", "marker"):
        assert len({str(style[what]) for style in ARM_STYLE.values()}) == len(ARM_STYLE)
