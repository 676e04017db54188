"""What training carries from step to step, all of it on the device and all of it in a checkpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Logs(NamedTuple):
    """Sums over the steps since the epoch began; a monoid under addition and maximum, reset by `Logs.zero`."""

    examples: Array  # []
    loss: Array  # summed over examples
    correct: Array
    solver_steps: Array  # summed over examples
    unconverged: Array  # examples whose forward solve missed its tolerance
    adjoint_steps: Array  # summed over examples
    adjoint_unconverged: Array
    adjoint_escalated: Array  # examples whose adjoint needed the stronger solver
    adjoint_residual: Array  # the worst
    gradient_norm: Array  # the largest
    bad_step: Array  # int32, first step whose loss or gradient was not finite; -1 while all is well

    @classmethod
    def zero(cls) -> Logs:
        zeros = {name: jnp.zeros(()) for name in cls._fields[:-1]}
        return cls(**zeros, bad_step=jnp.full((), -1, jnp.int32))

    def merge(self, other: Logs) -> Logs:
        worst = ("adjoint_residual", "gradient_norm")
        merged = {
            name: (jnp.maximum if name in worst else jnp.add)(getattr(self, name), getattr(other, name))
            for name in self._fields[:-1]
        }
        return Logs(**merged, bad_step=jnp.where(self.bad_step >= 0, self.bad_step, other.bad_step))


class TrainState(NamedTuple):
    """`step` counts finished steps; everything random follows from (seed, stream, step).

    The seed is data, not a constant of the compiled program: runs that differ in it share one.
    """

    seed: Array  # int32 []
    step: Array  # int32 []
    params: Any
    batch_stats: Any
    opt_state: Any
    logs: Logs


STREAMS = ("init", "order", "augment", "measure", "dropout")  # append only: a place is a stream's key


def stream(seed: Array | int, name: str) -> Array:
    """The key of a named stream; fold a step or an epoch into it."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS.index(name))
