"""Cells with a closed form or a dense reference, in float64 NumPy: the oracles of these tests."""

import numpy as np


def affine_cell(z, x, theta):
    """f(z, x, M) = M z + x per row; z* = (I - M)^-1 x, adjoint (I - M)^-T g."""
    return z @ theta.T + x


def tanh_cell(z, x, theta):
    """f(z, x, M) = tanh(M z + x) per row."""
    import jax.numpy as jnp

    return jnp.tanh(z @ theta.T + x)


def with_radius(matrix, radius):
    return matrix * (radius / np.abs(np.linalg.eigvals(matrix)).max())


def random_matrix(n, radius, seed=0):
    return with_radius(np.random.default_rng(seed).standard_normal((n, n)), radius)


def rotation(n, radius):
    """Block rotations of angle 1, 2, ...: dominant eigenvalues radius * exp(+-i), no real one."""
    out = np.zeros((n, n))
    for i in range(0, n, 2):
        c, s = np.cos(1 + i), np.sin(1 + i)
        out[i : i + 2, i : i + 2] = [[c, -s], [s, c]]
    return radius * out


def non_normal(n, radius, seed=0):
    """Upper triangular, eigenvalues from `radius` down to half of it, off-diagonal entries of their size.

    Eight equal eigenvalues of 0.99 would amplify by 1e10, and no residual of 1e-11 exists in float64.
    """
    upper = np.triu(np.random.default_rng(seed).standard_normal((n, n)), 1)
    return radius * np.diag(np.linspace(1, 0.5, n)) + 0.5 * upper


def dense_gradients(M, x, g):
    """(z*, dx, dM) of the affine cell for cotangent g [B, n], by dense solves."""
    eye = np.eye(len(M))
    z = np.linalg.solve(eye - M, x.T).T
    u = np.linalg.solve((eye - M).T, g.T).T
    return z, u, u.T @ z
