"""The page: one HTML file with every table and figure inside, plus the same tables and figures as files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from deq_nc.config import Experiment, differing_fields
from deq_nc.names import markdown
from deq_nc.report import tsne
from deq_nc.report.along import along_pictures, layer_rows
from deq_nc.report.curves import curve_pictures
from deq_nc.report.geometry import geometry_pictures
from deq_nc.report.quantities import COST, MORE, quantity
from deq_nc.report.remarks import arms_text, by_text, cautions, flags
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


def single_page(runs: Sequence[Run], left_out: Sequence[str] = ()) -> dict[str, bytes]:
    """Runs of one setting -> the files of their page: figures, tables, index.html; `left_out`: what is not there."""
    classes = next((n for run in runs if (n := num_classes(run))), None)
    with style_context():
        curves = [*curve_pictures(runs, classes), *along_pictures(runs)]
        geometry = geometry_pictures(runs)
    cost = table("Cost", runs, COST)
    tables = [headline(runs), evidence(runs), blocks(runs), table("More measures", runs, MORE)]
    tables = [each for each in tables if each.rows]

    files = {f"figures/{each.name}.png": each.png for each in (*curves, *geometry)}
    said = remarks(runs, left_out)
    head = f"# {markdown(title(runs))}\n\n" + "".join(f"- {markdown(line)}\n" for line in said) + "\n"
    for name, chosen in (("tables", tables), ("cost", [cost])):
        files[f"{name}.md"] = (head + "\n".join(each.markdown() for each in chosen)).encode()
        files[f"{name}.csv"] = tables_csv(chosen).encode()
    files["runs.csv"] = runs_csv(runs).encode()
    return files | {"index.html": _render(runs, said, [*tables, cost], [*curves, *geometry]).encode()}


def title(runs: Sequence[Run]) -> str:
    """Data set, imbalance, arms, number of seeds."""
    seeds = len({run.seed for run in runs})
    return f"{dataset_name(runs)}, {_imbalance(runs)}: {', '.join(arm_runs(runs))}, {seeds} seed{'s' * (seeds != 1)}"


def remarks(runs: Sequence[Run], left_out: Sequence[str] = ()) -> list[str]:
    """What a reader must know before believing a number: runs that are not there, unconverged solves, notes."""
    out = [f"Left out: {line}" for line in left_out]
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
        out += [f"{name} {line}" for line in run.damaged]
        out += [f"{name}: {line}" for line in flags(run)]
    cautioned = by_text([(f"{run.arm} seed {run.seed}", text) for run in runs for text in cautions(run)])
    out += [f"{', '.join(names)}: {text}" for text, names in cautioned.items()] + tsne.remarks(runs)
    done = [run for run in runs if run.summary is not None]
    notes = by_text([(f"{run.arm} seed {run.seed}", note) for run in done for note in run.summary.get("notes") or []])
    out += [note if len(names) == len(done) else f"{', '.join(names)}: {note}" for note, names in notes.items()]
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


def _render(runs: Sequence[Run], said: Sequence[str], tables: Sequence[Table], pictures: Sequence[Any]) -> str:
    changed = differing_fields(dataclasses.asdict(Experiment()), runs[0].config)
    class_heading, class_rows = _class_rows(runs)
    return template(TEMPLATE).render(
        title=title(runs),
        arms_text=arms_text(arm_runs(runs)),
        remarks=said,
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
