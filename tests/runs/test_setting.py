"""The name of a setting is written and read in one place."""

from pathlib import Path

import pytest

from deq_nc.config import DataConfig, Experiment
from deq_nc.runs import Setting, default_workdir, place


@pytest.mark.parametrize(
    "setting",
    [Setting("none"), Setting("step", 3, 10.0), Setting("step", 7, 2.5), Setting("longtail", None, 1e6),
     Setting("longtail", None, 1e20)],
)  # fmt: skip
def test_a_name_is_read_as_it_was_written(setting):
    assert Setting.parse(setting.name) == setting == Setting.parse(f"my-recipe-{setting.name}")


def test_no_setting_is_read_into_other_names():
    for name in ("", "digits", "step-KA3", "step-KAx-R10", "longtail-R", "unbalanced", "step-KA3-R10-old-1"):
        assert Setting.parse(name) is None


def test_the_folder_of_a_run_says_what_it_holds():
    data = DataConfig(imbalance="step", majority=3, ratio=100 / 3)
    folder = default_workdir(Experiment(arm="residual", seed=12, data=data))
    assert folder == Path("runs/digits-step-KA3-R33.3333/residual-seed12")
    assert place(folder) == (Setting.of({"imbalance": "step", "majority": 3, "ratio": 100 / 3}), "residual", 12)
    assert place(folder.with_name("residual")) is None and place(folder.parent) is None
