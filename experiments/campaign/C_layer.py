"""Letters C2 and C4: the equilibrium layer at every scale, and beside examples with NaN.

Letters: z = phi(R z + x) + b one example of n numbers, phi the identity or s tanh(. / s); g the cotangent of z*, u the
adjoint state, which is the gradient to b. The oracle is a dense solve in float64 at the z* that came back.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, equilibrium
from experiments.campaign import Case

SOLVERS = ("anderson", "fixed_point", "broyden")
ADJOINTS = ("anderson", "neumann", "gmres", "bicgstab", "normal_cg")
MODES = ("implicit", "jfb", "phantom", "unrolled")
KINDS = ("rotation", "random", "symmetric", "far from normal")
B, TOL = 32, 1e-5
EPS = float(np.finfo(np.float32).eps)


def run(quick: bool, seed: int) -> list[Case]:
    """Evidence against float64 at scales from 1e-20 to 1e15 and out to both ends of the type; 32 cells a call, 12 calls
    a solver (1 if quick). NaN, Inf and rows of zeros under x / |x| in every gradient mode: 20 batches each (2)."""
    rng = np.random.default_rng(seed)
    sizes = (4,) if quick else (2, 5, 8, 12)
    calls = 1 if quick else 3
    cases = [_forward(solver, sizes, calls, rng) for solver in SOLVERS]
    cases += [_adjoint(adjoint, sizes, calls, ends, rng) for adjoint in ADJOINTS for ends in (False, True)]
    solvers = SOLVERS[:1] if quick else SOLVERS
    return cases + [_nan(mode, solver, 2 if quick else 20, rng) for mode in MODES for solver in solvers]


def _cell(z, x, theta):
    h = jnp.einsum("bij,bj->bi", x["R"], z, precision="highest") + x["drive"]
    s = x["s"][:, None]
    return jnp.where(x["curved"][:, None], s * jnp.tanh(h / s), h) + x["b"]


def _cells(n: int, exponents: np.ndarray, rng: np.random.Generator) -> dict:
    """B cells: rotations at .9, three more kinds at radius .3 to .95, half of them with tanh, drives 10^exponents."""
    R = np.array([_matrix(KINDS[b % len(KINDS)], n, rng) for b in range(B)])
    s = 10.0**exponents
    x = {"R": R, "drive": s[:, None] * rng.standard_normal((B, n)), "s": s, "b": np.zeros((B, n))}
    return {k: np.asarray(v, np.float32) for k, v in x.items()} | {"curved": np.arange(B) // 4 % 2 == 1}


def _matrix(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "rotation":
        return 0.9 * np.linalg.qr(rng.standard_normal((n, n)))[0]
    matrix = rng.standard_normal((n, n))
    if kind == "symmetric":
        matrix = matrix + matrix.T
    if kind == "far from normal":
        matrix = np.diag(np.linspace(1, 0.5, n)) + 0.5 * np.triu(matrix, 1)
    return rng.uniform(0.3, 0.95) / np.abs(np.linalg.eigvals(matrix)).max() * matrix


def _float64(x: dict, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f(z) [B, n], J [B, n, n]) of `_cell`."""
    h = np.einsum("bij,bj->bi", x["R"].astype(float), z) + x["drive"]
    s = x["s"][:, None].astype(float)
    f = np.where(x["curved"][:, None], s * np.tanh(h / s), h)
    D = np.where(x["curved"][:, None], 1 - np.tanh(h / s) ** 2, 1)
    return f, D[:, :, None] * x["R"]


def _norm(v: np.ndarray) -> np.ndarray:
    return np.linalg.norm(v, axis=1)


def _solver(solver: str, adjoint: str) -> EquilibriumConfig:
    given = {"solver": solver, "adjoint": adjoint, "tol": TOL, "adjoint_tol": TOL, "escalate": False}
    return EquilibriumConfig(**given, max_steps=400, adjoint_max_steps=400, history=8)


