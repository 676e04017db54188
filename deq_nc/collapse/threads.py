"""One LAPACK thread for the length of a call.

The Cholesky and SVD of a K x K table run in scipy's OpenBLAS on a CPU. Its idle threads spin after each call, on the
cores that the matmuls over the features then want: 50,000 x 512, K = 100, two cores, took 1.8 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import jax
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  the library must be loaded to be found

    return ThreadpoolController()


@contextmanager
def one_lapack_thread(arrays: object) -> Iterator[None]:
    """Limits OpenBLAS to one thread inside; nothing while tracing, where no work is done."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays)):
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield
