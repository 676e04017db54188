"""Value-and-gradient time of equilibrium layers side by side, in one process, at equal gradient quality.

    python -m experiments.benchmarks.equilibrium [--cells conv48 conv128 dense256] [--rounds 7] [--out FOLDER]

Each system solves the same cell with the same weights and input, and each is given its fastest setting whose gradient
(of parameters and input together) is within 2 % of its own converged gradient. The chosen settings are then timed round
by round, one after another, each after a call that is not timed; what is reported are medians over rounds of ratios
within a round: a busy machine slows a round, not a system. "ours" may leave examples that have stopped (compact=True),
"ours, whole batch" may not. Every JAX system has its batch split over the CPU devices, one a core (`--devices`): XLA
divides a small product among threads badly, two devices solve half a batch each; ours under `shard_map`, so that no
step waits for another device, jaxopt's default also as it comes, on one. The floor is forward evaluations x cell +
adjoint products x vjp + one parameter vjp on the whole batch, each measured inside a loop of the same kind; who leaves
examples can go below it. torchdeq is compared where it is installed (extra `bench`), on CPU, or on CUDA where both jax
and torch see a GPU; banax where it is (Python 3.12 and newer). `taskset -c 0 ... --cpu-clock` counts processor time on
one core: on a shared machine torch's two threads wait for each other at every operation, which measures the machine.
Cost on two cores: dense256 a minute, conv48 two, conv128 six.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.equilibrium_systems import (
    CELLS,
    PAIRS,
    Problem,
    Setting,
    banax,
    banax_system,
    jaxopt_default,
    ours,
    problem,
    split,
    torch,
    torch_system,
    torchdeq,
    whole,
)

QUALITY = 0.02
CLOCK = time.perf_counter
# Wide enough that no system's choice is the loosest: ours stops each row at its own tolerance and needs tighter ones.
FORWARD, BACKWARD = (4e-3, 2e-3, 1e-3, 5e-4, 3e-4, 2e-4, 1e-4, 5e-5), (3e-2, 1e-2, 3e-3, 1e-3)

Found = tuple[float, Setting, float]  # seconds, setting, gradient error


def seconds(run: Callable[[], Any], repeats: int = 1) -> float:
    start = CLOCK()
    for _ in range(repeats):
        run()
    return (CLOCK() - start) / repeats


def good_enough(setting: Callable[[float, float], Setting], converged: np.ndarray, quality: float) -> list[Found]:
    """The loosest settings of the grid within `quality` of the converged gradient, timed (best of three).

    For every forward tolerance the loosest backward one that is good: a tighter one costs more. For the same reason
    tighter forward tolerances only need to look at looser backward ones than the last that was good.
    """
    good: list[Found] = []
    allowed = len(BACKWARD)

    def error_of(s: Setting) -> float:
        return float(np.linalg.norm(s.flat(s.run()) - converged) / np.linalg.norm(converged))

    for tol in FORWARD:
        if allowed and error_of(setting(tol, BACKWARD[-1])) > quality:
            continue  # no backward tolerance can mend it
        for i in range(allowed):
            s = setting(tol, BACKWARD[i])
            error = error_of(s)
            if error <= quality:
                good.append((min(seconds(s.run) for _ in range(3)), s, error))
                print(f"  {s.label}: error {error:.2%}, {1e3 * good[-1][0]:.1f} ms", flush=True)
                allowed = i
                break
    return good


def fastest(good: list[Found], quality: float = 1.0) -> tuple[Setting, float] | None:
    good = [item for item in good if item[2] <= quality]
    return min(good, key=lambda item: item[0])[1:] if good else None


def floor(p: Problem, loops: int = 20) -> Callable[[], dict[str, float]]:
    """A call that measures one cell evaluation, one J^T product (both inside a loop) and one parameter vjp, in seconds.

    Compiled once, here: a round only runs it.
    """
    theta, x = whole(p.theta), split(p.x)

    @jax.jit
    def cells(x, theta):
        return jax.lax.fori_loop(0, loops, lambda _, z: p.f(z, x, theta), x)

    @jax.jit
    def products(x, theta):
        _, vjp = jax.vjp(lambda z: p.f(z, x, theta), x)
        return jax.lax.fori_loop(0, loops, lambda _, u: vjp(u)[0], x)

    @jax.jit
    def parameters(x, theta):
        return jax.vjp(lambda x, theta: p.f(x, x, theta), x, theta)[1](x)

    parts = {"cell": (cells, loops), "vjp": (products, loops), "parameters": (parameters, 1)}
    calls = {name: (lambda fn=fn: jax.block_until_ready(fn(x, theta)), n) for name, (fn, n) in parts.items()}
    for call, _ in calls.values():
        call()
    return lambda: {name: float(np.median([seconds(c) for _ in range(5)])) / n for name, (c, n) in calls.items()}


def compare(name: str, rounds: int) -> dict[str, Any]:
    p = problem(name)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    reference = ours(p, "anderson", "anderson", 5)(1e-6, 1e-6)
    converged = reference.flat(reference.run())
    systems: dict[str, tuple[Setting, float] | None] = {}
    for name_, compact in (("ours", True), ("ours, whole batch", False)):
        steps = [ours(p, *pair, compact) for pair in PAIRS]
        strict = [good_enough(step, converged, QUALITY) for step in steps]
        systems[name_] = fastest(sum(strict, []))
        loose = [good_enough(step, converged, 0.035) for step in steps[1:]]
        systems[name_ + ", anderson at 3.5 %"] = fastest(sum(loose + strict[1:], []))
    if torchdeq is not None:
        for solver in ("fixed_point_iter", "anderson"):
            own = torch_system(p, solver, 1e-6, 1e-6, device)
            own_gradient = own.flat(own.run())
            gap = np.linalg.norm(own_gradient - converged) / np.linalg.norm(converged)
            print(f"  torchdeq {solver}: converged gradient differs from ours by {gap:.1e}", flush=True)
            quality = QUALITY if solver == "fixed_point_iter" else 0.035
            step = lambda tol, adjoint_tol, solver=solver: torch_system(p, solver, tol, adjoint_tol, device)  # noqa: E731
            systems[f"torchdeq {solver}"] = fastest(good_enough(step, own_gradient, quality))
    if banax is not None:
        for solver, quality in (("picard", QUALITY), ("anderson", 0.035)):
            step = lambda tol, adjoint_tol, solver=solver: banax_system(p, solver, tol, adjoint_tol)  # noqa: E731
            systems[f"banax {solver}"] = fastest(good_enough(step, converged, quality))
    for label, divided in (("jaxopt default", False), ("jaxopt default, divided", True)):
        if divided and jax.device_count() == 1:
            continue
        system = jaxopt_default(p, 1e-3, divided)
        error = float(np.linalg.norm(system.flat(system.run()) - converged) / np.linalg.norm(converged))
        systems[label] = (system, error)

    chosen = {k: s for k, s in systems.items() if s is not None}
    times: dict[str, list[float]] = {k: [] for k in chosen}
    floors, measure_floor = [], floor(p)
    for _ in range(rounds):
        for key, (setting, _) in chosen.items():
            setting.run()  # warm: the pool of the system before spins for a while, and threads that slept wake slowly
            times[key].append(seconds(setting.run, 1 if key.startswith("jaxopt") else 3))
        floors.append(measure_floor())
    out: dict[str, Any] = {"cell": name, "device": jax.devices()[0].device_kind, "systems": {}}
    out["floor_milliseconds"] = {k: 1e3 * float(np.median([f[k] for f in floors])) for k in floors[0]}
    for key, (setting, error) in chosen.items():
        out["systems"][key] = {
            "setting": setting.label, "gradient_error": error, "milliseconds": 1e3 * float(np.median(times[key])),
        }  # fmt: skip
    for mine in ("ours", "ours, whole batch"):
        part = out["systems"][mine] | chosen[mine][0].note()
        bound = [part["evaluations"] * f["cell"] + part["products"] * f["vjp"] + f["parameters"] for f in floors]
        part["over_floor"] = float(np.median(np.array(times[mine]) / np.array(bound)))
        for peer in [key for key in times if key.startswith(("torchdeq", "banax", "jaxopt"))]:
            part[f"over {peer}"] = float(np.median(np.array(times[mine]) / np.array(times[peer])))
            if peer.endswith(" anderson"):
                own = np.array(times[mine + ", anderson at 3.5 %"])
                part[f"anderson over {peer}"] = float(np.median(own / np.array(times[peer])))
        out["systems"][mine] = part
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=pathlib.Path, default=None, help="folder for CELL.json, written as a cell ends")
    parser.add_argument("--cpu-clock", action="store_true", help="processor time, for one core of a busy machine")
    parser.add_argument("--devices", type=int, default=None, help="CPU devices for the batch; default one a core")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices or (1 if args.cpu_clock else os.cpu_count() or 1))
    if args.cpu_clock:
        global CLOCK
        CLOCK = time.process_time
        if torch is not None:
            torch.set_num_threads(1)
    packages = ["jax", "jaxopt"] + (["torch", "torchdeq"] if torch is not None else [])
    packages += ["banax"] if banax is not None else []
    versions = {"python": platform.python_version()} | {k: importlib.metadata.version(k) for k in packages}
    clock = "processor time, one core" if args.cpu_clock else "wall"
    for name in args.cells:
        setup = {"versions": versions, "clock": clock, "rounds": args.rounds, "devices": jax.device_count()}
        result = setup | compare(name, args.rounds)
        text = json.dumps(result, indent=1) + "\n"
        print(text, flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{name}.json").write_text(text)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="JAXopt is no longer maintained")
    main()
