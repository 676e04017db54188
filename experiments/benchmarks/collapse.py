"""`measure` beside plain PyTorch and NumPy two-pass implementations, and beside reading the features twice.

    python -m experiments.benchmarks.collapse [--shapes 50000x512x10 ...] [--noise 0.3] [--rounds 5]
                                              [--clock processor] [--out DIR]

Needs PyTorch (`pip install torch`). Every round times every method once, in turn, in this one process, by wall clock
after 0.3 s of calls in a row; the table gives medians and their ratios. The PyTorch twin computes NC1, NC2, NC3, NC4
and the CDNV as a library user would write them: batches of 5,000 rows, class sums, then S_W [D, D], the distances to
the means and the logits, then pinv(S_B). It costs some minutes on two cores. `floor` is one matmul of the features with
a D x K matrix and one pass of squares. With `--noise 1` no sample is sure of its class by distance alone; 0.3 is a
collapsed network. `--clock processor` is for a machine that others use too: pin it to one core (`taskset -c 1`), since
threads that wait count.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch

from deq_nc.collapse import measure

BATCH = 5_000
WARM_SECONDS = 0.3
SHAPES = ("50000x512x10", "50000x512x100", "50000x2048x1000")


def make(n: int, d: int, k: int, noise: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Features around K standard normal means, weights near the means, bias 0; float32."""
    rng = np.random.default_rng(seed)
    mu = rng.standard_normal((k, d), dtype=np.float32)
    y = rng.integers(0, k, n)
    h = rng.standard_normal((n, d), dtype=np.float32)
    h *= noise
    h += mu[y]
    w = mu + 0.3 * rng.standard_normal((k, d), dtype=np.float32)
    return h, y, w, np.zeros(k, np.float32)


def torch_two_pass(h: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
    n, d = h.shape
    k = len(w)
    sums, count = torch.zeros(k, d), torch.bincount(y, minlength=k).float()
    for i in range(0, n, BATCH):
        sums.index_add_(0, y[i : i + BATCH], h[i : i + BATCH])
    means = sums / count[:, None]
    mc = means - means.mean(0)
    s_w, variance, differ = torch.zeros(d, d), torch.zeros(k), 0
    for i in range(0, n, BATCH):
        rows, labels = h[i : i + BATCH], y[i : i + BATCH]
        e = rows - means[labels]
        s_w += e.T @ e
        variance.index_add_(0, labels, (e * e).sum(1))
        near = torch.cdist(rows, means).argmin(1)
        differ += int((near != (rows @ w.T + b).argmax(1)).sum())
    variance /= count
    s_b = mc.T @ mc / k
    off = ~torch.eye(k, dtype=torch.bool)
    etf = (torch.eye(k) - 1 / k) / (k - 1) ** 0.5
    gram, gram_w = mc @ mc.T, w @ w.T
    cdnv = (variance[:, None] + variance[None]) / (2 * torch.cdist(means, means) ** 2)
    return {
        "nc1": float((s_w / n * torch.linalg.pinv(s_b, hermitian=True)).sum() / k),
        "nc2_means": float((gram / gram.norm() - etf).norm()),
        "nc2_weights": float((gram_w / gram_w.norm() - etf).norm()),
        "nc3": float((w / w.norm() - mc / mc.norm()).norm()),
        "nc4": differ / n,
        "cdnv": float(cdnv[off].mean()),
    }


def numpy_two_pass(h: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray) -> dict[str, float]:
    n, d = h.shape
    k = len(w)
    count = np.bincount(y, minlength=k).astype(np.float32)
    order = np.argsort(y, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(y, minlength=k))])
    means = np.stack([h[order[i:j]].mean(0) for i, j in zip(edges[:-1], edges[1:])])
    mc = means - means.mean(0)
    s_w, variance, differ = np.zeros((d, d), np.float32), np.zeros(k, np.float32), 0
    squares = (means * means).sum(1)
    for i in range(0, n, BATCH):
        rows, labels = h[i : i + BATCH], y[i : i + BATCH]
        e = rows - means[labels]
        s_w += e.T @ e
        variance += np.bincount(labels, (e * e).sum(1), k).astype(np.float32)
        near = (squares - 2 * rows @ means.T).argmin(1)
        differ += int((near != (rows @ w.T + b).argmax(1)).sum())
    variance /= count
    etf = (np.eye(k) - 1 / k) / (k - 1) ** 0.5
    gram, gram_w, norm = mc @ mc.T, w @ w.T, np.linalg.norm
    diagonal = np.diag(gram)
    with np.errstate(divide="ignore", invalid="ignore"):
        cdnv = (variance[:, None] + variance[None]) / (2 * (diagonal[:, None] + diagonal[None] - 2 * gram))
    return {
        "nc1": float((s_w / n * np.linalg.pinv(mc.T @ mc / k, rcond=1.2e-7 * d, hermitian=True)).sum() / k),
        "nc2_means": float(norm(gram / norm(gram) - etf)),
        "nc2_weights": float(norm(gram_w / norm(gram_w) - etf)),
        "nc3": float(norm(w / norm(w) - mc / norm(mc))),
        "nc4": differ / n,
        "cdnv": float(cdnv[~np.eye(k, dtype=bool)].mean()),
    }


