"""What a configuration refuses at birth: each field by its type, each name that becomes a folder."""

import dataclasses
import math

import numpy as np
import pytest

from deq_nc.config import ConfigError, DataConfig, EquilibriumConfig, Experiment, ModelConfig, TrainConfig

PARTS = {"data": DataConfig, "model": ModelConfig, "solver": EquilibriumConfig, "train": TrainConfig}
FIELDS = [(part, field) for part, config in PARTS.items() for field in dataclasses.fields(config)]


@pytest.mark.parametrize("part, field", FIELDS, ids=lambda x: getattr(x, "name", x))
def test_no_field_takes_a_value_of_another_type(part, field):
    wrong = [[1], {}]
    if "int" in field.type:
        wrong += [2.5, True, "3", 2**31, math.nan]
    elif "float" in field.type:
        wrong += ["1", True, math.nan, math.inf, -math.inf, 1e39]
    elif field.type == "bool":
        wrong += [1, "True"]
    else:
        wrong += [1, 1.0, True]
    for value in wrong:
        with pytest.raises(ConfigError, match=rf"^{part}\.{field.name}: expected .*, got "):
            PARTS[part](**{field.name: value})


@pytest.mark.parametrize("seed", [2**31, -1, 0.5, "0", math.nan])
def test_a_seed_that_jax_cannot_take_is_refused_before_a_folder_is_claimed(seed):
    with pytest.raises(ConfigError, match="seed: expected an integer"):
        Experiment(seed=seed)
    for name in ("subset_seed", "order_seed"):
        with pytest.raises(ConfigError, match=f"data.{name}: expected an integer"):
            DataConfig(**{name: seed})
    assert Experiment(seed=2**31 - 1).seed == 2**31 - 1


@pytest.mark.parametrize("recipe", ["", "../up", "/etc/x", "a b", "a\n", "[red]", "x" * 101, "ä", 3])
def test_a_recipe_is_a_label_that_can_name_a_folder(recipe):
    with pytest.raises(ConfigError, match="^recipe: expected"):
        Experiment(recipe=recipe)
    assert Experiment(recipe="x" * 100) and Experiment(recipe="digits_paper.2-a")


def test_numbers_of_numpy_are_numbers_and_reach_the_file():
    train = TrainConfig(epochs=np.int64(3), learning_rate=np.float32(0.5))
    assert Experiment.from_json(Experiment(train=train).to_json()).train == TrainConfig(epochs=3, learning_rate=0.5)


@pytest.mark.parametrize("text", ['{"train": [1]}', '{"train": 3}', '{"seed": "0"}', '{"model": {"depth": "2"}}', "[]"])
def test_a_file_of_other_types_is_refused_by_name(text):
    with pytest.raises(ConfigError):
        Experiment.from_json(text)


def test_the_names_of_losses_cells_and_encoders_are_those_the_options_list():
    from typing import get_args

    from deq_nc.config import CellName, Encoder, Loss
    from deq_nc.losses import LOSSES
    from deq_nc.models import CELLS
    from deq_nc.models.encoders import ENCODERS

    assert set(LOSSES) == set(get_args(Loss))
    assert set(CELLS) == set(get_args(CellName))
    assert set(ENCODERS) == set(get_args(Encoder))
