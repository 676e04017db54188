"""Spectra beside NumPy's eigenvalues and singular values in float64, and runs on several CPU devices that must end."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.equilibrium import amplification, jacobian_norm, measured_radius
from experiments.campaign import Case
from experiments.campaign._runs import end, numbers, start, wait_for_lines

RADII = (0.3, 0.8, 0.9, 0.97, 0.99, 1.01, 1.03, 1.1, 1.5)
SIZES = (8, 24, 60, 200)


def run(quick: bool, seed: int) -> list[Case]:
    """Radius: never on the wrong side of 1 without a flag, and within its error where that is below 0.1; amplification
    and norm: right or NaN; runs on 2 and 3 devices: train, measure, and one stopped run that goes on elsewhere."""
    rng = np.random.default_rng(seed)
    each = 4 if quick else 40
    matrices = {name: [_matrices(make, n, each, rng) for n in SIZES] for name, make in KINDS.items()}
    cases = [_radius(name, groups) for name, groups in matrices.items()]
    cases += [_norms(name, groups[:3]) for name, groups in matrices.items()]
    return cases + [_devices(count) for count in ((2,) if quick else (2, 3))]


def _matrices(make: Callable, n: int, each: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(J [each, n, n], their true radii)."""
    radii = rng.choice(RADII, each)
    return np.array([make(n, radius, rng) for radius in radii]), radii


def _apply(z, x, theta):
    return jnp.einsum("bij,bj->bi", theta, z, precision="highest")


@functools.partial(jax.jit, static_argnames="measure")
def _jitted(at, measure: Callable):  # one program a size, whatever the kind
    return measure(_apply, jnp.zeros(at.shape[:2]), None, at, jax.random.key(0))


def _measured(measure: Callable, matrices: np.ndarray):
    return jax.device_get(_jitted(jnp.asarray(matrices, jnp.float32), measure))


def _radius(name: str, groups: list) -> Case:
    faults, tried, sure, errors = [], 0, 0, []
    for matrices, true in groups:
        found = _measured(measured_radius, matrices)
        for value, error, truth in zip(found.value, found.error, true):
            tried, known = tried + 1, error < abs(value - 1)
            sure, errors = sure + known, [*errors, abs(value / truth - 1)]
            if known and (value < 1) != (truth < 1):
                faults.append(f"n = {matrices.shape[1]}: {value:.4f} +- {error:.1e} for {truth}")
            elif not np.isfinite(value) or error < 0.1 and abs(value - truth) > error + 1e-5:
                faults.append(f"n = {matrices.shape[1]}: {value:.4f} outside of its error {error:.1e}, true {truth}")
    middle, high = np.quantile(errors, (0.5, 0.9))
    title = f"radius, {name}: side of 1 known in {sure}; relative error {middle:.1e}, nine in ten below {high:.1e}"
    return Case(title, tried, tried - len(faults), tuple(faults))


def _norms(name: str, groups: list) -> Case:
    faults, tried, nans = [], 0, 0
    for matrices, _ in groups:
        n = matrices.shape[1]
        inverse = 1 / np.maximum(np.linalg.svd(np.eye(n) - matrices, compute_uv=False)[:, -1], 1e-300)
        norms = np.linalg.svd(matrices, compute_uv=False)[:, 0]
        for what, measure, truth in (("amplification", amplification, inverse), ("norm", jacobian_norm, norms)):
            for came, true in zip(_measured(measure, matrices), truth):
                tried, nans = tried + 1, nans + int(np.isnan(came))
                if not np.isnan(came) and not 0.8 < came / true < 1.05:
                    faults.append(f"n = {n}, {what}: {came:.4g} for {true:.4g}")
    return Case(f"amplification and norm, {name}: NaN in {nans}", tried, tried - len(faults), tuple(faults))


