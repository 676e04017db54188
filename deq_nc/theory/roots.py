"""A bracketed scalar root under jit and vmap, to the last bit of float64."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def bracketed_root(
    f: Callable[[Float[Array, ""]], Float[Array, ""]],
    lo: Float[Array, ""],
    hi: Float[Array, ""],
    max_steps: int = 100,
) -> Float[Array, ""]:
    """x in (lo, hi) with f(x) = 0, where f < 0 just above lo and f > 0 just below hi.

    Inverse quadratic interpolation where it is safe, else bisection (Chandrupatla 1997): about 12 evaluations, at
    most `max_steps`. The ends are never evaluated (f may be infinite there, and f traced once compiles in a third of
    the time). Where the signs are not as promised the result is an end; callers certify what they get.
    """
    eps = jnp.finfo(jnp.result_type(lo, hi)).eps

    def unfinished(state: tuple) -> Array:
        *_, steps, done = state
        return (steps < max_steps) & ~done

    def step(state: tuple) -> tuple:
        a, b, c, fa, fb, fc, t, steps, _ = state
        x = a + t * (b - a)
        fx = f(x)
        same = jnp.sign(fx) == jnp.sign(fa)
        c, fc = jnp.where(same, a, b), jnp.where(same, fa, fb)
        b, fb = jnp.where(same, b, a), jnp.where(same, fb, fa)
        a, fa = x, fx
        best = jnp.where(jnp.abs(fa) < jnp.abs(fb), a, b)
        least = jnp.where(jnp.abs(fa) < jnp.abs(fb), fa, fb)
        reach = (2 * eps * jnp.abs(best) + jnp.finfo(eps.dtype).tiny) / jnp.abs(b - a)
        done = (reach > 0.5) | (least == 0)
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        quadratic = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = jnp.clip(jnp.where(smooth, quadratic, 0.5), reach, 1 - reach)
        return a, b, c, fa, fb, fc, t, steps + 1, done

    inf = jnp.full_like(lo, jnp.inf)
    start = (lo, hi, lo, -inf, inf, -inf, jnp.full_like(lo, 0.5), 0, jnp.full_like(lo, False, dtype=bool))
    a, b, _, fa, fb, *_ = jax.lax.while_loop(unfinished, step, start)
    return jnp.where(jnp.abs(fa) < jnp.abs(fb), a, b)
