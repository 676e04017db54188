"""First-order minimisation under a projection, for any pytree: the independent check on every formula here.

Accelerated projected gradient (Beck and Teboulle 2009) with a step length that adapts by sufficient decrease and a
momentum that restarts (O'Donoghue and Candes 2015). Convex: the global minimum. Otherwise: a stationary point, and
whoever calls it says over how many seeds the best was taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class _State(NamedTuple):
    x: Any
    before: Any
    value: Array
    eta: Array
    age: Array
    steps: Array
    done: Array


def _dot(a: Any, b: Any) -> Array:
    return sum((jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))), start=jnp.zeros(()))


def projected_descent(
    f: Callable[[Any], Float[Array, ""]],
    project: Callable[[Any], Any],
    x0: Any,
    max_steps: int,
    finished: Callable[[Any], Array] | None = None,
    every: int = 25,
) -> tuple[Any, Float[Array, ""], Array]:
    """(x, f(x), steps) after projected gradient descent from project(x0).

    `finished(x)` -> bool is asked every `every` steps; without it all `max_steps` are taken. jit- and vmap-able.
    """
    eps = jnp.finfo(jnp.result_type(float)).eps

    def step(_: Any, s: _State) -> _State:
        beta = s.age / (s.age + 3.0)
        y = jax.tree.map(lambda a, b: a + beta * (a - b), s.x, s.before)
        fy, g = jax.value_and_grad(f)(y)
        z = project(jax.tree.map(lambda a, b: a - s.eta * b, y, g))
        fz = f(z)
        d = jax.tree.map(jnp.subtract, z, y)
        ok = fz <= fy + _dot(g, d) + _dot(d, d) / (2 * s.eta) + 8 * eps * jnp.abs(fy)
        backwards = _dot(d, jax.tree.map(jnp.subtract, z, s.x)) < 0
        stale = backwards | (fz > s.value) | ~jnp.isfinite(fz)
        take = ok & ((fz <= s.value) | (s.age == 0)) & jnp.isfinite(fz)
        pick = lambda a, b: jax.tree.map(lambda p, q: jnp.where(take, p, q), a, b)  # noqa: E731
        return _State(
            pick(z, s.x),
            pick(s.x, s.x),
            jnp.where(take, fz, s.value),
            jnp.where(ok, s.eta * 1.1, s.eta * 0.5),
            jnp.where(stale, 0.0, jnp.where(take, s.age + 1.0, s.age)),
            s.steps + 1,
            s.done,
        )

    def steps(s: _State) -> _State:
        s = jax.lax.fori_loop(0, every, step, s)
        return s._replace(done=finished(s.x) if finished else s.done)

    x = project(x0)
    zero = jnp.zeros(())
    start = _State(x, x, zero + jnp.inf, zero + 1.0, zero, jnp.asarray(0), jnp.asarray(False))
    end = jax.lax.while_loop(lambda s: (s.steps < max_steps) & ~s.done, steps, start)
    return end.x, end.value, end.steps


def onto_ball(x: Float[Array, ...], radius: Float[Array, ""]) -> Float[Array, ...]:
    """Nearest point of {||x||_F <= r}."""
    norm = jnp.sqrt(jnp.sum(x * x))
    return x * jnp.minimum(1.0, radius / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))


def onto_spectral_ball(x: Float[Array, "m n"], radius: Float[Array, ""]) -> Float[Array, "m n"]:
    """Nearest point of {||x||_2 <= r}: singular values clipped at r."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return (u * jnp.minimum(s, radius)[None, :]) @ vt


def onto_nuclear_ball(x: Float[Array, "m n"], radius: Float[Array, ""]) -> Float[Array, "m n"]:
    """Nearest point of {||x||_* <= r}: singular values projected onto the simplex of size r, if outside it."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    shift = (jnp.cumsum(s) - radius) / jnp.arange(1, s.size + 1)
    theta = jnp.maximum(0.0, jnp.max(shift))
    return (u * jnp.maximum(s - theta, 0.0)[None, :]) @ vt


def cross_entropies(logits: Float[Array, "K K"]) -> Float[Array, " K"]:
    """CE(Z e_k, k) [K] = softplus(logsumexp_{j != k} (z_jk - z_kk)): exact relative digits however small."""
    k = logits.shape[0]
    z = logits - jnp.diagonal(logits)[None, :]
    z = jnp.where(jnp.eye(k, dtype=bool), -jnp.inf, z)
    return jax.nn.softplus(jax.scipy.special.logsumexp(z, axis=0))
