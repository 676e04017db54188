"""The annotations of deq_nc, checked at run time in every test: arrays by jaxtyping, the rest by beartype."""

import io
from typing import IO

from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # an int is a float, as type checkers have it
        hint_overrides=FrozenDict({IO[bytes]: io.IOBase}),  # a zip's member has no `mode`, which IO asks for
    )
)
