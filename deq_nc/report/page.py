"""The page: one HTML file with every table and figure inside, plus the same tables and figures as files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from deq_nc.config import Experiment, differing_fields
from deq_nc.report.along import along_pictures, layer_rows
from deq_nc.report.curves import curve_pictures
from deq_nc.report.geometry import geometry_pictures
from deq_nc.report.quantities import COST, MORE, quantity
from deq_nc.report.runs import Run
from deq_nc.report.style import style_context
from deq_nc.report.tables import (
    EVIDENCE_TITLE,
    Table,
    arm_runs,
    blocks,
    evidence,
    headline,
    runs_csv,
    table,
    tables_csv,
)
from deq_nc.report.theory import predictions

TEMPLATE = "page.html.j2"
FLAGS = {  # what collapse.measure counts and leaves out or cannot measure
    "empty": "classes without a training image are left out of every measure.",
    "single": "classes have one training image; their spread is 0 by construction.",
    "zero_means": "class means coincide with the global mean; their angles are left out.",
    "zero_weights": "classifier rows are zero; their angles are left out.",
    "outside": "training images carry a label outside the classes and are left out.",
}


def single_page(runs: Sequence[Run], folder: Path) -> Path:
    """Runs of one setting -> the path of `folder`/index.html, beside its figures and tables as files."""
    classes = next((n for run in runs if (n := num_classes(run))), None)
    with style_context():
        curves = [*curve_pictures(runs, classes), *along_pictures(runs)]
        geometry = geometry_pictures(runs)
    cost = table("Cost", runs, COST)
    tables = [headline(runs), evidence(runs), blocks(runs), table("More measures", runs, MORE)]
    tables = [each for each in tables if each.rows]

    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for each in (*curves, *geometry):
        (folder / "figures" / f"{each.name}.png").write_bytes(each.png)
    text = f"# {title(runs)}\n\n" + "".join(f"- {line}\n" for line in remarks(runs)) + "\n"
    for name, chosen in (("tables", tables), ("cost", [cost])):
        (folder / f"{name}.md").write_text(text + "\n".join(each.markdown() for each in chosen), encoding="utf-8")
        (folder / f"{name}.csv").write_text(tables_csv(chosen), encoding="utf-8")
    (folder / "runs.csv").write_text(runs_csv(runs), encoding="utf-8")
    page = folder / "index.html"
    page.write_text(_render(runs, [*tables, cost], [*curves, *geometry]), encoding="utf-8")
    return page


def title(runs: Sequence[Run]) -> str:
    """Data set, imbalance, arms, number of seeds."""
    seeds = len({run.seed for run in runs})
    return f"{dataset_name(runs)}, {_imbalance(runs)}: {', '.join(arm_runs(runs))}, {seeds} seed{'s' * (seeds != 1)}"


def remarks(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before believing a number: unfinished runs, unconverged solves, notes."""
    out = []
    finished_arms = {run.arm for run in runs if run.finished}
    for run in runs:
        name = f"{run.arm} seed {run.seed}"
        if not run.finished:
            left_out = "; left out of the tables, which show the finished seeds" if run.arm in finished_arms else ""
            out.append(f"{name}: unfinished, epoch {run.epoch} of {run.epochs or 'unknown'}{left_out}.")
        if run.history and (share := run.history[-1].get("unconverged")):
            out.append(
                f"{name}: {share:.2%} of the equilibria did not reach the tolerance at the last epoch; its "
                "collapse numbers are measured partly on points that are not equilibria."
            )
        last = run.history[-1] if run.history else {}
        out += [f"{name}: {int(last[key])} {what}" for key, what in FLAGS.items() if last.get(key)]
    notes: dict[str, list[str]] = {}
    for run in runs:
        for note in (run.summary or {}).get("notes") or []:
            notes.setdefault(note, []).append(f"{run.arm} seed {run.seed}")
    finished = sum(run.finished for run in runs)
    out += [note if len(names) == finished else f"{', '.join(names)}: {note}" for note, names in notes.items()]
    if len({run.summary.get("device") for run in runs if run.summary}) > 1:
        out.append("The runs were made on different devices: see below.")
    return out


