"""The annotations of deq_nc, checked at run time in every test: arrays by jaxtyping, the rest by beartype."""

import io
from collections.abc import Callable
from typing import IO

import jax
from beartype import BeartypeConf, FrozenDict, beartype

_checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # an int is a float, as type checkers have it
        # JAX takes NumPy's arrays wherever it takes its own; a zip's member has no `mode`, which IO asks for.
        hint_overrides=FrozenDict({jax.Array: jax.typing.ArrayLike, IO[bytes]: io.IOBase}),
    )
)


def checked(function: Callable) -> Callable:
    """A pytree's own constructor is left alone: JAX rebuilds it around placeholders."""
    return function if "Stats.__init__" in function.__qualname__ else _checked(function)