def _devices(count: int) -> Case:
    """Train on `count` devices, measure, and go on with a run that one device began."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        whole, moved = Path(place) / "whole", Path(place) / "moved"
        few = {"JAX_NUM_CPU_DEVICES": str(count)}
        trained = end(start(whole, "--arm", "deq", environment=few))
        begun = start(moved, "--arm", "deq", environment={"JAX_NUM_CPU_DEVICES": "1"})
        wait_for_lines(moved, 3, [begun])
        begun.send_signal(signal.SIGTERM)
        stopped, gone_on = end(begun), end(start(moved, "--arm", "deq", environment=few))
        command = [sys.executable, "-m", "deq_nc", "measure", str(whole)]
        environment = os.environ | few | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        measured = end(subprocess.Popen(command, env=environment, **pipes))
        ended = {"train": trained, "one device": stopped, "went on": gone_on, "measure": measured}
        faults += [f"{name}: exit code {code}, {out[-200:]}" for name, (code, out) in ended.items() if code != 0]
        if not faults and len(numbers(moved)) != len(numbers(whole)):
            faults.append("went on: other lines than those of the whole run")
    return Case(f"runs on {count} CPU devices", 4, 4 - len(faults), tuple(faults))


def _scaled(matrix: np.ndarray, radius: float) -> np.ndarray:
    return matrix * (radius / np.abs(np.linalg.eigvals(matrix)).max())


def _orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def _turns(radii: np.ndarray, angles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A normal matrix with eigenvalues radii exp(+-i angles)."""
    n = 2 * len(radii)
    blocks = np.zeros((n, n))
    for i, (r, t) in enumerate(zip(radii, angles)):
        blocks[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = r * np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    q = _orthogonal(n, rng)
    return q @ blocks @ q.T


def _normal(n, radius, rng):
    inner = radius * rng.uniform(0, 1, n // 2) ** 0.5
    inner[0] = radius
    return _turns(inner, rng.uniform(0, np.pi, n // 2), rng)


def _jordan(n, radius, rng):
    size = int(rng.integers(2, 5))
    matrix = 0.5 * _scaled(rng.standard_normal((n, n)), radius)
    matrix[:size], matrix[:, :size] = 0, 0
    rest = matrix[size:, size:]
    matrix[size:, size:] = _scaled(rest, 0.5 * radius)
    matrix[:size, :size] = radius * np.eye(size) + 0.3 * np.eye(size, k=1)
    q = _orthogonal(n, rng)
    return q @ matrix @ q.T


def _triangular(n, radius, rng):
    """A condition of 1e5 at n = 24, beyond what float32 can tell at n = 60: the larger ones are as far from normal."""
    upper = 0.5 * np.triu(rng.standard_normal((n, n)), 1) * min(1, 12 / n)
    return radius * np.diag(np.linspace(1, 0.5, n)) + upper


def _relu(n, radius, rng):
    v, u = rng.standard_normal((2, n, 2 * n))
    return _scaled((v * (rng.uniform(size=2 * n) < 0.5)[None]) @ u.T, radius)


def _cluster(n, radius, rng):
    values = np.concatenate([radius * (1 - 0.01 * rng.uniform(0, 1, 5)), radius * rng.uniform(-0.9, 0.9, n - 5)])
    values[0] = radius
    x = _orthogonal(n, rng) + 0.3 * rng.standard_normal((n, n)) / n**0.5
    return x @ np.diag(values) @ np.linalg.inv(x)


def _symmetric(n, radius, rng):
    matrix = rng.standard_normal((n, n))
    return _scaled(matrix + matrix.T, radius)


KINDS = {
    "random": lambda n, radius, rng: _scaled(rng.standard_normal((n, n)), radius),
    "normal, complex pairs": _normal,
    "symmetric": _symmetric,
    "rotations": lambda n, radius, rng: _turns(np.full(n // 2, radius), 1 + 2.0 * np.arange(n // 2), rng),
    "far from normal": _triangular,
    "defective": _jordan,
    "cyclic": lambda n, radius, rng: radius * np.roll(np.eye(n), 1, 0),
    "relu": _relu,
    "positive": lambda n, radius, rng: _scaled(rng.uniform(0, 1, (n, n)), radius),
    "cluster": _cluster,
}
