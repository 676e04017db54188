"""The loop-friendly convolution against lax's, and operator norm bounds against dense SVDs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deq_nc.models.conv import conv
from deq_nc.models.norms import conv_spectral_bound, spectral_bound


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("window", [(3, 3), (1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("size", [(6, 5), (6, 4)])  # an odd grid is convolved directly, an even one by tiles
def test_conv_and_its_gradients_are_those_of_lax(window, size):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel, g = (rng.standard_normal(s) for s in ((2, *size, 3), (*window, 3, 4), (2, *size, 4)))
        y, vjp = jax.vjp(conv, x, kernel)
        y_ref, vjp_ref = jax.vjp(plain, x, kernel)
        np.testing.assert_allclose(y, y_ref, atol=1e-12)
        for came, expected in zip(vjp(g), vjp_ref(g)):
            np.testing.assert_allclose(came, expected, atol=1e-12)


def test_conv_second_derivative():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = rng.standard_normal((1, 4, 4, 2)), rng.standard_normal((3, 3, 2, 2))

        def penalty(conv):
            def loss(k):
                return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, k))))(x) ** 2)

            return jax.jit(jax.grad(loss))(kernel)

        np.testing.assert_allclose(penalty(conv), penalty(plain), atol=1e-10)


@pytest.mark.parametrize("shape", [(7, 7), (20, 3), (3, 20), (64, 64)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_spectral_bound_is_above_and_near_the_svd(shape, scale):
    matrix = scale * np.random.default_rng(0).standard_normal(shape)
    true = np.linalg.norm(matrix, 2)
    bound = float(jax.jit(spectral_bound)(matrix.astype(np.float32)))
    assert true * (1 - 1e-5) <= bound <= 1.07 * true
    assert float(spectral_bound(matrix.astype(np.float32), 9)) <= 1.01 * true


def test_spectral_bound_of_an_orthogonal_matrix_is_as_loose_as_the_docstring_says():
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))
    np.testing.assert_allclose(spectral_bound(q.astype(np.float32)), 64 ** (2.0**-6), rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 5), (2, 2)])
def test_conv_bound_holds_for_the_dense_operator(size):
    kernel = np.random.default_rng(1).standard_normal((3, 3, 3, 4)).astype(np.float32)
    basis = np.eye(size[0] * size[1] * 3, dtype=np.float32).reshape(-1, *size, 3)
    dense = np.asarray(conv(basis, kernel)).reshape(len(basis), -1)
    true = np.linalg.norm(dense, 2)
    bound = float(conv_spectral_bound(kernel, size))
    # The circular operator on the padded grid is larger than the zero-padded one: 1.2 and 1.6 times here.
    assert true <= bound <= 2 * true


def test_conv_bound_of_a_one_by_one_kernel_is_the_matrix_bound():
    kernel = np.random.default_rng(1).standard_normal((1, 1, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(conv_spectral_bound(kernel, (3, 3)), spectral_bound(kernel[0, 0]), rtol=1e-5)


def test_normalised_weights_have_norm_at_most_one_and_a_right_gradient():
    with jax.enable_x64(True):
        kernel = np.random.default_rng(2).standard_normal((3, 3, 2, 2))
        value, gradient = jax.value_and_grad(lambda k: conv_spectral_bound(k, (3, 3)))(kernel)
        d = np.random.default_rng(3).standard_normal(kernel.shape)
        step = 1e-6
        slope = (conv_spectral_bound(kernel + step * d, (3, 3)) - conv_spectral_bound(kernel - step * d, (3, 3))) / (
            2 * step
        )
        np.testing.assert_allclose(np.sum(gradient * d), slope, rtol=1e-5)
        np.testing.assert_allclose(conv_spectral_bound(kernel / value, (3, 3)), 1, rtol=1e-12)


def test_a_zero_matrix_has_a_finite_bound_and_gradient():
    bound, gradient = jax.value_and_grad(spectral_bound)(jnp.zeros((3, 3)))
    assert bound < 1e-15 and np.isfinite(gradient).all()


def test_rounding_of_the_tiled_convolution_is_a_few_units_in_the_last_place():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((4, 8, 8, 48)), rng.standard_normal((3, 3, 48, 64)) / np.sqrt(9 * 48)
    with jax.enable_x64(True):
        exact = np.asarray(plain(x, kernel))
    came = conv(x.astype(np.float32), kernel.astype(np.float32))
    assert np.abs(came - exact).max() < 10 * np.finfo(np.float32).eps * np.abs(exact).max()
