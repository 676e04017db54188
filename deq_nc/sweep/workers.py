"""Worker processes on CPU: a process a job, each on its own share of the cores.

Two runs of one core each get more done than one run of two cores: at this size XLA's second thread adds little, and
nothing fills the core that waits while a run compiles, measures or writes.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from deq_nc.runs import folder_of
from deq_nc.sweep.plan import Job, Kind, Note
from deq_nc.training.stop import SIGNALS

CONTEXT = multiprocessing.get_context("spawn")  # a forked jax deadlocks
TICK_SECONDS = 2.0
UNHEARD = 141  # exit code of a worker whose reader has left, as a shell has it
SAID = 800  # letters of a message: below the size that a pipe takes whole or not at all


def _end_with_parent() -> None:
    """However the parent ends: an orphan would go on writing to folders that the next sweep opens."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
    os._exit(1)


def _start(job: Job, cpus: tuple[int, ...], cache: str, quiet: bool, patient: bool, parent: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cpus:
        os.sched_setaffinity(0, cpus)  # before jax counts the cores to start its threads
    import jax

    from deq_nc.sweep.job import run_job
    from deq_nc.training import stop_flag

    # Settings share the programs of their measurements, and a sweep that goes on compiles nothing again.
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    paths = [folder_of(run) for run in job.runs]

    def note(path: Path, kind: Kind, text: str) -> None:
        parent.send((paths.index(path), kind, text[:SAID]))

    try:
        with stop_flag() as stop:
            run_job(job, quiet, patient, stop, note)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich makes the one into the other
        os._exit(UNHEARD)


@dataclasses.dataclass
class _Worker:
    """A process, its job, and which run of it is at work."""

    process: Any
    job: Job
    cpus: tuple[int, ...]
    said: Connection
    at: int = 0

    def listen(self, note: Note) -> None:
        try:
            while self.said.poll():
                index, kind, text = self.said.recv()
                self.at = index + (kind != "began")
                note(folder_of(self.job.runs[index]), kind, text)
        except (EOFError, OSError):
            pass  # it ended


def work(
    jobs: Sequence[Job],
    at_once: int,
    cache: str,
    quiet: bool,
    patient: bool,
    note: Note,
    tick: Callable[[], Any],
    record: Callable[[Path, str], str],
) -> bool:
    """Run the jobs, `at_once` at a time; True if SIGTERM, SIGINT or SIGHUP stopped them (each saves its run first).

    `note(folder, kind, text)` hears of every run, `tick` is called every few seconds. A process that ended outside
    of a run (out of memory, for one) leaves the run it was at to blame, which `record` writes down; the rest of its
    job goes to another process. A second SIGINT kills them.
    """
    waiting, running, stopped = deque(jobs), dict[Any, _Worker](), False
    resource_tracker.ensure_running()  # the first start would do it, and with it unblock SIGINT
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    slots = [tuple(available[index::at_once]) for index in range(at_once)]

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        again, stopped = stopped, True
        for worker in running.values():
            if number == signal.SIGINT and again:
                worker.process.kill()
            else:
                worker.process.terminate()
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt

    def start(job: Job, cpus: tuple[int, ...]) -> None:
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_start, args=(job, cpus, cache, quiet, patient, theirs))
        # A terminal's Ctrl-C reaches every process: the workers sleep through it and hear SIGTERM from here.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            running[process.sentinel] = _Worker(process, job, cpus, ours)
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if stopped:
            process.terminate()

    def lost(worker: _Worker) -> None:
        first, *rest = worker.job.runs[worker.at :]
        folder = folder_of(first)
        code = worker.process.exitcode
        why = "killed from outside" if code < 0 else "by an error of its own, which it printed"
        text = f"the process ended with exit code {code}, {why}"
        note(folder, "failed", text + record(folder, text + "\n"))
        if rest:
            waiting.appendleft(dataclasses.replace(worker.job, runs=tuple(rest)))

    signals = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's SIGHUP
    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        while running or (waiting and not stopped):
            while waiting and slots and not stopped:
                start(waiting.popleft(), slots.pop())
            ended = wait(list(running), timeout=TICK_SECONDS)
            for worker in running.values():
                worker.listen(note)
            for sentinel in ended:
                worker = running.pop(sentinel)
                worker.process.join()
                worker.listen(note)
                worker.said.close()
                slots.append(worker.cpus)
                if worker.process.exitcode == UNHEARD:
                    raise BrokenPipeError
                if worker.process.exitcode and not stopped and worker.at < len(worker.job.runs):
                    lost(worker)
            tick()
    except BaseException:
        for worker in running.values():
            worker.process.terminate()  # saves its run
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return stopped
