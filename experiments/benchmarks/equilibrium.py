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
import dataclasses
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
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, equilibrium, spectral_radius
from deq_nc.models.conv import conv

try:
    import torch
    import torchdeq
except ImportError:
    torch = torchdeq = None
try:
    import banax.adjoint
    import banax.solver
except ImportError:
    banax = None

RADIUS = 0.8  # spectral radius of the mean Jacobian at the equilibrium, see `problem`
CELLS = {"conv48": ("conv", 48, 64, 32), "conv128": ("conv", 128, 128, 64), "dense256": ("dense", 256, 256, 256)}
QUALITY = 0.02
CLOCK = time.perf_counter
# Wide enough that no system's choice is the loosest: ours stops each row at its own tolerance and needs tighter ones.
FORWARD, BACKWARD = (4e-3, 2e-3, 1e-3, 5e-4, 3e-4, 2e-4, 1e-4, 5e-5), (3e-2, 1e-2, 3e-3, 1e-3)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One cell f = x + V relu(U z + b), as numpy arrays and as a JAX function; w is the cotangent of z*."""

    name: str
    kind: str
    theta: dict[str, np.ndarray]
    x: np.ndarray
    w: np.ndarray

    def f(self, z, x, theta):
        if self.kind == "dense":
            return x + jax.nn.relu(z @ theta["u"] + theta["b"][None]) @ theta["v"]
        return x + conv(jax.nn.relu(conv(z, theta["u"]) + theta["b"][None, None, None]), theta["v"])


def problem(name: str) -> Problem:
    """Random weights, scaled until the largest spectral radius at the equilibria of the batch is RADIUS."""
    kind, features, inner, batch = CELLS[name]
    rng = np.random.default_rng(0)
    window = () if kind == "dense" else (3, 3)
    fan = 1 if kind == "dense" else 9
    state = (batch, features) if kind == "dense" else (batch, 8, 8, features)
    theta = {
        "u": rng.standard_normal((*window, features, inner)) / np.sqrt(fan * features),
        "v": rng.standard_normal((*window, inner, features)) / np.sqrt(fan * inner),
        "b": 0.1 * rng.standard_normal(inner),
    }
    x, w = rng.standard_normal((2, *state)).astype(np.float32)
    config = EquilibriumConfig(tol=1e-5, max_steps=300)

    @jax.jit
    def radius(theta):
        z, _ = equilibrium(base.f, jnp.zeros_like(x), x, theta, config)
        return jnp.max(spectral_radius(base.f, z[:8], x[:8], theta, jax.random.key(0), steps=30))

    theta = {k: v.astype(np.float32) for k, v in theta.items()}
    base = Problem(name, kind, theta, x, w)
    theta["v"] *= np.float32(0.5 / np.linalg.norm(theta["v"]) * np.sqrt(theta["v"].size / inner) / 3)
    for _ in range(4):
        theta["v"] = theta["v"] * np.float32(RADIUS / float(radius(theta)))
    return Problem(name, kind, theta, x, w)


# Each system: a list of (label, call) with call() -> gradient as one flat numpy vector; timing calls it too.


@dataclasses.dataclass(frozen=True)
class Setting:
    label: str
    run: Callable[[], Any]  # to the finished device arrays
    flat: Callable[[Any], np.ndarray]
    note: Callable[[], dict] = dict


Found = tuple[float, Setting, float]  # seconds, setting, gradient error


def flatten_jax(gradient: Any) -> np.ndarray:
    return np.concatenate([np.asarray(g).ravel() for g in jax.tree.leaves(gradient)])


PAIRS = (("fixed_point", "neumann", 5), *(("anderson", "anderson", history) for history in (2, 4, 6)))


def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))


def whole(tree: Any) -> Any:
    """On every device."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def split(tree: Any) -> Any:
    """An equal share of the rows on each device."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec("batch")))


def ours(
    p: Problem, solver: str, adjoint: str, history: int, compact: bool = False
) -> Callable[[float, float], Setting]:
    """One compiled step for every pair of tolerances: they are run-time values."""
    config = EquilibriumConfig(solver=solver, adjoint=adjoint, history=history)

    def loss(theta, x, probe, w, tol, adjoint_tol):
        z, stats = equilibrium(
            p.f, jnp.zeros_like(x), x, theta, config, probe=probe, compact=compact,
            tol=tol, adjoint_tol=adjoint_tol, max_steps=300, adjoint_max_steps=300,
        )  # fmt: skip
        return jnp.sum(z * w), stats

    def local(theta, *rows_and_tolerances):
        (value, stats), (theta_bar, x_bar, probe_bar) = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            theta, *rows_and_tolerances
        )
        value, theta_bar = jax.lax.psum((value, theta_bar), "batch")
        return (value, stats), (theta_bar, x_bar, probe_bar)

    # Each device solves its own rows: no step waits for another device.
    all_of, rows = PartitionSpec(), PartitionSpec("batch")
    inside, outside = (all_of, rows, rows, rows, all_of, all_of), ((all_of, rows), (all_of, rows, rows))
    step = jax.jit(jax.shard_map(local, mesh=mesh(), in_specs=inside, out_specs=outside, check_vma=False))
    theta, (x, probe, w) = whole(p.theta), split((p.x, adjoint_probe(p.x.shape[0]), p.w))

    def setting(tol: float, adjoint_tol: float) -> Setting:
        def note() -> dict:
            (_, stats), (_, _, adjoint) = step(theta, x, probe, w, tol, adjoint_tol)
            return {"evaluations": int(stats.steps.max()) + 1, "products": int(adjoint.steps.max())}

        return Setting(
            f"{solver}/{adjoint} m={history}{' compact' if compact else ''} {tol:g}/{adjoint_tol:g}",
            lambda: jax.block_until_ready(step(theta, x, probe, w, tol, adjoint_tol)),
            lambda out: flatten_jax(out[1][:2]),
            note,
        )

    return setting


def jaxopt_default(p: Problem, tol: float, divided: bool) -> Setting:
    """AndersonAcceleration over the whole batch with its default implicit differentiation (CG, normal equations)."""
    import jaxopt

    def loss(theta, x):
        solver = jaxopt.AndersonAcceleration(lambda z, x, theta: p.f(z, x, theta), history_size=5, maxiter=300, tol=tol)
        return jnp.sum(solver.run(jnp.zeros_like(x), x, theta).params * p.w)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    theta, x = (whole(p.theta), split(p.x)) if divided else jax.device_put((p.theta, p.x))
    return Setting(
        f"anderson/default CG {tol:g}", lambda: jax.block_until_ready(step(theta, x)), lambda out: flatten_jax(out[1])
    )


def banax_system(p: Problem, solver: str, tol: float, adjoint_tol: float, steps: int = 300) -> Setting:
    """banax's implicit adjoint, the same solver both ways on the same JAX cell; one norm over the whole batch."""
    make = {"picard": banax.solver.Picard, "anderson": banax.solver.Anderson}[solver]
    solve = banax.adjoint.Implicit(make(rtol=tol, max_steps=steps), make(rtol=adjoint_tol, max_steps=steps))

    def loss(theta, x):
        return jnp.sum(solve((p.f, (x, theta)), jnp.zeros_like(x)).value * p.w)

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    theta, x = whole(p.theta), split(p.x)
    return Setting(
        f"{solver} {tol:g}/{adjoint_tol:g}",
        lambda: jax.block_until_ready(step(theta, x)),
        lambda out: flatten_jax(out[1]),
    )


