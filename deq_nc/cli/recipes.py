"""Recipes by name, options on top of them, and paths as people write them."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import runpy
import traceback
from pathlib import Path
from typing import Any, TypeVar

import tyro

from deq_nc.config import ConfigError, Experiment

T = TypeVar("T")


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    import deq_nc.recipes

    names = (module.name for module in pkgutil.iter_modules(deq_nc.recipes.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load_recipe(name: str) -> Experiment:
    """The `experiment` of a shipped recipe, or of a file of the user's, whose name then labels the runs.

    Raises ConfigError listing the known ones, or with the file and what is wrong with it.
    """
    if name in recipes():
        return importlib.import_module(f"deq_nc.recipes.{name}").experiment
    if not name.endswith(".py"):
        raise ConfigError(f"recipe: expected a file that ends in .py, or one of {', '.join(recipes())}, got {name!r}.")
    path = expand_path(Path(name), "recipe")
    if path.stem in recipes():
        raise ConfigError(f"recipe {name}: {path.stem} is a shipped recipe, and runs are named by it. Rename the file.")
    return dataclasses.replace(_experiment_of(path), recipe=path.stem)


def _experiment_of(path: Path) -> Experiment:
    if not path.is_file():
        raise ConfigError(f"recipe {path}: no such file. Shipped recipes: {', '.join(recipes())}.")
    try:
        found = runpy.run_path(str(path), run_name=path.stem).get("experiment")
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {error}") from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f", line {line}" if line else ""
        raise ConfigError(f"recipe {path}{where}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Experiment):
        came = "nothing of that name" if found is None else type(found).__name__
        raise ConfigError(
            f"recipe {path}: expected `experiment`, a deq_nc.config.Experiment, got {came}. "
            "Write: experiment = Experiment(...)"
        )
    return found


def recipe_of(arguments: list[str], command: str) -> tuple[Experiment, list[str]]:
    """The recipe that comes first, and the options after it."""
    if arguments and arguments[0] in ("-h", "--help"):
        return Experiment(), arguments
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(f"deq-nc {command}: expected a recipe first: a .py file, or one of {', '.join(recipes())}.")
    return load_recipe(arguments[0]), arguments[1:]


def parse_options(kind: type[T], default: T, arguments: list[str], prog: str) -> T:
    """Options on top of `default`. Exits with code 2 on a bad value (tyro's way), ConfigError for an unknown option."""
    options, unknown = tyro.cli(kind, default=default, args=arguments, prog=prog, return_unknown_args=True)
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}. Known options: {', '.join(_names(default))}.")
    return options


def parse_experiment(default: Experiment, arguments: list[str], prog: str) -> Experiment:
    """Overrides on a recipe; `~` in its paths is the home folder."""
    return at_home(parse_options(Experiment, default, arguments, prog))


def check_data(experiment: Experiment) -> None:
    """Missing data is said before the slow imports of training."""
    from deq_nc.data import load

    load(experiment.data)


def at_home(experiment: Experiment) -> Experiment:
    """`experiment` with `~` in its paths expanded."""
    data = experiment.data
    if data.dir is not None:
        data = dataclasses.replace(data, dir=expand(data.dir, "--data.dir"))
    workdir = None if experiment.workdir is None else expand(experiment.workdir, "--workdir")
    return dataclasses.replace(experiment, data=data, workdir=workdir)


def expand(path: str, option: str) -> str:
    """`~` and `~name` as home folders: a shell leaves them alone in `--workdir=~/x`."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ConfigError(f"{option}: expected a path, got {path!r}, whose home folder is not known. Spell it out.")
    return expanded


def expand_path(path: Path, option: str) -> Path:
    return Path(expand(str(path), option))


def _names(config: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += _names(value, "" if isinstance(value, Experiment) else f"{prefix}{field.name}.")
        else:
            names.append(f"--{prefix}{field.name}".replace("_", "-"))
    return names
