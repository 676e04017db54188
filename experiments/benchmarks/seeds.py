"""Whether seeds of one setting should be trained together: one step of S seeds under `jax.vmap` against S steps.

    python -m experiments.benchmarks.seeds --out experiments/results/benchmark_seeds

A convolution whose kernels differ from seed to seed becomes a grouped convolution, which XLA's CPU code runs far below
the speed of a plain one. Processor time, in one process, medians of `rounds` steps taken in turns.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from deq_nc.cli import load_recipe
from deq_nc.data import load
from deq_nc.training.mesh import data_mesh
from deq_nc.training.program import program
from deq_nc.training.step import corpus
from deq_nc.training.versions import versions


@dataclass(frozen=True)
class Options:
    recipe: str = "digits"
    arms: tuple[str, ...] = ("explicit", "deq")
    seeds: tuple[int, ...] = (2, 5)
    rounds: int = 10
    out: Path | None = None


def seconds(step: Callable[..., Any], state: Any, *arguments: Any) -> tuple[float, Any]:
    begun = time.process_time()
    state, logs = step(state, *arguments)
    jax.block_until_ready(logs)
    return time.process_time() - begun, state


def measure(recipe: str, arm: str, count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of processor time per seed and step, alone and under vmap, and their ratio."""
    experiment = dataclasses.replace(load_recipe(recipe), arm=arm)
    dataset, mesh = load(experiment.data), data_mesh()
    compiled, train = program(experiment, dataset, mesh), corpus(dataset, "train", mesh)
    alone = compiled.init(0)
    order = compiled.order(alone.seed, alone.step)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(compiled.init(seed) for seed in range(count)))
    orders = jnp.stack([compiled.order(jnp.int32(seed), jnp.int32(0)) for seed in range(count)])
    vmapped = jax.jit(jax.vmap(compiled.step, in_axes=(0, None, 0)), donate_argnums=0)
    times: dict[str, list[float]] = {"alone": [], "vmapped": []}
    for turn in range(rounds + 1):
        first, alone = seconds(compiled.step, alone, train, order)
        second, together = seconds(vmapped, together, train, orders)
        if turn:  # the first of each compiles
            times["alone"].append(1e3 * first)
            times["vmapped"].append(1e3 * second / count)
    found = {name: float(np.median(values)) for name, values in times.items()}
    return {"arm": arm, "seeds": count, "ms": found, "vmapped_over_alone": found["vmapped"] / found["alone"]}


def main(options: Options) -> None:
    rows = [measure(options.recipe, arm, count, options.rounds) for arm in options.arms for count in options.seeds]
    for row in rows:
        print(f"{row['arm']}, {row['seeds']} seeds: vmapped / alone, per seed {row['vmapped_over_alone']:.2f}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        found = {"recipe": options.recipe, "rounds": options.rounds, "versions": versions(), "rows": rows}
        (options.out / "seeds.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
