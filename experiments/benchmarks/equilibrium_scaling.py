"""Memory against the step budget, time against the batch: what must be flat and what must be a straight line.

    python -m experiments.benchmarks.equilibrium_scaling [--out FOLDER]

Memory: XLA's own account of the temporary buffers of a compiled train step (parameter gradient of the conv48 cell) at
budgets 10, 30 and 100, implicit and unrolled. Time: processor time of a gradient of the dense256 cell at a fixed number
of steps for batches 64 to 1024, with the straight line fitted to it. Cost: a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.equilibrium import EquilibriumConfig, equilibrium
from experiments.benchmarks.equilibrium_systems import problem


def processor_seconds(run: Callable[[], object]) -> float:
    """Processor time over all threads, which a busy machine does not stretch."""
    start = time.process_time()
    run()
    return time.process_time() - start


def memory() -> dict[str, list[int]]:
    p = problem("conv48")
    out: dict[str, list[int]] = {}
    for gradient in ("implicit", "unrolled"):
        for budget in (10, 30, 100):
            config = EquilibriumConfig(gradient=gradient, max_steps=budget, adjoint_max_steps=budget)

            def loss(theta, config=config):
                return jnp.sum(equilibrium(p.f, jnp.zeros_like(p.x), p.x, theta, config)[0] * p.w)

            compiled = jax.jit(jax.grad(loss)).lower(p.theta).compile()
            out.setdefault(gradient, []).append(compiled.memory_analysis().temp_size_in_bytes)
    return out


def batches(sizes: tuple[int, ...] = (64, 128, 256, 512, 1024), repeats: int = 7) -> dict[str, float | list[float]]:
    p = problem("dense256")
    config = EquilibriumConfig(tol=0.0, max_steps=20, adjoint_tol=0.0, adjoint_max_steps=20, escalate=False)

    @jax.jit
    def step(theta, x):
        return jax.grad(lambda theta: jnp.sum(equilibrium(p.f, jnp.zeros_like(x), x, theta, config)[0] ** 2))(theta)

    inputs = {b: jnp.asarray(np.resize(p.x, (b, p.x.shape[1]))) for b in sizes}
    times: dict[int, list[float]] = {b: [] for b in sizes}
    for b in sizes:
        jax.block_until_ready(step(p.theta, inputs[b]))
    for _ in range(repeats):  # interleaved, so that a busy moment slows every size
        for b in sizes:
            times[b].append(1e3 * processor_seconds(lambda b=b: jax.block_until_ready(step(p.theta, inputs[b]))))
    median = [float(np.median(times[b])) for b in sizes]
    slope, intercept = np.polyfit(sizes, median, 1)
    residual = median - (slope * np.array(sizes) + intercept)
    return {
        "batch": list(sizes), "milliseconds": median, "milliseconds_per_example": float(slope),
        "intercept": float(intercept), "r_squared": float(1 - residual.var() / np.var(median)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=None, help="folder for scaling.json")
    out = parser.parse_args().out
    result = {"temporary_bytes_at_budget_10_30_100": memory(), "time_against_batch": batches()}
    print(json.dumps(result, indent=1))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="JAXopt is no longer maintained")
    main()
