"""Limited-memory good Broyden, an inverse Jacobian of its own for every row.

H ~ (J - I)^-1 is kept as H = -beta I + sum_j u_j v_j^T over the last m = history updates; z_next = z - H r.
With s = z - z_prev and y = r - r_prev the newest term is v = H^T s, u = (s - H y) / (v . y), so that H y = s holds for
the newest pair whatever was dropped (the secant condition). Source: Broyden 1965; Byrd, Nocedal and Schnabel 1994.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from deq_nc.equilibrium.errors import count, number
from deq_nc.equilibrium.iterate import Solver, Step
from deq_nc.equilibrium.rows import EXACT, blank, inverse


class _Memory(NamedTuple):
    u: Array  # [B, m, n]
    v: Array  # [B, m, n]
    z: Array  # [B, n] of the iterate before
    r: Array
    size: Array  # [B] of the iterate before
    valid: Array  # [B, m]


@dataclass(frozen=True, kw_only=True)
class Broyden(Solver):
    """Rank m = history; the oldest term makes room for the newest."""

    history: int = count(5, least=1)
    damping: float = number(1.0, most=1)  # step length beta

    def start(self, z: Array) -> _Memory:
        zeros = blank(z, self.history, z.shape[1])
        return _Memory(zeros, zeros, z, z, blank(z, value=1), blank(z, self.history, dtype=bool))

    def update(self, memory: _Memory, step: Step) -> tuple[Array, _Memory]:
        m, c = self.history, memory
        k, z, _, r, size, jumped = step
        slot = (k - 1) % m
        newest = jnp.arange(m)[None] == slot
        kept = jnp.where(c.valid & ~newest & ~jumped[:, None], 1, 0).astype(z.dtype)
        shrink = inverse(jnp.maximum(size, c.size))[:, None]  # u v^T does not change when s and y are scaled together
        s, y = (z - c.z) * shrink, (r - c.r) * shrink

        right = jnp.einsum("bmn,bcn->bcm", c.v, jnp.stack([y, r], 1), precision=EXACT) * kept[:, None]
        h_y, h_r = jnp.moveaxis(jnp.einsum("bcm,bmn->bcn", right, c.u, precision=EXACT), 1, 0)
        h_y, h_r = h_y - self.damping * y, h_r - self.damping * r
        left = jnp.einsum("bmn,bn->bm", c.u, s, precision=EXACT) * kept
        v = jnp.einsum("bm,bmn->bn", left, c.v, precision=EXACT) - self.damping * s

        vy = jnp.sum(v * y, 1)
        # v . y near 0 means that the pair carries no information (s = 0 on a stopped row, y = 0 at a solution).
        squares = jnp.sum(v * v, 1) * jnp.sum(y * y, 1)
        good = (vy * vy > (10 * float(jnp.finfo(z.dtype).eps)) ** 2 * squares) & (k > 0) & ~jumped
        u = jnp.where(good[:, None], (s - h_y) / jnp.where(good, vy, 1)[:, None], 0)
        v = jnp.where(good[:, None], v, 0)

        z_next = z - h_r - u * jnp.sum(v * r, 1)[:, None]
        return z_next, _Memory(
            u=lax.dynamic_update_index_in_dim(c.u, u, slot, 1),
            v=lax.dynamic_update_index_in_dim(c.v, v, slot, 1),
            z=z,
            r=r,
            size=size,
            valid=(kept > 0) | (newest & good[:, None]),
        )
