"""Letter C15: the layer inside the rest of JAX gives the right number, or refuses by name and says the next move.

The oracle is float64 NumPy: z = tanh(M z + x) by Newton's method, gradients by a dense solve. In a process of its own,
since two CPU devices must be asked for before JAX starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.experimental import checkify
from jax.sharding import NamedSharding, PartitionSpec

from deq_nc.equilibrium import CellError, EquilibriumConfig, adjoint_probe, equilibrium, equilibrium_jvp
from experiments.campaign import Case

B = 4
ROWS, EVERYWHERE = PartitionSpec("data"), PartitionSpec()
TIGHT = {"tol": 2e-6, "adjoint_tol": 2e-6, "max_steps": 200, "adjoint_max_steps": 200}
CONFIGS = (
    EquilibriumConfig(**TIGHT),
    EquilibriumConfig(**TIGHT, solver="broyden", adjoint="gmres", history=20),
    EquilibriumConfig(**TIGHT, solver="fixed_point", adjoint="neumann"),
    EquilibriumConfig(**TIGHT, adjoint="bicgstab"),
    EquilibriumConfig(**TIGHT, adjoint="normal_cg"),
    EquilibriumConfig(**TIGHT, gradient="jfb"),
    EquilibriumConfig(**TIGHT, gradient="phantom", phantom_steps=4),
    EquilibriumConfig(**TIGHT | {"max_steps": 60}, solver="fixed_point", gradient="unrolled"),
)


def run(quick: bool, seed: int) -> list[Case]:
    """All compositions with every solver, adjoint and mode, 4 draws each; the default and one draw if quick."""
    command = [sys.executable, "-m", "experiments.campaign.C_compositions", str(int(quick)), str(seed)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    if done.returncode != 0:
        return [Case("compositions", 1, 0, (done.stderr[-600:],))]
    return [Case(name, tried, held, tuple(faults)) for name, tried, held, faults in json.loads(done.stdout)]


def _cell(z, x, M):
    return jnp.tanh(z @ M.T + x)


def _loss(config: EquilibriumConfig) -> Callable:
    """(M, x, probe) -> (sum of z*^2, (z*, statistics))."""

    def loss(M, x, probe):
        z, stats = equilibrium(_cell, jnp.zeros_like(x), x, M, config, probe=probe)
        return jnp.sum(z**2), (z, stats)

    return loss


def _truth(M: np.ndarray, x: np.ndarray, config: EquilibriumConfig) -> tuple:
    """(loss, gradient to M, gradient to x) in float64, for the gradient mode of the config."""
    M, x, eye = M.astype(float), x.astype(float), np.eye(len(M))
    z = np.zeros_like(x)
    for _ in range(100):
        h = np.tanh(z @ M.T + x)
        J = (1 - h**2)[:, :, None] * M
        z = z + np.linalg.solve(eye - J, (h - z)[:, :, None])[:, :, 0]
    D, g = 1 - z**2, 2 * z
    J = D[:, :, None] * M
    if config.gradient in ("jfb", "phantom"):
        beta, terms = (1, 1) if config.gradient == "jfb" else (config.phantom_damping, config.phantom_steps)
        u = beta * g
        for _ in range(terms - 1):
            u = beta * g + (1 - beta) * u + beta * np.einsum("bji,bj->bi", J, u)
    else:
        u = np.linalg.solve(eye - np.swapaxes(J, 1, 2), g[:, :, None])[:, :, 0]
    return (z**2).sum(), (D * u).T @ z, D * u


def _on_mesh(axis_type) -> tuple:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
    return mesh, lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))


def _sharded(config, axis_type) -> Callable:
    gradient = jax.jit(jax.value_and_grad(_loss(config), (0, 1), has_aux=True))
    _, put = _on_mesh(axis_type)

    def call(M, x):
        (value, _), bars = gradient(put(M, EVERYWHERE), put(x, ROWS), put(adjoint_probe(B), ROWS))
        return value, *bars

    return call


def _shard_map(config, axis_type, check: bool, inside: bool) -> Callable:
    mesh, put = _on_mesh(axis_type)

    def local(M, x, probe):
        probe = adjoint_probe(x.shape[0]) if inside else probe
        (value, _), (M_bar, x_bar, _) = jax.value_and_grad(_loss(config), (0, 1, 2), has_aux=True)(M, x, probe)
        return jax.lax.psum(value, "data"), M_bar if check else jax.lax.psum(M_bar, "data"), x_bar

    specs = {"in_specs": (EVERYWHERE, ROWS, ROWS), "out_specs": (EVERYWHERE, EVERYWHERE, ROWS), "check_vma": check}
    split = jax.jit(jax.shard_map(local, mesh=mesh, **specs))
    return lambda M, x: split(put(M, EVERYWHERE), put(x, ROWS), put(adjoint_probe(B), ROWS))


def _reverse(config: EquilibriumConfig) -> dict[str, Callable]:
    """name -> (M, x) -> (loss, gradient to M, gradient to x)."""
    gradient = jax.value_and_grad(_loss(config), (0, 1), has_aux=True)

    def plain(M, x):
        (value, _), (M_bar, x_bar) = gradient(M, x, adjoint_probe(x.shape[0]))
        return value, M_bar, x_bar

    def rows(M, x):
        value, M_bar, x_bar = jax.vmap(lambda x: plain(M, x[None]))(x)
        return value.sum(), M_bar.sum(0), x_bar[:, 0]

    def strict(M, x):
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            return jax.jit(plain)(M, x)

    def checked(M, x):
        error, came = check(M, x)
        error.throw()
        return came

    def exported(M, x):
        if x.shape not in programs:
            (b,) = export.symbolic_shape("b")
            shapes = jax.ShapeDtypeStruct(M.shape, M.dtype), jax.ShapeDtypeStruct((b, x.shape[1]), x.dtype)
            programs[x.shape] = export.deserialize(export.export(jax.jit(plain))(*shapes).serialize())
        return programs[x.shape].call(M, x)

    def remat(M, x):
        value, bars = jax.value_and_grad(jax.checkpoint(lambda M, x: _loss(config)(M, x, None)[0]), (0, 1))(M, x)
        return value, *bars

    programs: dict = {}
    check = checkify.checkify(jax.jit(plain), errors=checkify.float_checks)
    auto, explicit = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
    return {
        "jit": jax.jit(plain),
        "no jit": plain,
        "vmap of single examples": jax.jit(rows),
        "checkpoint": jax.jit(remat),
        "strict promotion": strict,
        "checkify, float checks": checked,
        "export, symbolic batch": exported,
        "mesh with Auto axes": _sharded(config, auto),
        "mesh with Explicit axes": _sharded(config, explicit),
        "shard_map, types checked": _shard_map(config, auto, True, False),
        "shard_map, types checked, Explicit": _shard_map(config, explicit, True, False),
        "shard_map, types checked, probe inside": _shard_map(config, auto, True, True),
        "shard_map, types not checked": _shard_map(config, auto, False, False),
    }


def _forward(config: EquilibriumConfig) -> dict[str, Callable]:
    """name -> (M, x) -> <gradient to M, M>, the derivative of the loss along M."""
    loss = lambda M, x: _loss(config)(M, x, None)[0]  # noqa: E731

    def theorem(M, x):
        z, z_dot, _, _ = equilibrium_jvp(_cell, jnp.zeros_like(x), x, M, jnp.zeros_like(x), M, config)
        return 2 * jnp.sum(z * z_dot)

    def on_a_mesh(M, x):
        _, put = _on_mesh(jax.sharding.AxisType.Explicit)
        return jax.jit(theorem)(put(M, EVERYWHERE), put(x, ROWS))

    return {
        "jvp": lambda M, x: jax.jvp(lambda M: loss(M, x), (M,), (M,))[1],
        "jvp inside jit": jax.jit(lambda M, x: jax.jvp(lambda M: loss(M, x), (M,), (M,))[1]),
        "jvp of jit": lambda M, x: jax.jvp(jax.jit(lambda M: loss(M, x)), (M,), (M,))[1],
        "linearize": lambda M, x: jax.linearize(lambda M: loss(M, x), M)[1](M),
        "jacfwd": lambda M, x: jnp.sum(jax.jacfwd(lambda M: loss(M, x))(M) * M),
        "equilibrium_jvp": theorem,
        "equilibrium_jvp, jit": jax.jit(theorem),
        "equilibrium_jvp, vmap": jax.jit(lambda M, x: jax.vmap(lambda x: theorem(M, x[None]))(x).sum()),
        "equilibrium_jvp, Explicit mesh": on_a_mesh,
    }


def _attempt(compose: Callable, given: tuple, expected: tuple) -> str | None:
    """None if it came right, "refused" after a CellError of a sentence and a next move, else what was wrong."""
    try:
        came = jax.tree.leaves(jax.device_get(compose(*given)))
    except CellError as error:
        return "refused" if ". " in str(error) or ", or " in str(error) else f"no next move: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    off = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(came, expected, strict=True)]
    return None if max(off) < 5e-4 else f"off by {max(off):.1e}"


def _main(quick: bool, seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    counts: dict[str, list] = {}
    for config in CONFIGS[:1] if quick else CONFIGS:
        n = int(rng.integers(2, 13))
        reverse, forward = _reverse(config), _forward(config)
        for _ in range(1 if quick else 4):
            matrix = rng.standard_normal((n, n))
            M = (0.8 / np.abs(np.linalg.eigvals(matrix)).max() * matrix).astype(np.float32)
            x = rng.standard_normal((B, n)).astype(np.float32)
            x[rng.integers(B)] *= rng.integers(2)  # some have an example of zeros, whose equilibrium is 0 at once
            truth = _truth(M, x, config)
            exact = _truth(M, x, CONFIGS[0])
            for name, compose in (reverse | forward).items():
                expected = truth if name in reverse else (np.sum((exact[1]) * M),)
                outcome = _attempt(compose, (M, x), expected)
                count = counts.setdefault(name, [0, 0, 0, []])
                count[0] += 1
                count[1] += outcome in (None, "refused")
                count[2] += outcome == "refused"
                if outcome not in (None, "refused"):
                    count[3].append(f"{config.solver}, {config.adjoint}, {config.gradient}, n = {n}: {outcome}")
    return [
        (f"{name}: {refused} refused", tried, held, faults) for name, (tried, held, refused, faults) in counts.items()
    ]


if __name__ == "__main__":
    print(json.dumps(_main(bool(int(sys.argv[1])), int(sys.argv[2]))))
