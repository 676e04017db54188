"""The command line: `deq-nc train | sweep | report | measure | data | theory`.

Each command parses its options with tyro, checks them, and only then imports what is slow. Errors that a user can mend
end with one message and exit code 2 (1 where training itself failed), never with a traceback.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from deq_nc.config import ARMS, Arm, ConfigError, Experiment

USAGE = """usage: deq-nc COMMAND ...

  train RECIPE [OPTIONS]         one run: one arm, one seed (resumes where its folder exists)
  sweep RECIPE [OPTIONS]         arms x seeds of one setting, then the page that compares them
  report RUN [RUN ...]           tables, figures and one HTML page of finished or running runs
  measure RUN | FILE.npz         collapse numbers of a checkpoint, or of features, labels and weights
  data list | show | prepare     what is at hand; what a run would train on; download and prepare a TFDS set
  theory [OPTIONS]               optima and thresholds of the layer-peeled models

`deq-nc COMMAND --help` lists the options. Recipes: {recipes}."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its idle threads would spin on XLA's cores
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(recipes())))
        return 0 if arguments else 2
    logging.basicConfig(format="%(message)s")
    logging.getLogger("deq_nc").setLevel(logging.INFO)
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}. Known: {', '.join(COMMANDS)}.")
    try:
        return COMMANDS[name](rest) or 0
    except (ConfigError, FileNotFoundError) as error:
        return _fail(str(error))
    except ValueError as error:
        if type(error) is ValueError and name in ("train", "sweep"):
            raise  # a plain ValueError out of training is our own mistake: show where
        return _fail(str(error))
    except RuntimeError as error:
        if type(error).__name__ != "TrainingError":
            raise
        return _fail(str(error), code=1)


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


# -- Recipes ---------------------------------------------------------------------------------------------------------


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    import experiments.configs

    return sorted(module.name for module in pkgutil.iter_modules(experiments.configs.__path__))


def load_recipe(name: str) -> Experiment:
    """The `experiment` of a shipped recipe. Raises ConfigError listing the known ones."""
    if name not in recipes():
        raise ConfigError(f"recipe: expected one of {', '.join(recipes())}, got {name!r}.")
    return importlib.import_module(f"experiments.configs.{name}").experiment


def _recipe_of(arguments: list[str], command: str) -> tuple[Experiment, list[str]]:
    if arguments and arguments[0] in ("-h", "--help"):
        return Experiment(), arguments
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(f"deq-nc {command}: expected a recipe first, one of {', '.join(recipes())}.")
    return load_recipe(arguments[0]), arguments[1:]


def parse_experiment(default: Experiment, arguments: list[str], prog: str) -> Experiment:
    """Overrides on a recipe. Exits with code 2 and the known options on a mistake (tyro's way)."""
    experiment, unknown = tyro.cli(Experiment, default=default, args=arguments, prog=prog, return_unknown_args=True)
    if unknown:
        options = ", ".join(_options(Experiment()))
        raise ConfigError(f"unknown option {unknown[0]!r}. Known options: {options}.")
    return experiment


def _options(config: Any, prefix: str = "") -> list[str]:
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += _options(value, f"{prefix}{field.name}.")
        else:
            names.append(f"--{prefix}{field.name}".replace("_", "-"))
    return names


# -- Commands --------------------------------------------------------------------------------------------------------


def train_command(arguments: list[str]) -> int:
    recipe, rest = _recipe_of(arguments, "train")
    experiment = parse_experiment(recipe, rest, "deq-nc train RECIPE")
    _check_data(experiment)
    from deq_nc.training import initialize_hosts, train

    initialize_hosts()
    train(experiment)
    return 0


@dataclass(frozen=True)
class SweepOptions:
    """Arms x seeds of one setting, or of a grid of settings, then the report.

    Every option of `deq-nc train` is accepted too. What is finished is skipped, what was interrupted goes on, a run
    that fails is listed at the end and tried again by the next call.
    """

    arms: tuple[Arm, ...] | None = None
    """Default: explicit and deq; all four with --grid."""
    seeds: int = 1
    """Seeds 0 .. SEEDS-1."""
    workdir: Path = Path("runs")
    """Root: runs go to WORKDIR/RECIPE-SETTING/ARM-seedN, the page beside them."""
    grid: bool = False
    """Balanced and step imbalance for every KA of --majorities and R of --ratios."""
    majorities: tuple[int, ...] = (3, 5, 7)
    """Majority classes of ten; on K classes KA K / 10 of them."""
    ratios: tuple[float, ...] = (10, 50, 100)
    updates: int | None = None
    """Settings whose epochs hold fewer updates than this get more epochs: imbalance leaves fewer images an epoch."""
    jobs: int | None = None
    """Runs at a time, each an arm of a setting. Default: on CPU one a core, else one."""
    shard: str | None = None
    """I/N: the I-th of N parts of the sweep, for as many hosts or devices over one WORKDIR."""


