"""`deq-nc theory`: optima and thresholds of the layer-peeled models."""

from __future__ import annotations

import tyro


def theory_command(arguments: list[str]) -> int:
    from deq_nc.theory.command import TheoryOptions, run

    run(tyro.cli(TheoryOptions, args=arguments, prog="deq-nc theory"))
    return 0
