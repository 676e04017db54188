"""A cell of your own: f(z, x, theta) from a flax module, solved by the equilibrium layer and trained on three rings.

    python examples/own_cell.py

Cost: half a minute of a CPU core, nearly all of it compiling. Expect: every example converged, the worst residual of
the solve at most 1e-4 and of its adjoint at most 1e-3, accuracy 1, and NC1 below 1, from above 20.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from deq_nc.collapse import measure
from deq_nc.equilibrium import EquilibriumConfig, adjoint_probe, check_rows_independent, equilibrium
from deq_nc.models.norms import spectral_bound

CLASSES, PER_CLASS, FEATURES, GAIN, STEPS = 3, 20, 16, 0.8, 600
CONFIG = EquilibriumConfig(solver="anderson", tol=1e-4, adjoint="gmres", adjoint_tol=1e-3)


class Weights(nn.Module):
    """The free weights, and theta as f takes it: W [D, D] with |W| <= GAIN, so that f is a GAIN-contraction in z."""

    @nn.compact
    def __call__(self):
        init = nn.initializers.glorot_normal()
        w, u = self.param("w", init, (FEATURES, FEATURES)), self.param("u", init, (2, FEATURES))
        b = self.param("b", nn.initializers.uniform(1.0), (FEATURES,))
        return {"w": GAIN * w / spectral_bound(w), "u": u, "b": b}


def f(z, x, theta):
    """tanh(z W + x U + b), z [B, FEATURES], x [B, 2]; pure: whole batch in, whole batch out, rows independent."""
    return jnp.tanh(z @ theta["w"] + x @ theta["u"] + theta["b"][None])


def rings():
    """Points [N, 2] on circles of radius 0.5, 1.5 and 2.5 with some noise, and which circle each is on, [N]."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(CLASSES), PER_CLASS)
    angle, radius = rng.uniform(0, 2 * np.pi, len(y)), 0.5 + y + 0.05 * rng.normal(size=len(y))
    return jnp.asarray(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), jnp.float32), y


def main():
    (x, y), cell = rings(), Weights()
    z0 = jnp.zeros((len(x), FEATURES))
    params = {
        "cell": cell.init(jax.random.key(0))["params"],
        "classifier": 0.1 * jax.random.normal(jax.random.key(1), (CLASSES, FEATURES)),
    }
    check_rows_independent(f, z0, x, cell.apply({"params": params["cell"]}))
    optimizer = optax.adamw(0.03, weight_decay=1e-2)

    def loss(params, probe):
        theta = cell.apply({"params": params["cell"]})
        z, stats = equilibrium(f, z0, x, theta, CONFIG, probe=probe)
        losses = optax.softmax_cross_entropy_with_integer_labels(z @ params["classifier"].T, jnp.asarray(y))
        return losses.mean(), (z, stats)

    @jax.jit
    def step(params, state):
        # The probe is zero and changes nothing; its gradient is the evidence of the adjoint solve.
        probe = adjoint_probe(len(x))
        (value, (z, stats)), (gradient, adjoint) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, probe)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, (value, z, params["classifier"], stats, adjoint)

    state = optimizer.init(params)
    for i in range(STEPS):
        params, state, (value, z, weights, stats, adjoint) = step(params, state)
        if i in (0, STEPS - 1):
            collapse = measure(z, y, weights, num_classes=CLASSES)
            print(
                f"step {i + 1}: loss {value:.4f}, accuracy {collapse.accuracy:.3f}, NC1 {collapse.nc1:.4f}, "
                f"NC2 {collapse.nc2_means:.3f}, {stats.steps.mean():.1f} solver steps, "
                f"residual {stats.residual.max():.1e}, adjoint {adjoint.residual.max():.1e}, "
                f"converged {int(stats.converged.sum())} of {len(x)}"
            )


if __name__ == "__main__":
    main()
