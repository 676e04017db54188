"""What can be wrong with a cell, a solver or a solve, by name: what was expected, what came and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from deq_nc.config import FLOATS, INTEGERS, ConfigError

OBJECTS = "Give an object; names belong in an EquilibriumConfig, and an adjoint in gradient=Implicit(adjoint=...)."


class CellError(ValueError):
    """f(z, x, theta) is not a map that can be solved: it changes shape or dtype, mixes examples, captures tracers."""


class NotConvergedError(RuntimeError):
    """Raised by `strict=True` and `require_converged`, outside jit only: the worst examples and their residuals."""


def expect(ok: bool, name: str, expected: str, came: Any, do: str) -> None:
    if not ok:
        raise ConfigError(f"{name}: expected {expected}, got {came!r}. {do}")


def number(default: float, most: float = FLOATS) -> Any:
    """A dataclass field that `Part` holds to [0, FLOATS], or to (0, most]."""
    within = f"a number in (0, {most:g}]" if most < FLOATS else "a finite number >= 0"

    def ok(came: Any) -> bool:
        return isinstance(came, Real) and 0 <= float(came) <= most and (most == FLOATS or float(came) > 0)

    return field(default=default, metadata={"expected": within, "ok": ok})


def count(default: int, least: int = 0) -> Any:
    """A dataclass field that `Part` holds to the integers from `least` on."""
    ok = lambda came: isinstance(came, Integral) and least <= int(came) < INTEGERS  # noqa: E731
    return field(default=default, metadata={"expected": f"an integer >= {least}", "ok": ok})


@dataclass(frozen=True)
class Part:
    """A solver, adjoint or gradient: a frozen dataclass. ConfigError for a `number` or `count` outside its range."""

    def __post_init__(self) -> None:
        for f in fields(self):
            came, name = getattr(self, f.name), f"{type(self).__name__}.{f.name}"
            ok = "ok" not in f.metadata or (not isinstance(came, bool) and f.metadata["ok"](came))
            expect(ok, name, f.metadata.get("expected", ""), came, f"Try {f.default}; run-time values go to the call.")
