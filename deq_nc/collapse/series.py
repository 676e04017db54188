"""Collapse along an axis: the solver's iterates, its tolerances, the layers of a network, train and test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from .checks import Numbers, as_floats, as_inputs
from .measure import Collapse, measure, measure_arrays
from .sums import lanes_of


def measure_trajectory(
    features: Numbers,
    labels: Numbers,
    weights: Numbers | None,
    bias: Numbers | None = None,
    *,
    num_classes: int,
    mask: Numbers | None = None,
    majority: Numbers | None = None,
    lanes: int | None = None,
) -> Collapse:
    """`measure` at each of T moments of the same samples; every field of the result gains a leading axis T.

    features [T, N, D]: iterates z_1..z_T of a solver, or its fixed points at T tolerances. One moment at a time, so the
    memory is that of one. Raises ValueError for shapes that disagree; values that are not finite give NaN at that
    moment alone, since a diverging iterate is a finding.
    """
    h = as_floats("features", features)
    if h.ndim != 3:
        raise ValueError(f"features: expected shape [T, N, D], got {list(h.shape)}. Stack the moments first.")
    arrays = as_inputs(h[0], labels, weights, bias, num_classes, mask, majority)[1:]
    return _map(h, arrays, num_classes, lanes or lanes_of(h))


@partial(jax.jit, static_argnums=(2, 3))
def _map(h: Float[jax.Array, "T N D"], arrays: tuple[jax.Array | None, ...], num_classes: int, lanes: int) -> Collapse:
    return jax.lax.map(lambda moment: measure_arrays(moment, *arrays, num_classes=num_classes, lanes=lanes), h)


def measure_layers(
    layers: Mapping[str, Any],
    labels: Any,
    weights: Mapping[str, Any] | None = None,
    *,
    num_classes: int,
    mask: Any = None,
    majority: Any = None,
) -> dict[str, Collapse]:
    """`measure` of each named layer's features [N, ...] (flattened to [N, D]), to see where collapse happens.

    weights: the classifiers of those layers that have one; the weight metrics of the others are NaN.
    """
    out = {}
    for name, features in layers.items():
        flat = as_floats(name, features)
        flat = jnp.reshape(flat, (flat.shape[0], -1))
        w = (weights or {}).get(name)
        out[name] = measure(flat, labels, w, num_classes=num_classes, mask=mask, majority=majority)
    return out
