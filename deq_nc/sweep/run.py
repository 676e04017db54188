"""Carry out a sweep: in this process on an accelerator or for one job, in worker processes on CPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deq_nc.config import ConfigError
from deq_nc.runs import Held, Lock, RunFolder
from deq_nc.sweep.live import Live
from deq_nc.sweep.plan import Cell
from deq_nc.sweep.status import Watch
from deq_nc.sweep.workers import work
from deq_nc.training import is_leader, stop_flag, train

CACHE = ".compiled"  # in the root of the runs


class Outcome(NamedTuple):
    """How a sweep ended: by a signal or not; the runs that failed and those in use by others, with a sentence each."""

    stopped: bool
    failed: dict[Path, str]
    held: dict[Path, str]


def execute(cells: Sequence[Cell], root: Path, jobs: int, quiet: bool, wait: bool = False) -> Outcome:
    """Run what is not finished.

    A run that raises is recorded in its folder (failed.txt), the others go on; the next sweep tries it again. One that
    another process is at work on is left to it (with `wait`, waited for). Where several run at a time, a terminal shows
    them as one table that moves; elsewhere each says its own lines, unless `quiet`.
    """
    root.mkdir(parents=True, exist_ok=True)
    watch = Watch(cells)
    left = [cell for cell in cells if any(_left(Path(run.workdir)) for run in cell.runs)]
    with Live(watch, quiet=not is_leader(), table=jobs > 1) as live:
        if jobs > 1:
            cache = str((root / CACHE).absolute())
            stopped = work(left, jobs, cache, quiet or live.shown, wait, watch.note, live.tick, record)
        else:
            stopped = False
            with stop_flag() as stop:
                for cell in left:
                    stopped = run_cell(cell, False, wait, stop, watch.note)
                    live.tick()
                    if stopped:
                        break
    return Outcome(stopped, watch.failed, watch.held)


def _left(path: Path) -> bool:
    """Whether a run is not finished, or its results are damaged: `train` makes these again."""
    folder = RunFolder(path)
    return not folder.finished or bool(folder.damaged())


def run_cell(cell: Cell, quiet: bool, wait: bool, stop: Any, note: Callable[[Path, str, str], Any]) -> bool:
    """The runs of a cell one after another; True if a signal stopped them, in a run or between two.

    `note(folder, kind, text)` hears of each: began, then ended, failed or held.
    """
    for experiment in cell.runs:
        folder = Path(experiment.workdir)
        note(folder, "began", "")
        status = None
        try:
            status = train(experiment, quiet=quiet, wait=wait, stop=stop)[1]
        except Held as error:
            note(folder, "held", str(error))
        except BrokenPipeError:
            raise  # nobody reads what the others would say
        except Exception as error:  # whatever ends one run may not end the others
            sentence = f"{type(error).__name__}: {' '.join(str(error).split())}"
            note(folder, "failed", sentence + record(folder, f"{traceback.format_exc()}\n{sentence}\n"))
        else:
            note(folder, "ended", "")
        if status == "stopped" or stop.now():
            return True
    return False


def record(folder: Path, text: str) -> str:
    """Leave `text` as failed.txt, under the run's lock; "" or why that was not possible."""
    if not is_leader():
        return ""
    try:
        with Lock(folder):
            RunFolder(folder).record_failure(text)
    except Held:
        return ""  # somebody began it anew: this failure is history
    except (OSError, ConfigError) as error:
        return f" (failed.txt could not be written: {error})"
    return ""
