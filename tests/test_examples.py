"""The examples run as their docstrings say, and what they print means something."""

import dataclasses
import json
import re
import runpy
from pathlib import Path

import jax

from deq_nc.cli import load_recipe
from deq_nc.training import train

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = r"(\d[\d.]*(?:e[-+]\d+)?)"


def printed(capsys, name) -> list[str]:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def numbers(line, *names) -> list[float]:
    """What stands after each name."""
    return [float(re.search(rf"{name} {NUMBER}", line)[1]) for name in names]


def test_own_cell(capsys):
    first, last = printed(capsys, "own_cell.py")
    for line in (first, last):
        residual, adjoint, converged = numbers(line, "residual", "adjoint", "converged")
        assert 0 < residual <= 1e-4 and 0 < adjoint <= 1e-3 and converged == int(line.split()[-1])
    loss, accuracy, nc1 = numbers(last, "loss", "accuracy", "NC1")
    assert loss < 0.05 and accuracy == 1 and nc1 < 1 < 20 < numbers(first, "NC1")[0]


def check_features(lines):
    before, after = (numbers(line, "accuracy", "NC1", "NC3", "NC4") for line in lines[1:])
    assert after[0] == 1 and after[1] < before[1] / 2 and after[2] < 0.5 < 1 < before[2] and after[3] == 0 < before[3]


def test_own_features(capsys):
    lines = printed(capsys, "own_features.py")
    assert lines[0] in ("network of NumPy", "network of PyTorch")
    check_features(lines)


def test_own_recipe(tmp_path):
    experiment = dataclasses.replace(load_recipe(str(EXAMPLES / "own_recipe.py")), workdir=str(tmp_path / "run"))
    assert experiment.recipe == "own_recipe"
    folder, status = train(experiment, devices=jax.devices()[:1], quiet=True)
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    assert status == "finished" and last["epoch"] == experiment.train.epochs
    assert min(last["train_accuracy"], last["test_accuracy"]) >= 0.98
    assert last["unconverged"] == 0 < last["solver_residual"] <= experiment.solver.tol


def test_every_example_says_how_it_is_run():
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text()
        assert f"examples/{path.name}" in text and "\nCost: " in text and "Expect" in text, path
        assert f"test_{path.stem}" in globals(), f"{path} is run by no test"
