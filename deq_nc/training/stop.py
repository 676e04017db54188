"""Signals as a flag that the loop reads between steps: SIGTERM, SIGINT and SIGHUP stop a run, which saves first."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from deq_nc.training.mesh import preempted_anywhere

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Stopped(Exception):
    """A signal came in the middle of a measurement: the state is whole, the measurement is made again later."""


class Stop:
    """A signal's flag. Several processes ask `now` at the same places, and all hear True at the same one."""

    is_set = False

    def now(self) -> bool:
        if not self.is_set and jax.process_count() > 1:
            self.is_set = preempted_anywhere()
        return self.is_set

    def check(self) -> None:
        """Raises Stopped once the flag is set."""
        if self.now():
            raise Stopped


@contextmanager
def stop_flag() -> Iterator[Stop]:
    """Signals set the flag from here to the end; a second SIGINT interrupts at once.

    With several processes SIGTERM is left to jax.distributed, whose handler tells the others; the other signals are
    passed on to it. A signal that was ignored (nohup's SIGHUP) stays ignored.
    """
    flag, previous, several = Stop(), {}, jax.process_count() > 1

    def set_flag(number: int, frame: Any) -> None:
        if number == signal.SIGINT and (flag.is_set or passed):
            raise KeyboardInterrupt
        if several:
            passed.append(number)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            flag.is_set = True

    passed: list[int] = []
    try:
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN or (several and number == signal.SIGTERM):
                continue
            previous[number] = signal.signal(number, set_flag)
    except ValueError:
        pass  # not the main thread (a notebook's executor, a test): signals stay as they are
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
