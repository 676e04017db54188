"""Where the rows lie: meshes with Explicit axes, and the axes a value varies over inside `shard_map`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from deq_nc.equilibrium.errors import CellError

PyTree = Any


def across_devices(given: Any, own: bool) -> Any:
    """The `Given` of a solve, varying over every device axis that z0, x or theta vary over: the loops ask for one type.

    The transpose of that is a sum over devices, which is what theta's gradient wants and the evidence does not: hence
    a CellError where the caller's probe (`own` false) is the same on all devices and the rows are not.
    """
    axes = set().union(*(_varying(v) for v in jax.tree.leaves((given.z0, given.x, given.theta))))
    if not own and any(axes - _varying(v) for v in jax.tree.leaves(given.probe)):
        raise CellError(
            f"probe: expected a row for each example, varying over {sorted(axes)} as the rows do, got one made inside "
            "shard_map. Make adjoint_probe(B) outside and pass it in with the in_specs of the rows."
        )

    def vary(v: Any) -> Any:
        missing = tuple(sorted(axes - _varying(v)))
        return jax.lax.pcast(v, missing, to="varying") if missing else v

    return jax.tree.map(vary, given)


def _varying(v: Any) -> frozenset:
    return jax.typeof(v).manual_axis_type.varying


def any_mesh(solve: Callable, arguments: tuple) -> PyTree:
    """solve(*arguments), where arrays may lie on a mesh with Explicit axes: inside, the compiler places them.

    The results lie like rows: their first axis over the mesh axes of the first axis of z0 or of a leaf of x.
    """
    types = [jax.typeof(v).sharding for v in jax.tree.leaves(arguments)]
    mesh = next((s.mesh for s in types if AxisType.Explicit in (s.mesh.axis_types or ())), None)
    if mesh is None:
        return solve(*arguments)
    first = next((s.spec[0] for s in types if len(s.spec) and s.spec[0] is not None), None)
    return jax.sharding.auto_axes(solve, out_sharding=NamedSharding(mesh, PartitionSpec(first)))(*arguments)
