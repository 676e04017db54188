"""Devices and shardings: a 1-D mesh "data", state replicated, batches split; nothing else names a sharding."""

from __future__ import annotations

import itertools
import os
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from deq_nc.config import ConfigError

T = TypeVar("T", bool, int)


def initialize_hosts() -> None:
    """Join the other hosts of a TPU slice or cluster; on one host nothing happens.

    A TPU slice names its hosts in TPU_WORKER_HOSTNAMES. Elsewhere set JAX_COORDINATOR_ADDRESS (host:port of the first),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. Raises ConfigError if only some of the three are set.
    """
    if jax.distributed.is_initialized():
        return
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [os.environ.get(name) for name in names]
    if any(given):
        if not all(given):
            missing = ", ".join(name for name, value in zip(names, given) if not value)
            raise ConfigError(f"several hosts: expected {', '.join(names)} to be set, {missing} is not.")
        jax.distributed.initialize(given[0], int(given[1] or 0), int(given[2] or 0))
    elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize()


def is_leader() -> bool:
    """The process that writes files and talks."""
    return jax.process_index() == 0


_CALLS = itertools.count()  # of `preempted_anywhere`: every process makes the same ones, over all runs of a sweep


def preempted_anywhere() -> bool:
    """Several processes only: True on all of them at the same call once one got SIGTERM."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(next(_CALLS))


def agreed(value: T) -> T:
    """The leader's bool or int on every host: what clocks decide must be decided once."""
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def agreed_by_all(flag: bool) -> bool:
    """True where every process says so; each waits for the others."""
    return flag if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(flag))))


def data_mesh(devices: Any = None) -> Mesh:
    """A mesh over all devices (or those given) with the one axis "data".

    The axis is Auto: under Explicit axes, jax.make_mesh's default, jaxopt's solvers raise ShardingTypeError.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device: state, data set, logs."""
    return NamedSharding(mesh, PartitionSpec())


def one_copy(tree: Any) -> Any:
    """Of replicated arrays the copy on one device of this process: what is computed of it runs on that device alone.

    For what calls LAPACK, whose threads wait for those that a program on several CPU devices holds.
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def split(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def padded(size: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that is >= size; the rows added are masked."""
    return -(-size // mesh.size) * mesh.size
