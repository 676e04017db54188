"""`deq-nc theory`: the optimum of each arm of the layer-peeled models for one setting, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tyro


@dataclass(frozen=True)
class TheoryOptions:
    """Optima of the layer-peeled models under the norm budget ||V||_2 <= gain (our formulation; docs/theory.md)."""

    majority: int = 5
    """KA, classes with R n_B samples."""
    minority: int = 5
    """KB, classes with n_B samples."""
    ratio: float = 10.0
    """R = n_A / n_B."""
    scale: float = 5**0.5
    """s = sqrt(E_W E_H), before the arm."""
    gain: float = 0.5
    """g, the bound on ||V||_2."""
    arm: Literal["all", "explicit", "residual", "deq"] = "all"
    """Which arms to show."""
    dim: int | None = None
    """d, the feature dimension, to check that the optimum fits in it."""
    counts: tuple[int, ...] = ()
    """Samples per class, for any imbalance; replaces majority, minority and ratio."""


def run(options: TheoryOptions) -> None:
    """Print the table. Raises ValueError with the next move for settings that have no optimum."""
    from rich.console import Console

    from deq_nc.theory import ARMS, arm_scale
    from deq_nc.theory.checks import require

    arms = ARMS if options.arm == "all" else (options.arm,)
    scales = [("(none)", options.scale)] + [(arm, arm_scale(arm, options.scale, options.gain)) for arm in arms]
    for arm, effective in scales:  # every refusal before the first compilation
        require(effective > 0, "gain", f"a number in (0, 1) for the {arm} arm", 0, "V = 0 maps every feature to zero.")
    Console().print(_counts_table(options, scales) if options.counts else _step_table(options, scales))


def _step_table(options: TheoryOptions, scales: list[tuple[str, float]]) -> Any:
    import numpy as np
    from rich.table import Table

    from deq_nc.theory import balanced_optimum, collapse_threshold, step_optimum, vanishing_scale

    ka, kb, s = options.majority, options.minority, options.scale
    rows = [(arm, at, step_optimum(ka, kb, options.ratio, at, dim=options.dim)) for arm, at in scales]
    table = Table(title=f"KA={ka} KB={kb} R={options.ratio:g} s={s:.6g} gain={options.gain:g}")
    table.add_column("")
    for arm, _, _ in rows:
        table.add_column(arm, justify="right")

    def line(name: str, text: Callable[[float, Any], str]) -> None:
        table.add_row(name, *(text(at, o) for _, at, o in rows))

    def cosine(name: str, attribute: str) -> None:
        line(name, lambda at, o: f"{getattr(o, attribute):+.6f}" if np.isfinite(getattr(o, attribute)) else "-")

    line("effective scale", lambda at, o: f"{at:.6g}")
    line("loss", lambda at, o: f"{o.loss:.10f}" if o.loss > 1e-4 else f"{o.loss:.8e}")
    line("duality gap", lambda at, o: f"{abs(o.gap):.0e}")
    cosine("cos major-major", "cos_majority")
    cosine("cos major-minor", "cos_cross")
    cosine("cos minor-minor", "cos_minority")
    line("norm minor/major", lambda at, o: f"{np.sqrt(o.norm_minority / o.norm_majority):.4f}")
    line("minority", lambda at, o: "vanished" if o.vanished else "collapsed" if o.collapsed else "apart")
    line("collapse at R0", lambda at, o: f"{collapse_threshold(ka, kb, at):.6g}" if kb > 1 else "-")
    ideal = balanced_optimum(ka + kb, s)
    table.caption = (
        f"Balanced at s: loss {ideal:.6g}, every cosine {-1 / (ka + kb - 1):+.4f}. loss - minimum <= duality gap. "
        f"As R grows the minority vanishes iff the effective scale is <= {vanishing_scale(ka, kb):.4g}. At equal "
        "effective scale every arm has the same optimum."
    )
    return table


def _counts_table(options: TheoryOptions, scales: list[tuple[str, float]]) -> Any:
    import numpy as np
    from rich.table import Table

    from deq_nc.theory import counts_optimum

    k = len(options.counts)
    table = Table(title=f"counts {options.counts} s={options.scale:.6g} gain={options.gain:g}")
    for name in ("arm", "scale", "loss", "gap", "rank", "largest cosine"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm, at in scales:
        o = counts_optimum(options.counts, at, dim=options.dim)
        sv = np.linalg.svd(o.logits, compute_uv=False)
        gram = o.gram_weights()
        length = np.sqrt(np.diag(gram).clip(1e-300))
        cos = (gram / np.outer(length, length))[np.triu_indices(k, 1)].max()
        mark = "" if o.converged else " (not converged)"
        rank = int(np.sum(sv > 1e-6 * sv[0]))
        table.add_row(arm, f"{at:.6g}", f"{o.loss:.10g}", f"{o.gap:.0e}{mark}", f"{rank}", f"{cos:+.6f}")
    table.caption = f"The ETF has rank {k - 1}. The gap bounds loss - minimum."
    return table


def theory_command(arguments: list[str]) -> int:
    run(tyro.cli(TheoryOptions, args=arguments, prog="deq-nc theory"))
    return 0
