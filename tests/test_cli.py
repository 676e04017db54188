"""The command line as a person meets it: what works, and what a mistake is answered with."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import deq_nc.cli
from deq_nc.cli import load_recipe, main, recipes
from deq_nc.cli.recipes import parse_experiment
from deq_nc.cli.terminal import say_error
from deq_nc.config import ConfigError, DataConfig, Experiment, UserError
from deq_nc.data import DataError
from deq_nc.runs import Held, Lock, RunFolder
from deq_nc.training import TrainingError
from deq_nc.training.mesh import data_mesh


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
        (["train", "digits", "--seed", "2147483648"], ["seed", "below 2^31"]),
        (["train", "digits", "--train.epochs", "2.5"], ["2.5"]),
        (["train", "digits", "--train.learning-rate", "nan"], ["train.learning_rate", "finite", "nan"]),
        (["train", "digits", "--recipe", "../up"], ["recipe", "../up", "letters"]),
        (["train", "digits", "--recipe", "mine.py"], ["comes first on the command line: deq-nc train mine.py"]),
        (["train", "no_such.py"], ["no_such.py", "no such file", "digits"]),
        (["train", "digits", "--workdir=~nobody_of_this_name/x"], ["--workdir", "home folder"]),
        (["sweep", "digits", "--arm", "deq"], ["--arms deq explicit"]),
        (["sweep", "digits", "--seed=3"], ["--seeds 3"]),
        (["sweep", "digits", "--arms"], ["--arms", "at least one"]),
        (["sweep", "digits", "--grid", "--ratios", "10", "10.0000001"], ["two runs", "R10/deq-seed0"]),
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

    module = importlib.import_module(f"deq_nc.recipes.{name}")
    assert load_recipe(name).recipe == name
    assert "make train-balanced" in module.__doc__ and f"RECIPE={name}" in module.__doc__ or name == "digits"


def write_recipe(folder, text, name="mine.py"):
    (folder / name).write_text("from deq_nc.config import DataConfig, Experiment\n" + text)
    return str(folder / name)


def test_a_recipe_is_a_file_of_the_users(capsys, tmp_path):
    path = write_recipe(tmp_path, "experiment = Experiment(seed=7, data=DataConfig(name='synthetic'))")
    assert load_recipe(path) == Experiment(recipe="mine", seed=7, data=DataConfig(name="synthetic"))
    assert main(["data", "show", path]) == 0
    assert "synthetic" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, name, words",
    [
        ("x = 1", "mine.py", ["expected `experiment`", "nothing of that name"]),
        ("experiment = {'seed': 1}", "mine.py", ["got dict", "experiment = Experiment(...)"]),
        ("\nimport no_such_module", "mine.py", ["line 3: ModuleNotFoundError: No module named"]),
        ("experiment = (", "mine.py", ["line 2: SyntaxError"]),
        ("raise SystemExit(0)", "mine.py", ["line 2: SystemExit"]),
        ("experiment = Experiment(seed=-1)", "mine.py", ["seed: expected an integer >= 0, got -1"]),
        ("experiment = Experiment()", "digits.py", ["digits is a shipped recipe", "Rename the file"]),
        ("experiment = Experiment()", "a b.py", ["recipe: expected at most 100 letters", "'a b'"]),
    ],
)
def test_a_recipe_that_is_none_is_said_with_its_file_and_the_reason(capsys, tmp_path, text, name, words):
    path = write_recipe(tmp_path, text, name)
    message = refused(capsys, "train", path)
    for word in (path if "at most" not in words[0] else "", *words):
        assert word in message, message


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
    one = data_mesh(jax.devices()[:1])  # eight would take twice as long to compile for
    monkeypatch.setattr("deq_nc.training.loop.data_mesh", lambda devices: one)
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


@pytest.mark.parametrize("error, code", [(ConfigError, 2), (DataError, 2), (TrainingError, 1), (Held, 3)])
def test_errors_of_the_user_end_with_their_sentence_and_code_whatever_the_command(monkeypatch, capsys, error, code):
    assert issubclass(error, UserError)

    def command(arguments):
        raise error("a \x1b[31msentence\nof two lines")

    for name in deq_nc.cli.COMMANDS:
        monkeypatch.setitem(deq_nc.cli.COMMANDS, name, command)
        assert main([name]) == code
        assert capsys.readouterr().err == "error: a \\x1b[31msentence\nof two lines\n"


@pytest.mark.parametrize(
    "error, code, said",
    [
        (OSError(28, "No space left on device", "out/x"), 1, "out/x: No space left on device"),
        (PermissionError(13, "Permission denied", "out"), 1, "out: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "in"), 1, "in: No such file"),
        (KeyboardInterrupt(), 1, "interrupted"),
    ],
)
def test_errors_of_the_system_end_with_a_sentence(monkeypatch, capsys, error, code, said):
    def command(arguments):
        raise error

    monkeypatch.setitem(deq_nc.cli.COMMANDS, "train", command)
    assert main(["train"]) == code and capsys.readouterr().err.startswith(f"error: {said}")


def test_a_mistake_of_ours_in_training_shows_where(monkeypatch):
    def command(arguments):
        raise ValueError("shapes")

    monkeypatch.setitem(deq_nc.cli.COMMANDS, "train", command)
    with pytest.raises(ValueError, match="shapes"):
        main(["train"])


def test_home_is_meant_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/some/home")
    experiment = parse_experiment(Experiment(), ["--workdir=~/x", "--data.dir", "~"], "test")
    assert experiment.workdir == "/some/home/x" and experiment.data.dir == "/some/home"


def test_fresh_keeps_the_earlier_run_under_another_name(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("deq_nc.training.train", lambda experiment, wait: begun.append((experiment.arm, wait)))
    folder = RunFolder(tmp_path / "run")
    command = ["train", "digits", "--arm", "explicit", "--workdir", str(folder.path), "--fresh"]
    assert main(command) == 0 and not (tmp_path / "run-old-1").exists()  # nothing to keep
    for number in (1, 2):
        folder.claim(Experiment())
        assert main([*command, "--wait"]) == 0 and not folder.path.exists()
        assert [path.name for path in (tmp_path / f"run-old-{number}").iterdir()] == ["config.json"]
    assert begun == [("explicit", False), ("explicit", True), ("explicit", True)]


def test_hints_speak_the_language_of_make_under_make(monkeypatch, capsys):
    message = "Choose another --workdir, or raise --train.warmup-epochs."
    monkeypatch.setenv("MAKELEVEL", "1")
    say_error(message)
    assert 'With make, --workdir is WORKDIR=, other options go into ARGS="--train' in capsys.readouterr().err
    monkeypatch.delenv("MAKELEVEL")
    say_error(message)
    assert "WORKDIR" not in capsys.readouterr().err


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    """A line of bash in which `d` is deq-nc."""
    line = f'd() {{ "{sys.executable}" -m deq_nc "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", line], env=os.environ | environment, capture_output=True, text=True)


def test_versions_are_said_before_anything_slow_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, deq_nc.cli as c; c.main(['--version']); assert 'jax' not in sys.modules"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith("deq-nc ") and "jax 0." in done.stdout


def test_a_terminal_that_lacks_letters_a_reader_that_leaves_and_closed_streams_leave_no_traceback():
    spelled = shell("d 'no±\x1b'", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")
    assert spelled.returncode == 2 and "unknown command 'no+-" in spelled.stderr
    left = shell("set -o pipefail; { sleep 1; d --help; } | true")
    assert (left.returncode, left.stdout, left.stderr) == (1, "", "")
    assert shell("d --version >&- 2>&-").returncode == 0
    full = shell("d --version > /dev/full")
    assert full.returncode == 1 and full.stderr == "error: No space left on device\n"
    few = shell("ulimit -n 20; d --version")
    assert few.returncode == 2 and "ulimit -n 256" in few.stderr and "Traceback" not in few.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_refuses_another_python_and_cleans_only_what_it_made(tmp_path):
    root = Path(deq_nc.cli.__file__).parents[2]
    (tmp_path / "Makefile").write_text((root / "Makefile").read_text())
    for name in ("runs/digits-balanced", "deq_nc/__pycache__", "experiments", "tests", ".venv/bin", ".pytest_cache"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    wrong = tmp_path / "python9"
    for version, words in (("3.9", "expected Python 3.11 to 3.13, got 3.9"), ("no", "cannot be run")):
        wrong.write_text(f"#!/bin/sh\n[ {version} != no ] && echo {version}\n")
        wrong.chmod(0o755)
        done = shell(f"make -C {tmp_path} setup PYTHON={wrong} EXTRAS=", PATH="/usr/bin:/bin")
        assert done.returncode == 2 and words in done.stderr, done
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.13"
    wrong.write_text(f"#!/bin/sh\necho {other}\n")
    done = shell(f"make -C {tmp_path} setup PYTHON={wrong} EXTRAS=")
    assert done.returncode == 2 and f"it is {other}, and .venv is of Python" in done.stderr, done
    assert shell(f"make -C {tmp_path} clean").returncode == 0
    assert not (tmp_path / ".venv").exists() and not (tmp_path / ".pytest_cache").exists()
    assert (tmp_path / "runs/digits-balanced").is_dir() and not any((tmp_path / "deq_nc").iterdir())


def test_runs_are_removed_only_after_a_yes_on_a_terminal(tmp_path, monkeypatch, capsys):
    from experiments.clean_runs import main as clean

    run, mine = tmp_path / "digits-balanced" / "deq-seed0", tmp_path / "notes" / "mine.txt"
    RunFolder(run).claim(Experiment())
    mine.parent.mkdir()
    mine.write_text("mine")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert clean([str(tmp_path)]) == 2 and run.exists() and str(run) in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code in (("y", 1), ("yes", 0)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert clean([str(tmp_path)]) == code and run.exists() == (code == 1)
    assert mine.exists() and not run.parent.exists()


def test_folders_of_strangers_are_not_offered(tmp_path, monkeypatch, capsys):
    from experiments.clean_runs import main as clean

    runs = [tmp_path / "digits-balanced" / name for name in ("deq-seed0", "deq-seed1", "deq-seed2")]
    for run in runs:
        RunFolder(run).claim(Experiment())
    (runs[1] / "thesis.tex").write_text("mine")
    (runs[2] / "report").mkdir()
    (runs[2] / "report" / "notes.txt").write_text("mine")
    theirs = tmp_path / "app" / "settings" / "config.json"
    theirs.parent.mkdir(parents=True)
    (tmp_path / "far").symlink_to(tmp_path / "digits-balanced")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    for text in ("{}", '{"arm": "deq", "volume": 11}', "not JSON"):
        theirs.write_text(text)
        assert clean([str(tmp_path)]) == 0 and theirs.exists()
    out = capsys.readouterr().out
    assert not runs[0].exists() and (runs[1] / "thesis.tex").exists() and (runs[2] / "report" / "notes.txt").exists()
    assert out.count("left alone") == 6 and str(theirs.parent) not in out


def test_a_run_that_begins_while_the_question_stands_is_not_removed(tmp_path, monkeypatch, capsys):
    from experiments.clean_runs import main as clean

    run = tmp_path / "digits-balanced" / "deq-seed0"
    RunFolder(run).claim(Experiment())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with contextlib.ExitStack() as stack:

        def answer(question):
            stack.enter_context(Lock(run))
            return "yes"

        monkeypatch.setattr("builtins.input", answer)
        assert clean([str(tmp_path)]) == 3 and (run / "config.json").exists()
    assert "in use by process" in capsys.readouterr().err
