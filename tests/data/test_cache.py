"""The cache of decoded images: damage, passing errors, several writers, killed writers, places that take nothing."""

import errno
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from deq_nc.config import DataConfig
from deq_nc.data import DataError, load
from deq_nc.data import cache as cache_module
from deq_nc.data.cache import ASIDE, DRAFT, cached
from deq_nc.data.source import Source

from .fabricate import pixels, prepare_tfds
from .test_files import read, tiny_splits

SOURCE = Source(
    "tiny",
    ("ant", "bee"),
    pixels(6, 0, 4),
    np.array([0, 1, 0, 1, 0, 1], np.int32),
    pixels(2, 1, 4),
    np.array([0, 1], np.int32),
    ("a note",),
)


def same(a, b):
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in cache_module.ARRAYS)
    return arrays and (a.name, a.class_names) == (b.name, b.class_names)


def get(root, decode=lambda: SOURCE):
    return cached("tiny", "f" * 64, [root], decode)


def entry_of(root):
    (entry,) = [p for p in root.iterdir() if not p.name.startswith(".")]
    return entry


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "meta"])
def test_a_damaged_cache_is_rebuilt_and_said_aloud(tmp_path, damage, caplog):
    prepare_tfds(tmp_path, tiny_splits())
    truth = np.array(read(tmp_path).train_images)
    (entry,) = (tmp_path / ".deq_nc_cache").iterdir()
    file = entry / ("meta.json" if damage == "meta" else "train_images.npy")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    match damage:
        case "flip" | "meta":
            file.write_bytes(data)
        case "cut":
            file.write_bytes(data[:-100])
        case "remove":
            file.unlink()
    again = read(tmp_path)
    assert np.array_equal(again.train_images, truth)
    assert any("damaged" in note for note in again.notes) and "damaged" in caplog.text
    assert read(tmp_path).notes == ()  # healed


def test_read_only_data_are_cached_in_the_users_folder(tmp_path, monkeypatch):
    root, home = tmp_path / "data", tmp_path / "home"
    prepare_tfds(root, tiny_splits())
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    root.chmod(0o555)
    try:
        data = read(root)
        assert isinstance(data.train_images, np.memmap) and data.notes == ()
        assert not (root / ".deq_nc_cache").exists() and len(list((home / "deq_nc").iterdir())) == 1
    finally:
        root.chmod(0o755)


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path, monkeypatch):
    prepare_tfds(tmp_path, tiny_splits())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.np, "save", full)
    data = read(tmp_path)
    assert len(data.train_images) == 12 and "No space left" in data.notes[0]
    assert not list((tmp_path / ".deq_nc_cache").iterdir())  # the draft is gone


def test_every_kind_of_damage_is_seen_and_nothing_is_deleted_for_it(tmp_path):
    get(tmp_path)
    files = sorted(entry_of(tmp_path).iterdir())
    rng = np.random.default_rng(0)
    for round_ in range(60):
        file = entry_of(tmp_path) / files[round_ % len(files)].name
        data = bytearray(file.read_bytes())
        match round_ // len(files) % 4:
            case 0:
                data[rng.integers(min(len(data), 128))] ^= 1 << rng.integers(8)  # headers are 128 bytes
            case 1:
                data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            case 2:
                del data[rng.integers(len(data)) :]
            case 3:
                data = b"[]" if file.suffix == ".json" else b"PK\x03\x04"
        file.write_bytes(data)
        found = get(tmp_path)
        assert same(found, SOURCE), (round_, file)
        assert any("was damaged" in note for note in found.notes) or file.suffix == ".json"  # a space flipped to a tab
        assert get(tmp_path).notes == SOURCE.notes
    assert len(list(tmp_path.glob(f"{ASIDE}*"))) >= 40


def test_an_array_that_is_a_fifo_is_not_opened(tmp_path):
    get(tmp_path)
    file = entry_of(tmp_path) / "test_labels.npy"
    file.unlink()
    os.mkfifo(file)
    found = get(tmp_path)
    assert same(found, SOURCE) and "not a regular file" in found.notes[-1]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_an_error_that_passes_is_waited_out(tmp_path, monkeypatch, code):
    get(tmp_path)
    left = [2]
    true = cache_module._crc_of_file

    def failing(path):
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code), str(path))
        return true(path)

    monkeypatch.setattr(cache_module, "_crc_of_file", failing)
    monkeypatch.setattr("deq_nc.disk.PAUSES", (0.0, 0.0, 0.0))
    assert get(tmp_path, lambda: pytest.fail("decoded again")).notes == SOURCE.notes and left == [0]


def test_an_error_that_stays_is_said_and_the_entry_is_left_alone(tmp_path, monkeypatch):
    get(tmp_path)
    before = {p: p.read_bytes() for p in entry_of(tmp_path).iterdir()}

    def failing(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("deq_nc.disk.PAUSES", (0.0, 0.0, 0.0))
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_crc_of_file", failing)
        found = get(tmp_path)
    assert same(found, SOURCE) and "cannot be read now (Input/output error)" in found.notes[-1]
    assert {p: p.read_bytes() for p in entry_of(tmp_path).iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == [entry_of(tmp_path).name]


def test_many_writers_of_one_entry_leave_one_whole_entry(tmp_path):
    for damage in (False, True):
        if damage:
            (entry_of(tmp_path) / "train_images.npy").write_bytes(b"")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: get(tmp_path), range(32)))
        assert all(same(source, SOURCE) for source in found)
        assert get(tmp_path, lambda: pytest.fail("no entry")).notes == SOURCE.notes
        assert not list(tmp_path.glob(f"{DRAFT}*"))


def test_drafts_of_killed_writers_are_removed_by_the_next_writer_alone(tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from deq_nc.data import cache
from tests.data.test_cache import get, Path
cache._read = lambda _: os.kill(os.getpid(), signal.SIGKILL)
get(Path({str(tmp_path)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (killed,) = tmp_path.glob(f"{DRAFT}*")
    old, ours, elsewhere = (tmp_path / f"{DRAFT}{name}" for name in ("abc", f"{cache_module._host()}-1-a", "x-1-b"))
    for path in (old, ours, elsewhere):
        path.mkdir()
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    get(tmp_path)
    assert sorted(tmp_path.glob(f"{DRAFT}*")) == sorted([ours, elsewhere])  # process 1 lives; another host is unknown
    dead = shutil.copytree(elsewhere, tmp_path / killed.name)
    get(tmp_path, lambda: pytest.fail("decoded again"))
    assert dead.is_dir()  # who reads deletes nothing


def test_without_a_home_the_cache_lies_beside_the_data_or_nowhere(tmp_path, monkeypatch):
    def homeless(_=None):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_module.cache_roots(tmp_path) == [tmp_path / ".deq_nc_cache"]
    with pytest.raises(
        DataError, match=r"no.*home folder, and this account has none|this account has none.*--data-dir DIR"
    ):
        load(DataConfig(name="cifar10"))
