"""The command line: `deq-nc train | sweep | report | measure | data | theory`.

Each command parses its options with tyro, checks them, and only then imports what is slow. What a user can mend ends
with one message, never with a traceback. Exit codes: 0 done, or stopped by a signal and saved; 1 a run failed, or the
system let it down; 2 refused before any work; 3 another process is at work there.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata

from deq_nc import __version__
from deq_nc.cli.data import data_command
from deq_nc.cli.measure import measure_command
from deq_nc.cli.recipes import load_recipe, recipes
from deq_nc.cli.report import report_command
from deq_nc.cli.sweep import sweep_command
from deq_nc.cli.terminal import hush, prepare, say_error, system_error
from deq_nc.cli.theory import theory_command
from deq_nc.cli.train import train_command
from deq_nc.config import ConfigError, UserError

__all__ = ["load_recipe", "main", "recipes"]

USAGE = """usage: deq-nc COMMAND ...

  train RECIPE [OPTIONS]         one run: one arm, one seed (resumes where its folder exists)
  sweep RECIPE [OPTIONS]         arms x seeds of one setting, then the page that compares them
  report RUN [RUN ...]           tables, figures and one HTML page of finished or running runs
  measure RUN | FILE.npz         collapse numbers of a checkpoint, or of features, labels and weights
  data list | show | prepare     what is at hand; what a run would train on; download and prepare a TFDS set
  theory [OPTIONS]               optima and thresholds of the layer-peeled models

`deq-nc COMMAND --help` lists the options, `deq-nc --version` the versions. Recipes: {recipes}."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        prepare()
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return say_error(str(error), error.exit_code)
    except BrokenPipeError:
        hush()
        return 1
    except OSError as error:
        return say_error(system_error(error), 1)
    except KeyboardInterrupt:
        return say_error("interrupted. Checkpoints are kept; the same command goes on from the last.", 1)


def _run(arguments: list[str]) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its idle threads would spin on XLA's cores
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(recipes())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"deq-nc {__version__}, jax {metadata.version('jax')}, python {platform.python_version()}")
        return 0
    logging.basicConfig(format="%(message)s")
    logging.getLogger("deq_nc").setLevel(logging.INFO)
    name, *rest = arguments
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}. Known: {', '.join(COMMANDS)}.")
    try:
        return COMMANDS[name](rest) or 0
    except ValueError as error:
        if isinstance(error, UserError) or name in ("train", "sweep"):
            raise  # a plain ValueError out of training is our own mistake: show where
        return say_error(str(error), 2)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train_command,
    "sweep": sweep_command,
    "report": report_command,
    "measure": measure_command,
    "data": data_command,
    "theory": theory_command,
}
