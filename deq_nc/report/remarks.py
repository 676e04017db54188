"""What a reader must know before believing a number, and what the arms are: the sentences at the top of both pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deq_nc.report.along import cut_short
from deq_nc.report.runs import Run

FLAGS = {  # what collapse.measure counts and leaves out or cannot measure
    "empty": "classes without a training image are left out of every measure.",
    "single": "classes have one training image; their spread is 0 by construction.",
    "zero_means": "class means coincide with the global mean; their angles are left out.",
    "zero_weights": "classifier rows are zero; their angles are left out.",
    "outside": "training images carry a label outside the classes and are left out.",
}
ILL_CONDITIONED = 100.0  # S_B^+ weighs spread along the shortest direction of the means 10^4 times the longest's
NEAR_ONE = 0.9  # 40 steps read 1.04 as .977
ARMS = {
    "explicit": "explicit gives z = g(x), by layers of their own weights",
    "deq": "deq gives the z* that solves z* = x + g(z*)",
    "unrolled": "unrolled sets z to x + g(z) a fixed number of times, from z = x",
    "residual": "residual gives z = x + g(x), by layers of their own weights",
}


def arms_text(arms: Iterable[str]) -> str:
    """Two sentences on the arms that occur; none of arms that are not ours."""
    words = [ARMS[arm] for arm in arms if arm in ARMS]
    if not words:
        return ""
    return (
        f"Each arm turns x, what the encoder gives, into the features z of a linear classifier by a small network g: "
        f"{'; '.join(words)}. Encoder, classifier and training are the same in all arms, so that they differ in this "
        "step alone."
    )


def last_row(run: Run) -> dict:
    return run.history[-1] if run.history else {}


def flags(run: Run) -> list[str]:
    """What the last measured epoch counted and left out."""
    return [f"{int(last_row(run)[key])} {what}" for key, what in FLAGS.items() if last_row(run).get(key)]


def cautions(run: Run) -> list[str]:
    """Where a number of the last epoch, or a figure, says less than it seems to."""
    row, out = last_row(run), []
    if (row.get("condition") or 0) >= ILL_CONDITIONED:
        out.append(
            f"the class means have a condition number of {ILL_CONDITIONED:.0f} or more, so that NC1 is decided by the "
            "direction in which they differ least: of arms alike in NC1, the ratio of traces and the CDNV say more."
        )
    radius, error = row.get("spectral_radius"), row.get("spectral_radius_error")
    if radius is not None:
        if radius >= 1:
            out.append("the spectral radius at z* is estimated at 1 or more: plain iteration would not converge there.")
        elif error is not None and not radius + error < 1:
            out.append("the spectral radius at z* is nearer to 1 than the error of its estimate: it may be above 1.")
        elif error is None and radius > NEAR_ONE:
            out.append("the spectral radius at z* is an estimate whose error is not known, near 1: it may be above 1.")
    if cut_short(run):
        step = run.along["by_step"][-1]["step"]
        out.append(
            f"the record along the solve stops at iterate {step}, before the solve did: its last iterate is not the "
            "equilibrium that the other numbers are of."
        )
    return out


def by_text(found: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Pairs (name, text) -> the names of each text, in order."""
    out: dict[str, list[str]] = {}
    for name, text in found:
        out.setdefault(text, []).append(name)
    return out