def _forward(solver: str, sizes: tuple, calls: int, rng: np.random.Generator) -> Case:
    """The residual is that of float64 to 5 %; where it says converged the error is at most ||(I - J)^-1|| times TOL."""
    config, faults, tried, converged = _solver(solver, "anderson"), [], 0, 0
    solve = jax.jit(lambda x, z0: equilibrium(_cell, z0, x, None, config))
    for n in sizes:
        for _ in range(calls):
            exponents = rng.uniform(-20, 15, B)
            x = _cells(n, exponents, rng)
            off = np.where(rng.uniform(size=B) < 0.5, 0, 10 ** rng.uniform(-3, 3, B))  # of the start, beside the drive
            z, stats = jax.device_get(solve(x, (off[:, None] * x["drive"]).astype(np.float32)))
            z = z.astype(float)
            f, _ = _float64(x, z)
            true = _norm(f - z) / _norm(f)
            size = (_norm(x["R"].reshape(B, -1)) * _norm(z) + _norm(x["drive"])) / _norm(f)
            wrong = ~(np.abs(stats.residual - true) <= 0.05 * true + 4 * EPS * size)
            wrong |= stats.converged != (stats.residual <= TOL)
            exact = _solved(x, z)
            _, J = _float64(x, exact)
            bound = 1.5 * _inverse(J) * (TOL + 4 * EPS * size) * _norm(f)  # 1.5: J moves between z and z*
            wrong |= stats.converged & ~(_norm(z - exact) <= bound)
            wrong |= ~stats.finite & (solver != "broyden")
            tried, converged = tried + B, converged + int(stats.converged.sum())
            faults += [
                f"n = {n}, {KINDS[b % 4]}, x 1e{exponents[b]:.0f}: residual {stats.residual[b]:.1e} for {true[b]:.1e}, "
                f"error {_norm(z - exact)[b] / _norm(exact)[b]:.1e}, converged {stats.converged[b]}"
                for b in np.flatnonzero(wrong)
            ]
    return Case(f"forward, {solver}: {converged} converged", tried, tried - len(faults), tuple(faults))


def _solved(x: dict, z: np.ndarray) -> np.ndarray:
    """z* by Newton's method from z."""
    for _ in range(20):
        f, J = _float64(x, z)
        z = z + np.linalg.solve(np.eye(z.shape[1]) - J, (f - z)[:, :, None])[:, :, 0]
    return z


def _inverse(J: np.ndarray) -> np.ndarray:
    return 1 / np.linalg.svd(np.eye(J.shape[1]) - J, compute_uv=False)[:, -1]


@functools.partial(jax.jit, static_argnames="config")
def _gradient(x, g, config):
    """(z*, u, evidence) for the cotangent g."""

    def solve(b, p):
        return equilibrium(_cell, jnp.zeros_like(b), x | {"b": b}, None, config, probe=p)[0]

    z, vjp = jax.vjp(solve, x["b"], adjoint_probe(B))
    return z, *vjp(g)


