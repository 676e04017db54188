"""The command line as a person meets it: what works, and what a mistake is answered with."""

import json

import numpy as np
import pytest

from deq_nc.cli import load_recipe, main, recipes


def refused(capsys, *arguments) -> str:
    """The message of a command that must fail with exit code 2."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    assert code == 2, out
    return out.err + out.out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["fly"], ["unknown command", "train", "measure"]),
        (["train"], ["expected a recipe", "digits"]),
        (["train", "nothing"], ["digits", "cifar10"]),
        (["train", "digits", "--arm", "deqq"], ["deq", "explicit", "unrolled", "residual"]),
        (["train", "digits", "--epochs", "3"], ["--train.epochs"]),
        (["train", "digits", "--data.name", "mnist_of_nowhere"], ["digits", "prepare"]),
        (["train", "digits", "--train.loss", "hinge"], ["cross_entropy", "hinge"]),
        (["train", "digits", "--solver.tol", "0"], ["solver.tol", "> 0"]),
        (["train", "digits", "--solver.history", "1"], ["solver.history", ">= 2"]),
        (["train", "digits", "--data.imbalance", "step", "--data.majority", "11"], ["1 to 10", "11"]),
        (["train", "digits", "--data.imbalance", "step", "--data.ratio", "500"], ["without an image", "allow"]),
        (["train", "digits", "--train.batch-size", "9999"], ["1258", "9999"]),
        (["train", "digits", "--model.gain", "1.0"], ["model.gain", "(0, 1)"]),
        (["train", "digits", "--model.norm", "group", "--model.width", "12"], ["model.width", "multiple of 8"]),
        (["train", "digits", "--model.depth", "1000"], ["model.depth", "at most inner"]),
        (["sweep", "digits", "--seeds", "0"], ["--seeds", ">= 1"]),
        (["measure", "no_such.npz"], ["does not exist"]),
        (["report", "no_such_run"], ["no_such_run"]),
        (["data", "fly"], ["list, show or prepare"]),
    ],
)
def test_mistakes_are_answered_with_what_is_known(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    message = refused(capsys, *arguments)
    for word in words:
        assert word in message, message
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").rglob("history.jsonl"))


def test_help_lists_commands_and_recipes(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("train", "sweep", "report", "measure", "data", "theory", *recipes()):
        assert word in out


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid_and_documented(name):
    import importlib

    module = importlib.import_module(f"experiments.configs.{name}")
    assert load_recipe(name).recipe == name
    assert "make train-balanced" in module.__doc__ and f"RECIPE={name}" in module.__doc__ or name == "digits"


def test_measure_reads_a_file_from_anywhere(capsys, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    means = np.eye(3) - 1 / 3
    features = means[labels] + 0.01 * rng.normal(size=(60, 3))
    np.savez(tmp_path / "f.npz", features=features, labels=labels, weights=means)
    assert main(["measure", str(tmp_path / "f.npz"), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["nc4"] == 0 and 0 < numbers["nc1"] < 1e-2 and numbers["nc2_means"] < 0.02


def test_measure_refuses_pickles(capsys, tmp_path):
    np.savez(tmp_path / "p.npz", features=np.array([{}], dtype=object), labels=[0], weights=[[1.0]])
    assert "pickle" in refused(capsys, "measure", str(tmp_path / "p.npz"))


def test_data_show_prints_the_counts(capsys):
    assert main(["data", "show", "digits", "--data.imbalance", "step", "--data.ratio", "10"]) == 0
    out = capsys.readouterr().out
    assert "122" in out and "12" in out and "minority" in out


def test_a_shrunk_recipe_trains_both_arms_and_makes_the_page(capsys, tmp_path, monkeypatch):
    """The shipped digits recipe, three epochs of it, by the command of `make train-imbalanced`, one run at a time."""
    command = ["sweep", "digits", "--data.imbalance", "step", "--workdir", str(tmp_path), "--jobs", "1"]
    command += ["--train.epochs", "3", "--model.features", "16", "--model.inner", "16", "--model.width", "8"]
    assert main(command) == 0
    out = capsys.readouterr().out
    root = tmp_path / "digits-step-KA3-R10"
    assert f"page: {root / 'report' / 'index.html'}" in out.replace("\n", "")
    assert (root / "report" / "index.html").stat().st_size > 100_000
    figures = {path.stem for path in (root / "report" / "figures").glob("*.png")}
    assert {"accuracy", "collapse", "blocks", "solver", "along", "gram", "tsne", "per_class"} <= figures
    page = (root / "report" / "index.html").read_text()
    assert "Beside the layer-peeled optimum" in page and "Collapse by layer" in page
    for arm in ("deq", "explicit"):
        lines = (root / f"{arm}-seed0" / "history.jsonl").read_text().splitlines()
        first, last = json.loads(lines[0]), json.loads(lines[-1])
        assert last["epoch"] == 3 and last["train_loss"] < first["train_loss"]
        assert last["test_accuracy_minority"] is not None and last["cosine_minority_weights"] is not None
    assert main(command) == 0 and "2 of 2 runs done" in capsys.readouterr().out  # nothing is trained again
