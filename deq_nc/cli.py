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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import tyro

from deq_nc import __version__
from deq_nc.cli_recipes import expand_path, load_recipe, parse_experiment, recipe_of, recipes
from deq_nc.cli_runs import sweep_command, train_command
from deq_nc.config import ConfigError, UserError
from deq_nc.names import printable
from deq_nc.terminal import hush, prepare, system_error
from deq_nc.terminal import say_error as _fail

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
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        hush()
        return 1
    except OSError as error:
        return _fail(system_error(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted. Checkpoints are kept; the same command goes on from the last.", 1)


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
        return _fail(str(error), 2)


# -- Commands --------------------------------------------------------------------------------------------------------


def _sweep_command(arguments: list[str]) -> int:
    return sweep_command(arguments, _report, _fail)


@dataclass(frozen=True)
class ReportOptions:
    """Tables, figures and one self-contained page of the runs of one setting, or of a grid of settings."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    """Folder of the page; default RUN/report, `report` beside the runs, or RECIPE-grid beside the settings."""
    wait: bool = False
    """Wait where another report is writing that page, instead of leaving with exit code 3."""


def report_command(arguments: list[str]) -> int:
    options = tyro.cli(ReportOptions, args=arguments, prog="deq-nc report")
    out = None if options.out is None else expand_path(options.out, "--out")
    return _report([expand_path(run, "run") for run in options.runs], out, wait=options.wait)


def _report(runs: list[Path], out: Path | None, planned: Sequence[Path] = (), wait: bool = False) -> int:
    """The page and a table of it; `planned` runs of a grid that are not there are listed as missing."""
    import jax

    if jax.process_index() > 0:
        return 0
    from rich.console import Console
    from rich.table import Table

    from deq_nc.report import make_report

    found = make_report(runs, out, planned, wait)
    rows = found.rows
    if found.grid:
        # Columns are called `test, ARM` and `minority, ARM`: a table each, so that eighty columns hold it.
        tables = []
        for kind, names in _grouped(rows[0]).items():
            arms = (name.removeprefix(f"{kind}, ") for name in names)
            table = Table("setting", "runs", *arms, title=f"{kind} accuracy (%)")
            for row in rows:
                table.add_row(row["setting"], row["runs"], *(row[name] for name in names))
            tables.append(table)
    else:
        tables = [Table("", *(row["arm"] for row in rows))]
        for quantity in rows[0]:
            if quantity != "arm":
                tables[0].add_row(quantity, *(row[quantity] for row in rows))
    console = Console(markup=False, emoji=False)  # names of arms are data
    for table in tables:
        # A log has no width of its own: four arms with intervals need more than rich's 80 columns.
        console.print(table, width=console.width if console.is_terminal else 120)
    print(f"page: {printable(found.page)}")
    for line in found.damaged:
        _fail(line)
    return 1 if found.damaged else 0


def _grouped(row: dict[str, str]) -> dict[str, list[str]]:
    """Columns `KIND, NAME` by kind."""
    kinds: dict[str, list[str]] = {}
    for name in row:
        if ", " in name:
            kinds.setdefault(name.split(", ")[0], []).append(name)
    return kinds


@dataclass(frozen=True)
class MeasureOptions:
    """Collapse numbers of a run's newest checkpoint, or of an .npz file from anywhere.

    The file holds features [N, D], labels [N], weights [K, D], and if you like bias [K], majority [K] and mask [N].
    """

    source: Annotated[Path, tyro.conf.Positional]
    json: bool = False
    """Print one JSON object instead of a table."""


def measure_command(arguments: list[str]) -> int:
    options = tyro.cli(MeasureOptions, args=arguments, prog="deq-nc measure")
    source = expand_path(options.source, "source")
    if not source.exists():
        raise ConfigError(f"source: expected a run folder or an .npz file, {source} does not exist.")
    if source.is_dir():
        from deq_nc.training.remeasure import remeasure

        numbers = remeasure(source)
    else:
        from deq_nc.collapse import measure_npz, scalars

        numbers = scalars(measure_npz(source))
    if options.json:
        import json

        from deq_nc.runs.files import strict

        print(json.dumps(strict(numbers)))  # an undefined metric is null: NaN is not JSON
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("quantity", "value", title=Text(printable(source)))
    for name, value in numbers.items():
        table.add_row(name, "-" if value is None else f"{value:.6g}")
    Console().print(table)
    return 0


@dataclass(frozen=True)
class PrepareOptions:
    """Download, verify and prepare a TFDS set; CIFAR-10 and CIFAR-100 without TensorFlow."""

    name: Annotated[str, tyro.conf.Positional]
    data_dir: str | None = None
    """Where prepared sets live; default TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    archive: str | None = None
    """The archive, downloaded by hand, for machines without internet."""


@dataclass(frozen=True)
class ListOptions:
    """Data sets that are at hand."""

    data_dir: str | None = None
    """Where prepared sets live; default TFDS_DATA_DIR, else ~/tensorflow_datasets."""


def data_command(arguments: list[str]) -> int:
    usage = "deq-nc data list [--data-dir DIR] | show RECIPE [OPTIONS] | prepare NAME [--data-dir DIR] [--archive FILE]"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {usage}")
        return 0 if arguments else 2
    action, rest = arguments[0], arguments[1:]
    if action == "prepare":
        options = tyro.cli(PrepareOptions, args=rest, prog="deq-nc data prepare")
        from deq_nc.data.prepare import prepare

        print(f"prepared: {prepare(options.name, options.data_dir, options.archive)}")
    elif action == "list":
        options = tyro.cli(ListOptions, args=rest, prog="deq-nc data list")
        from deq_nc.data.tfds_source import EMBEDDED, PREPARABLE, data_dir, prepared
        from deq_nc.names import printable

        root = data_dir(options.data_dir)
        print(f"embedded: {', '.join(EMBEDDED)}; from files: folder")
        print(f"prepared in {printable(root)}: {printable(', '.join(prepared(root))) or 'nothing'}")
        print(f"prepared without TensorFlow by `deq-nc data prepare`: {', '.join(PREPARABLE)}")
    elif action == "show":
        recipe, rest = recipe_of(rest, "data show")
        experiment = parse_experiment(recipe, rest, "deq-nc data show RECIPE")
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from deq_nc.data import describe, load
        from deq_nc.names import printable

        dataset = load(experiment.data)
        table = Table("class", "train", "test", "block", title=Text(printable(dataset.name)))
        for label, train, test, block in describe(dataset):
            table.add_row(Text(printable(label)), str(train), str(test), block)  # a Text is never read as markup
        Console().print(table)
        for note in dataset.notes:
            print(f"note: {note}")
    else:
        raise ConfigError(f"deq-nc data: expected list, show or prepare, got {action!r}. Usage: {usage}")
    return 0


def theory_command(arguments: list[str]) -> int:
    from deq_nc.theory.command import TheoryOptions, run

    run(tyro.cli(TheoryOptions, args=arguments, prog="deq-nc theory"))
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train_command,
    "sweep": _sweep_command,
    "report": report_command,
    "measure": measure_command,
    "data": data_command,
    "theory": theory_command,
}


if __name__ == "__main__":
    sys.exit(main())