def _adjoint(adjoint: str, sizes: tuple, calls: int, ends: bool, rng: np.random.Generator) -> Case:
    """Cotangents of 1e-20 to 1e15: the residual is that of float64 to 5 %; where it says converged the error is at most
    ||(I - J)^-1|| times TOL. At 1e-45 to 3e38, where parts of g and u fall out of the type, the latter."""
    config, faults, tried, converged = _solver("anderson", adjoint), [], 0, 0
    for n in sizes:
        for _ in range(calls):
            exponents = rng.uniform(-45, 38.5, B) if ends else rng.uniform(-20, 15, B)
            if not ends:
                exponents[:8] = (-20, -17, -15, -10, 0, 10, 13, 15)
            x = _cells(n, rng.uniform(-3, 3, B), rng)
            g = np.where(np.arange(B)[:, None] < B // 2, 1, rng.uniform(-1, 1, (B, n)))
            g = (10.0 ** exponents[:, None] * g).clip(-3.4e38, 3.4e38).astype(np.float32)
            z, u, stats = jax.device_get(_gradient(x, g, config))
            _, J = _float64(x, z.astype(float))
            u, g, A = u.astype(float), g.astype(float), np.eye(n) - np.swapaxes(J, 1, 2)
            there = _norm(g) > 0
            size = np.where(there, _norm(g), 1)
            true = _norm(np.einsum("bij,bj->bi", A, u) - g) / size
            rounding = 8 * EPS * (1 + np.linalg.norm(A, axis=(1, 2)) * _norm(u) / size)
            near = ends | (np.abs(stats.residual - true) <= 0.05 * true + rounding)
            exact = np.linalg.solve(A, g[:, :, None])[:, :, 0]
            close = _norm(u - exact) <= 1.05 * _inverse(J) * (TOL + rounding) * size
            sure = stats.converged == 1
            wrong = ~near | (sure != (stats.residual <= TOL)) | (sure & ~close) | ~np.isfinite(u).all(1)
            wrong |= ~there & ~(sure & (u == 0).all(1))
            tried, converged = tried + B, converged + int(sure.sum())
            faults += [
                f"n = {n}, {KINDS[b % 4]}, g 1e{exponents[b]:.1f}: residual {stats.residual[b]:.1e} for {true[b]:.1e}, "
                f"error {_norm(u - exact)[b] / (_norm(exact)[b] or 1):.1e}, converged {sure[b]}"
                for b in np.flatnonzero(wrong)
            ]
    where = "1e-45 to 3e38" if ends else "1e-20 to 1e15"
    return Case(f"adjoint, {adjoint}, {where}: {converged} converged", tried, tried - len(faults), tuple(faults))


def _unit_cell(z, x, M):
    """x / |x| inside: NaN on a row of zeros. "w" and "book" are shared by all and have as many rows as the batch."""
    own = x["own"] / jnp.linalg.norm(x["own"], axis=1, keepdims=True)
    return jnp.tanh(z @ (M + x["w"]) + own + jnp.mean(x["book"], 0)[None])


@functools.partial(jax.jit, static_argnames="config")
def _unit_gradient(M, x, g, config):
    """(gradients to M, shared, own; finite) of sum(g z*)."""

    def loss(M, shared, own):
        z, stats = equilibrium(_unit_cell, jnp.zeros_like(own), shared | {"own": own}, M, config)
        return jnp.sum(g * z), stats.finite

    return jax.grad(loss, (0, 1, 2), has_aux=True)(M, {k: x[k] for k in ("w", "book")}, x["own"])


def _nan(mode: str, solver: str, tries: int, rng: np.random.Generator) -> Case:
    """Two of six examples meet NaN: gradients of M, w and book are those of the other four, their own exactly zero."""
    n, faults, worst = 6, [], 0.0
    config = EquilibriumConfig(solver=solver, gradient=mode, tol=1e-6, adjoint_tol=1e-6, max_steps=40)
    for _ in range(tries):
        M, w, book, own, g = rng.standard_normal((5, n, n)).astype(np.float32)
        M, w = 0.3 * M / np.linalg.norm(M, 2), 0.3 * w / np.linalg.norm(w, 2)
        bad = rng.choice(n, 2, replace=False)
        kinds = [rng.choice(("NaN", "Inf", "zeros")) for _ in bad]
        for b, kind in zip(bad, kinds):
            if kind == "zeros":
                own[b] = 0
            else:
                own[b, rng.integers(n)] = float(kind)
        good = np.setdiff1d(np.arange(n), bad)
        x = {"w": w, "book": book, "own": own}
        (*came, own_bar), finite = jax.device_get(_unit_gradient(M, x, g, config))
        (*alone, own_alone), _ = jax.device_get(_unit_gradient(M, x | {"own": own[good]}, g[good], config))
        pairs = list(zip(jax.tree.leaves((came, own_bar[good])), jax.tree.leaves((alone, own_alone))))
        off = max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)
        worst = max(worst, off)
        if not off < 1e-4 or (own_bar[bad] != 0).any() or finite[bad].any() or not finite[good].all():
            faults.append(
                f"examples {bad} {kinds}: off by {off:.1e}, finite {finite}, own {np.abs(own_bar[bad]).max()}"
            )
    return Case(f"NaN among good ones, {mode}, {solver}: off {worst:.0e}", tries, tries - len(faults), tuple(faults))
