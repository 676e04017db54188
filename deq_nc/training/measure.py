"""Features in eval mode, without augmentation, and everything that is measured on them.

Letters: H [N, D] features, W [K, D] classifier weights; evidence of the very solve that gave H comes with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from deq_nc.collapse import class_moments, measure, scalars
from deq_nc.data import Batch, Dataset, gather, padded_batches
from deq_nc.equilibrium import amplification, spectral_radius
from deq_nc.losses import LOSSES
from deq_nc.models import Network
from deq_nc.training.mesh import padded, replicated, split
from deq_nc.training.state import Logs, TrainState, stream
from deq_nc.training.step import Corpus, corpus

Array = jax.Array
RADIUS_EXAMPLES = 32  # the spectral radius is averaged and maximised over the first so many training images


class Features(NamedTuple):
    """One pass over a data set, rows in its order, padding rows masked."""

    features: Array  # H [N, D]
    initial: Array  # pooled H0 [N, D]
    labels: Array  # y [N]
    mask: Array  # [N]
    correct: Array  # bool [N]
    loss: Array  # [N]
    steps: Array  # [N], 0 where nothing is solved
    residual: Array  # [N]
    converged: Array  # [N]


class Measurer:
    """Compiled once per run: `collect` features, `line` of the history, `analysis` at the end."""

    def __init__(self, network: Network, dataset: Dataset, train: Corpus, mesh: Mesh) -> None:
        self.network, self.experiment, self.dataset, self.mesh = network, network.experiment, dataset, mesh
        self.train, self.test = train, corpus(dataset, "test", mesh)
        self._gather = jax.jit(gather_rows, out_shardings=split(mesh))
        self._forward = jax.jit(_make_forward(network), out_shardings=split(mesh))
        self._summary = jax.jit(summarise)
        self._radius = (
            jax.jit(_make_radius(network), out_shardings=replicated(mesh)) if self.experiment.arm == "deq" else None
        )
        # Gathered onto every device, so that each host can read them; the collapse metrics reduce them once more.
        self._join = jax.jit(
            lambda parts: Features(*(jnp.concatenate(leaves) for leaves in zip(*parts))),
            out_shardings=replicated(mesh),
        )
        self._collapse = jax.jit(self._measure)
        self._counts = _Confusion(dataset)

    def collect(self, state: TrainState, corpus: Corpus) -> Features:
        size = corpus.image.shape[0]
        rows = padded(min(self.experiment.train.eval_batch_size, size), self.mesh)
        index, mask = jax.device_put(padded_batches(size, rows), replicated(self.mesh))
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        parts = [self._forward(variables, self._gather(corpus, i, m), corpus.counts) for i, m in zip(index, mask)]
        return self._join(parts)

    def _measure(self, features: Features, params: Any) -> Any:
        weights, bias = classifier(params)
        return measure(
            features.features,
            features.labels,
            weights,
            bias,
            num_classes=self.dataset.num_classes,
            mask=features.mask,
            majority=None if self.dataset.majority.all() else jnp.asarray(self.dataset.majority),
        )

    def line(self, state: TrainState, logs: Logs) -> dict[str, float | None]:
        """The measured part of one history line; a key without meaning for the arm is None."""
        train, test = self.collect(state, self.train), self.collect(state, self.test)
        trained, tested = jax.device_get((self._summary(train), self._summary(test)))
        collapse = scalars(jax.device_get(self._collapse(train, state.params)))
        logs = jax.device_get(logs)
        line: dict[str, float | None] = {
            "train_loss": float(trained["loss"]),
            "train_accuracy": float(trained["accuracy"]),
            "test_loss": float(tested["loss"]),
            **self._counts.accuracies(test),
            **collapse,
            "weight_norm": float(np.linalg.norm(np.asarray(classifier(state.params)[0]))),
            "feature_norm": float(trained["feature_norm"]),
            "gradient_norm": float(logs.gradient_norm),
        }
        solved = self._radius is not None
        evidence = {
            "solver_steps": float(trained["steps"]),
            "solver_residual": float(trained["residual"]),
            "unconverged": float(trained["unconverged"]),
            "adjoint_steps": float(logs.adjoint_steps / logs.examples),
            "adjoint_residual": float(logs.adjoint_residual),
            "adjoint_unconverged": float(logs.adjoint_unconverged / logs.examples),
            "adjoint_escalated": float(logs.adjoint_escalated / logs.examples),
        }
        line |= {name: value if solved else None for name, value in evidence.items()}
        line["spectral_radius"] = self._spectral_radius(state) if solved else None
        return {name: None if value is None or math.isnan(value) else value for name, value in line.items()}

    def _few(self, state: TrainState) -> tuple[Any, Batch, Array]:
        """Variables, the first few training images, and a key that follows the step."""
        rows = padded(min(RADIUS_EXAMPLES, self.train.image.shape[0]), self.mesh)
        index = np.arange(rows, dtype=np.int32) % self.train.image.shape[0]
        index, mask = jax.device_put((index, np.ones(rows, bool)), replicated(self.mesh))
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        key = jax.random.fold_in(stream(self.experiment.seed, "measure"), state.step)
        return variables, self._gather(self.train, index, mask), key

    def _spectral_radius(self, state: TrainState) -> float:
        return float(self._radius(*self._few(state)).max())

    def analysis(self, state: TrainState) -> dict[str, np.ndarray]:
        """What the figures of a finished run need, as NumPy arrays (analysis.npz)."""
        train, test = self.collect(state, self.train), self.collect(state, self.test)
        weights, bias = classifier(state.params)
        classes = self.dataset.num_classes
        moments = class_moments(train.features, train.labels, classes, mask=train.mask)
        means = np.asarray(moments.means)
        kept, tested = np.asarray(train.mask), np.asarray(test.mask)
        return {
            "features_train": np.asarray(train.features)[kept][:5000],
            "labels_train": np.asarray(train.labels)[kept][:5000],
            "features_test": np.asarray(test.features)[tested][:5000],
            "labels_test": np.asarray(test.labels)[tested][:5000],
            "class_means": means,
            "global_mean": means.mean(axis=0),
            "weights": np.asarray(weights),
            "bias": np.asarray(bias),
            "test_accuracy_per_class": self._counts.per_class(test),
            "train_counts": self.dataset.train_counts,
            "majority": self.dataset.majority,
        } | ({} if self._radius is None else {"amplification": self._amplification(state)})

    def _amplification(self, state: TrainState) -> np.ndarray:
        """||(I - J)^-1||_2 at z* of the examples of the spectral radius: by how much the arm can stretch x."""
        network = self.network

        def measured(variables: Any, batch: Batch, key: Array) -> Array:
            problem = network.apply(variables, batch.image, method=network.problem)
            return amplification(network.f, problem.z, problem.x, problem.theta, key)

        return np.asarray(jax.jit(measured, out_shardings=replicated(self.mesh))(*self._few(state)))


class _Confusion:
    """Accuracies by class and by block, each class counted once (the test set is balanced, or made to count so)."""

    def __init__(self, dataset: Dataset) -> None:
        self.classes, self.majority = dataset.num_classes, dataset.majority

    def per_class(self, features: Features) -> np.ndarray:
        kept = np.asarray(features.mask)
        labels, correct = np.asarray(features.labels)[kept], np.asarray(features.correct)[kept]
        total = np.bincount(labels, minlength=self.classes)
        right = np.bincount(labels, weights=correct, minlength=self.classes)
        return np.where(total > 0, right / np.maximum(total, 1), np.nan)

    def accuracies(self, features: Features) -> dict[str, float | None]:
        kept = np.asarray(features.mask)
        labels, correct = np.asarray(features.labels)[kept], np.asarray(features.correct)[kept]
        major = self.majority[labels]
        out: dict[str, float | None] = {"test_accuracy": float(correct.mean())}
        mixed = not self.majority.all()
        out["test_accuracy_majority"] = float(correct[major].mean()) if mixed else None
        out["test_accuracy_minority"] = float(correct[~major].mean()) if mixed else None
        return out


def classifier(params: Any) -> tuple[Array, Array]:
    """W [K, D] and bias [K] of a network's parameters."""
    return params["classifier"]["kernel"].T, params["classifier"]["bias"]