def torch_system(p: Problem, solver: str, tol: float, adjoint_tol: float, device: str, steps: int = 300) -> Setting:
    to = lambda a: torch.tensor(a, device=device)  # noqa: E731
    image = (lambda a: a) if p.kind == "dense" else (lambda a: np.ascontiguousarray(a.transpose(0, 3, 1, 2)))
    weight = (lambda a: a) if p.kind == "dense" else (lambda a: np.ascontiguousarray(a.transpose(3, 2, 0, 1)))
    u, v, b = to(weight(p.theta["u"])), to(weight(p.theta["v"])), to(p.theta["b"])
    x, w = to(image(p.x)), to(image(p.w))
    leaves = [b.requires_grad_(), u.requires_grad_(), v.requires_grad_(), x.requires_grad_()]
    deq = torchdeq.get_deq(
        ift=True, f_solver=solver, b_solver=solver, f_tol=tol, b_tol=adjoint_tol, f_stop_mode="rel", b_stop_mode="rel",
        f_max_iter=steps, b_max_iter=steps,
    )  # fmt: skip
    deq.train()

    def f(z):
        if p.kind == "dense":
            return x + torch.relu(z @ u + b) @ v
        inner = torch.nn.functional.conv2d(z, u, b, padding=1)
        return x + torch.nn.functional.conv2d(torch.relu(inner), v, padding=1)

    def run():
        z, _ = deq(f, torch.zeros_like(x))
        out = torch.autograd.grad((z[-1] * w).sum(), leaves)
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    def flat(out) -> np.ndarray:
        b, u, v, x = (a.detach().cpu().numpy() for a in out)
        if p.kind != "dense":
            u, v, x = u.transpose(2, 3, 1, 0), v.transpose(2, 3, 1, 0), x.transpose(0, 2, 3, 1)
        return np.concatenate([a.ravel() for a in (b, u, v, x)])

    return Setting(f"{solver} {tol:g}/{adjoint_tol:g}", run, flat)


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
