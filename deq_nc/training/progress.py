"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, TensorBoard with its extra."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from deq_nc.config import Experiment
from deq_nc.runs import Line

PLAIN_SECONDS = 15.0  # between two plain lines that no measurement asked for
LONG_PASS = 5_000  # images; a measurement of more is announced


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader left (`| head -1`): the run goes on unheard."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display:
    """Progress of one run; a context manager. Only one process of a multi-host run passes `quiet=False`."""

    def __init__(self, experiment: Experiment, steps_per_epoch: int, folder: Path, quiet: bool = False) -> None:
        self.console = _Console(quiet=quiet)
        self.name = f"{experiment.arm} seed {experiment.seed}"
        self.epochs, self.steps = experiment.train.epochs, steps_per_epoch
        # Several runs at a time, each in a worker process, would draw over each other's bar.
        self.live = self.console.is_terminal and not quiet and multiprocessing.parent_process() is None
        self.nc1: float | None = None
        self._spoken = time.monotonic()
        self._paced: tuple[float, int] | None = None  # when the pace is counted from, and from which step
        self._paused, self._pauses, self._pause_begun = 0.0, 0, 0.0  # in measurements since then; the first compiles
        self._due: set[int] = set()
        self._folder, self._quiet, self._board = folder, quiet, None
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not self.live,
        )

    def __enter__(self) -> Display:
        self._bar.start()
        self._task = self._bar.add_task(self.name, total=self.epochs, numbers="compiling")
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def say(self, text: str) -> None:
        self.console.print(f"[{self.name}] {text}", markup=False, highlight=False, soft_wrap=True)

    def compiling(self) -> None:
        """The longest silence of a run comes before its first step."""
        self.say("compiling; the first step follows in a minute or so")

    def begin(self, step: int, due: set[int]) -> None:
        """Training starts (or goes on) at `step`, measured in the epochs `due`."""
        self._board = None if self._quiet else _tensorboard(self._folder)
        self._due, self._paced = due, None
        self._bar.update(self._task, completed=step // self.steps)

    def update(self, step: int, logs: Any) -> None:
        """Numbers of the epoch so far, from its logs on the host."""
        if self._paced is None:
            self._paced = time.monotonic(), step  # the first step is compiled and done
        numbers = f"loss {logs.loss / logs.examples:.2e}  acc {logs.correct / logs.examples:.4f}"
        if self.nc1 is not None:
            numbers += f"  NC1 {self.nc1:.2e}"
        if logs.solver_steps > 0:
            numbers += f"  solver {logs.solver_steps / logs.examples:.1f} steps"
        if logs.unconverged > 0:
            numbers += f"  unconverged {logs.unconverged / logs.examples:.1%}"
        self._bar.update(self._task, completed=step / self.steps, numbers=numbers)
        if not self.live and time.monotonic() - self._spoken > PLAIN_SECONDS:
            self._spoken = time.monotonic()
            self.say(f"epoch {step / self.steps:.1f}/{self.epochs}  step {step}  {numbers}  ETA {self._eta(step)}")

    def measuring(self, images: int) -> None:
        """Training pauses for a pass over the data; said where that may take long."""
        self._pause_begun = time.monotonic()
        self._bar.update(self._task, numbers=f"measuring on {images:,} images")
        if not self.live and images > LONG_PASS:
            self.say(f"measuring on {images:,} images")

    def measured(self, line: Line) -> None:
        """A new line of the history."""
        self.nc1 = line["nc1"]
        if self._pauses == 0 and self._paced is not None:
            self._paced = time.monotonic(), line["step"]  # the first measurement compiles its functions
        else:
            self._paused += time.monotonic() - self._pause_begun
        self._pauses += 1
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("epoch", "step"):
                    self._board.add_scalar(name, value, line["epoch"])
        if self.live:
            return
        self._spoken = time.monotonic()
        solver = "" if line["solver_steps"] is None else f"  solver {line['solver_steps']:.1f} steps"
        # Of features that do not differ collapse is not defined.
        nc1, nc2, nc3 = (math.nan if v is None else v for v in (line["nc1"], line["nc2_means"], line["nc3"]))
        self.say(
            f"epoch {line['epoch']}/{self.epochs}  loss {line['train_loss']:.2e}  train {line['train_accuracy']:.4f}  "
            f"test {line['test_accuracy']:.4f}  NC1 {nc1:.2e}  NC2 {nc2:.3f}  NC3 {nc3:.3f}{solver}  "
            f"ETA {self._eta(line['step'])}"
        )

    def analysing(self) -> None:
        """The last work of a run, after its last line."""
        self._bar.update(self._task, numbers="measuring layers and the solve for the page")
        if not self.live:
            self.say("measuring layers and the solve for the page")

    def _eta(self, step: int) -> str:
        """Steps and measurements left, each at its own pace; neither counts what was compiled."""
        begun, first = self._paced or (0.0, step)
        if step <= first:
            return "-"
        left = (time.monotonic() - begun - self._paused) / (step - first) * (self.epochs * self.steps - step)
        if self._pauses > 1:
            left += self._paused / (self._pauses - 1) * sum(epoch > step / self.steps for epoch in self._due)
        return f"{int(left // 60)}:{int(left % 60):02d}"


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
