"""The adjoint system (I - J)^T u = g, solved row by row, with its own residual as the proof of the gradient.

Letters: J = df/dz at z*, g the cotangent of z*, u the adjoint state. Every solver reports ||u - g - J^T u|| / ||g|| at
the u it returns; rows that a cheap solver leaves above the tolerance are handed to restarted GMRES, and counted.
The system is linear, so each row is solved with its g divided by a power of two, whatever the scale of the loss is.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from deq_nc.config import EquilibriumConfig
from deq_nc.equilibrium import krylov
from deq_nc.equilibrium.anderson import anderson
from deq_nc.equilibrium.errors import CellError
from deq_nc.equilibrium.iterate import Solved, iterate, picard
from deq_nc.equilibrium.state import AdjointStats, inverse, magnitude, ratio, row_norm, square_norm, unit

Operator = Callable[[Array], Array]


def solve_adjoint(
    A: Operator,
    g: Array,
    config: EquilibriumConfig,
    tol: Array | float,
    max_steps: Array | int,
    narrow: Callable[[Array], Operator] | None = None,
) -> tuple[Array, AdjointStats]:
    """u [B, n] of A(u) = u - J^T u = g, and its `AdjointStats`; a row of g with NaN gets u = 0, flagged.

    So does one whose u exceeds the type; the part of u that falls below it is counted as residual.
    `narrow(index)` is A on the rows index alone; anderson and neumann then leave the rows that have stopped.
    """
    given, g = g, g * inverse(unit(g))[:, None]
    if config.adjoint in ("anderson", "neumann"):
        rule = anderson(config.history, config.ridge, 1.0) if config.adjoint == "anderson" else picard(1.0)
        # u = g is the first step for free. A residual costs the product of the next step: n updates, n + 1 products.
        step = lambda A, g: lambda u: g + (u - A(u))  # noqa: E731
        some = None if narrow is None else lambda index: step(narrow(index), g[index])
        solved = iterate(step(A, g), g, rule, tol, max_steps - 1, scale=square_norm(g), narrow=some)
        solved = solved._replace(steps=solved.steps + 1)
    else:
        inner = {"gmres": krylov.gmres, "bicgstab": krylov.bicgstab, "normal_cg": krylov.normal_cg}[config.adjoint]
        solved = krylov.refine(A, g, g, inner, tol, max_steps)
    # Not `solved.finite`: where J^T u grew beyond the type the cheap solver failed, and GMRES may not.
    missed = jnp.all(jnp.isfinite(g), axis=1) & ~solved.converged
    if config.escalate and config.adjoint != "gmres":
        solved = lax.cond(jnp.any(missed), lambda s: _escalate(A, g, s, missed, tol, max_steps), lambda s: s, solved)
    else:
        missed = jnp.zeros_like(missed)
    u, residual = _at_scale(solved.z, solved.residual, given)
    return u, _stats(residual, solved.steps, residual <= tol, missed)


def _at_scale(u: Array, residual: Array, g: Array) -> tuple[Array, Array]:
    """u of g / unit(g) brought to the scale of g; the largest of its residual and of what ||u|| and ||g|| have lost."""
    size = unit(g)[:, None]
    back, scaled = u * size, g * inverse(size)
    lost = ratio(row_norm(back * inverse(size) - u), row_norm(u))
    # Entries of g below the type's normal numbers, where those are read as 0: their mantissa says what they were. It
    # is put behind a 1 and the 1 taken away, since XLA multiplies constants first, and 2^-23 tiny is such a number.
    info, one = jnp.finfo(g.dtype), jnp.ones_like(g)
    mantissa = lax.bitcast_convert_type(magnitude(g) % 2**info.nmant | magnitude(one), g.dtype) - one
    below = mantissa * (float(info.tiny) * inverse(size))
    unread = jnp.where(scaled == 0, below, 0)
    lost = jnp.fmax(lost, ratio(square_norm(unread), square_norm(scaled + unread)))  # NaN of g is in the residual
    fits = jnp.all(jnp.isfinite(back), axis=1)
    residual = jnp.where(fits, jnp.maximum(residual, lost), jnp.inf)
    return jnp.where(fits[:, None], back, 0), residual


def _escalate(A: Operator, g: Array, solved: Solved, missed: Array, tol: Array, max_steps: Array) -> Solved:
    """The missed rows again by GMRES, from the best u so far and with the same budget once more."""
    again = krylov.refine(A, g, solved.z, krylov.gmres, tol, max_steps, active=missed)
    better = missed & (again.residual < solved.residual)
    residual = jnp.where(better, again.residual, solved.residual)
    return Solved(
        z=jnp.where(better[:, None], again.z, solved.z),
        residual=residual,
        steps=solved.steps + again.steps,
        converged=residual <= tol,
        finite=solved.finite,
        trace=None,
    )


def neumann(jt: Operator, g: Array, terms: int, damping: float, tol: Array | float) -> tuple[Array, AdjointStats]:
    """u = beta sum_{i < terms} ((1 - beta) I + beta J^T)^i g, beta = damping: jfb at one term, phantom at k.

    Its residual costs one more product, which is removed from the program unless the probe's gradient is asked for.
    """
    given, g = g, g * inverse(unit(g))[:, None]
    u = damping * g
    if terms > 1:
        u = lax.fori_loop(1, terms, lambda _, u: damping * g + (1 - damping) * u + damping * jt(u), u)
    residual = ratio(row_norm(g + jt(u) - u), square_norm(g))
    u, residual = _at_scale(u, residual, given)
    return u, _stats(residual, jnp.full_like(residual, terms), residual <= tol, jnp.zeros_like(residual))


def _stats(*fields: Array) -> AdjointStats:
    return AdjointStats(*(lax.stop_gradient(f).astype(jnp.float32) for f in fields))


def first_order(gradient: Array) -> Array:
    """The identity, which refuses to be differentiated: the derivative of an approximate gradient is no Hessian."""
    return _first_order(gradient) if jnp.issubdtype(gradient.dtype, jnp.floating) else gradient


@jax.custom_jvp
def _first_order(gradient: Array) -> Array:
    return gradient


@_first_order.defjvp
def _refuse(primals: tuple, tangents: tuple) -> tuple:
    raise CellError(
        "gradient: expected one derivative with 'jfb' or 'phantom', got a second. They approximate the first and their "
        "derivative is not the second; use gradient='implicit' or 'unrolled'."
    )