def dataset_name(runs: Sequence[Run]) -> str:
    named = [run.summary["dataset"] for run in runs if run.summary and run.summary.get("dataset")]
    return named[0] if named else runs[0].config.get("data", {}).get("name", "unknown data")


def _imbalance(runs: Sequence[Run]) -> str:
    data = runs[0].config.get("data", {})
    kind = data.get("imbalance", "none")
    if kind == "step":
        return f"step imbalance KA = {data.get('majority')}, R = {data.get('ratio'):g}"
    return f"long tail, ratio {data.get('ratio'):g}" if kind == "longtail" else "balanced"


def num_classes(run: Run) -> int | None:
    if run.analysis is not None and "class_means" in run.analysis:
        return len(run.analysis["class_means"])
    return len((run.summary or {}).get("class_names") or []) or None


def _class_rows(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: class, block (when divided), training images, test accuracy of each arm's first seed."""
    firsts = [group[0] for group in arm_runs(run for run in runs if run.summary).values()]
    if not firsts:
        return [], []
    summary = firsts[0].summary
    names, counts = summary.get("class_names") or [], summary.get("train_counts") or []
    majority = summary.get("majority") or []
    divided = any(majority) and not all(majority)
    accuracies = {
        run.arm: (run.analysis or {}).get("test_accuracy_per_class") for run in firsts
    }  # fmt: skip
    shown = {arm: values for arm, values in accuracies.items() if values is not None and len(values) == len(names)}
    heading = ["class", *(["block"] if divided else []), "training images"]
    heading += [f"test accuracy, {run.arm} seed {run.seed}" for run in firsts if run.arm in shown]
    rows = []
    for index, (name, count) in enumerate(zip(names, counts)):
        block = [("minority", "majority")[bool(majority[index])]] if divided else []
        rows.append([str(name), *block, f"{count:,}", *(f"{values[index]:.4f}" for values in shown.values())])
    return heading, rows


def _run_rows(runs: Sequence[Run]) -> list[list[str]]:
    rows = []
    for run in runs:
        summary = run.summary or {}
        state = "finished" if run.finished else f"unfinished, epoch {run.epoch} of {run.epochs or 'unknown'}"
        versions = ", ".join(f"{name} {version}" for name, version in (summary.get("versions") or {}).items())
        rows.append([run.arm, str(run.seed), state, summary.get("device") or "–", versions or "–"])
    return rows


def template(name: str) -> jinja2.Template:
    """A template of this folder; what it is given is escaped, and a name it is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template(name)  # fmt: skip


def _render(runs: Sequence[Run], tables: Sequence[Table], pictures: Sequence[Any]) -> str:
    changed = differing_fields(dataclasses.asdict(Experiment()), runs[0].config)
    class_heading, class_rows = _class_rows(runs)
    return template(TEMPLATE).render(
        title=title(runs),
        remarks=remarks(runs),
        tables=[
            (each.title, each.arms, [(quantity(key).hint, texts) for (key, _), texts in zip(each.rows, each.texts())])
            for each in tables
        ],
        # Before any figure: no number without its residual.
        tables_first=2 if len(tables) > 1 and tables[1].title == EVIDENCE_TITLE else 1,
        pictures=[(each, each.base64) for each in pictures],
        predictions=predictions(runs),
        layer_rows=layer_rows(runs),
        class_heading=class_heading,
        class_rows=class_rows,
        run_rows=_run_rows(runs),
        changed=[
            (name, *values) for name, values in changed.items() if name not in ("arm", "seed", "workdir")
        ],
        config=json.dumps({k: v for k, v in runs[0].config.items() if k not in ("arm", "seed", "workdir")}, indent=2),
    )  # fmt: skip
