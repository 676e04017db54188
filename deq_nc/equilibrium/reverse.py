"""Reverse mode by name, and forward mode by the implicit function theorem.

The layer's own rule is a reverse one: only a cotangent of the probe can carry the adjoint's evidence out of a program.
Tangents have a function of their own, which returns the evidence beside them.
Letters: J = df/dz, x_dot and theta_dot tangents, z_dot of (I - J) z_dot = df/dx x_dot + df/dtheta theta_dot.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from deq_nc.equilibrium.errors import CellError

PyTree = Any


def reverse_only(tree: PyTree) -> PyTree:
    """The identity, whose tangent can be transposed but not computed: CellError under jvp, jacfwd and hessian."""
    return jax.tree.map(lambda v: _identity(v) if jnp.issubdtype(jnp.result_type(v), jnp.floating) else v, tree)


@jax.custom_jvp
def _identity(v: Any) -> Any:
    return v


@_identity.defjvp
def _tangent(primals: tuple, tangents: tuple) -> tuple:
    return primals[0], _transposable.bind(primals[0], tangents[0])


def _refuse(*_: Any, **__: Any) -> Any:
    raise CellError(
        "equilibrium: expected reverse mode (grad, vjp, jacrev), got forward mode (jvp, jacfwd, linearize, hessian). "
        "Call equilibrium_jvp for tangents, jax.jacrev(jax.grad(loss)) for a Hessian, or take gradient='unrolled'."
    )


def _jvp(primals: tuple, tangents: tuple) -> tuple:
    v_dot = tangents[1]
    return _transposable.bind(*primals), v_dot if type(v_dot) is ad.Zero else _transposable.bind(primals[0], v_dot)


def _batch(values: tuple, axes: tuple) -> tuple:
    """Many tangents at one point, jacfwd's way, are forward mode, and JAX would say so less helpfully a step later."""
    if axes[0] is None:
        _refuse()
    return _transposable.bind(*values), axes[1]


# (v, v_dot) -> v_dot. What reverse mode leaves of it is its transpose.
_transposable = Primitive("equilibrium_reverse_only")
_transposable.def_impl(_refuse)
_transposable.def_abstract_eval(lambda v, v_dot: v_dot)
ad.primitive_jvps[_transposable] = _jvp
ad.primitive_transposes[_transposable] = lambda cotangent, v, v_dot: [None, cotangent]
batching.primitive_batchers[_transposable] = _batch
mlir.register_lowering(_transposable, _refuse)