def compare(n: int, d: int, k: int, noise: float, rounds: int, clock: str) -> dict:
    now = time.process_time if clock == "processor" else time.perf_counter
    h, y, w, b = make(n, d, k, noise)
    tensors = tuple(map(torch.from_numpy, (h, y, w, b)))
    arrays = tuple(map(jax.numpy.asarray, (h, y.astype(np.int32), w, b)))
    matmul, squares = jax.jit(lambda h, w: h @ w.T), jax.jit(lambda h: (h * h).sum(1))
    methods: dict[str, Callable] = {
        "measure": lambda: jax.block_until_ready(measure(*arrays, num_classes=k)),
        "floor": lambda: jax.block_until_ready((matmul(arrays[0], arrays[2]), squares(arrays[0]))),
        "torch": lambda: torch_two_pass(*tensors),
        "numpy": lambda: numpy_two_pass(h, y, w, b),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    values = {}
    for i in range(rounds + 1):  # the first round compiles and warms up
        for name, run in methods.items():
            if clock == "wall":
                # The pool of the method before spins for a while, and threads that slept wake slowly: after one call
                # `measure` at K = 10 takes 32 ms for 19, the floor 10 to 20 for 11.
                start = time.perf_counter()
                while time.perf_counter() - start < WARM_SECONDS:
                    run()
            start = now()
            out = run()
            if i:
                seconds[name].append(now() - start)
            values[name] = out
    ours = values["measure"]
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "n": n,
        "d": d,
        "k": k,
        "noise": noise,
        "rounds": rounds,
        "clock": clock,
        "seconds": {name: round(t, 4) for name, t in median.items()},
        "measure_over_torch": round(median["measure"] / median["torch"], 3),
        "measure_over_numpy": round(median["measure"] / median["numpy"], 3),
        "measure_over_floor": round(median["measure"] / median["floor"], 2),
        "values": {
            key: {"measure": float(getattr(ours, key)), "torch": value, "numpy": values["numpy"][key]}
            for key, value in values["torch"].items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="NxDxK")
    parser.add_argument("--noise", type=float, default=0.3, help="within-class spread per coordinate; the means have 1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--name", default=None, help="of the files in --out; <clock>_noise_<noise> by default")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    rows = [compare(*map(int, shape.split("x")), args.noise, args.rounds, args.clock) for shape in args.shapes]
    versions = {"python": platform.python_version(), "jax": jax.__version__, "torch": torch.__version__}
    versions |= {"numpy": np.__version__, "torch_threads": torch.get_num_threads()}
    table = ["| N x D x K | measure s | floor s | torch s | numpy s | / torch | / numpy | / floor |", "|---" * 8 + "|"]
    for r in rows:
        s = r["seconds"]
        table.append(
            f"| {r['n']} x {r['d']} x {r['k']} | {s['measure']:.3f} | {s['floor']:.3f} | {s['torch']:.3f} | "
            f"{s['numpy']:.3f} | {r['measure_over_torch']:.2f} | {r['measure_over_numpy']:.2f} | "
            f"{r['measure_over_floor']:.2f} |"
        )
    print("\n".join(table), "\n", json.dumps(versions), json.dumps([r["values"] for r in rows], indent=1))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        command = f"python -m experiments.benchmarks.collapse --noise {args.noise} --rounds {args.rounds}"
        command += f" --clock {args.clock} --shapes {' '.join(args.shapes)}"
        record = {"command": command, "versions": versions, "rows": rows}
        name = args.name or f"{args.clock}_noise_{args.noise}"
        (args.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        (args.out / f"{name}.md").write_text(f"`{command}`, {json.dumps(versions)}\n\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
