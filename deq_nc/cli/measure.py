"""`deq-nc measure`: collapse numbers of a run, or of features in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deq_nc.cli.recipes import expand_path
from deq_nc.config import ConfigError
from deq_nc.names import printable


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
