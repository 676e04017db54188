"""The story of a run, top to bottom.

A run is a function of its configuration: batches, augmentation and measurements follow from (seed, step), so a run
that is killed goes on from its last checkpoint to the same history. On disk a measurement's line comes first, then the
checkpoint that follows it.
"""

from __future__ import annotations

import errno
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from deq_nc.config import ConfigError, Experiment, UserError
from deq_nc.data import Dataset, load, steps_per_epoch
from deq_nc.losses import LOSSES
from deq_nc.models import count_parameters
from deq_nc.runs import RunFolder, default_workdir
from deq_nc.training.checkpoint import Checkpoints
from deq_nc.training.measure import Measurer
from deq_nc.training.mesh import agreed, data_mesh, is_leader, preempted_anywhere
from deq_nc.training.optimizer import schedule
from deq_nc.training.program import Program, program, step_memory
from deq_nc.training.progress import Display
from deq_nc.training.state import Logs, TrainState
from deq_nc.training.step import Corpus, corpus
from deq_nc.training.versions import versions

Status = Literal["finished", "already finished", "stopped"]
IN_FLIGHT = 2  # steps dispatched ahead of the device; keeps signals and progress prompt
REFRESH_SECONDS = 1.0  # between two looks at the numbers on the device


class TrainingError(UserError, RuntimeError):
    """Training cannot go on (a loss that is not finite, a full disk); the message says what was kept."""

    exit_code = 1


