"""Checkpoints: what flips, what cannot be read, what is of another version; nothing is ever deleted for it."""

import errno
import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from deq_nc.runs import RunError, RunFolder
from deq_nc.training import checkpoint as module
from deq_nc.training.checkpoint import Checkpoints, OtherVersion, TrainingError, restore, steps
from deq_nc.training.mesh import data_mesh
from deq_nc.training.state import Logs, TrainState

MESH = data_mesh(jax.devices()[:1])
HISTORY = [{"epoch": 1, "step": 8, "nc1": 0.5}, {"epoch": 2, "step": 16, "nc1": 0.25}]


def state(step: int) -> TrainState:
    weights = jnp.asarray(np.random.default_rng(step).normal(size=(32, 32)), jnp.float32)
    params = {"kernel": weights, "bias": jnp.arange(32.0)}
    momentum = jax.tree.map(jnp.ones_like, params)
    return TrainState(jnp.int32(3), jnp.int32(step), params, {}, momentum, Logs.zero())


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """Two checkpoints, of steps 8 and 16."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    with Checkpoints(folder, keep=2) as checkpoints:
        for line in HISTORY:
            checkpoints.save(state(line["step"]), HISTORY[: line["epoch"]], wait=True)
    return folder


def tree(path: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p.relative_to(path)): (p.read_bytes(), p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file()}


def read(folder, write=True, like=None):
    said = []
    return restore(folder, state(0) if like is None else like, MESH, said.append, write), said


def step_of(found) -> int | None:
    if found is None:
        return None
    step = int(found.state.step)
    for one, other in zip(jax.tree.leaves(found.state), jax.tree.leaves(state(step)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.history == HISTORY[: step // 8]
    return step


def test_the_newest_comes_back_whole_and_reading_changes_nothing(folder):
    before = tree(folder.path)
    for write in (False, True):
        found, said = read(folder, write)
        assert step_of(found) == 16 and said == []
    assert tree(folder.path) == before


def test_no_flipped_bit_is_restored(folder):
    """Either the state is bit for bit what was saved, or the checkpoint is named and the one before it taken."""
    draw, fell_back = random.Random(0), 0
    files = [p for p in (folder.checkpoints / "16").rglob("*") if p.is_file() and p.stat().st_size]
    for path in draw.sample(files, min(12, len(files))) + [max(files, key=lambda p: p.stat().st_size)] * 12:
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        original = path.read_bytes()
        path.write_bytes(data)
        found, said = read(folder, write=False)
        assert step_of(found) in (8, 16)
        if step_of(found) == 8:
            fell_back += 1
            assert len(said) == 1 and said[0].startswith("checkpoint of step 16")
        path.write_bytes(original)
    assert fell_back >= 12


def test_a_damaged_one_is_renamed_and_the_one_before_it_taken(folder):
    for path in (folder.checkpoints / "16").rglob("*"):
        if path.is_file():
            path.write_bytes(b"garbage")
    found, said = read(folder)
    assert step_of(found) == 8 and "renamed into damaged/; trying the one before it" in said[0]
    assert steps(folder) == [8] and (folder.path / "damaged" / "16-0" / "state").is_dir()
    (folder.checkpoints / "8" / "record" / "metadata").unlink()
    found, said = read(folder)
    assert found is None and "lacks its record" in said[0] and len(list((folder.path / "damaged").iterdir())) == 2


def test_an_error_that_passes_is_not_damage(folder, monkeypatch):
    real, errors = module._arrays, [OSError(errno.ESTALE, "Stale file handle"), ValueError("DATA_LOSS")]

    def arrays(item, target):
        if errors:
            raise errors.pop()
        return real(item, target)

    before = tree(folder.path)
    for error in list(errors):
        errors[:] = [error]
        monkeypatch.setattr(module, "_arrays", arrays)
        found, said = read(folder)
        assert step_of(found) == 16 and said == []
    assert tree(folder.path) == before


def unreadable(monkeypatch, what: str):
    """The system lets no file below a folder of that name be read, neither here nor by orbax."""
    monkeypatch.setattr("deq_nc.disk.PAUSES", ())
    real_bytes, real_arrays = Path.read_bytes, module._arrays

    def read_bytes(path):
        if what in path.parts:
            raise OSError(errno.EIO, "Input/output error")
        return real_bytes(path)

    def arrays(item, target):
        if what in item.parts:
            raise ValueError("UNKNOWN: Error opening file [OS error 5]")
        return real_arrays(item, target)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(module, "_arrays", arrays)


def test_where_the_disk_lets_none_be_read_nothing_is_touched(folder, monkeypatch):
    before = tree(folder.path)
    with monkeypatch.context() as patch:
        unreadable(patch, "checkpoints")
        with pytest.raises(RunError, match=r"cannot be read: Input/output error. Nothing was changed"):
            read(folder)
    assert tree(folder.path) == before


def test_where_an_older_one_can_be_read_the_newest_is_set_aside(folder, monkeypatch):
    with monkeypatch.context() as patch:
        unreadable(patch, "16")
        found, said = read(folder)
    assert step_of(found) == 8 and "renamed into damaged/" in said[0]
    assert (folder.path / "damaged" / "16-0" / "record" / "metadata").exists()


def test_a_state_of_another_structure_is_named_and_left_alone(folder):
    before = tree(folder.path)
    like = state(0)
    for other in (
        like._replace(params=like.params | {"gain": jnp.zeros(())}),
        like._replace(params=like.params | {"kernel": jnp.zeros((32, 16))}),
    ):
        with pytest.raises(OtherVersion, match=r"another version of deq_nc: params/\w+: .* there, .* here"):
            read(folder, like=other)
    assert tree(folder.path) == before


def test_checkpoints_from_before_the_record_are_read(tmp_path):
    folder = RunFolder(tmp_path)
    with ocp.CheckpointManager(folder.checkpoints) as manager:
        manager.save(8, args=ocp.args.StandardSave(state(8)))
    found, said = read(folder)
    np.testing.assert_array_equal(found.state.params["kernel"], state(8).params["kernel"])
    assert found.history is None and said == []
    like = state(0)
    before = tree(folder.path)
    with pytest.raises(OtherVersion, match="params/gain: nothing there"):
        read(folder, like=like._replace(params=like.params | {"gain": jnp.zeros(())}))
    assert tree(folder.path) == before


def test_a_full_disk_is_said_with_what_was_kept(folder, monkeypatch):
    usage = module.shutil.disk_usage(folder.path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with (
        pytest.raises(TrainingError, match="the disk is full. Kept: the history and the checkpoint of step 16"),
        Checkpoints(folder, keep=2) as checkpoints,
    ):
        checkpoints.save(state(24), HISTORY)
    assert step_of(read(folder)[0]) == 16


def test_the_record_is_strict_json(folder):
    text = (folder.checkpoints / "16" / "record" / "metadata").read_text()
    record = json.loads(text)
    assert record["history"] == HISTORY and record["structure"]["params/kernel"] == "float32[32, 32]"
