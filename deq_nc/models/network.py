"""The network: encoder -> H0 -> arm -> pooled features -> linear classifier with bias.

Letters: x = H0 (the injection, normalised for spatial cells), g the cell's map, theta_l the weights of layer l.

    deq        z* = x + g(z*, theta)                     solved, differentiated implicitly
    unrolled   z_{l+1} = x + g(z_l, theta), z_0 = x      `unroll` times, the same weights (control: more computation)
    explicit   z_{l+1} = g(z_l, theta_l), z_0 = x        `depth` layers of their own weights
    residual   z_{l+1} = z_l + g(z_l, theta_l), z_0 = x  likewise (control: a skip without an equilibrium)

The inner width of explicit and residual layers is inner / depth, so that all arms have the same matrices' parameters
(the linear cell has no inner width: there depth must be 1 for that).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from deq_nc.config import Experiment
from deq_nc.equilibrium import AdjointStats, SolveStats, equilibrium
from deq_nc.models.cells import CELLS
from deq_nc.models.encoders import ENCODERS

Array = jax.Array


class Output(NamedTuple):
    """What one application returns; every leading axis is the batch."""

    logits: Array  # [B, K]
    features: Array  # [B, D], pooled z (z* for the deq arm)
    initial: Array  # [B, D], pooled H0
    stats: SolveStats | None  # evidence of the solve; None for arms that solve nothing


class Problem(NamedTuple):
    """The solve inside the deq arm: z* = f(z*, x, theta), for diagnostics."""

    z: Array
    x: Array
    theta: Any


def pool(z: Array) -> Array:
    """Mean over space: [B, h, w, D] -> [B, D]; a flat z passes through."""
    return z.mean(axis=(1, 2)) if z.ndim == 4 else z


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
        weights = CELLS[model.cell].weights
        self.cells = [weights(model.features, model.inner // layers, model.gain) for _ in range(layers)]
        if CELLS[model.cell].spatial:
            self.injection = nn.GroupNorm(num_groups=None, group_size=8)
        self.classifier = nn.Dense(self.num_classes)

    def f(self, z: Array, x: Array, theta: Any) -> Array:
        """f(z, x, theta) = x + g(z, theta); pure, a gain-contraction in z."""
        return x + CELLS[self.experiment.model.cell].g(z, theta)

    def inject(self, image: Array, train: bool, mask: Array | None = None) -> Array:
        """x = H0, pooled for flat cells, normalised for spatial ones."""
        h0 = self.encoder(image, train, mask)
        return self.injection(h0) if CELLS[self.experiment.model.cell].spatial else pool(h0)

    def __call__(
        self, image: Array, train: bool = False, mask: Array | None = None, probe: AdjointStats | None = None
    ) -> Output:
        x = self.inject(image, train, mask)
        thetas = [cell(x) for cell in self.cells]
        z, stats = self._refine(x, thetas, probe)
        features = pool(z)
        return Output(self.classifier(features), features, pool(x), stats)

    def _refine(self, x: Array, thetas: list[Any], probe: AdjointStats | None) -> tuple[Array, SolveStats | None]:
        arm, model = self.experiment.arm, self.experiment.model
        g = CELLS[model.cell].g
        z = x
        if arm == "deq":
            # Not self.f: flax wraps methods of modules, and a wrapped method is not a pure function.
            return equilibrium(
                lambda z, x, theta: x + g(z, theta), x, x, thetas[0], self.experiment.solver, probe=probe
            )
        if arm == "unrolled":
            for _ in range(model.unroll):
                z = x + g(z, thetas[0])
        elif arm == "residual":
            for theta in thetas:
                z = z + g(z, theta)
        else:
            for theta in thetas:
                z = g(z, theta)
        return z, None

    def problem(self, image: Array) -> Problem:
        """The solve of the deq arm at these images, in eval mode: for the spectral radius and other diagnostics."""
        x = self.inject(image, False)
        theta = self.cells[0](x)
        z, _ = self._refine(x, [theta], None)
        return Problem(z, x, theta)


def count_parameters(params: dict[str, Any]) -> dict[str, int]:
    """Trainable numbers by part: `encoder`, `arm` (cells and injection norm), `classifier`, `total`."""
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    total = sum(sizes.values())
    encoder, classifier = sizes.get("encoder", 0), sizes["classifier"]
    return {"encoder": encoder, "arm": total - encoder - classifier, "classifier": classifier, "total": total}
