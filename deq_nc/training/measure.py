"""From a state to the numbers of a history line, and to the arrays of a finished run.

Features are those of the whole data set, without augmentation, in eval mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.collapse import class_moments, scalars
from deq_nc.data import Batch, Corpus, Dataset, padded_batches
from deq_nc.runs import Along, Number
from deq_nc.sample import even_sample
from deq_nc.training import along
from deq_nc.training.evaluate import Features, classifier
from deq_nc.training.mesh import one_copy, padded, replicated
from deq_nc.training.program import Program
from deq_nc.training.state import Logs, TrainState, stream
from deq_nc.training.statistics import Moments
from deq_nc.training.step import corpus

Array = jax.Array
SPECTRUM_EXAMPLES = 32  # spectral radius and amplification are measured on so many training images
MUST_BE_FINITE = ("train_loss", "test_loss")
SAVED_FEATURES = 5000  # rows of each set kept in analysis.npz


class Measurer:
    """`line` of the history and `analysis` at the end, for one data set; `pulse` is called between batches."""

    def __init__(self, program: Program, dataset: Dataset, pulse: Callable[[], None] = lambda: None) -> None:
        self.program, self.dataset, self.pulse = program, dataset, pulse
        self.train, self.test = (corpus(dataset, part, program.mesh) for part in ("train", "test"))
        self.majority = None if dataset.majority.all() else jnp.asarray(dataset.majority)
        self._at: int | None = None  # the step that `_state` and `_parts` belong to

    def features(self, state: TrainState) -> tuple[Features, Features]:
        """Train and test features; kept until the next step, since line, analysis and along need the same passes."""
        if self._at != int(state.step):
            self._state = self._fresh(state)
            self._parts = one_copy((self.collect(self._state, self.train), self.collect(self._state, self.test)))
            self._at = int(state.step)
        return self._parts

    def _fresh(self, state: TrainState) -> TrainState:
        """The state to measure: with the encoder's statistics of these very weights, where train.statistics asks."""
        program = self.program
        if program.network.experiment.train.statistics == "running" or "encoder" not in state.batch_stats:
            return state
        moments, order = Moments.zero(state.batch_stats["encoder"]), program.order(state.seed, state.step)
        for ahead in range(program.steps):
            self.pulse()
            moments = program.moments(moments, state, self.train, order, ahead)
        return state._replace(batch_stats=state.batch_stats | {"encoder": moments.layers})

    def collect(self, state: TrainState, part: Corpus) -> Features:
        program, size = self.program, part.image.shape[0]
        batch = padded(min(program.network.experiment.train.eval_batch_size, size), program.mesh)
        index, mask = jax.device_put(padded_batches(size, batch), replicated(program.mesh))
        variables = _variables(state)
        parts = []
        for i, m in zip(index, mask):
            self.pulse()
            parts.append(program.forward(variables, program.rows(part, i, m), part.counts))
            jax.block_until_ready(parts[-1])  # so that a pulse is one batch away, not a whole pass
        return program.join(parts)

    def line(self, state: TrainState, logs: Logs) -> dict[str, Number]:
        """The measured part of one history line; None for a key without meaning for the arm and for a metric that is
        not defined (0 / 0). A loss that is not finite stays what it is: it is for the caller to refuse.
        """
        program = self.program
        train, test = self.features(state)
        trained, tested = jax.device_get((program.summary(train), program.summary(test)))
        collapse = scalars(jax.device_get(program.collapse(train, one_copy(state.params), self.majority)))
        logs = jax.device_get(logs)
        line: dict[str, Number] = {
            "train_loss": float(trained["loss"]),
            "train_accuracy": float(trained["accuracy"]),
            "train_accuracy_in_training": float(logs.correct / logs.examples),
            "test_loss": float(tested["loss"]),
            "test_accuracy": float(tested["accuracy"]),
            **self._block_accuracies(test),
            **collapse,
            "weight_norm": float(np.linalg.norm(np.asarray(classifier(state.params)[0], np.float64))),
            "feature_norm": float(trained["feature_norm"]),
            "gradient_norm": float(logs.gradient_norm),
        }
        evidence: dict[str, Number] = {
            "solver_steps": float(trained["steps"]),
            "solver_residual": float(trained["residual"]),
            "unconverged": float(trained["unconverged"]),
            "adjoint_steps": float(logs.adjoint_steps / logs.examples),
            "adjoint_residual": float(logs.adjoint_residual),
            "adjoint_unconverged": float(logs.adjoint_unconverged / logs.examples),
            "adjoint_escalated": float(logs.adjoint_escalated / logs.examples),
            **self._radius(),
        }
        line |= {name: value if program.solve else None for name, value in evidence.items()}
        return {name: value if name in MUST_BE_FINITE else _finite(value) for name, value in line.items()}

    def _radius(self) -> dict[str, Number]:
        """The largest spectral radius of the images, and how far it may be from the true one."""
        if self.program.solve is None:
            return {"spectral_radius": None, "spectral_radius_error": None}
        value, error = jax.device_get(self.program.solve.radius(*self._few()))
        largest = value.max()
        reach = max((value + error).max() - largest, largest - (value - error).max())
        return {"spectral_radius": float(largest), "spectral_radius_error": float(reach)}

    def analysis(self, state: TrainState) -> dict[str, np.ndarray]:
        """What the figures of a finished run need, as NumPy arrays (analysis.npz)."""
        train, test = self.features(state)
        weights, bias = classifier(one_copy(state.params))
        moments = class_moments(train.features, train.labels, self.dataset.num_classes, mask=train.mask)
        means = np.asarray(moments.means)
        arrays = {
            **_sample(train, "train"),
            **_sample(test, "test"),
            "class_means": means,
            "class_squares": _class_mean(jnp.square(train.features).sum(1), train, self.dataset.num_classes),
            "global_mean": means.mean(axis=0),
            "weights": np.asarray(weights),
            "bias": np.asarray(bias),
            "test_accuracy_per_class": _class_mean(test.correct, test, self.dataset.num_classes),
            "train_counts": self.dataset.train_counts,
            "majority": self.dataset.majority,
        }
        self.pulse()
        if self.program.solve is not None:
            images = min(SPECTRUM_EXAMPLES, self.train.image.shape[0])  # the rows after these are padding
            arrays["amplification"] = np.asarray(self.program.solve.amplification(*self._few()))[:images]
        return arrays

    def along(self, state: TrainState) -> Along:
        """Collapse by layer, and for the deq arm along its solve (along.json)."""
        params, parts = one_copy(state.params), self.features(state)
        found: Along = {"layers": along.layers(self.program.collapse, *parts, params, self.majority, self.pulse)}
        if self.program.solve is not None:
            found["by_step"], found["by_tolerance"] = along.solve(
                self.program, self._state, self.train, self.test, self.dataset.majority, self.pulse
            )
        return found

    def initial_norm(self, state: TrainState) -> float:
        """Mean norm of the pooled H0 over training images; `feature_norm` over it is what the arm gains in norm."""
        train, _ = self.features(state)
        return float(jax.device_get(self.program.summary(train)["initial_norm"]))

    def _few(self) -> tuple[Any, Batch, Array]:
        """Variables, a few training images spread evenly over the set, and a key that follows the step."""
        state, few = self._state, even_sample(self.train.image.shape[0], SPECTRUM_EXAMPLES).astype(np.int32)
        index = np.resize(few, padded(len(few), self.program.mesh))
        rows = (index, np.arange(len(index)) < len(few))
        index, mask = jax.device_put(rows, replicated(self.program.mesh))
        key = jax.random.fold_in(stream(state.seed, "measure"), state.step)
        return _variables(state), self.program.rows(self.train, index, mask), key

    def _block_accuracies(self, part: Features) -> dict[str, float | None]:
        accuracy: dict[str, float | None] = {"test_accuracy_majority": None, "test_accuracy_minority": None}
        if self.majority is not None:
            kept = np.asarray(part.mask)
            major = self.dataset.majority[np.asarray(part.labels)[kept]]
            correct = np.asarray(part.correct)[kept]
            accuracy["test_accuracy_majority"] = float(correct[major].mean())
            accuracy["test_accuracy_minority"] = float(correct[~major].mean())
        return accuracy


def _variables(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "batch_stats": state.batch_stats}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _sample(part: Features, name: str) -> dict[str, np.ndarray]:
    """Features and labels of at most SAVED_FEATURES images, spread evenly over the set."""
    rows = np.flatnonzero(np.asarray(part.mask))
    rows = rows[even_sample(len(rows), SAVED_FEATURES)]
    return {f"features_{name}": np.asarray(part.features)[rows], f"labels_{name}": np.asarray(part.labels)[rows]}


def _class_mean(values: Array, part: Features, num_classes: int) -> np.ndarray:
    """Mean of values [N] over the images of each class, [K]; NaN for a class without one."""
    kept = np.asarray(part.mask)
    labels, values = np.asarray(part.labels)[kept], np.asarray(values, np.float64)[kept]
    total = np.bincount(labels, minlength=num_classes)
    found = np.bincount(labels, weights=values, minlength=num_classes)
    return np.where(total > 0, found / np.maximum(total, 1), np.nan)
