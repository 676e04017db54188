"""The network: encoder -> H0 -> arm -> pooled features -> linear classifier with bias.

Letters: x = H0 (the injection, normalised for spatial cells), g the cell's map, theta_l the weights of layer l.

    deq        z* = x + g(z*, theta)                     solved, differentiated implicitly
    unrolled   z_{l+1} = x + g(z_l, theta), z_0 = x      `unroll` times, the same weights (control: more computation)
    explicit   z_{l+1} = g(z_l, theta_l), z_0 = x        `depth` layers of their own weights
    residual   z_{l+1} = z_l + g(z_l, theta_l), z_0 = x  likewise (control: a skip without an equilibrium)

A cell may refine this (cells.py): a state of several arrays made from x (`start`), an injection that depends on theta
(`drive`), another map for a layer than for the solve (`layer`), features that are a function of the state (`read`).

The inner width of explicit and residual layers is inner / depth, so that all arms have the same matrices' parameters
(the linear and monotone cells hold a D x D matrix too: there depth must be 1 for that).

In training with batch norm in the cell each layer's running statistics move once, from the state it was last applied to
(z* for the deq arm); every application of the step used the statistics of the step before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deq_nc.config import Experiment
from deq_nc.equilibrium import AdjointStats, SolveStats, equilibrium, trajectory
from deq_nc.models.cells import CELLS, State, in_dtype, make_weights
from deq_nc.models.encoders import ENCODERS

Array = jax.Array


class Problem(NamedTuple):
    """The solve inside the deq arm: z* = f(z*, x, theta), for diagnostics and penalties."""

    z: State
    x: State  # what f adds: the cell's drive
    theta: Any


class Output(NamedTuple):
    """What one application returns; every leading axis is the batch."""

    logits: Array  # [B, K]
    features: Array  # [B, D], pooled z (z* for the deq arm)
    initial: Array  # [B, D], pooled H0
    stats: SolveStats | None  # evidence of the solve; None for arms that solve nothing
    problem: Problem | None  # the solve itself, likewise


def pool(z: State) -> Array:
    """Mean over space: [B, h, w, D] -> [B, D]; a flat z passes through; several scales are averaged."""
    means = [leaf.mean(axis=(1, 2)) if leaf.ndim == 4 else leaf for leaf in jax.tree.leaves(z)]
    return means[0] if len(means) == 1 else sum(means) / len(means)


def add(a: State, b: State) -> State:
    """a + b, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


class Network(nn.Module):
    """The whole model of one experiment; `apply(variables, image [B, h, w, c], train, mask [B]) -> Output`.

    Rows where `mask` is False are padding: they do not enter batch statistics.
    """

    experiment: Experiment
    num_classes: int

    def setup(self) -> None:
        model, arm = self.experiment.model, self.experiment.arm
        self.encoder = ENCODERS[model.encoder](model.features, model.width, model.norm)
        layers = model.depth if arm in ("explicit", "residual") else 1
        self.cells = [make_weights(model, layers) for _ in range(layers)]
        if CELLS[model.cell].spatial:
            self.injection = nn.GroupNorm(num_groups=None, group_size=8)
        self.classifier = nn.Dense(self.num_classes)

    def f(self, z: State, x: State, theta: Any) -> State:
        """f(z, x, theta) = x + g(z, theta); pure, a contraction in z (a gain-contraction unless monotone)."""
        model = self.experiment.model
        return add(x, in_dtype(CELLS[model.cell].g, model.dtype)(z, theta))

    def inject(self, image: Array, train: bool, mask: Array | None = None) -> Array:
        """x = H0, pooled for flat cells, normalised for spatial ones."""
        h0 = self.encoder(image, train, mask)
        return self.injection(h0) if CELLS[self.experiment.model.cell].spatial else pool(h0)

    def __call__(
        self, image: Array, train: bool = False, mask: Array | None = None, probe: AdjointStats | None = None
    ) -> Output:
        x = self.inject(image, train, mask)
        thetas = [cell(x, train) for cell in self.cells]
        z, seen, stats, problem = self._refine(x, thetas, probe)
        if train and self.experiment.model.cell_norm == "batch":
            for cell, state in zip(self.cells, seen):
                cell.observe(state, mask)
        features = pool(z)
        return Output(self.classifier(features), features, pool(x), stats, problem)

    def _refine(
        self, x: Array, thetas: list[Any], probe: AdjointStats | None
    ) -> tuple[State, list[State], SolveStats | None, Problem | None]:
        """(refined state, the state each layer was last applied to, evidence and the solve of the deq arm)."""
        arm, model = self.experiment.arm, self.experiment.model
        cell = CELLS[model.cell]
        g, layer = (in_dtype(m, model.dtype) for m in (cell.g, cell.layer or cell.g))
        z = cell.start(x)
        if arm in ("deq", "unrolled"):
            drive = cell.drive(z, thetas[0])
            if arm == "deq":
                z, stats = self._solve(z, drive, thetas[0], probe)
                return cell.read(z), [z], stats, Problem(z, drive, thetas[0])
            for _ in range(model.unroll):
                seen = [z]
                z = add(drive, g(z, thetas[0]))
            return cell.read(z), seen, None, None
        seen = []
        for theta in thetas:
            seen.append(z)
            z = add(z, layer(z, theta)) if arm == "residual" else layer(z, theta)
        return z, seen, None, None

    def _solve(
        self, z0: State, drive: State, theta: Any, probe: AdjointStats | None = None
    ) -> tuple[State, SolveStats]:
        model = self.experiment.model
        g = in_dtype(CELLS[model.cell].g, model.dtype)
        # Not self.f: flax wraps methods of modules, and a wrapped method is not a pure function.
        return equilibrium(
            lambda z, x, theta: add(x, g(z, theta)), z0, drive, theta, self.experiment.solver, probe=probe
        )

    def _pose(self, image: Array) -> Problem:
        """z_0 and the rest of the solve at these images, in eval mode."""
        cell, x = CELLS[self.experiment.model.cell], self.inject(image, False)
        theta, z0 = self.cells[0](x), cell.start(x)
        return Problem(z0, cell.drive(z0, theta), theta)

    def problem(self, image: Array) -> Problem:
        """The solve of the deq arm at these images, in eval mode: for the spectral radius and other diagnostics."""
        posed = self._pose(image)
        return posed._replace(z=self._solve(*posed)[0])

    def iterates(self, image: Array, steps: int) -> tuple[Array, Array]:
        """Pooled features of z_0 ... z_steps [steps + 1, B, D] and their residuals [steps + 1, B]."""
        posed, model = self._pose(image), self.experiment.model
        g, read = in_dtype(CELLS[model.cell].g, model.dtype), CELLS[model.cell].read
        return trajectory(
            lambda z, x, theta: add(x, g(z, theta)), *posed, self.experiment.solver, steps, keep=lambda z: pool(read(z))
        )


def count_parameters(params: dict[str, Any]) -> dict[str, int]:
    """Trainable numbers by part: `encoder`, `arm` (cells and injection norm), `classifier`, `total`."""
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    total = sum(sizes.values())
    encoder, classifier = sizes.get("encoder", 0), sizes["classifier"]
    return {"encoder": encoder, "arm": total - encoder - classifier, "classifier": classifier, "total": total}
