"""Which tables a page has. A grid: accuracy as in the paper, collapse, controls, the solve, work, the price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from deq_nc.report.read import Study
from deq_nc.report.read.numbers import ALONG, ITERATES
from deq_nc.report.tables.quantities import COSINES, NORMS, TIMES, quantity
from deq_nc.report.tables.table import Entry, Row, Table, difference, mean, paired
from deq_nc.runs import Setting

Tables = dict[str, list[Table]]  # by the section of the page; "cost" holds times and memory, never the same twice

PAIRS = (("deq", "explicit"), ("deq", "unrolled"), ("deq", "residual"))
WHY = {"explicit": "equal parameters", "unrolled": "about equal compute", "residual": "one residual layer, no solve"}
ACCURACY = {
    "test_accuracy": "overall", "test_accuracy_majority": "majority", "test_accuracy_minority": "minority",
}  # fmt: skip
BLOCKS = ("nc1_majority", "nc1_minority", *COSINES, *NORMS)
ONE = {  # section of the page of one setting -> its title and rows
    "headline": ("Result at the last epoch",
        "epoch terminal_epoch train_accuracy test_accuracy test_accuracy_majority test_accuracy_minority nc1 nc2_means "
        "nc2_weights nc3 nc4 solver_steps unconverged parameters"),
    "evidence": ("Evidence that each equilibrium was solved",
        "solver_steps solver_residual unconverged unconverged_worst adjoint_steps adjoint_residual adjoint_unconverged "
        "adjoint_escalated spectral_radius spectral_radius_error"),
    "blocks": ("Geometry by block of classes", " ".join(BLOCKS)),
    "more": ("More measures",
        "train_accuracy_in_training nc1_ratio nc3_product cdnv equinorm_means equinorm_weights feature_norm "
        "weight_norm rank condition nc2_floor"),
    "cost": ("Cost", "parameters parameters_arm step_seconds step_memory_bytes seconds"),
}  # fmt: skip
MANY = {  # section of the page of a grid -> its tables, one a quantity
    "collapse": "nc1 nc1_ratio cdnv condition nc2_means nc2_weights nc3 nc4 cosine_minority_means "
        "cosine_minority_weights norm_ratio_means norm_ratio_weights norm_majority_means norm_minority_means "
        "norm_majority_weights norm_minority_weights",
    "control": "train_accuracy amplification norm_gain initial_norm feature_norm weight_norm weights_to_etf "
        "weights_to_seli weights_to_optimum means_to_etf means_to_seli means_to_optimum",
    "evidence": "solver_residual unconverged unconverged_worst adjoint_residual adjoint_unconverged spectral_radius "
        "spectral_radius_error",
    "work": "parameters parameters_arm solver_steps adjoint_steps cell_forward cell_backward terminal_epoch",
    "cost": "step_seconds step_memory_bytes seconds",
}  # fmt: skip


def tables(study: Study) -> Tables:
    """Every table of the page, each once, by section in the order of the files; an empty one is left out."""
    if not study.many:
        found = {name: [_quantities(study, title, keys.split())] for name, (title, keys) in ONE.items()}
        found["evidence"] = [table.trimmed() for table in found["evidence"]]  # of the arms that solve
        return {name: group for name, group in found.items() if name == "cost" or group[0].rows}
    answer = _accuracy(study)
    found = {name: _by_quantity(study, name, keys.split()) for name, keys in MANY.items()}
    found |= {"answer": answer, "solve": _solve(study)}
    order = "answer collapse control solve evidence work cost".split()
    return {name: [table for table in found[name] if table.rows] for name in order}


def _quantities(study: Study, title: str, keys: Sequence[str]) -> Table:
    """Rows quantities, columns arms, of one setting; a quantity that no arm has is left out."""
    (setting,) = study.runs
    rows = [
        Row(setting, key, (quantity(key).label,), tuple(mean(study, setting, arm, key) for arm in study.arms))
        for key in keys
    ]
    shown = tuple(row for row in rows if row.measured or row.key == "terminal_epoch")
    return Table(title, title, "", ("quantity",), tuple(study.arms), shown)


def _by_arm(
    study: Study, name: str, title: str, note: str, stubs: tuple[str, ...],
    lines: Iterable[tuple[Setting, str, tuple[str, ...]]], compared: Sequence[tuple[str, str]] = (),
) -> Table:  # fmt: skip
    """Rows (setting, key, words), columns arms and paired differences; without empty rows and columns."""
    rows = []
    for setting, key, words in lines:
        entries = [mean(study, setting, arm, key) for arm in study.arms]
        entries += [paired(study, setting, *pair, key) for pair in compared]
        rows.append(Row(setting, key, words, tuple(entries)))
    columns = (*study.arms, *map(difference, compared))
    return Table(name, title, note, stubs, columns, tuple(row for row in rows if row.measured)).trimmed()


def pairs(study: Study) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if set(pair) <= set(study.arms)]


def _accuracy(study: Study) -> list[Table]:
    """Balanced, then one table per KA (and one for long tails): test accuracy in percent, and paired differences."""
    note = "Mean ± half of the 95 % t-interval over seeds; (3/5): three of five seeds are in."
    if which := "; ".join(f"{difference(pair)}: {WHY[pair[1]]}" for pair in pairs(study)):
        note += f" Differences are paired by seed, in percentage points ({which}); * : the interval excludes 0."
    groups: dict[str, list[Setting]] = {}
    for setting in study.settings:
        groups.setdefault(setting.panel, []).append(setting)
    out = []
    for group, settings in groups.items():
        balanced = settings[0].kind == "none"
        stubs, imbalanced = (("classes",), "") if balanced else (("R", "classes"), "imbalanced, ")
        lines = [
            (setting, key, (name,) if balanced else (f"{setting.ratio:g}", name))
            for setting in settings
            for key, name in ACCURACY.items()
        ]
        name = "accuracy-" + group.lower().replace(" = ", "").replace(" ", "-")
        title = f"Test accuracy (%), {imbalanced}{group}"
        out.append(_by_arm(study, name, title, note, stubs, lines, pairs(study)))
    return out


def _by_quantity(study: Study, section: str, keys: Sequence[str]) -> list[Table]:
    """One table per quantity: rows settings, columns arms, for collapse with the first paired difference."""
    compared = pairs(study)[:1] if section == "collapse" else ()
    out = []
    for key in keys:
        lines = [(setting, key, (setting.title,)) for setting in study.settings]
        name = f"{section}-{key.replace('_', '-')}"
        out.append(_by_arm(study, name, quantity(key).label, quantity(key).hint, ("setting",), lines, compared))
    return out


def _solve(study: Study) -> list[Table]:
    """One table per quantity of the deq arm: rows settings, columns the solver's iterates."""
    out = []
    for key in (f"solve_{key}" for key in ALONG):
        rows = []
        for setting in study.settings:
            values = [mean(study, setting, "deq", f"{key}_{name}").value for name in ITERATES]
            entries = tuple(Entry(key, value, len(study.seeds)) for value in values)
            rows.append(Row(setting, key, (setting.title,), entries))
        shown, columns = quantity(key), tuple(f"deq z_{name}" for name in ITERATES)
        measured = tuple(row for row in rows if row.measured)
        out.append(Table(key.replace("_", "-"), shown.label, shown.hint, ("setting",), columns, measured))
    return out


