"""Versions of what a number depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("deq-nc", "jax", "jaxlib", "flax", "optax", "jaxopt", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def versions() -> dict[str, str]:
    """Package -> installed version, with Python's own."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
