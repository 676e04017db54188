"""Synthetic run folders with known numbers, as the trainer writes them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from deq_nc.config import ARMS, DataConfig, EquilibriumConfig, Experiment, TrainConfig

K, D = 10, 16
EPOCHS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 80, 100)


def experiment(arm="deq", seed=0, *, imbalanced=False, **changes) -> Experiment:
    data = DataConfig(imbalance="step" if imbalanced else "none", majority=3, ratio=10.0)
    return Experiment(arm=arm, seed=seed, data=data, train=TrainConfig(epochs=100), solver=EquilibriumConfig(**changes))


def history_row(arm: str, seed: int, epoch: int, imbalanced: bool) -> dict:
    """Smooth made-up curves: an exponential decay whose rate depends on the arm, jittered by the seed."""
    rng = np.random.default_rng([seed, epoch, ARMS.index(arm)])
    deq, pace = arm == "deq", 1 + 0.3 * ARMS.index(arm)
    decay = np.exp(-epoch / (18 * pace))
    jitter = 1 + 0.05 * rng.normal()
    accuracy = min(1.0, 0.6 + 0.42 * (1 - np.exp(-epoch / (8 * pace))))
    row = {
        "epoch": epoch, "step": epoch * 10, "seconds": 0.4 * epoch, "learning_rate": 0.1,
        "train_loss": 2.0 * decay * jitter + 1e-3, "train_accuracy": accuracy,
        "test_loss": 2.0 * decay + 0.05 * jitter, "test_accuracy": 0.985 * accuracy - 0.002 * rng.random(),
        "test_accuracy_majority": None, "test_accuracy_minority": None,
        "nc1": 3.0 * decay**2 * jitter + 5e-3, "nc2_means": 0.8 * decay * jitter + 0.2,
        "nc2_weights": 0.7 * decay + 0.15, "nc3": 1.2 * decay * jitter + 0.1, "nc3_product": 0.9 * decay + 0.1,
        "nc4": round(0.2 * decay, 3),
        "cdnv": decay**2 + 1e-3, "equinorm_means": 0.3 * decay + 0.02, "equinorm_weights": 0.2 * decay + 0.02,
        "solver_steps": 7 + 6 * (1 - decay) if deq else None, "solver_residual": 4e-5 * jitter if deq else None,
        "unconverged": 0.0 if deq else None, "adjoint_residual": 6e-4 * jitter if deq else None,
        "adjoint_steps": 5 + 2 * (1 - decay) if deq else None, "spectral_radius": 0.75 - 0.2 * decay if deq else None,
        "weight_norm": 3 + (1 - decay), "feature_norm": 5 + 2 * (1 - decay) * (1.4 if deq else 1.0),
    }  # fmt: skip
    if imbalanced:
        row |= {"test_accuracy_majority": row["test_accuracy"], "test_accuracy_minority": 0.87 * row["test_accuracy"]}
        for what in ("means", "weights"):
            row |= {
                f"cosine_majority_{what}": -0.14 * (1 - decay), f"cosine_cross_{what}": -0.13 * (1 - decay),
                f"cosine_minority_{what}": 0.3 * decay * jitter - 0.02, f"max_cosine_minority_{what}": 0.4 * decay,
                f"norm_majority_{what}": 4 - decay, f"norm_minority_{what}": 3 - decay,
            }  # fmt: skip
    return row


def analysis(seed: int, arm: str, imbalanced: bool, tests: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, ARMS.index(arm)])
    means = 4 * np.eye(K, D) + 0.15 * rng.normal(size=(K, D))
    majority = np.arange(K) < 3 if imbalanced else np.ones(K, bool)
    if imbalanced:
        means[3:] = 0.6 * means[3:] + 0.8
    labels = np.arange(tests) % K
    return {
        "features_train": means[labels], "labels_train": labels,
        "features_test": means[labels] + 0.4 * rng.normal(size=(tests, D)), "labels_test": labels,
        "class_means": means, "global_mean": means.mean(0), "weights": means - means.mean(0), "bias": np.zeros(K),
        "test_accuracy_per_class": np.where(majority, 0.99, 0.86) - 0.01 * rng.random(K),
        "train_counts": np.where(majority, 120, 12), "majority": majority,
    }  # fmt: skip


def make_run(
    folder: Path, arm="deq", seed=0, *, imbalanced=False, finished=True, epochs=EPOCHS, tests=200, **changes
) -> Path:
    """One run folder; `changes` are fields of the solver configuration."""
    path = folder / f"{arm}-seed{seed}"
    path.mkdir(parents=True)
    config = dataclasses.replace(experiment(arm, seed, imbalanced=imbalanced, **changes), workdir=str(folder))
    (path / "config.json").write_text(config.to_json())
    rows = [history_row(arm, seed, epoch, imbalanced) for epoch in epochs]
    (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        arrays = analysis(seed, arm, imbalanced, tests)
        np.savez(path / "analysis.npz", **arrays)
        summary = {
            "arm": arm, "seed": seed, "recipe": "digits",
            "parameters": {"total": 28_000 + ARMS.index(arm), "arm": 8_000, "encoder": 19_000, "classifier": 1_000},
            "terminal_epoch": next((row["epoch"] for row in rows if row["train_accuracy"] >= 1), None),
            "seconds": 50.0 + seed, "step_seconds": 0.012, "versions": {"python": "3.11.9", "jax": "0.10.2"},
            "device": "cpu x1", "class_names": [str(k) for k in range(K)],
            "train_counts": arrays["train_counts"].tolist(), "majority": arrays["majority"].tolist(), "notes": [],
            "dataset": "digits (scikit-learn)",
        }  # fmt: skip
        (path / "summary.json").write_text(json.dumps(summary))
    return path
