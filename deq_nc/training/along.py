"""Where collapse happens: layer by layer, and along the solve by iterate and by tolerance.

Letters: z_0 ... z_T iterates of the deq arm's solver, H0 what the encoder gives the arm; the trained
classifier reads all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.collapse import Collapse, measure_trajectory, scalars
from deq_nc.data import Corpus, padded_batches
from deq_nc.runs import Iterate, Layer, Number
from deq_nc.sample import even_sample
from deq_nc.training.evaluate import Features, classifier
from deq_nc.training.mesh import one_copy, padded, replicated
from deq_nc.training.program import Program
from deq_nc.training.state import TrainState

ROWS = 2000  # images of a set followed along the solve, spread evenly over it; T + 1 features of each are kept
FIRST = 12  # steps recorded at first, doubled until every image is at its end: few lengths, so few programs
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
SHOWN = ("nc1", "nc2_means", "nc3", "nc4", "accuracy")


def layers(
    collapse: Callable[[Features, Any, Any], Collapse],
    train: Features,
    test: Features,
    params: Any,
    majority: Any,
    pulse: Callable[[], None],
) -> list[Layer]:
    """One row for H0 and one for the features the classifier sees, on train and on test images.

    `collapse` is that of a history line, so that one program a set serves all. The classifier does not read H0: there
    nc3, nc4 and accuracy are None.
    """
    rows = []
    for part, images in ((train, "train"), (test, "test")):
        for layer, seen in (("H0", part._replace(features=part.initial)), ("features", part)):
            pulse()
            row = _row(scalars(jax.device_get(collapse(seen, params, majority))))
            row |= dict.fromkeys(("nc3", "nc4", "accuracy")) if layer == "H0" else {}
            rows.append(cast(Layer, {"layer": layer, "images": images, **row}))
    return rows


def solve(
    program: Program, state: TrainState, train: Corpus, test: Corpus, majority: np.ndarray, pulse: Callable[[], None]
) -> tuple[list[Iterate], list[Iterate]]:
    """Rows by iterate (`step`) and by tolerance (`tol`): residual, distance to the last iterate, collapse, accuracy.

    The last iterate is the step at which the last image stopped, or solver.max_steps; there each image is at the state
    that the layer returns. All of training images; `test_accuracy` and `test_accuracy_minority` are those of the same
    iterates of test images (the latter None where majority [K] holds for every class).
    """
    num_classes = len(majority)
    states, residuals, labels = _iterates(program, state, train, pulse)
    unseen, behind, truth = _iterates(program, state, test, pulse)
    states, residuals, unseen, behind = _same_length(states, residuals, unseen, behind)
    weights, bias = classifier(one_copy(state.params))
    pulse()
    # Both lists in one call: each length of moments is a program of its own, seconds to compile.
    moments, evidence = map(np.concatenate, zip((states, residuals), _at(states, residuals)))
    collapse = measure_trajectory(jnp.asarray(moments), labels, weights, bias, num_classes=num_classes)
    moved = np.linalg.norm(moments - states[-1][None], axis=2) / np.linalg.norm(states[-1], axis=1)[None]
    right = (np.concatenate([unseen, _at(unseen, behind)[0]]) @ np.asarray(weights).T + np.asarray(bias)).argmax(2)
    places: list[dict[str, Number]] = [{"step": step} for step in range(len(states))]
    places += [{"tol": tol} for tol in TOLERANCES]
    rows = [
        cast(
            Iterate,
            {
                **place,
                "residual": float(evidence[i].max()),
                "distance": float(moved[i].mean()),
                **_row(_one(collapse, i)),
                "test_accuracy": float(correct.mean()),
                "test_accuracy_minority": None if majority.all() else float(correct[~majority[truth]].mean()),
            },
        )
        for i, (place, correct) in enumerate(zip(places, right == truth))
    ]
    return rows[: len(states)], rows[len(states) :]


def _iterates(
    program: Program, state: TrainState, part: Corpus, pulse: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [T + 1, N, D], residuals [T + 1, N] and labels [N] of at most ROWS images, T where the last one ends."""
    solver = program.network.experiment.solver
    index = even_sample(part.image.shape[0], ROWS).astype(np.int32)
    batch = padded(min(program.network.experiment.train.eval_batch_size, len(index)), program.mesh)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    assert program.solve is not None
    iterates = program.solve.iterates

    def record(steps: int) -> tuple[np.ndarray, np.ndarray]:
        features, residuals = [], []
        for place, mask in zip(*padded_batches(len(index), batch)):
            pulse()
            rows = program.rows(part, *jax.device_put((index[place], mask), replicated(program.mesh)))
            z, residual = iterates(variables, rows, steps)
            features.append(np.asarray(z)[:, mask])
            residuals.append(np.asarray(residual)[:, mask])
        return np.concatenate(features, 1), np.concatenate(residuals, 1)

    steps = min(FIRST, solver.max_steps)
    features, residuals = record(steps)
    while steps < solver.max_steps and not (residuals[-1] <= solver.tol).all():
        steps = min(2 * steps, solver.max_steps)
        features, residuals = record(steps)
    return *_ended(features, residuals, solver.tol), np.asarray(part.label)[index]


def _ended(features: np.ndarray, residuals: np.ndarray, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """The same up to the step T where the last image stops, and there, as the layer does, each one's best iterate."""
    moving = ~(residuals <= tol)
    last = min(int(moving.sum(0).max()), len(residuals) - 1)
    features, residuals = features[: last + 1].copy(), residuals[: last + 1].copy()
    best, rows = np.where(np.isfinite(residuals), residuals, np.inf).argmin(0), np.arange(residuals.shape[1])
    features[-1], residuals[-1] = features[best, rows], residuals[best, rows]
    return features, residuals


def _same_length(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays [T_i + 1, ...] with the last entry of the shorter ones repeated: there nothing moves any more."""
    length = max(map(len, arrays))
    return [np.concatenate([a, np.repeat(a[-1:], length - len(a), 0)]) for a in arrays]


def _at(states: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each example's first iterate within each tolerance (the last one where none is): [tolerances, N, ...]."""
    reached = residuals[None] <= np.asarray(TOLERANCES)[:, None, None]
    first = np.where(reached.any(1), reached.argmax(1), len(states) - 1)
    rows = np.arange(states.shape[1])
    return states[first, rows[None]], residuals[first, rows[None]]


def _one(found: Collapse, i: int) -> dict[str, float]:
    return scalars(jax.tree.map(lambda leaf: leaf[i], found))


def _row(numbers: dict[str, float]) -> dict[str, Number]:
    return {name: None if np.isnan(numbers[name]) else numbers[name] for name in SHOWN}
