"""Letters C3 and C5: metrics at every scale against float64, and 0/0 in memory and in a stream."""

from __future__ import annotations

import numpy as np

from deq_nc.collapse import measure, measure_stream, scalars
from experiments.campaign import Case

N, D, K = 200, 12, 5


def run(quick: bool, seed: int) -> list[Case]:
    """200 random sets of features, weights and scales (20 if quick), and every kind of nothing, both ways."""
    rng = np.random.default_rng(seed)
    tries = 20 if quick else 200
    wrong = [fault for _ in range(tries) if (fault := _scaled(rng))]
    kinds = _nothing(rng)
    silent = [fault for name, arrays in kinds.items() if (fault := _flagged(name, *arrays))]
    return [
        Case("NC2, NC3 and NC1 at scales 1e-15 to 1e15", tries, tries - len(wrong), tuple(wrong)),
        Case("0/0 is NaN with a flag, streaming alike", len(kinds), len(kinds) - len(silent), tuple(silent)),
    ]


def _features(rng):
    y = np.arange(N) % K
    h = rng.standard_normal((K, D))[y] + rng.uniform(0.05, 1) * rng.standard_normal((N, D))
    return h.astype(np.float32), y, rng.standard_normal((K, D)).astype(np.float32)


def _scaled(rng) -> str | None:
    h, y, w = _features(rng)
    s, t = (np.float32(10 ** rng.uniform(-15, 15)) for _ in range(2))
    got = measure(h * s, y, w * t, num_classes=K)
    h, w = h.astype(float), w.astype(float)
    mu = np.stack([h[y == c].mean(0) for c in range(K)])
    mc, e = mu - mu.mean(0), h - mu[y]
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    etf = unit(np.eye(K) - 1 / K)
    want = {
        "nc1": np.mean(((e @ np.linalg.pinv(mc)) ** 2).sum(1)),
        "nc2_means": np.linalg.norm(unit(mc @ mc.T) - etf),
        "nc2_weights": np.linalg.norm(unit(w @ w.T) - etf),
        "nc3": np.linalg.norm(unit(w) - unit(mc)),
        "nc3_product": np.linalg.norm(unit(w @ mc.T) - etf),
    }
    off = {name: abs(float(getattr(got, name)) / value - 1) for name, value in want.items()}
    worst = max(off, key=off.get)
    return f"features x {s:.1e}, weights x {t:.1e}: {worst} off by {off[worst]:.1e}" if off[worst] > 1e-4 else None


def _nothing(rng) -> dict:
    h, y, w = _features(rng)
    one = {f"class {c} alone": (h, np.full(N, c), w, "rank", 0, "nc1 nc2_means nc3 cdnv nc4") for c in range(K)}
    values = [0, 1e-30, 0.37, 1e4, 1e30]
    dead = {f"all features {v}": (h * 0 + np.float32(v), y, w, "rank", 0, "nc1 nc2_means nc3 cdnv") for v in values}
    return one | dead | {"all weights 0": (h, y, 0 * w, "zero_weights", K, "nc2_weights nc3 accuracy nc4")}


def _flagged(name, h, y, w, flag, value, gone) -> str | None:
    batches = lambda: ((h[i : i + 50], y[i : i + 50]) for i in range(0, N, 50))  # noqa: E731
    whole, stream = measure(h, y, w, num_classes=K), measure_stream(batches, w, num_classes=K)
    for way, got in (("in memory", scalars(whole)), ("in a stream", scalars(stream))):
        if got[flag] != value or (there := [n for n in gone.split() if not np.isnan(got[n])]):
            return f"{name}, {way}: {flag} = {got[flag]}, not NaN: {there}"
    return None