def train(experiment: Experiment, devices: Any = None, quiet: bool = False) -> tuple[Path, Status]:
    """Run an experiment to its end, or to a SIGTERM or SIGINT; returns its folder and how it ended.

    Raises ConfigError or DataError before any work, TrainingError when a step is not finite or the disk is full.
    """
    # -- What is asked for ---------------------------------------------------------------------------------------
    if experiment.train.loss not in LOSSES:
        raise ConfigError(f"train.loss: expected one of {', '.join(LOSSES)}, got {experiment.train.loss!r}.")
    folder = RunFolder(Path(experiment.workdir) if experiment.workdir else default_workdir(experiment))
    dataset = load(experiment.data)
    steps = steps_per_epoch(len(dataset.train_labels), experiment.train.batch_size)
    if not folder.check(experiment, dataset.checksums()) and is_leader():
        folder.claim(experiment, dataset.checksums())
    display = Display(experiment, steps, folder.path, quiet=quiet or not is_leader())
    if folder.finished:
        display.say(f"already finished: {folder.path} (delete it to run again)")
        return folder.path, "already finished"

    # -- The model on the devices --------------------------------------------------------------------------------
    mesh = data_mesh(devices)
    compiled = program(experiment, dataset, mesh)
    state = compiled.init(experiment.seed)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    folder.require_space((experiment.train.keep_checkpoints + 2) * size + 32 * 2**20)
    train_set = corpus(dataset, "train", mesh)
    measurer = Measurer(compiled, dataset, train_set)

    with (
        display,
        _disk(folder),
        Checkpoints(folder.checkpoints, experiment.train.keep_checkpoints) as checkpoints,
        _stop_flag() as stop,
    ):
        # -- Where it stands -------------------------------------------------------------------------------------
        _introduce(display, experiment, dataset, state, mesh)
        restored = checkpoints.restore(state, mesh, display.say)
        state = state if restored is None else restored
        begun = int(state.step)
        history = [line for line in folder.history().lines if line["step"] <= begun]
        if is_leader():
            folder.write_history(history)
        if begun:
            display.say(f"goes on at step {begun} (epoch {begun / steps:.1f} of {experiment.train.epochs})")
        seconds, started, saved = (history[-1]["seconds"] if history else 0.0), time.monotonic(), time.monotonic()
        due = measured_epochs(experiment.train.epochs, experiment.train.measurements)
        display.begin(begun)

        # -- Epochs ----------------------------------------------------------------------------------------------
        logs, step_seconds = state.logs, []
        for epoch in range(begun // steps, experiment.train.epochs):
            clock = time.monotonic()
            state, logs, stopped = _epoch(compiled, state, train_set, display, stop)
            _refuse_bad(logs, steps, checkpoints, folder)
            if stopped:
                break
            step_seconds.append((time.monotonic() - clock) / steps)

            terminal = any(line["train_accuracy"] == 1.0 for line in history)
            faultless = float(logs.correct) == float(logs.examples)
            if epoch + 1 in due or (faultless and not terminal):
                display.measuring(len(dataset.train_labels) + len(dataset.test_labels))
                line = {
                    "epoch": epoch + 1,
                    "step": int(state.step),
                    "seconds": round(seconds + time.monotonic() - started, 3),
                    "learning_rate": _learning_rate(experiment, steps, int(state.step)),
                    **measurer.line(state, logs),
                }
                if is_leader():
                    folder.append(line)
                history.append(line)
                display.measured(line)
            stopped = stop.at(int(state.step))
            if not stopped and agreed(time.monotonic() - saved >= experiment.train.checkpoint_seconds):
                checkpoints.save(state)
                saved = time.monotonic()
            if stopped:
                break

        # -- The end ---------------------------------------------------------------------------------------------
        checkpoints.save(state, wait=True)
        if int(state.step) < experiment.train.epochs * steps:
            display.say(f"stopped at step {int(state.step)}, saved; the same command goes on from here")
            return folder.path, "stopped"
        # Every host computes, the leader writes.
        analysis, along = measurer.analysis(state), measurer.along(state)
        summary = _summary(experiment, dataset, state, history, step_seconds, mesh) | {
            "initial_norm": measurer.initial_norm(state),
            "step_memory_bytes": step_memory(compiled, state, train_set, compiled.order(state.seed, state.step)),
        }
        if is_leader():
            folder.write_arrays("analysis.npz", analysis)
            folder.write_json("along.json", along)
            folder.finish(summary)
    display.say(f"finished: {folder.path}")
    return folder.path, "finished"


def measured_epochs(epochs: int, count: int) -> set[int]:
    """About `count` epochs from 1 to `epochs`, evenly spaced on a logarithmic scale; the last is always one."""
    return {int(round(float(e))) for e in np.geomspace(1, epochs, max(count, 2))} | {epochs}


def _epoch(
    compiled: Program, state: TrainState, train_set: Corpus, display: Display, stop: _Stop
) -> tuple[TrainState, Logs, bool]:
    """The rest of the epoch that `state` is in; True if a signal cut it short."""
    flying: deque[Logs] = deque()
    logs, looked = state.logs, time.monotonic()
    begun = int(state.step)
    ahead = compiled.steps - begun % compiled.steps
    order = compiled.order(state.seed, state.step)
    with jax.transfer_guard("disallow"):
        for done in range(ahead):
            if done and stop.at(begun + done):
                return state, jax.device_get(logs), True
            state, logs = compiled.step(state, train_set, order)
            flying.append(logs)
            if len(flying) > IN_FLIGHT:
                jax.block_until_ready(flying.popleft())
            if time.monotonic() - looked > REFRESH_SECONDS:
                looked = time.monotonic()
                display.update(begun + done + 1, jax.device_get(logs))
    logs = jax.device_get(logs)
    display.update(begun + ahead, logs)
    return state, logs, False


def _refuse_bad(logs: Logs, steps: int, checkpoints: Checkpoints, folder: RunFolder) -> None:
    bad = int(logs.bad_step)
    if bad < 0:
        return
    kept = checkpoints.latest
    raise TrainingError(
        f"loss or gradient not finite at step {bad} (epoch {bad // steps + 1}). "
        + (f"The last good checkpoint, step {kept}, is kept in {folder.checkpoints.name}/. " if kept else "")
        + f"Lower --train.learning-rate or raise --train.warmup-epochs, with a new --workdir (not {folder.path})."
    )


def _learning_rate(experiment: Experiment, steps: int, step: int) -> float:
    return float(schedule(experiment.train, steps)(max(step - 1, 0)))


def _introduce(display: Display, experiment: Experiment, dataset: Dataset, state: TrainState, mesh: Any) -> None:
    parameters = count_parameters(state.params)
    counts = ", ".join(f"{n}{'' if m else '*'}" for n, m in zip(dataset.train_counts, dataset.majority))
    display.say(
        f"{dataset.name}: {len(dataset.train_labels)} train images, {len(dataset.test_labels)} test images, "
        f"{dataset.num_classes} classes; train images a class: {counts}"
        + ("" if dataset.majority.all() else "  (* minority)")
    )
    for note in dataset.notes:
        display.say(f"note: {note}")
    display.say(
        f"{parameters['total']:,} parameters (encoder {parameters['encoder']:,}, arm {parameters['arm']:,}, "
        f"classifier {parameters['classifier']:,}); {mesh.size} {mesh.devices.flat[0].platform} device(s)"
    )


def _summary(
    experiment: Experiment,
    dataset: Dataset,
    state: TrainState,
    history: list[dict[str, Any]],
    step_seconds: list[float],
    mesh: Any,
) -> dict[str, Any]:
    terminal = [line["epoch"] for line in history if line["train_accuracy"] == 1.0]
    return {
        "arm": experiment.arm,
        "seed": experiment.seed,
        "recipe": experiment.recipe,
        "dataset": dataset.name,
        "parameters": count_parameters(state.params),
        "terminal_epoch": terminal[0] if terminal else None,
        "seconds": history[-1]["seconds"],
        "step_seconds": float(np.median(step_seconds)) if step_seconds else None,
        "versions": versions(),
        "device": f"{mesh.devices.flat[0].device_kind} x{mesh.size}",
        "class_names": list(dataset.class_names),
        "train_counts": dataset.train_counts.tolist(),
        "majority": dataset.majority.tolist(),
        "notes": list(dataset.notes),
    }


class _Stop:
    """A signal's flag; hosts agree on the step at which they stop."""

    is_set = False

    def at(self, step: int) -> bool:
        return preempted_anywhere(step) or (self.is_set and jax.process_count() == 1)


@contextmanager
def _stop_flag() -> Iterator[_Stop]:
    """SIGTERM and SIGINT set a flag that the loop reads between steps; a second SIGINT interrupts at once."""
    flag, previous = _Stop(), {}

    def set_flag(number: int, frame: Any) -> None:
        if flag.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.is_set = True

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, set_flag)
    except ValueError:
        pass  # not the main thread (a notebook's executor, a test): signals stay as they are
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _disk(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrainingError(
            f"the disk of {folder.path} is full. History and earlier checkpoints are kept; free some space and give "
            "the same command to go on."
        ) from error
