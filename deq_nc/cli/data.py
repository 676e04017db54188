"""`deq-nc data`: what is at hand, what a run would train on, and data sets to prepare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from deq_nc.cli.recipes import parse_experiment, recipe_of
from deq_nc.config import ConfigError


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
        wanted = tyro.cli(PrepareOptions, args=rest, prog="deq-nc data prepare")
        from deq_nc.data.prepare import prepare

        print(f"prepared: {prepare(wanted.name, wanted.data_dir, wanted.archive)}")
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
