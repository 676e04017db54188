"""The annotations of deq_nc, checked at run time in every test: arrays by jaxtyping, the rest by beartype."""

import io
from collections.abc import Callable
from typing import IO

from beartype import BeartypeConf, FrozenDict, beartype

_checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # an int is a float, as type checkers have it
        hint_overrides=FrozenDict({IO[bytes]: io.IOBase}),  # a zip's member has no `mode`, which IO asks for
    )
)


def checked(function: Callable) -> Callable:
    """A pytree's own constructor is left alone: JAX rebuilds it around placeholders."""
    return function if "Stats.__init__" in function.__qualname__ else _checked(function)
