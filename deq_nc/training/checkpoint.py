"""Checkpoints by orbax: a state and the record that proves it, written under the run's lock, read by anybody.

checkpoints/STEP holds `state` (the arrays) and `record` (JSON): the shapes, a checksum of the arrays, and the history
up to that step, so that neither a flipped bit nor a damaged history.jsonl goes unnoticed. Checkpoints from before 0.2
hold the arrays alone, as `default`. Readers open files and change nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from deq_nc.config import ConfigError, UserError
from deq_nc.disk import disk_full, patiently
from deq_nc.runs import Line, RunError, RunFolder, read_json
from deq_nc.runs.files import checksum
from deq_nc.training.leader import led
from deq_nc.training.mesh import agreed_by_all, replicated
from deq_nc.training.state import TrainState

Say = Callable[[str], Any]
ORBAX_LOG = logging.getLogger("absl")
Record = dict[str, Any]


class TrainingError(UserError, RuntimeError):
    """Training cannot go on (a loss that is not finite, a full disk); the message says what was kept."""

    exit_code = 1


class OtherVersion(ConfigError):
    """A checkpoint whose state has another structure than this version's."""


@dataclass(frozen=True)
class Restored:
    state: TrainState
    history: list[Line] | None  # up to the state's step; None in checkpoints from before 0.2


# -- Reading -----------------------------------------------------------------------------------------------------------


def steps(folder: RunFolder) -> list[int]:
    """Steps of the whole checkpoints, newest first."""
    if not folder.checkpoints.is_dir():
        return []
    return sorted(patiently(lambda: ocp.utils.checkpoint_steps(folder.checkpoints)), reverse=True)


def restore(folder: RunFolder, like: TrainState, mesh: Mesh, say: Say, write: bool) -> Restored | None:
    """The newest sound checkpoint, on `mesh`; None if there is none.

    One that is damaged is named through `say` and, where `write`, renamed into damaged/; so is one that the system does
    not let read, if an older one is sound. Raises OtherVersion for another structure and RunError where the system lets
    none be read; then nothing is touched.
    """
    refused: dict[int, RunError] = {}
    found, there = None, steps(folder)
    for step in there:
        try:
            found = _read(folder.checkpoints / str(step), like)
        except OtherVersion:
            raise
        except RunError as error:
            refused[step] = error
        # Every process reads the files itself; a checkpoint counts if all of them could.
        if not agreed_by_all(found is not None):
            refused.setdefault(step, Damaged(f"checkpoint of step {step} cannot be read by another process"))
            found = None
            continue
        break
    if found is None and not write and steps(folder) != there:
        return restore(folder, like, mesh, say, write)  # a run at work has pruned those that were there
    if found is None and (system := [error for error in refused.values() if not isinstance(error, Damaged)]):
        raise system[0]
    for refusal in refused.values():
        say(f"{refusal}{'; renamed into damaged/' if write else ''}; trying the one before it")
    if write:
        led(lambda _: [folder.set_aside(folder.checkpoints / str(step)) for step in refused])
    if found is None:
        return None
    sharding = replicated(mesh)
    put = jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), found.state)
    return Restored(put, found.history)


class Damaged(RunError):
    """Files that can be read and do not hold what was written."""


def _read(place: Path, like: TrainState) -> Restored:
    """One checkpoint, on the host. Raises Damaged, RunError (errors of the system), OtherVersion."""
    name = f"checkpoint of step {place.name}"
    record = _record(place, name)
    item = place / ("default" if record is None else "state")
    if record is not None:
        _require_structure(record["structure"], like, name)
    target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    try:
        state = _arrays(item, target)
    except Exception:  # orbax raises many kinds, for a damaged file and for a disk that hangs alike
        _require_readable(place, name)
        if record is None:
            _require_structure(_stored_structure(item, name), like, name)
        try:
            state = _arrays(item, target)
        except Exception as error:
            raise Damaged(f"{name} cannot be read ({_reason(error)})") from error
    if record is not None and _checksum(state) != record["state"]:
        raise Damaged(f"{name} holds other numbers than were saved (checksum)")
    return Restored(state, None if record is None else record["history"])


def _arrays(item: Path, target: TrainState) -> TrainState:
    # This process alone: no barrier may wait for one that found another state of the disk.
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"read{own}" if own else None
    )
    with ocp.StandardCheckpointer(multiprocessing_options=options) as reader, _late_reads_unheard():
        return reader.restore(item, target)


