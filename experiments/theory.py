"""The study of the linear arms: figures, tables and numbers, compared with those under experiments/results/theory.

    make theory OUT=FOLDER      or  python -m experiments.theory --out FOLDER

About a minute on two CPU cores. Everything is recomputed. Numbers that are not the committed ones, to the tolerances
below, are listed, and the exit code is 1; `--out experiments/results/theory` writes the committed files anew. What to
expect: the minority collapses at R0 = 12.2 without an arm at (KA, KB, s) = (5, 5, sqrt 5), at 1.97 with an explicit arm
of gain 0.5 and at 1290.5 with a DEQ of the same gain; under ||V||_F the DEQ's optimum loses rank; under weight decay
the explicit arm can win.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import jax
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D

from deq_nc.geometry import block_cosines, nc2
from deq_nc.report.figures.style import arm_style, new_figure, style_context
from deq_nc.theory import (
    ARMS,
    Budget,
    arm_scale,
    balanced_optimum,
    budget_spent,
    collapse_threshold,
    counts_optimum,
    minimise,
    step_optimum,
    weight_decay_threshold,
)
from experiments.phase import cosine_curves, duality_map, frobenius_map, optimum_map, threshold_map

S5 = 5**0.5
SPLITS = ((3, 7), (5, 5), (7, 3))
COMMITTED = Path(__file__).parent / "results" / "theory"
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # other machines and versions round descents otherwise; gaps and errors are below
RANKS = ListedColormap(["#F0E442", "#56B4E9", "#0072B2"])  # Okabe-Ito, ordered by lightness


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Figures and tables of the layer-peeled models.")
    parser.add_argument("--out", type=Path, default=Path("runs/theory"))
    out = parser.parse_args(arguments).out.expanduser()
    committed = json.loads((COMMITTED / "numbers.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, object] = {}
    text = ["# Theory of the linear arms\n", "Written by `python -m experiments.theory`. Our formulation throughout.\n"]
    start = time.perf_counter()
    with style_context():
        for part in (arms, agreement, curves, thresholds, longtail, descent, frobenius, duality, decay):
            begun = time.perf_counter()
            lines, result = part(out)
            numbers[part.__name__] = result
            text += [f"\n## {part.__doc__}\n", *lines]
            print(f"{part.__name__:12s} {time.perf_counter() - begun:6.1f} s", flush=True)
    versions = {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__}
    text.append("\n## Made with\n\n" + ", ".join(f"{k} {v}" for k, v in versions.items()) + ", CPU, float64.")
    (out / "tables.md").write_text("\n".join(text) + "\n")
    numbers = json.loads(json.dumps(_finite(numbers | {"versions": versions})))
    (out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(
        f"{time.perf_counter() - start:.1f} s. {out}/tables.md, numbers.json and {len(list(out.glob('*.png')))} figures"
    )
    differing = compare(committed, numbers)
    for line in differing:
        print(f"not as committed: {line}", file=sys.stderr)
    if not differing:
        print(f"the numbers are those of {COMMITTED / 'numbers.json'}, to {RELATIVE:g}")
    return 1 if differing else 0


def compare(committed: object, found: object, name: str = "") -> list[str]:
    """Where two numbers.json differ beyond RELATIVE and ABSOLUTE, a line each; times and versions may."""
    if name == "versions" or ".seconds_" in name:
        return []
    if isinstance(committed, dict) and isinstance(found, dict):
        keys = sorted(committed.keys() | found.keys())
        return [
            line
            for key in keys
            for line in compare(committed.get(key), found.get(key), f"{name}.{key}" if name else key)
        ]
    if isinstance(committed, list) and isinstance(found, list) and len(committed) == len(found):
        return [line for i, pair in enumerate(zip(committed, found)) for line in compare(*pair, f"{name}[{i}]")]
    if isinstance(committed, float) and isinstance(found, float):
        same = math.isclose(committed, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    else:
        same = committed == found
    return [] if same else [f"{name}: {found!r}, committed {committed!r}"]


def _finite(x):
    """NaN as null: JSON has no NaN."""
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and np.isnan(x) else x


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    """Markdown lines; floats to 6 digits, NaN as '-'."""

    def cell(x: object) -> str:
        if isinstance(x, float):
            return "-" if np.isnan(x) else f"{x:.6g}"
        return str(x)

    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(map(cell, row)) + " |" for row in rows),
    ]


def arms(out: Path):
    """Arms under the spectral budget, gain 0.5, s = sqrt 5 (proved)"""
    head = [
        "KA, KB",
        "arm",
        "scale",
        "R0",
        "loss R=10",
        "loss R=100",
        "cos min R=10",
        "cos min R=100",
        "norm min/maj R=100",
    ]
    rows = []
    for ka, kb in SPLITS:
        for arm in ("(none)", *ARMS):
            s = S5 if arm == "(none)" else arm_scale(arm, S5, 0.5)
            a, b = step_optimum(ka, kb, 10, s), step_optimum(ka, kb, 100, s)
            norm = float(np.sqrt(b.norm_minority / b.norm_majority))
            R0 = collapse_threshold(ka, kb, s)
            rows.append([f"{ka}, {kb}", arm, s, R0, a.loss, b.loss, float(a.cos_minority), float(b.cos_minority), norm])
    note = "\n'-' is a cosine between vectors of length zero: the minority has vanished.\n"
    return table(head, rows) + [note], {"head": head, "rows": rows}


def agreement(out: Path):
    """Three independent solvers on 24 random (KA, KB, R, s)"""
    rng = np.random.default_rng(0)
    rows = []
    for ka, kb in ((2, 2), (3, 2), (2, 5), (5, 5)):
        for _ in range(6):
            R, s = float(10 ** rng.uniform(0, 2.5)), float(10 ** rng.uniform(-0.5, 0.6))
            exact, n = step_optimum(ka, kb, R, s), [R] * ka + [1.0] * kb
            program = counts_optimum(n, s, tol=1e-10)
            direct = minimise("lpm", n, Budget("spectral", 0.5, s), seeds=4, max_steps=6000)
            errors = [program.loss - exact.loss, direct.loss - exact.loss]
            rows.append([f"{ka}, {kb}", R, s, exact.loss, float(abs(exact.gap)), program.gap, *errors])
    head = ["KA, KB", "R", "s", "loss", "its gap", "gap of the program", "program - loss", "descent over (W, H) - loss"]
    worst = [max(abs(row[i]) for row in rows) for i in (4, 6, 7)]
    note = f"\nLargest: gap {worst[0]:.1e}, nuclear-norm program {worst[1]:.1e}, direct descent {worst[2]:.1e}.\n"
    return table(head, rows) + [note], {"head": head, "rows": rows, "largest": worst}


def curves(out: Path):
    """Minority cosine against R, spectral budget (curves.png; proved)"""
    R = np.logspace(0, 4, 241)
    figure = new_figure(9.6, 3.3)
    for axis, (ka, kb) in zip(figure.subplots(1, 3, sharey=True), SPLITS):
        found = {"no arm": step_optimum(ka, kb, R, S5).cos_minority, **cosine_curves(ka, kb, R, S5, 0.5)}
        for arm, cos in found.items():
            style = {k: v for k, v in arm_style(arm).items() if k != "marker"}
            axis.semilogx(R, cos, label=arm, **style)
            gone = np.flatnonzero(np.isnan(cos))
            if gone.size and gone[0]:  # the last length before W_B = 0
                axis.plot(R[gone[0] - 1], cos[gone[0] - 1], marker="X", markersize=7, color=style["color"])
        axis.axhline(-1 / (ka + kb - 1), color="#999999", linewidth=0.8, linestyle=":")
        axis.set_title(f"KA = {ka}, KB = {kb}")
        axis.set_xlabel("imbalance ratio R")
        axis.set_ylim(-0.2, 1.06)
    figure.axes[0].set_ylabel("cosine of two minority classifiers")
    handles, _ = figure.axes[0].get_legend_handles_labels()
    handles.append(Line2D([], [], marker="X", linestyle="", color="#555555", label="classifiers vanish"))
    handles.append(Line2D([], [], color="#999999", linewidth=0.8, linestyle=":", label="simplex ETF"))
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    figure.savefig(out / "curves.png")
    return ["![Minority cosine against R](curves.png)\n", "s = sqrt 5 before the arm, gain 0.5."], None


def thresholds(out: Path):
    """R0 against gain and scale, KA = KB = 5, spectral budget (thresholds.png; proved)"""
    g, s = np.linspace(0.02, 0.95, 200), np.linspace(0.1, 5, 200)
    begun = time.perf_counter()
    maps = {arm: threshold_map(arm, 5, 5, g, s) for arm in ARMS}
    seconds = (time.perf_counter() - begun) / 3
    figure = new_figure(9.6, 3.4)
    levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 10]
    for axis, arm in zip(figure.subplots(1, 3, sharey=True), ARMS):
        shown = axis.contourf(s, g, maps[arm], levels=levels, cmap="cividis", extend="max")
        lines = axis.contour(s, g, maps[arm], levels=[1, 2], colors="white", linewidths=1.1)
        axis.clabel(lines, fmt={1.0: "R0 = 10", 2.0: "R0 = 100"}, fontsize=8)
        axis.set_title(arm)
        axis.set_xlabel("scale s before the arm")
        axis.grid(False)
    figure.axes[0].set_ylabel("gain g")
    figure.colorbar(shown, ax=figure.axes, label="log10 R0", ticks=levels)
    figure.savefig(out / "thresholds.png")
    begun = time.perf_counter()
    o = optimum_map(5, 5, np.logspace(0, 4, 200), s)
    optimum = time.perf_counter() - begun
    worst = float(np.max(np.abs(o.relative_gap)))
    lines = ["![R0 against gain and scale](thresholds.png)\n", "Collapse needs R >= R0: a yellow region is safe."]
    lines.append(
        f"A 200 x 200 map of R0: {seconds:.1f} s; of optima: {optimum:.1f} s, largest relative gap {worst:.0e}."
    )
    return lines, {"seconds_map_200x200_R0": seconds, "seconds_map_200x200_optimum": optimum, "largest_gap": worst}


def longtail(out: Path):
    """Long tails, spectral budget, gain 0.5, s = sqrt 5 (certified by the duality gap)"""
    rows = []
    for k, ratio in ((10, 10), (10, 100), (100, 100)):
        n = 500 * float(ratio) ** (-np.arange(k) / (k - 1))
        for arm in ("(none)", *ARMS):
            o = counts_optimum(n, S5 if arm == "(none)" else arm_scale(arm, S5, 0.5), tol=1e-7)
            gram = o.gram_weights()
            length = np.sqrt(np.diag(gram))
            tail = np.arange(k) >= k - k // 5  # the rarest fifth
            cos = block_cosines(gram, ~tail)["minority"]
            sv = np.linalg.svd(o.logits, compute_uv=False)
            rank = int(np.sum(sv > 1e-6 * sv[0]))
            rows.append([k, ratio, arm, o.loss, o.gap, rank, cos, float(length[tail].mean() / length[0]), nc2(gram)])
    head = [
        "K",
        "n_max/n_min",
        "arm",
        "loss",
        "gap",
        "rank of Z",
        "cosine in the rarest fifth",
        "its norm / head",
        "NC2 of W",
    ]
    return table(head, rows), {"head": head, "rows": rows}


def descent(out: Path):
    """Minima are not training: descent with a free V, (5, 5), R = 10, s = sqrt 5 (numerical)"""
    rows = []
    for arm in ARMS:
        for gain in (0.3, 0.5, 0.8):
            o = minimise(arm, [10] * 5 + [1] * 5, Budget("spectral", gain, S5), seeds=10)
            exact = step_optimum(5, 5, 10, arm_scale(arm, S5, gain)).loss
            reached = int(np.sum(o.losses <= exact * (1 + 1e-5)))
            rows.append([arm, gain, exact, o.loss, float(np.median(o.losses)), f"{reached} / 10"])
    head = ["arm", "gain", "proved minimum", "best of 10 seeds", "median", "seeds within 1e-5"]
    note = "\nAccelerated projected gradient, 4000 steps. The stationary points above the minimum are descent's own.\n"
    return table(head, rows) + [note], {"head": head, "rows": rows}


def frobenius(out: Path):
    """Budget ||V||_F <= g, K = 4 balanced: rank of the optimum (frobenius.png; best of 10 seeds)"""
    g, s = np.linspace(0.06, 0.98, 18), np.linspace(0.1, 3.0, 18)
    maps = {arm: frobenius_map(arm, 4, g, s, seeds=10, max_steps=2000) for arm in ARMS}
    figure = new_figure(9.6, 5.6)
    axes = figure.subplots(2, 3, sharey=True, sharex=True)
    for i, arm in enumerate(ARMS):
        ranks = axes[0, i].pcolormesh(s, g, maps[arm].rank, cmap=RANKS, norm=BoundaryNorm([0.5, 1.5, 2.5, 3.5], 3))
        duals = axes[1, i].pcolormesh(s, g, maps[arm].nc3, cmap="cividis", vmin=0, vmax=1)
        axes[0, i].set_title(arm)
        axes[1, i].set_xlabel("scale s before the arm")
    for axis in axes[:, 0]:
        axis.set_ylabel("gain g")
    for axis in axes.flat:
        axis.grid(False)
    figure.colorbar(ranks, ax=axes[0], label="rank of Z (3 = ETF)", ticks=[1, 2, 3])
    figure.colorbar(duals, ax=axes[1], label="NC3, self-duality error")
    figure.savefig(out / "frobenius.png")
    best = minimise("deq", [1] * 4, Budget("frobenius", 0.9, 1.0), aligned=True)
    etf = balanced_optimum(4, 3 / budget_spent("deq", [1.0] * 3, 0.9))
    lines = ["![Rank and self-duality](frobenius.png)\n"]
    lines.append(f"DEQ, g = 0.9, s = 1: {best.loss:.12f} at rank {best.rank}, below the ETF's {etf:.12f}.")
    head = [
        "arm",
        "share of the map with rank 3",
        "rank 2",
        "rank 1",
        "mean NC3",
        "largest NC3",
        "mean share of seeds agreeing",
    ]
    rows = []
    for arm, m in maps.items():
        shares = [float(np.mean(m.rank == r)) for r in (3, 2, 1)]
        rows.append([arm, *shares, float(m.nc3.mean()), float(m.nc3.max()), float(m.agreeing.mean())])
    return lines + [""] + table(head, rows), {"deq_g0.9_s1": best.loss, "etf": etf, "head": head, "rows": rows}


def duality(out: Path):
    """NC2 and NC3 of the imbalanced optimum, KA = KB = 5 (duality.png; proved)"""
    R, s = np.logspace(0, 4, 120), np.linspace(0.1, 8, 120)
    maps = duality_map(5, 5, R, s)
    titles = {"nc2_weights": "NC2 of W", "nc2_means": "NC2 of the class means", "nc3": "NC3, self-duality"}
    figure = new_figure(9.6, 3.3)
    log_R0 = np.log10(collapse_threshold(5, 5, s))
    for axis, (name, title) in zip(figure.subplots(1, 3, sharey=True), titles.items()):
        shown = axis.pcolormesh(s, R, maps[name], cmap="cividis", vmin=0, vmax=0.8 if name != "nc3" else 0.1)
        axis.plot(s, 10**log_R0, color="white", linewidth=1.3)
        axis.set_yscale("log")
        axis.set_ylim(1, 1e4)
        axis.set_title(title)
        axis.set_xlabel("effective scale")
        axis.grid(False)
        figure.colorbar(shown, ax=axis, extend="max")
    figure.axes[0].set_ylabel("imbalance ratio R")
    figure.savefig(out / "duality.png")
    largest = {name: float(m.max()) for name, m in maps.items()}
    lines = [
        "![NC2 and NC3](duality.png)\n",
        "White: R0; above it the minority is collapsed. Read an arm at its `arm_scale`.",
    ]
    lines.append("Largest in the map: " + ", ".join(f"{titles[k]} {v:.3f}" for k, v in largest.items()) + ".")
    return lines, largest


def decay(out: Path):
    """Weight decay on W, H0 and V alike, (2, 2) classes, n_B = 20 (best of 24 seeds)"""
    ka = kb = 2
    big = np.arange(ka + kb) < ka

    def best(arm: str, decays: float, gain: float, R: float):
        budget = Budget("decay", gain, decay_weights=decays, decay_features=decays, decay_arm=decays)
        o = minimise(arm, [20 * R] * ka + [20] * kb, budget, aligned=True, seeds=24, max_steps=6000)
        return o, block_cosines(o.W @ o.W.T, big, guard=1e-3)["minority"]

    rows, delays = [], []
    for decays in (1e-2, 3e-3, 1e-3):
        R0 = weight_decay_threshold(ka, kb, 20, decays, decays)
        for R in (1.0, 10.0, 100.0):
            row = [decays, R]
            for arm, gain in (("lpm", 0.5), ("explicit", 0.5), ("residual", 0.5), ("deq", 0.5), ("deq", 0.9)):
                o, cos = best(arm, decays, gain, R)
                row += [o.loss, cos]
            winner = min(("explicit", 4), ("residual", 6), ("deq g=.5", 8), ("deq g=.9", 10), key=lambda a: row[a[1]])[
                0
            ]
            rows.append([*row, winner])
        for gain in (0.5, 0.9):
            lo, hi = 0.0, 3.0  # log of R / R0
            for _ in range(8):
                middle = (lo + hi) / 2
                collapsed = best("deq", decays, gain, R0 * np.exp(middle))[1] > 1 - 1e-6
                lo, hi = (lo, middle) if collapsed else (middle, hi)
            delays.append([decays, R0, gain, float(np.exp((lo + hi) / 2))])
    columns = ("none", "explicit", "residual", "deq g=.5", "deq g=.9")
    head = ["decay", "R", *(f"{what} {c}" for c in columns for what in ("value", "cos min")), "lowest"]
    lines = table(head, rows)
    lines.append(
        "\nThe value includes the decay terms; '-': the minority classifiers are zero. An explicit or residual"
    )
    lines.append("V is bounded by its decay alone, the DEQ's by its gain as well.\n")
    more = ["decay", "R0 without an arm", "gain", "R at which the DEQ's minority becomes parallel, over R0"]
    return lines + table(more, delays), {"head": head, "rows": rows, "delay_head": more, "delays": delays}


if __name__ == "__main__":
    sys.exit(main())
