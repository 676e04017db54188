"""Carry out a sweep: in this process on an accelerator or for one job, in worker processes on CPU."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from deq_nc.sweep.live import Live
from deq_nc.sweep.plan import Cell
from deq_nc.sweep.status import FAILURE, State, Watch
from deq_nc.sweep.workers import work
from deq_nc.training import is_leader, train

CACHE = ".compiled"  # in the root of the runs


def execute(cells: Sequence[Cell], root: Path, jobs: int, table: bool) -> tuple[bool, list[State]]:
    """Run what is not finished; (True if a signal stopped the sweep, the runs that failed).

    A run that raises is recorded in its folder (failed.txt), the others go on; the next sweep tries it again. Where
    several run at a time, `table` shows them as one table that moves, else each says its own lines.
    """
    root.mkdir(parents=True, exist_ok=True)
    if is_leader():
        for cell in cells:
            for run in cell.runs:
                (Path(run.workdir) / FAILURE).unlink(missing_ok=True)
    watch = Watch(cells)
    left = [cell for cell in cells if any(not state.finished for state in watch.of(cell))]
    with Live(watch, quiet=not is_leader(), table=table and jobs > 1) as live:
        if jobs > 1:
            stopped = work(left, jobs, str((root / CACHE).absolute()), table, live.tick, _lost)
        else:
            stopped = False
            for cell in left:
                stopped = run_cell(cell, quiet=False)
                live.tick()
                if stopped:
                    break
        watch.look()
    return stopped, watch.failed


def run_cell(cell: Cell, quiet: bool) -> bool:
    """The runs of a cell one after another; True if a signal stopped one of them."""
    for experiment in cell.runs:
        try:
            _, status = train(experiment, quiet=quiet)
        except Exception as error:  # whatever ends one run may not end the others
            _record(Path(experiment.workdir), traceback.format_exc(), error)
            continue
        if status == "stopped":
            return True
    return False


def _record(folder: Path, text: str, error: Exception) -> None:
    if is_leader():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).write_text(f"{text}\n{type(error).__name__}: {' '.join(str(error).split())}\n")


def _lost(cell: Cell, exit_code: int) -> None:
    """A process that was killed from outside (out of memory, for one) leaves its first unfinished run to blame."""
    for experiment in cell.runs:
        folder = Path(experiment.workdir)
        if not (folder / "summary.json").exists() and not (folder / FAILURE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILURE).write_text(f"the process ended with exit code {exit_code}, killed from outside\n")
            return
