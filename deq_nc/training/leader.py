"""What the first process does for all of them: it acts, the others wait for it and hear how it went."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from deq_nc.config import ConfigError, UserError
from deq_nc.runs import Held
from deq_nc.training.mesh import agreed, is_leader
from deq_nc.training.stop import Stop, Stopped

T = TypeVar("T")
Sleep = Callable[[float], None]  # seconds


class LeaderError(UserError, RuntimeError):
    """The first process could not go on; it says why."""

    exit_code = 1


DONE, WAITS = 0, -1
KINDS = (Held, ConfigError, Stopped, LeaderError)  # what the others raise; the last for all that is none of these


def led(act: Callable[[Sleep], T], stop: Stop | None = None) -> T | None:
    """`act(sleep)` of the first process, None in the others; where it raises, so do they, by KINDS.

    Whatever it waits for, it waits by `sleep`: the others hear so each time, for a collective that nothing comes from
    ends with an error. All look at `stop` then, and raise Stopped together.
    """
    if not is_leader():
        while (came := agreed(DONE)) == WAITS:
            if stop is not None:
                stop.now()
        if came != DONE:
            raise KINDS[came - 1]("the first process could not go on; it says why.")
        return None

    def sleep(seconds: float) -> None:
        agreed(WAITS)
        if stop is not None:
            stop.check()
        time.sleep(seconds)

    try:
        result = act(sleep)
    except Exception as error:
        agreed(1 + next((n for n, kind in enumerate(KINDS) if isinstance(error, kind)), len(KINDS) - 1))
        raise
    agreed(DONE)
    return result