@contextmanager
def _late_reads_unheard() -> Iterator[None]:
    """Where one array cannot be read, orbax ends its event loop with others in flight, and each of these would print a
    traceback when it finds the loop closed.
    """
    heard, last = sys.unraisablehook, time.monotonic()

    def hook(late: Any) -> None:
        nonlocal last
        last = time.monotonic()
        if "Event loop is closed" not in str(late.exc_value):
            heard(late)

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        while time.monotonic() - last < 0.3:
            time.sleep(0.05)
        raise
    finally:
        sys.unraisablehook = heard


def _record(place: Path, name: str) -> Record | None:
    """The record of a checkpoint; None where it is from before 0.2. Raises Damaged, RunError."""
    if not (place / "record").exists():
        if (place / "default").exists():
            return None
        _require_readable(place, name)
        raise Damaged(f"{name} lacks its record")
    path = place / "record" / "metadata"
    if not path.exists():
        raise Damaged(f"{name} lacks its record")
    try:
        record = read_json(path)
    except RunError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise Damaged(f"{name}: {error}") from error
    if record.pop("checksum", None) != _record_checksum(record):
        raise Damaged(f"{name}: its record is damaged (checksum)")
    return record


def _require_readable(place: Path, name: str) -> None:
    """Raises RunError where the system does not let the files be read: an error that may pass is no damage."""
    try:
        for path in sorted(place.rglob("*")):
            if path.is_file():
                patiently(path.read_bytes)
    except OSError as error:
        raise RunError(
            f"{name} in {place.parent} cannot be read: {error.strerror}. Nothing was changed; give the same command "
            "when the disk is well again."
        ) from error


def _stored_structure(item: Path, name: str) -> dict[str, str]:
    try:
        with ocp.StandardCheckpointer() as reader:
            metadata = reader.metadata(item)
        return _structure(getattr(metadata, "item_metadata", metadata))
    except Exception as error:
        raise Damaged(f"{name} cannot be read ({type(error).__name__})") from error


def _require_structure(stored: dict[str, str], like: TrainState, name: str) -> None:
    wanted = _structure(like)
    differ = [
        f"{key}: {stored.get(key, 'nothing')} there, {wanted.get(key, 'nothing')} here"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key)
    ]
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise OtherVersion(
            f"{name} was written by another version of deq_nc: {'; '.join(differ[:3])}{more}. Nothing was changed: "
            "go on with that version, or start over with --fresh."
        )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _structure(tree: Any) -> dict[str, str]:
    """`a/b` -> `float32[64, 10]` for every array of a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path): (
            f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in leaves
    }


def _checksum(state: TrainState) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def _record_checksum(record: Record) -> str:
    return checksum(json.dumps(record, sort_keys=True).encode())


# -- Writing -----------------------------------------------------------------------------------------------------------


def _without_traceback(log: logging.LogRecord) -> bool:
    """Each thread of a save that fails logs a traceback, up to 90 of them; the error itself is raised and said here."""
    return log.exc_info is None


class Checkpoints:
    """A context manager that saves in the background; leaving it waits for the save in flight.

    The caller holds the run's lock. Raises TrainingError where a save fails: what was saved before stays.
    """

    def __init__(self, folder: RunFolder, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def __enter__(self) -> Checkpoints:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        ORBAX_LOG.addFilter(_without_traceback)
        with self._said():
            self._manager = ocp.CheckpointManager(self.folder.checkpoints, options=options)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._said():
                self._manager.close()
        except TrainingError:
            if error is None:
                raise  # else the first error is the one to tell
        finally:
            ORBAX_LOG.removeFilter(_without_traceback)

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, history: list[Line], wait: bool = False) -> None:
        """Save in the background. The state is copied first: its buffers are donated to the next step."""
        step = int(state.step)
        with self._said():
            if self._manager.latest_step() != step:
                host = jax.device_get(state)
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(host))
                free = shutil.disk_usage(self.folder.path).free
                if not agreed_by_all(free > 1.1 * size + 2**20):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                record = {"structure": _structure(host), "state": _checksum(host), "history": history}
                record["checksum"] = _record_checksum(record)
                saved = ocp.args.Composite(
                    state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)), record=ocp.args.JsonSave(record)
                )
                self._manager.save(step, args=saved, force=True)
            if wait:
                self._manager.wait_until_finished()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax wraps what the disk says into many kinds
            full = disk_full(error)
            reason = "the disk is full" if full else _reason(error)
            kept = steps(self.folder)
            raise TrainingError(
                f"a checkpoint could not be saved to {self.folder.path}: {reason}. Kept: the history"
                + (f" and the checkpoint of step {kept[0]}" if kept else "")
                + f". {'Free some space and give' if full else 'Give'} the same command to go on."
            ) from error
