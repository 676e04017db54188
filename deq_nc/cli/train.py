"""`deq-nc train`: one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deq_nc.cli.recipes import at_home, check_data, parse_options, recipe_of
from deq_nc.config import Experiment


@dataclass(frozen=True)
class TrainOptions:
    """One run: one arm, one seed. What is finished is left alone, what was interrupted goes on."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Experiment)
    wait: bool = False
    """Wait where another process is at work in the run's folder, instead of leaving with exit code 3."""
    fresh: bool = False
    """Start over: an earlier run's folder is renamed (FOLDER-old-1), never deleted."""


def train_command(arguments: list[str]) -> int:
    recipe, rest = recipe_of(arguments, "train")
    options = parse_options(TrainOptions, TrainOptions(recipe), rest, "deq-nc train RECIPE")
    experiment = at_home(options.experiment)
    check_data(experiment)
    from deq_nc.runs import folder_of
    from deq_nc.training import initialize_hosts, train

    initialize_hosts()
    if options.fresh:
        folder = folder_of(experiment)
        put_folders_aside([folder], options.wait)
    train(experiment, wait=options.wait)
    return 0


def put_folders_aside(folders: Sequence[Path], wait: bool) -> None:
    """No process looks at a folder before it has its new name."""
    from deq_nc.runs import put_aside
    from deq_nc.training import led

    led(lambda sleep: [put_aside(folder, wait, sleep) for folder in folders])
