"""A fabricated grid of run folders, as a sweep writes them: RECIPE-SETTING/ARM-seedN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from deq_nc.config import ARMS

from .folders import K, make_run

SETTINGS = {"balanced": None} | {f"step-KA{a}-R{r}": (a, float(r)) for a in (3, 5, 7) for r in (10, 50, 100)}


def edit(path: Path, change) -> None:
    """Apply `change` to the JSON object of a file, in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def along(arm: str, seed: int) -> dict:
    """along.json with nine iterates that approach the last."""
    rng = np.random.default_rng([seed, ARMS.index(arm)])
    row = {"nc2_means": 0.2, "nc3": 0.1, "nc4": 0.0, "accuracy": 1.0}
    layers = [{"layer": "H0", "images": "train", "nc1": 0.03, **row}]
    steps = [
        {"step": t, "residual": 0.5 * 0.3**t, "distance": 0.7 * 0.4**t if t < 8 else 0.0,
         "nc1": 0.03 + 0.01 * 0.5**t + 1e-3 * rng.random(), **row}
        for t in range(9)
    ]  # fmt: skip
    return {"layers": layers, "by_step": steps} if arm == "deq" else {"layers": layers}


def make_cell(root: Path, setting: str, arm: str, seed: int, **options) -> Path:
    """One run of the grid; minority accuracy falls with R, less so in arms of larger norm."""
    place = SETTINGS[setting]
    path = make_run(root / f"digits-{setting}", arm, seed, imbalanced=place is not None, **options)
    majority, ratio = place or (3, 10.0)

    def configure(config):
        config["data"] |= {"majority": majority, "ratio": ratio, "allow_single": ratio == 100}

    edit(path / "config.json", configure)
    history = path / "history.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    rng = np.random.default_rng([seed, ARMS.index(arm), majority, int(ratio)])
    norm = 4 + 2 * (arm != "explicit") + rng.random()
    rows[-1] |= {"feature_norm": norm, "test_accuracy": 0.98 + 0.01 * rng.random()}
    if place is not None:
        minority = 0.95 - 0.15 * np.log10(ratio) + 0.02 * norm * (ratio > 10) + 0.02 * rng.normal()
        rows[-1] |= {"test_accuracy_minority": minority, "test_accuracy_majority": 0.99 + 0.01 * rng.random()}
        for what in ("means", "weights"):
            cosine = -0.3 + 0.35 * np.log10(ratio) - 0.1 * (arm == "deq") + 0.02 * rng.normal()
            rows[-1] |= {f"cosine_minority_{what}": cosine, f"norm_minority_{what}": 2 + rng.random()}
    history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not options.get("finished", True):
        return path
    (path / "along.json").write_text(json.dumps(along(arm, seed)))
    with np.load(path / "analysis.npz") as archive:
        arrays = dict(archive)
    divided = np.arange(K) < majority if place is not None else np.ones(K, bool)
    arrays |= {"majority": divided, "train_counts": np.where(divided, 120, max(1, int(120 // ratio)))}
    if arm == "deq":
        arrays["amplification"] = 2 + rng.random(32)
    np.savez(path / "analysis.npz", **arrays)

    def summarise(summary):
        summary |= {"initial_norm": 3.0, "step_memory_bytes": 2**22 * (1 + ARMS.index(arm))}

    edit(path / "summary.json", summarise)
    return path
