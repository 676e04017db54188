"""What BatchNorm's running statistics do to measurements: the same states measured with both settings of
`train.statistics`, at every epoch of `early` and at the measured ones after it.

    python -m experiments.benchmarks.statistics --out experiments/results/benchmark_statistics

statistics.csv: a row an epoch, with the accuracy of the training batches as they came; summary.json: the last epoch,
and the first epoch with train accuracy 1 of each.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from deq_nc.cli import load_recipe
from deq_nc.data import load
from deq_nc.training.loop import measured_epochs
from deq_nc.training.measure import Measurer
from deq_nc.training.mesh import data_mesh
from deq_nc.training.program import program
from deq_nc.training.step import corpus
from deq_nc.training.versions import versions

SHOWN = "train_accuracy test_accuracy train_loss nc1 nc2_means nc3".split()


@dataclass(frozen=True)
class Options:
    recipe: str = "digits"
    arms: tuple[str, ...] = ("explicit", "deq")
    seeds: int = 2
    epochs: int | None = None  # the recipe's
    early: int = 30
    out: Path | None = None


def follow(options: Options, arm: str, seed: int) -> list[dict[str, Any]]:
    """One run, a row a measured epoch: KEY_running and KEY_fresh of SHOWN."""
    experiment = dataclasses.replace(load_recipe(options.recipe), arm=arm)
    epochs = options.epochs or experiment.train.epochs
    experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, epochs=epochs))
    dataset, mesh = load(experiment.data), data_mesh()
    compiled, train = program(experiment, dataset, mesh), corpus(dataset, "train", mesh)
    measurers = {}
    for kind in ("running", "fresh"):
        asked = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, statistics=kind))
        measured = compiled._replace(network=compiled.network.clone(experiment=asked))
        measurers[kind] = Measurer(measured, dataset)
    state, rows = compiled.init(seed), []
    due = measured_epochs(epochs, experiment.train.measurements) | set(range(1, options.early + 1))
    for epoch in range(1, epochs + 1):
        order = compiled.order(state.seed, state.step)
        for _ in range(compiled.steps):
            state, logs = compiled.step(state, train, order)
        if epoch in due:
            lines = {kind: measurer.line(state, logs) for kind, measurer in measurers.items()}
            row = {"arm": arm, "seed": seed, "epoch": epoch}
            row["train_accuracy_in_training"] = lines["fresh"]["train_accuracy_in_training"]
            rows.append(row | {f"{key}_{kind}": line[key] for key in SHOWN for kind, line in lines.items()})
    return rows


def main(options: Options) -> None:
    table, ends = [], []
    for arm in options.arms:
        for seed in range(options.seeds):
            rows = follow(options, arm, seed)
            faultless = {
                f"terminal_epoch_{kind}": next((r["epoch"] for r in rows if r[f"train_accuracy_{kind}"] == 1), None)
                for kind in ("running", "fresh")
            }
            table, ends = table + rows, [*ends, rows[-1] | faultless]
            print(json.dumps(ends[-1]), flush=True)
            if options.out is not None:
                options.out.mkdir(parents=True, exist_ok=True)
                with (options.out / "statistics.csv").open("w", newline="") as file:
                    writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(table)
                text = json.dumps({"runs": ends, "versions": versions()}, indent=1) + "\n"
                (options.out / "summary.json").write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
