"""What a person sees of a sweep: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

import rich.live
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from deq_nc.sweep.status import State, Watch, clock

PLAIN_SECONDS = 60.0  # between two plain lines


class Live:
    """A context manager; `tick` looks at the disk and shows what changed."""

    def __init__(self, watch: Watch, quiet: bool, table: bool) -> None:
        self.watch, self.console = watch, Console(quiet=quiet)
        shown = table and self.console.is_terminal and not quiet
        self._live = rich.live.Live(console=self.console, auto_refresh=False) if shown else None
        self._spoken, self._said, self._begun = -math.inf, "", time.monotonic()
        self._recent: dict[Any, tuple[int, float]] = {}

    def __enter__(self) -> Live:
        if self._live is not None:
            self._live.start()
        self.tick()
        return self

    def __exit__(self, *error: Any) -> None:
        self._spoken = -math.inf  # the last line is always said
        self.tick()
        if self._live is not None:
            self._live.stop()

    def tick(self) -> None:
        self.watch.look()
        if self._live is not None:
            self._live.update(Group(self._table(), Text(self.line())), refresh=True)
        elif time.monotonic() - self._spoken > PLAIN_SECONDS and (line := self.line()) != self._said:
            self._spoken, self._said = time.monotonic(), line
            self.console.print(f"[sweep] {line}", markup=False, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """`12 of 200 runs done, 2 going on (...), 186 left, 0 failed, 0:12:34 gone, ETA 1:02:03`."""
        going = self.going()
        names = ", ".join(f"{state.path.parent.name}/{state.path.name} {share:.0%}" for state, share in going)
        failed = self.watch.failed
        left = self.watch.total - self.watch.done - len(going) - len(failed)
        return (
            f"{self.watch.done} of {self.watch.total} runs done, "
            f"{len(going)} going on{f' ({names})' if names else ''}, {left} left, {len(failed)} failed, "
            f"{clock(time.monotonic() - self._begun)} gone, ETA {self.watch.eta()}"
        )

    def going(self) -> list[tuple[State, float]]:
        """Runs that measured something since this sweep began and are not finished, with the share done."""
        found = []
        for cell in self.watch.cells:
            for state in self.watch.of(cell):
                before = self._recent.setdefault(state.path, (state.step, 0.0))
                moved = state.step > before[0]
                if not state.finished and state.failure is None and moved:
                    found.append((state, state.step / cell.steps))
        return found

    def _table(self) -> Table:
        """Settings by arms: runs done of all, the share of the one going on, failures."""
        arms = list(dict.fromkeys(cell.arm for cell in self.watch.cells))
        table = Table("setting", *arms)
        going = dict((state.path, share) for state, share in self.going())
        rows: dict[str, dict[str, str]] = {}
        for cell in self.watch.cells:
            states = self.watch.of(cell)
            text = f"{sum(s.finished for s in states)}/{len(states)}"
            text += "".join(f" +{going[s.path]:.0%}" for s in states if s.path in going)
            if lost := sum(s.failure is not None for s in states):
                text += f" {lost} failed"
            rows.setdefault(cell.setting, {})[cell.arm] = text
        for setting, texts in rows.items():
            table.add_row(setting, *(texts.get(arm, "") for arm in arms))
        return table
