"""The benchmark's cells, and the systems that solve them: ours, jaxopt, banax and torchdeq behind one `Setting`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, equilibrium, measured_radius
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
        return jnp.max(measured_radius(base.f, z[:8], x[:8], theta, jax.random.key(0), steps=30, cycles=1).value)

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