def sweep_command(arguments: list[str]) -> int:
    recipe, rest = _recipe_of(arguments, "sweep")
    options, rest = tyro.cli(SweepOptions, args=rest, prog="deq-nc sweep RECIPE", return_unknown_args=True)
    if options.seeds < 1:
        raise ConfigError(f"--seeds: expected an integer >= 1, got {options.seeds}.")
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs: expected an integer >= 1, got {options.jobs}.")
    if options.updates is not None and options.updates < 1:
        raise ConfigError(f"--updates: expected an integer >= 1, got {options.updates}.")
    part, parts = _shard(options.shard)
    base = parse_experiment(recipe, rest, "deq-nc sweep RECIPE")
    _check_data(base)
    from deq_nc.sweep import check, execute, grid, sweep
    from deq_nc.training import initialize_hosts

    settings = grid(base, options.majorities, options.ratios) if options.grid else [base]
    arms = options.arms or (ARMS if options.grid else ("explicit", "deq"))
    cells = sweep(settings, arms, options.seeds, options.workdir, options.updates or 0)
    check(cells)
    initialize_hosts()
    # The longest first: what is left at the end is short, and no worker waits long for the last.
    mine = sorted(cells, key=lambda cell: -cell.steps)[part - 1 :: parts]
    jobs = options.jobs or _cores(len(mine))
    stopped, failed = execute(mine, options.workdir, jobs, table=options.grid)
    for state in failed:
        _fail(f"{state.path}: {state.failure}")
    runs = [Path(run.workdir) for cell in cells for run in cell.runs]
    missing = sum(not (run / "summary.json").exists() for run in runs) - len(failed)
    if stopped:
        print("stopped; the same command goes on from here")
        return 0
    if missing and parts > 1:
        print(f"shard {options.shard} is done; {missing} runs are left to the others. The last one makes the page.")
        return 1 if failed else 0
    found = [run for run in runs if (run / "history.jsonl").exists()]
    if found:
        _report(found, None, runs if options.grid else ())
    return 1 if failed else 0


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--shard: expected I/N with 1 <= I <= N, for example 1/4, got {text!r}.")
    return int(part), int(parts)


def _cores(cells: int) -> int:
    """Jobs of a sweep: one a core on CPU, one in all on an accelerator or over several hosts."""
    import jax

    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, cells), 1)


@dataclass(frozen=True)
class ReportOptions:
    """Tables, figures and one self-contained page of the runs of one setting, or of a grid of settings."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path | None = None
    """Folder of the page; default RUN/report, `report` beside the runs, or RECIPE-grid beside the settings."""


def report_command(arguments: list[str]) -> int:
    options = tyro.cli(ReportOptions, args=arguments, prog="deq-nc report")
    return _report(list(options.runs), options.out)


def _report(runs: list[Path], out: Path | None, planned: Sequence[Path] = ()) -> int:
    """The page and a table of it; `planned` runs of a grid that are not there are listed as missing."""
    import jax

    if jax.process_index() > 0:
        return 0
    from rich.console import Console
    from rich.table import Table

    from deq_nc.names import printable
    from deq_nc.report import NotWrittenError, make_report

    try:
        found = make_report(runs, out, planned)
    except NotWrittenError as error:
        return _fail(str(error), code=1)
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
    if not options.source.exists():
        raise ConfigError(f"source: expected a run folder or an .npz file, {options.source} does not exist.")
    if options.source.is_dir():
        from deq_nc.training.remeasure import remeasure

        numbers = remeasure(options.source)
    else:
        from deq_nc.collapse import measure_npz, scalars

        numbers = scalars(measure_npz(options.source))
    if options.json:
        import json

        print(json.dumps(numbers))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("quantity", "value", title=str(options.source))
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
        from deq_nc.data.files import shown
        from deq_nc.data.tfds_source import EMBEDDED, PREPARABLE, data_dir, prepared

        root = data_dir(options.data_dir)
        print(f"embedded: {', '.join(EMBEDDED)}; from files: folder")
        print(f"prepared in {shown(root)}: {shown(', '.join(prepared(root))) or 'nothing'}")
        print(f"prepared without TensorFlow by `deq-nc data prepare`: {', '.join(PREPARABLE)}")
    elif action == "show":
        recipe, rest = _recipe_of(rest, "data show")
        experiment = parse_experiment(recipe, rest, "deq-nc data show RECIPE")
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from deq_nc.data import describe, load
        from deq_nc.data.files import shown

        dataset = load(experiment.data)
        table = Table("class", "train", "test", "block", title=Text(shown(dataset.name)))
        for label, train, test, block in describe(dataset):
            table.add_row(Text(shown(label)), str(train), str(test), block)  # a Text is never read as markup
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
    "sweep": sweep_command,
    "report": report_command,
    "measure": measure_command,
    "data": data_command,
    "theory": theory_command,
}


def _check_data(experiment: Experiment) -> None:
    """Missing data is said before the slow imports of training."""
    from deq_nc.data import load

    load(experiment.data)


if __name__ == "__main__":
    sys.exit(main())
