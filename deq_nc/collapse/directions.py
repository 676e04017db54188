"""The between-class directions: a whitener of S_B that is exact in float32 and differentiable at exact collapse.

Letters: Mc [K, D] centred class means, S_B = (1/K) Mc^T Mc, Mc = U diag(s) V^T, r = min(K - 1, D).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

CUTOFF = 32.0  # units of rounding of the largest singular value below which a direction is rounding noise


class Directions(NamedTuple):
    """basis V [D, r], scale s [r], kept [r] bool (s above the cutoff), whitener T = V diag(1/s) [D, r], 0 if not."""

    basis: Array
    scale: Array
    kept: Array
    whitener: Array


@jax.custom_jvp
def directions(mc: Float[Array, "K D"]) -> Directions:
    """Thin SVD of Mc: T T^T = (Mc^T Mc)^+, so that tr(S_W S_B^+) = (K/N) sum_i ||T^T (h_i - mu_y)||^2.

    No D x D matrix is formed and s is not squared: a float32 pinv(S_B) drops every class distance below 3e-4 of the
    largest, this one only those below 4e-6. Differentiable through `whitener` alone (the others carry no derivative).
    """
    k, d = mc.shape
    r = min(k - 1, d)
    _, s, vt = jnp.linalg.svd(mc, full_matrices=False)
    s, v = s[:r], vt[:r].T
    kept = s > CUTOFF * jnp.finfo(mc.dtype).eps * s[0]
    return Directions(v, s, kept, v * jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)[None])


@directions.defjvp
def _directions_jvp(primals: tuple, tangents: tuple) -> tuple[Directions, Directions]:
    """dT = -1/2 X^+ dX T + (I - V V^T) dX X^+ T with X = Mc^T Mc.

    It gives T T^T the derivative of the pseudo-inverse at constant rank; unlike dV it has no 1/(s_i^2 - s_j^2), which
    is infinite at a simplex ETF, where every s is equal.
    """
    (mc,), (dmc,) = primals, tangents
    out = directions(mc)
    v, s, kept, t = out
    v = jnp.where(kept[None], v, 0)
    dx_t = dmc.T @ (mc @ t) + mc.T @ (dmc @ t)
    dx_xt = dx_t * jnp.where(kept, 1 / jnp.where(kept, s, 1) ** 2, 0)[None]
    dt = -0.5 * t @ (t.T @ dx_t) + dx_xt - v @ (v.T @ dx_xt)
    return out, Directions(jnp.zeros_like(v), jnp.zeros_like(s), _float0(kept), dt)


def _float0(x: Array):
    import numpy as np

    return np.zeros(x.shape, jax.dtypes.float0)