def gather_rows(corpus: Corpus, index: Array, mask: Array) -> Batch:
    """Rows of a data set, normalised, not augmented."""
    return gather(corpus.image, corpus.label, index, mask, corpus.mean, corpus.std)


def summarise(part: Features) -> dict[str, Array]:
    """Means over the unmasked rows; `residual` is the worst."""

    def mean(values: Array) -> Array:
        return jnp.where(part.mask, values, 0).sum() / part.mask.sum()

    return {
        "loss": mean(part.loss),
        "accuracy": mean(part.correct),
        "feature_norm": mean(jnp.linalg.norm(part.features, axis=1)),
        "steps": mean(part.steps),
        "unconverged": mean(~part.converged),
        "residual": jnp.where(part.mask, part.residual, 0).max(),
    }


def _make_forward(network: Network) -> Callable[..., Features]:
    loss_of = LOSSES[network.experiment.train.loss]

    def forward(variables: Any, batch: Batch, counts: Array) -> Features:
        output = network.apply(variables, batch.image, False)
        zeros = jnp.zeros(batch.label.shape)
        stats = output.stats
        return Features(
            output.features,
            output.initial,
            batch.label,
            batch.mask,
            output.logits.argmax(-1) == batch.label,
            loss_of(output.logits, batch.label, counts),
            zeros if stats is None else stats.steps.astype(jnp.float32),
            zeros if stats is None else stats.residual,
            zeros == 0 if stats is None else stats.converged,
        )

    return forward


def _make_radius(network: Network) -> Callable[..., Array]:
    def radius(variables: Any, batch: Batch, key: Array) -> Array:
        problem = network.apply(variables, batch.image, method=network.problem)
        return spectral_radius(network.f, problem.z, problem.x, problem.theta, key)

    return radius
