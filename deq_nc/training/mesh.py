"""Devices and shardings: a 1-D mesh "data", state replicated, batches split; nothing else names a sharding."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def initialize_hosts() -> None:
    """Join the other hosts of a TPU slice or cluster; on one host nothing happens.

    Several hosts are recognised by TPU_WORKER_HOSTNAMES (set on TPU VMs) or JAX_COORDINATOR_ADDRESS.
    """
    several = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or "JAX_COORDINATOR_ADDRESS" in os.environ
    if several and not jax.distributed.is_initialized():
        jax.distributed.initialize()


def data_mesh(devices: Any = None) -> Mesh:
    """A mesh over all devices (or those given) with the one axis "data".

    The axis is Auto: under Explicit axes, jax.make_mesh's default, jaxopt's solvers raise ShardingTypeError.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device: state, data set, logs."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def padded(size: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that is >= size; the rows added are masked."""
    return -(-size // mesh.size) * mesh.size