def run_rows(study: Study) -> list[dict[str, Any]]:
    """One row per run (of a grid: per finished run), every number but times: what the means were made of."""
    rows = []
    for setting, runs in study.runs.items():
        for run in runs:
            numbers = {key: value for key, value in study.numbers[run.path].items() if key not in TIMES}
            if not study.many:
                rows.append({"arm": run.arm, "seed": run.seed, "finished": run.finished} | numbers)
            elif run.finished:
                rows.append({"setting": setting.name, "arm": run.arm, "seed": run.seed} | numbers)
    return rows


def summary(study: Study, found: Tables) -> list[dict[str, str]]:
    """Column -> text, for a terminal. One setting: a row per arm, its seeds and the headline of `found`.

    A grid: a row per setting, its finished runs, test and minority accuracy (%) of each arm, and deq − explicit.
    """
    if not study.many:
        (headline,), (setting,) = found["headline"], study.runs
        return [
            {"arm": arm, "seeds": str(len(study.counted(setting, arm)))}
            | {row.words[0]: row.entries[index].text for row in headline.rows}
            for index, arm in enumerate(study.arms)
        ]
    rows = []
    for setting in study.settings:
        done = sum(run.finished for run in study.runs.get(setting, ()))
        row = {"setting": setting.title, "runs": f"{done}/{len(study.seeds) * len(study.arms)}"}
        for name, key in (("test", "test_accuracy"), ("minority", "test_accuracy_minority")):
            row |= {f"{name}, {arm}": mean(study, setting, arm, key).text for arm in study.arms}
            if PAIRS[0] in pairs(study):
                row[f"{name}, {difference(PAIRS[0])}"] = paired(study, setting, *PAIRS[0], key).text
        rows.append(row)
    return rows
