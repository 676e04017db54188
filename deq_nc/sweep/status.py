"""What stands on disk: a cell's runs finished, going on, failed or left; how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deq_nc.runs import RunFolder
from deq_nc.runs.history import last_step
from deq_nc.sweep.plan import Cell

FAILURE = "failed.txt"  # in a run's folder: why its last attempt ended


@dataclass(frozen=True)
class State:
    """One run: `step` of its last measurement (all steps once finished), `failure` the last line of its error."""

    path: Path
    step: int
    finished: bool
    failure: str | None


def read(path: Path, steps: int) -> State:
    """The state of the run folder `path`; reads no more than the end of its history."""
    folder = RunFolder(path)
    if folder.finished:
        return State(path, steps, True, None)
    return State(path, last_step(folder.history_path), False, folder.failure())


class Watch:
    """States of a sweep's runs against the clock; finished runs are read once."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self._finished: dict[Path, State] = {}
        self.states: dict[Path, State] = {}
        self.look()
        self._begun, self._steps_begun = time.monotonic(), self.steps

    def look(self) -> None:
        for cell in self.cells:
            for run in cell.runs:
                path = Path(run.workdir)
                state = self._finished.get(path) or read(path, cell.steps)
                self.states[path] = state
                if state.finished:
                    self._finished[path] = state

    @property
    def total(self) -> int:
        return len(self.states)

    @property
    def done(self) -> int:
        return len(self._finished)

    @property
    def failed(self) -> list[State]:
        return [state for state in self.states.values() if state.failure is not None]

    @property
    def steps(self) -> int:
        return sum(state.step for state in self.states.values())

    @property
    def steps_total(self) -> int:
        return sum(cell.steps * len(cell.runs) for cell in self.cells)

    def of(self, cell: Cell) -> list[State]:
        return [self.states[Path(run.workdir)] for run in cell.runs]

    def eta(self) -> str:
        """h:mm:ss for the steps left at the pace since the sweep began, failed runs not counted; "-" at first."""
        gone = self.steps - self._steps_begun
        if gone <= 0:
            return "-"
        lost = sum(cell.steps - s.step for cell in self.cells for s in self.of(cell) if s.failure is not None)
        left = (time.monotonic() - self._begun) / gone * max(self.steps_total - self.steps - lost, 0)
        return clock(left)


def clock(seconds: float) -> str:
    """h:mm:ss."""
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
