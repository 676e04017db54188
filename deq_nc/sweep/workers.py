"""Worker processes on CPU: a process a cell, each on its own share of the cores.

Two runs of one core each get more done than one run of two cores: at this size XLA's second thread adds little, and
nothing fills the core that waits while a run compiles, measures or writes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from deq_nc.sweep.plan import Cell

CONTEXT = multiprocessing.get_context("spawn")  # a forked jax deadlocks
TICK_SECONDS = 2.0


def _end_with_parent() -> None:
    """However the parent ends: an orphan would go on writing to folders that the next sweep opens."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _start(cell: Cell, cpus: tuple[int, ...], cache: str, quiet: bool) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cpus:
        os.sched_setaffinity(0, cpus)  # before jax counts the cores to start its threads
    import jax

    from deq_nc.sweep.run import run_cell

    # Settings share the programs of their measurements, and a sweep that goes on compiles nothing again.
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    run_cell(cell, quiet)


def work(
    cells: Sequence[Cell],
    jobs: int,
    cache: str,
    quiet: bool,
    tick: Callable[[], Any],
    lost: Callable[[Cell, int], None],
) -> bool:
    """Run the cells, `jobs` at a time; True if SIGTERM or SIGINT stopped them (each saves its run first).

    `tick` is called every few seconds; `lost(cell, exit code)` for a process that ended by none of our doing.
    """
    waiting, running, stopped = list(cells), {}, False
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    slots = [tuple(available[index::jobs]) for index in range(jobs)]

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        for process, *_ in running.values():
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while running or (waiting and not stopped):
            while waiting and slots and not stopped:
                cell, cpus = waiting.pop(0), slots.pop()
                process = CONTEXT.Process(target=_start, args=(cell, cpus, cache, quiet))
                process.start()
                running[process.sentinel] = process, cell, cpus
            for sentinel in wait(list(running), timeout=TICK_SECONDS):
                process, cell, cpus = running.pop(sentinel)
                process.join()
                slots.append(cpus)
                if process.exitcode and not stopped:
                    lost(cell, process.exitcode)
            tick()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return stopped
