"""What stands on disk and what workers said: runs finished, at work, failed, held, left; how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deq_nc.config import ConfigError
from deq_nc.runs import RunFolder, folder_of
from deq_nc.sweep.plan import Job, Kind


@dataclass(frozen=True)
class State:
    """One run: `step` of its last measurement, all steps once finished."""

    path: Path
    step: int
    finished: bool


def read(path: Path, steps: int) -> State:
    """The state of the run folder `path`; with damaged files it is not finished, and at the last step that is sound."""
    folder = RunFolder(path)
    with suppress(ConfigError, OSError):
        if folder.summary() is not None and folder.experiment():
            return State(path, steps, True)
    with suppress(ConfigError, OSError):
        return State(path, folder.history().step, False)
    return State(path, 0, False)


class Watch:
    """States of a sweep's runs against the clock; finished runs are read once."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.states: dict[Path, State] = {}
        self.working: set[Path] = set()
        self.failed: dict[Path, str] = {}
        self.held: dict[Path, str] = {}
        self._seen: list[tuple[float, int]] = []  # (time, steps) whenever steps had moved
        self.look()

    def note(self, path: Path, kind: Kind, text: str) -> None:
        """What a worker says of the run in `path`."""
        if kind == "began":
            self.working.add(path)
            return
        self.working.discard(path)
        if kind in ("failed", "held"):
            (self.failed if kind == "failed" else self.held)[path] = text

    def look(self) -> None:
        for job in self.jobs:
            for run in job.runs:
                path = folder_of(run)
                if path not in self.states or not self.states[path].finished:
                    self.states[path] = read(path, job.steps)
        if not self._seen or self.steps != self._seen[-1][1]:
            self._seen.append((time.monotonic(), self.steps))

    @property
    def total(self) -> int:
        return len(self.states)

    @property
    def done(self) -> int:
        return sum(state.finished for state in self.states.values())

    @property
    def steps(self) -> int:
        return sum(state.step for state in self.states.values())

    def of(self, job: Job) -> list[State]:
        return [self.states[folder_of(run)] for run in job.runs]

    def eta(self) -> str:
        """h:mm:ss for the steps left of runs that neither failed nor are held; "-" until two measurements are seen.

        At the pace of the younger half of the time since the first measurement: compiling and the measurements of the
        first epochs, which are close together, say little about the rest.
        """
        if len(self._seen) < 3:  # the first is what stood there
            return "-"
        now, steps = time.monotonic(), self.steps
        half = (self._seen[1][0] + now) / 2
        then, before = max((seen for seen in self._seen[1:-1] if seen[0] <= half), default=self._seen[1])
        left = sum(
            job.steps - state.step
            for job in self.jobs
            for state in self.of(job)
            if state.path not in self.failed and state.path not in self.held
        )
        return clock((now - then) / (steps - before) * left) if steps > before else "-"


def clock(seconds: float) -> str:
    """h:mm:ss."""
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
