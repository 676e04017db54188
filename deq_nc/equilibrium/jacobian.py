"""What the Jacobian at z* says about a layer: norm, penalty, amplification, and how good each gradient mode is.

Letters: J = df/dz of one example at z, n its size, g the cotangent of z*, v a random direction.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from deq_nc.config import EquilibriumConfig
from deq_nc.config import Gradient as GradientName
from deq_nc.equilibrium.choice import chosen
from deq_nc.equilibrium.gradients import Gradient
from deq_nc.equilibrium.iterate import Solver
from deq_nc.equilibrium.krylov import Operator, gmres, refine
from deq_nc.equilibrium.layer import equilibrium
from deq_nc.equilibrium.rows import EXACT
from deq_nc.equilibrium.spectrum import arnoldi, power, row_products
from deq_nc.equilibrium.state import rows_of

PyTree = Any
FAR = 0.2  # of ||(I - J)^-1||^2: an amplification whose Lanczos process is further from settled is NaN


def jacobian_norm(f: Callable, z: PyTree, x: PyTree, theta: PyTree, key: Array, steps: int = 20) -> Array:
    """||J||_2 per example [B], by `steps` Lanczos products with J^T J; from below, exact once steps >= n.

    Below 1 the cell contracts near z*; between the spectral radius and this norm lies the non-normality.
    """
    flat, j, jt = row_products(f, z, x, theta)
    start = jax.random.normal(key, flat.shape, flat.dtype)
    return jnp.sqrt(_largest(lambda v: jt(j(v)), start, steps)[0])


def amplification(
    f: Callable, z: PyTree, x: PyTree, theta: PyTree, key: Array, steps: int = 8, tol: float = 1e-4, products: int = 400
) -> Array:
    """||(I - J)^-1||_2 per example [B]: error of z* <= this times its residual, and likewise for the adjoint.

    `steps` Lanczos products with the inverse, each two GMRES solves; NaN where one of them missed 10 tol.
    """
    flat, j, jt = row_products(f, z, x, theta)
    start = jax.random.normal(key, flat.shape, flat.dtype)

    def inverse(v: Array) -> Array:
        first = refine(lambda u: u - jt(u), v, v, gmres, tol, products)
        second = refine(lambda u: u - j(u), first.z, first.z, gmres, tol, products)
        good = (first.residual <= 10 * tol) & (second.residual <= 10 * tol)
        return jnp.where(good[:, None], second.z, jnp.nan)

    value, off = _largest(inverse, start, steps)
    return jnp.sqrt(jnp.where(off <= FAR * value, value, jnp.nan))


def _largest(product: Operator, start: Array, steps: int) -> tuple[Array, Array]:
    """(largest eigenvalue from below, distance to an eigenvalue at most) [B] of a symmetric product, by Lanczos.

    The process of an example ends before a product that is NaN; both are NaN where that is the first.
    """
    k = min(steps, start.shape[1])
    _, h = arnoldi(product, start, k)
    came = jnp.cumprod(jnp.all(jnp.isfinite(h), axis=1), axis=1) > 0  # [B, k] columns before the first NaN
    h = jnp.where(came[:, None], h, 0)
    inside = jnp.pad(came, ((0, 0), (0, 1)))[:, :, None]  # the rows of those columns; the others lead out of the space
    value, projector = power(jnp.where(inside, h, 0)[:, :k], 24)  # of norm 1: its rows are multiples of the eigenvector
    out = jnp.einsum("bij,bjk->bik", jnp.where(inside, 0, h), projector, precision=EXACT)
    off = jnp.sqrt(jnp.sum(out * out, axis=(1, 2)))
    return jnp.where(came[:, 0], value, jnp.nan), off


def jacobian_penalty(f: Callable, z: PyTree, x: PyTree, theta: PyTree, key: Array, samples: int = 1) -> Array:
    """Unbiased estimate of ||J||_F^2 per example [B]: the mean of ||J^T v||^2 over v ~ N(0, I).

    Differentiable in z, x and theta; divide by n and add to the loss to keep the cell contractive.
    Source: Hutchinson 1990; Bai, Koltun and Kolter 2021, Stabilizing equilibrium models by Jacobian regularization.
    """
    rows = rows_of(z)
    flat, _, jt = row_products(f, z, x, theta)
    v = jax.random.normal(key, (samples, *flat.shape), rows.dtype)
    return jnp.mean(jnp.sum(jax.vmap(jt)(v) ** 2, axis=2), axis=0)


def gradient_fidelity(
    f: Callable,
    z0: PyTree,
    x: PyTree,
    theta: PyTree,
    g: PyTree,
    config: EquilibriumConfig | None = None,
    *,
    solver: Solver | None = None,
    gradients: Mapping[str, Gradient] | None = None,
) -> dict[str, dict[str, Array]]:
    """{name: {"cosine", "error"}} of the gradient to (x, theta) against a dense solve at the same z*.

    Of `gradients` by name, or else of "jfb", "phantom" and "implicit" as the config has them (by default its defaults).
    g is the cotangent of z*, like z0; error is relative to the dense gradient's norm. Builds J: B n^2 numbers, so use a
    micro-batch. Call it outside jit: LAPACK solves, which in a program that several CPU devices share hangs.
    """
    solver = chosen(config, solver).solver
    if gradients is None:
        of = config or EquilibriumConfig()
        modes: tuple[GradientName, ...] = ("jfb", "phantom", "implicit")
        gradients = {mode: chosen(dataclasses.replace(of, gradient=mode)).gradient for mode in modes}
    rows = rows_of(z0)
    z, _ = equilibrium(f, z0, x, theta, solver=solver)
    flat, _, jt = row_products(f, z, x, theta)
    n = flat.shape[1]
    basis = jnp.broadcast_to(jnp.eye(n, dtype=flat.dtype)[:, None], (n, *flat.shape))
    transposed = jnp.moveaxis(jax.vmap(jt)(basis), 0, 2)  # [B, n, n], column i is J^T e_i
    system = jnp.eye(n, dtype=flat.dtype)[None] - transposed, rows.flatten(g)[:, :, None]
    if not isinstance(transposed, jax.core.Tracer):
        system = jax.device_get(system)  # LAPACK on one device: in a program on several CPU devices it hangs
    u = jnp.linalg.solve(*system)[:, :, 0]
    dense = _ravel(jax.vjp(lambda x, theta: f(z, x, theta), x, theta)[1](rows.unflatten(u)))
    out = {}
    for name, gradient in gradients.items():
        layer = functools.partial(equilibrium, solver=solver, gradient=gradient)
        came = _ravel(jax.vjp(lambda x, theta: layer(f, z0, x, theta)[0], x, theta)[1](g))  # noqa: B023
        size = jnp.linalg.norm(dense)
        out[name] = {
            "cosine": jnp.dot(came, dense, precision=EXACT) / (size * jnp.linalg.norm(came)),
            "error": jnp.linalg.norm(came - dense) / size,
        }
    return out


def _ravel(tree: PyTree) -> Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
