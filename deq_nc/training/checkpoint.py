"""Checkpoints by orbax: saved asynchronously, few kept, restored onto whatever mesh is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from deq_nc.training.mesh import replicated
from deq_nc.training.state import TrainState


class Checkpoints:
    """A context manager around orbax's CheckpointManager: leaving it waits for the save in flight."""

    def __init__(self, path: Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(path, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, wait: bool = False) -> None:
        """Save in the background. The state is copied first: its buffers are donated to the next step."""
        step = int(state.step)
        if self._manager.latest_step() != step:
            self._manager.save(step, args=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)), force=True)
        if wait:
            self._manager.wait_until_finished()

    def restore(self, like: TrainState, mesh: Mesh, say: Callable[[str], None]) -> TrainState | None:
        """The newest checkpoint that can be read, on `mesh`; None if there is none.

        An unreadable one is named through `say`, deleted, and the one before it is tried.
        """
        sharding = replicated(mesh)
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # orbax raises many kinds for a damaged folder; none of them may end a run
                reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
                say(f"checkpoint of step {step} cannot be read ({reason}): deleted, trying the one before it")
                self._manager.delete(step)
        return None
