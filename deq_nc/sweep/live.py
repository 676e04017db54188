"""What a person sees of a sweep: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

import rich.live
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from deq_nc.names import printable
from deq_nc.sweep.plan import Job
from deq_nc.sweep.status import Watch, clock

PLAIN_SECONDS = 60.0  # between two plain lines


class Live:
    """A context manager; `tick` looks at the disk and shows what changed. `shown`: a table that moves."""

    def __init__(self, watch: Watch, quiet: bool, table: bool) -> None:
        self.watch, self.console = watch, Console(quiet=quiet)
        self.shown = table and self.console.is_terminal and not quiet
        self._live = rich.live.Live(console=self.console, auto_refresh=False) if self.shown else None
        self._spoken, self._said, self._begun = -math.inf, "", time.monotonic()

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
        """`12 of 200 runs done, 2 at work (...), 186 left, 0 failed, 0:12:34 gone, ETA 1:02:03`."""
        watch, names = self.watch, []
        for job in watch.jobs:
            names += [f"{state.path.parent.name}/{state.path.name} {share}" for state, share in self._at_work(job)]
        failed, held = len(watch.failed), len(watch.held)
        left = watch.total - watch.done - len(names) - failed - held
        at_work = f" ({printable(', '.join(names))})" if names else ""
        return (
            f"{watch.done} of {watch.total} runs done, "
            f"{len(names)} at work{at_work}, {max(left, 0)} left, "
            f"{failed} failed, {f'{held} in use by others, ' if held else ''}"
            f"{clock(time.monotonic() - self._begun)} gone, ETA {watch.eta()}"
        )

    def _at_work(self, job: Job) -> list[tuple[Any, str]]:
        working = [state for state in self.watch.of(job) if state.path in self.watch.working and not state.finished]
        return [(state, f"{state.step / job.steps:.0%}" if state.step else "starting") for state in working]

    def _table(self) -> Table:
        """Settings by arms: runs done of all, the share of those at work, failures."""
        arms = list(dict.fromkeys(job.arm for job in self.watch.jobs))
        table = Table("setting", *arms)
        rows: dict[str, dict[str, str]] = {}
        for job in self.watch.jobs:
            states = self.watch.of(job)
            text = f"{sum(state.finished for state in states)}/{len(states)}"
            text += "".join(f" +{share}" for _, share in self._at_work(job))
            for word, paths in (("failed", self.watch.failed), ("in use", self.watch.held)):
                if count := sum(state.path in paths for state in states):
                    text += f" {count} {word}"
            rows.setdefault(job.setting, {})[job.arm] = text
        for setting, texts in rows.items():
            table.add_row(Text(printable(setting)), *(texts.get(arm, "") for arm in arms))
        return table
