"""The story of a run, top to bottom: open, restore, epochs, finish.

A run is a function of its configuration: batches, augmentation and measurements follow from (seed, step), so a run
that is killed goes on from its last checkpoint to the same history. On disk a measurement's line comes first, then the
checkpoint that follows it; the checkpoint holds the lines up to its step, so history.jsonl can be written again.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import jax
import numpy as np

from deq_nc.config import Experiment
from deq_nc.data import load, steps_per_epoch
from deq_nc.disk import disk_full
from deq_nc.models import count_parameters
from deq_nc.runs import Line, Lock, RunError, RunFolder, Summary, folder_of
from deq_nc.training import opening
from deq_nc.training.checkpoint import Checkpoints, TrainingError, restore
from deq_nc.training.evaluate import all_finite
from deq_nc.training.leader import Sleep, led
from deq_nc.training.measure import MUST_BE_FINITE, Measurer
from deq_nc.training.mesh import agreed, data_mesh, is_leader
from deq_nc.training.optimizer import schedule
from deq_nc.training.program import Program, program, step_memory
from deq_nc.training.progress import Display
from deq_nc.training.state import Logs, TrainState
from deq_nc.training.stop import Stop, Stopped, stop_flag
from deq_nc.training.versions import versions

Status = Literal["finished", "already finished", "stopped"]
IN_FLIGHT = 2  # steps dispatched ahead of the device; keeps signals and progress prompt
REFRESH_SECONDS = 1.0  # between two looks at the numbers on the device


@dataclass
class _Run:
    """What the parts of a run share."""

    experiment: Experiment
    folder: RunFolder
    display: Display
    stop: Stop
    lock: Lock | None  # the leader's
    measurer: Measurer
    checkpoints: Checkpoints
    history: list[Line] = field(default_factory=list)
    seconds: float = 0.0  # of earlier calls
    started: float = field(default_factory=time.monotonic)
    step_seconds: list[float] = field(default_factory=list)  # one an epoch

    @property
    def program(self) -> Program:
        return self.measurer.program

    @property
    def due(self) -> set[int]:
        return measured_epochs(self.experiment.train.epochs, self.experiment.train.measurements)


def train(
    experiment: Experiment, devices: Any = None, quiet: bool = False, wait: bool = False, stop: Stop | None = None
) -> tuple[Path, Status]:
    """Run an experiment to its end, or to SIGTERM, SIGINT or SIGHUP; returns its folder and how it ended.

    `stop` is the flag of a caller with several runs; without it signals are listened to here. Raises ConfigError or
    DataError before any work, Held where another process is at work in the folder (with `wait`, waits for it),
    TrainingError when a step is not finite or the disk is full, RunError where what the folder holds is damaged and
    cannot be made again.
    """
    folder, dataset = RunFolder(folder_of(experiment)), load(experiment.data)
    steps = steps_per_epoch(len(dataset.train_labels), experiment.train.batch_size)
    display = Display(experiment, steps, folder.path, quiet=quiet or not is_leader())
    asked = (folder, experiment, dataset.checksums(), display)
    if opening.finished(*asked):
        return folder.path, "already finished"
    with nullcontext(stop) if stop else stop_flag() as stop, ExitStack() as held, _full_disk_said(folder):
        say = print if quiet else display.say  # a wait of hours is never silent
        try:
            lock = led(lambda sleep: held.enter_context(Lock(folder.path, wait, say, sleep)), stop)
        except Stopped:
            display.say("stopped while it waited; nothing has begun")
            return folder.path, "stopped"
        if opening.finished(*asked):  # by another process before the lock was held
            return folder.path, "already finished"
        led(lambda _: opening.set_up(*asked))

        mesh, keep = data_mesh(devices), experiment.train.keep_checkpoints
        compiled = program(experiment, dataset, mesh)
        display.compiling()
        state = compiled.init(experiment.seed)
        folder.require_space((keep + 2) * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 32 * 2**20)
        measurer = Measurer(compiled, dataset, stop.check)
        with display, Checkpoints(folder, keep) as checkpoints:
            opening.introduce(dataset, state.params, mesh, display)
            run = _Run(experiment, folder, display, stop, lock, measurer, checkpoints)
            state = _epochs(run, _restore(run, state))
            checkpoints.save(state, run.history, wait=True)
            if stop.is_set or int(state.step) < experiment.train.epochs * steps or not _finish(run, state):
                display.say(f"stopped at step {int(state.step)}, saved; the same command goes on from here")
                return folder.path, "stopped"
        display.say(f"finished: {folder.path}")
        return folder.path, "finished"


@contextmanager
def _full_disk_said(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not disk_full(error):
            raise
        raise TrainingError(
            f"the disk of {folder.path} is full. History and earlier checkpoints are kept; free some space and give "
            "the same command to go on."
        ) from error


# -- Restore -----------------------------------------------------------------------------------------------------------


def _restore(run: _Run, fresh: TrainState) -> TrainState:
    """The state to go on from, and `run.history` up to it, which history.jsonl then holds and no more."""
    folder, display = run.folder, run.display
    found = restore(folder, fresh, run.program.mesh, display.say, write=True)
    state = fresh if found is None else found.state
    begun, steps = int(state.step), run.program.steps
    written = folder.history()
    run.history = [line for line in written.lines if line["step"] <= begun]
    if found is not None and found.history is not None:
        if run.history != found.history:
            wrong = written.damage or "lines are missing or changed"
            display.say(f"history.jsonl is damaged ({wrong}): written again from the checkpoint of step {begun}")
        run.history = found.history
    elif lost := {epoch for epoch in run.due if epoch * steps <= begun} - {line["epoch"] for line in run.history}:
        raise RunError(
            f"{folder.history_path}: {written.damage or 'it is cut'}; epoch {min(lost)} is missing. The checkpoint of "
            f"step {begun} is from before 0.2 and holds no copy. Nothing was changed; mend the file, or start over by "
            "--fresh, which renames the folder."
        )

    def write(_: Sleep) -> None:
        if found is None and (written.lines or written.damage):
            folder.set_aside(folder.history_path)  # the only copy of what is made again now
        folder.write_history(run.history)

    led(write)
    if begun:
        display.say(f"goes on at step {begun} (epoch {begun / steps:.1f} of {run.experiment.train.epochs})")
    run.seconds, run.started = (run.history[-1]["seconds"] if run.history else 0.0), time.monotonic()
    display.begin(begun, run.due)
    return state


# -- Epochs ------------------------------------------------------------------------------------------------------------


def _epochs(run: _Run, state: TrainState) -> TrainState:
    """Train and measure to the last epoch, or to a signal."""
    config, steps = run.experiment.train, run.program.steps
    saved = time.monotonic()
    if int(state.step) and int(state.step) % steps == 0 and not _measure(run, state, jax.device_get(state.logs)):
        return state
    for _ in range(int(state.step) // steps, config.epochs):
        clock = time.monotonic()
        state, logs, stopped = _epoch(run, state)
        _refuse_bad(run, state, logs)
        if stopped:
            break
        run.step_seconds.append((time.monotonic() - clock) / steps)
        if not _measure(run, state, logs) or run.stop.now():
            break
        if agreed(time.monotonic() - saved >= config.checkpoint_seconds):
            run.checkpoints.save(state, run.history)
            saved = time.monotonic()
    return state


def _measure(run: _Run, state: TrainState, logs: Logs) -> bool:
    """Add the line of the epoch that ends here, if one is due and not there; False if a signal came in between."""
    config, steps = run.experiment.train, run.program.steps
    step = int(state.step)
    epoch = step // steps
    terminal = any(line["train_accuracy"] == 1.0 for line in run.history)
    faultless = float(logs.correct) == float(logs.examples)
    if any(line["epoch"] == epoch for line in run.history) or not (epoch in run.due or (faultless and not terminal)):
        return True
    run.display.measuring(run.measurer.train.label.size + run.measurer.test.label.size)
    seconds = round(run.seconds + time.monotonic() - run.started, 3)
    try:
        measured = run.measurer.line(state, logs)
    except Stopped:
        return False
    if bad := [name for name in MUST_BE_FINITE if not math.isfinite(measured[name] or 0)]:
        raise _not_finite(run, f"{' and '.join(bad)} not finite after epoch {epoch}")
    rate = float(schedule(config, steps)(max(step - 1, 0)))
    line = cast(Line, {"epoch": epoch, "step": step, "seconds": seconds, "learning_rate": rate, **measured})
    led(lambda _: run.folder.append(line))
    run.history.append(line)
    run.display.measured(line)
    return True


def measured_epochs(epochs: int, count: int) -> set[int]:
    """About `count` epochs from 1 to `epochs`, evenly spaced on a logarithmic scale; the last is always one."""
    return {int(round(float(e))) for e in np.geomspace(1, epochs, max(count, 2))} | {epochs}


def _epoch(run: _Run, state: TrainState) -> tuple[TrainState, Logs, bool]:
    """The rest of the epoch that `state` is in; True if a signal cut it short."""
    flying: deque[Logs] = deque()
    compiled, images = run.program, run.measurer.train
    logs, looked, begun = state.logs, time.monotonic(), int(state.step)
    ahead = compiled.steps - begun % compiled.steps
    order = compiled.order(state.seed, state.step)
    with jax.transfer_guard("disallow"):
        for done in range(ahead):
            if done and run.stop.now():
                return state, jax.device_get(logs), True
            state, logs = compiled.step(state, images, order)
            flying.append(logs)
            if len(flying) > IN_FLIGHT:
                jax.block_until_ready(flying.popleft())
            if time.monotonic() - looked > REFRESH_SECONDS:
                looked = time.monotonic()
                run.display.update(begun + done + 1, jax.device_get(logs))
    logs = jax.device_get(logs)
    run.display.update(begun + ahead, logs)
    return state, logs, False


def _refuse_bad(run: _Run, state: TrainState, logs: Logs) -> None:
    """Raises TrainingError where a step, or the state it left, is not finite: such a state is never saved."""
    _require_lock(run)
    bad, steps = int(logs.bad_step), run.program.steps
    if bad >= 0:
        raise _not_finite(run, f"loss or gradient not finite at step {bad} (epoch {bad // steps + 1})")
    if not bool(all_finite(state)):
        raise _not_finite(
            run, f"weights not finite after step {int(state.step)} (epoch {-(-int(state.step) // steps)})"
        )


def _require_lock(run: _Run) -> None:
    """Raises TrainingError, in every process, once the leader's lock is another's."""
    if agreed(run.lock is not None and run.lock.lost):
        raise TrainingError(f"{run.folder.path}: its lock was taken away, another process may be at work there. Ended.")


def _not_finite(run: _Run, what: str) -> TrainingError:
    kept = run.checkpoints.latest
    return TrainingError(
        f"{what}. "
        + (f"The last good checkpoint, step {kept}, is kept in {run.folder.checkpoints.name}/. " if kept else "")
        + f"Lower --train.learning-rate or raise --train.warmup-epochs, with a new --workdir (not {run.folder.path})."
    )


# -- Finish ------------------------------------------------------------------------------------------------------------


def _finish(run: _Run, state: TrainState) -> bool:
    """What the page of a finished run needs; False if a signal came in between (the next call makes it)."""
    run.display.analysing()
    try:
        # Every host computes, the leader writes.
        analysis, along = run.measurer.analysis(state), run.measurer.along(state)
        summary = _summary(run, state)
        summary["initial_norm"] = run.measurer.initial_norm(state)
        run.stop.check()
    except Stopped:
        return False
    _require_lock(run)
    order = run.program.order(state.seed, state.step)
    summary["step_memory_bytes"] = step_memory(run.program, state, run.measurer.train, order)

    def write(_: Sleep) -> None:
        run.folder.write_arrays("analysis.npz", analysis)
        run.folder.write_json("along.json", along)
        run.folder.finish(summary)

    led(write)
    return True


def _summary(run: _Run, state: TrainState) -> Summary:
    experiment, dataset, mesh = run.experiment, run.measurer.dataset, run.program.mesh
    terminal = [line["epoch"] for line in run.history if line["train_accuracy"] == 1.0]
    return {
        "arm": experiment.arm,
        "seed": experiment.seed,
        "recipe": experiment.recipe,
        "dataset": dataset.name,
        "parameters": count_parameters(state.params),
        "terminal_epoch": terminal[0] if terminal else None,
        "seconds": run.history[-1]["seconds"],
        "step_seconds": float(np.median(run.step_seconds)) if run.step_seconds else None,
        "versions": versions(),
        "device": f"{mesh.devices.flat[0].device_kind} x{mesh.size}",
        "class_names": list(dataset.class_names),
        "train_counts": dataset.train_counts.tolist(),
        "majority": dataset.majority.tolist(),
        "notes": list(dataset.notes),
    }
