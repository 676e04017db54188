"""Where collapse happens: layer by layer, and along the solve by iterate and by tolerance.

Letters: z_0 ... z_T iterates of the deq arm's solver, H0 what the encoder gives the arm; the trained
classifier reads all of them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.collapse import Collapse, measure, measure_trajectory, scalars
from deq_nc.data import padded_batches
from deq_nc.training.evaluate import Features, classifier
from deq_nc.training.mesh import padded, replicated
from deq_nc.training.program import Program
from deq_nc.training.state import TrainState
from deq_nc.training.step import Corpus

ROWS = 2000  # images of a set followed along the solve, spread evenly over it; T + 1 states of each are kept
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
SHOWN = ("nc1", "nc2_means", "nc3", "nc4", "accuracy")


def layers(train: Features, test: Features, params: Any, num_classes: int) -> list[dict[str, Any]]:
    """One row for H0 and one for the features the classifier sees, on train and on test images."""
    rows = []
    for part, images in ((train, "train"), (test, "test")):
        for layer, features, head in (
            ("H0", part.initial, (None, None)),
            ("features", part.features, classifier(params)),
        ):
            found = measure(features, part.labels, *head, num_classes=num_classes, mask=part.mask)
            rows.append({"layer": layer, "images": images, **_row(scalars(found))})
    return rows


def solve(
    program: Program, state: TrainState, train: Corpus, test: Corpus, majority: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Rows by iterate (`step`) and by tolerance (`tol`): residual, distance to the last iterate, collapse, accuracy.

    All of training images; `test_accuracy` and `test_accuracy_minority` are those of the same iterates of test images
    (the latter None where majority [K] holds for every class).
    """
    num_classes = len(majority)
    states, residuals, labels = _iterates(program, state, train)
    unseen, behind, truth = _iterates(program, state, test)
    weights, bias = classifier(state.params)
    found = {
        "by_step": _rows("step", range(len(states)), states, residuals, labels, weights, bias, num_classes),
        "by_tolerance": _rows("tol", TOLERANCES, *_at(states, residuals), labels, weights, bias, num_classes),
    }
    for rows, features in ((found["by_step"], unseen), (found["by_tolerance"], _at(unseen, behind)[0])):
        right = (features @ np.asarray(weights).T + np.asarray(bias)).argmax(2) == truth
        for row, correct in zip(rows, right):
            row["test_accuracy"] = float(correct.mean())
            row["test_accuracy_minority"] = None if majority.all() else float(correct[~majority[truth]].mean())
    return found


def _iterates(program: Program, state: TrainState, part: Corpus) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [T + 1, N, D], residuals [T + 1, N] and labels [N] of at most ROWS images."""
    index = np.linspace(0, part.image.shape[0] - 1, min(ROWS, part.image.shape[0])).astype(np.int32)
    batch = padded(min(program.network.experiment.train.eval_batch_size, len(index)), program.mesh)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    features, residuals, labels = [], [], []
    for place, mask in zip(*padded_batches(len(index), batch)):
        rows = program.rows(part, *jax.device_put((index[place], mask), replicated(program.mesh)))
        z, residual = program.iterates(variables, rows)
        features.append(np.asarray(z)[:, mask])
        residuals.append(np.asarray(residual)[:, mask])
        labels.append(np.asarray(part.label)[index[place][mask]])
    return np.concatenate(features, 1), np.concatenate(residuals, 1), np.concatenate(labels)


def _at(states: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each example's first iterate within each tolerance (the last one where none is): [tolerances, N, ...]."""
    reached = residuals[None] <= np.asarray(TOLERANCES)[:, None, None]
    first = np.where(reached.any(1), reached.argmax(1), len(states) - 1)
    rows = np.arange(states.shape[1])
    return states[first, rows[None]], residuals[first, rows[None]]


def _rows(key, values, states, residuals, labels, weights, bias, num_classes) -> list[dict[str, Any]]:
    found = measure_trajectory(jnp.asarray(states), jnp.asarray(labels), weights, bias, num_classes=num_classes)
    last = states[-1]
    moved = np.linalg.norm(states - last[None], axis=2) / np.linalg.norm(last, axis=1)[None]
    return [
        {key: value, "residual": float(residuals[i].max()), "distance": float(moved[i].mean()), **_row(_one(found, i))}
        for i, value in enumerate(values)
    ]


def _one(found: Collapse, i: int) -> dict[str, float]:
    return scalars(jax.tree.map(lambda leaf: leaf[i], found))


def _row(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(numbers[name]) else numbers[name] for name in SHOWN}
