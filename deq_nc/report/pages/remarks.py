"""The sentences at the top of a page: its title, what the arms are, what to know before believing a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deq_nc.report.figures import tsne
from deq_nc.report.read import Run, Study
from deq_nc.report.tables import Table

FLAGS = {  # what collapse.measure counts and leaves out or cannot measure
    "empty": "classes without a training image are left out of every measure.",
    "single": "classes have one training image; their spread is 0 by construction.",
    "zero_means": "class means coincide with the global mean; their angles are left out.",
    "zero_weights": "classifier rows are zero; their angles are left out.",
    "outside": "training images carry a label outside the classes and are left out.",
}
ILL_CONDITIONED = 100.0  # S_B^+ weighs spread along the shortest direction of the means 10^4 times the longest's
NEAR_ONE = 0.9  # 40 steps read 1.04 as .977
COMPARED = {"answer": "accuracy", "collapse": "measures of collapse"}  # sections with paired differences
ARMS = {
    "explicit": "explicit gives z = g(x), by layers of their own weights",
    "deq": "deq gives the z* that solves z* = x + g(z*)",
    "unrolled": "unrolled sets z to x + g(z) a fixed number of times, from z = x",
    "residual": "residual gives z = x + g(x), by layers of their own weights",
}


def title(study: Study) -> str:
    """Data set, class balance, arms, number of seeds."""
    named = [run.summary["dataset"] for run in study.all if run.summary.get("dataset")]
    data, seeds = study.all[0].config.get("data", {}), len(study.seeds)
    balance = {
        "none": "balanced",
        "step": f"step imbalance KA = {data.get('majority')}, R = {data.get('ratio', 0):g}",
        "longtail": f"long tail, ratio {data.get('ratio', 0):g}",
    }[data.get("imbalance", "none")]
    what = f"{len(study.settings)} settings of class balance" if study.many else balance
    dataset = named[0] if named else data.get("name", "unknown data")
    return f"{dataset}, {what}: {', '.join(study.arms)}, {seeds} seed{'s' * (seeds != 1)}"


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


def flags(run: Run) -> list[str]:
    """What the last measured epoch counted and left out."""
    return [f"{int(run.last[key])} {what}" for key, what in FLAGS.items() if run.last.get(key)]


def cautions(run: Run) -> list[str]:
    """Where a number of the last epoch, or a figure, says less than it seems to."""
    row, out = run.last, []
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
    if run.cut_short:
        step = run.solve[-1]["step"]
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


def remarks(study: Study) -> list[str]:
    """What a reader must know before believing a number: what is missing, unconverged, left out, noted."""
    out = [f"Left out: {line}" for line in study.left_out]
    out += _of_many(study) if study.many else _of_one(study.all)
    if len({run.summary.get("device") for run in study.all if run.finished}) > 1:
        out.append("The runs were made on different devices: see below.")
    return out


def _of_one(runs: Sequence[Run]) -> list[str]:
    out: list[str] = []
    finished_arms = {run.arm for run in runs if run.finished}
    for run in runs:
        if not run.finished:
            left_out = "; left out of the tables, which show the finished seeds" if run.arm in finished_arms else ""
            out.append(f"{run.name}: {run.state}{left_out}.")
        if share := run.last.get("unconverged"):
            out.append(
                f"{run.name}: {share:.2%} of the equilibria did not reach the tolerance at the last epoch; its "
                "collapse numbers are measured partly on points that are not equilibria."
            )
        out += [f"{run.name} {line}" for line in run.damaged]
        out += [f"{run.name}: {line}" for line in flags(run)]
    cautioned = by_text([(run.name, text) for run in runs for text in cautions(run)])
    out += [f"{', '.join(names)}: {text}" for text, names in cautioned.items()] + tsne.remarks(runs)
    done = [run for run in runs if run.finished]
    notes = by_text([(run.name, note) for run in done for note in run.summary.get("notes") or []])
    return out + [note if len(names) == len(done) else f"{', '.join(names)}: {note}" for note, names in notes.items()]


def _of_many(study: Study) -> list[str]:
    out, found = study.missing(), []
    for setting, runs in study.runs.items():
        out += [f"{setting.title}, {run.name} {line}" for run in runs for line in run.damaged]
        out += [f"{setting.title}, {line}" for line in tsne.remarks(runs)]
        for run in (run for run in runs if run.finished):
            texts = [*flags(run), *cautions(run)]
            if run.last.get("unconverged"):
                texts.append("equilibria that did not reach the tolerance at the last epoch (see the evidence).")
            found += [(f"{setting.title}, {run.arm}", text) for text in [*texts, *(run.summary.get("notes") or [])]]
    total = sum(run.finished for run in study.all)
    for text, names in by_text(found).items():
        out.append(text if len(names) == total else f"{text} ({len(names)} runs: {'; '.join(dict.fromkeys(names))})")
    return out


def comparisons(tables: Sequence[Table], what: str) -> str:
    """How many differences were tested in `tables`, how many exclude 0, and how many would by chance."""
    tested = [
        entry for table in tables for row in table.rows for entry in row.entries
        if entry.paired and entry.value is not None and entry.value.half is not None
    ]  # fmt: skip
    if not tested:
        return "No difference has two seeds or more: nothing is compared."
    count, excluding = len(tested), sum(entry.marked for entry in tested)
    strict = sum(entry.value is not None and entry.value.excludes_zero(count) for entry in tested)
    exclude, remain = "excludes" if excluding == 1 else "exclude", "remains" if strict == 1 else "remain"
    return (
        f"The intervals are not corrected for multiple comparisons: of {count} paired differences in {what} "
        f"{excluding} {exclude} 0, where about {0.05 * count:.1f} would by chance if no arm differed; {strict} "
        f"{remain} with intervals at the Bonferroni level (1 − 0.05/{count})."
    )
