"""The campaign of faults: what was thrown at the project, how often, and whether it held.

A module a letter; each has `run(quick, seed) -> list[Case]`. `python -m experiments.campaign --out FILE` runs them all
and writes the counts. A case holds if nothing was lost, spoiled, hung, or ended in a traceback.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One kind of fault: how many times it was tried, how many held, and a sentence on each that did not."""

    name: str
    tried: int
    held: int
    faults: tuple[str, ...] = ()
