"""Carry out a sweep: in this process on an accelerator or for one job, in worker processes on CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deq_nc.runs import RunFolder, folder_of
from deq_nc.sweep.job import record, run_job
from deq_nc.sweep.live import Live
from deq_nc.sweep.plan import Job
from deq_nc.sweep.status import Watch
from deq_nc.sweep.workers import work
from deq_nc.training import is_leader, stop_flag

CACHE = ".compiled"  # in the root of the runs


class Outcome(NamedTuple):
    """How a sweep ended: by a signal or not; the runs that failed and those in use by others, with a sentence each."""

    stopped: bool
    failed: dict[Path, str]
    held: dict[Path, str]


def execute(jobs: Sequence[Job], root: Path, at_once: int, quiet: bool, wait: bool = False) -> Outcome:
    """Run what is not finished.

    A run that raises is recorded in its folder (failed.txt), the others go on; the next sweep tries it again. One that
    another process is at work on is left to it (with `wait`, waited for). Where several run at a time, a terminal shows
    them as one table that moves; elsewhere each says its own lines, unless `quiet`.
    """
    root.mkdir(parents=True, exist_ok=True)
    watch = Watch(jobs)
    left = [job for job in jobs if any(_left(folder_of(run)) for run in job.runs)]
    with Live(watch, quiet=not is_leader(), table=at_once > 1) as live:
        if at_once > 1:
            cache = str((root / CACHE).absolute())
            stopped = work(left, at_once, cache, quiet or live.shown, wait, watch.note, live.tick, record)
        else:
            stopped = False
            with stop_flag() as stop:
                for job in left:
                    stopped = run_job(job, False, wait, stop, watch.note)
                    live.tick()
                    if stopped:
                        break
    return Outcome(stopped, watch.failed, watch.held)


def _left(path: Path) -> bool:
    """Whether a run is not finished, or its results are damaged: `train` makes these again."""
    folder = RunFolder(path)
    return not folder.finished or bool(folder.damaged())
