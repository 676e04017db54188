"""What can be wrong with a cell or a solve, by name; every message says what was expected, what came and what to do."""

from __future__ import annotations


class CellError(ValueError):
    """f(z, x, theta) is not a map that can be solved: it changes shape or dtype, mixes examples, captures tracers."""


class NotConvergedError(RuntimeError):
    """Raised by `strict=True` and `require_converged`, outside jit only: the worst examples and their residuals."""
