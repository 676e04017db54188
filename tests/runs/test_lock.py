"""One writer a folder: while a holder lives, and no longer."""

import errno
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from deq_nc.config import ConfigError
from deq_nc.runs import Held, Lock
from deq_nc.runs import lock as module
from deq_nc.runs.lock import holder_of

HOLD = """
import sys, time
from pathlib import Path
from deq_nc.runs import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(folder):
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_is_told_who_holds_the_folder_and_a_dead_holder_stops_nobody(tmp_path):
    folder = tmp_path / "run"
    with holder(folder) as process:
        with pytest.raises(Held, match=rf"in use by process {process.pid} on .* since 2"), Lock(folder):
            pass
        assert str(process.pid) in holder_of(folder)
    assert (folder / module.NAME).exists() and holder_of(folder) is None
    with Lock(folder) as lock:
        assert not lock.lost
    assert not (folder / module.NAME).exists()


def test_who_waits_gets_it_when_the_other_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    said = []
    with holder(tmp_path) as process:

        def say(text):
            said.append(text)
            process.kill()

        with Lock(tmp_path, wait=True, say=say):
            assert len(said) == 1 and "waiting" in said[0]


def test_two_locks_of_one_process_exclude_each_other(tmp_path):
    with Lock(tmp_path), pytest.raises(Held, match=str(os.getpid())), Lock(tmp_path):
        pass


def lease(folder, **holder):
    """As on a disk whose locks end at the host: the file is there, unlocked, of another machine."""
    path = folder / module.NAME
    path.write_text(json.dumps({"host": "far", "machine": "far", "pid": 7, "since": "then"} | holder))
    return path


def test_a_lease_of_another_host_holds_while_it_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    path, said = lease(tmp_path), []

    def say(text):
        said.append(text)
        now = time.time() + 1
        os.utime(path, (now, now))  # it lives

    with pytest.raises(Held, match="process 7 on far since then"), Lock(tmp_path, say=say):
        pass
    assert "a sign of life" in said[0] and holder_of(tmp_path) is None


def test_a_lease_that_is_not_renewed_lapses(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    path, said = lease(tmp_path), []
    with Lock(tmp_path, say=said.append):
        assert json.loads(path.read_text())["pid"] == os.getpid() and len(said) == 1


@pytest.mark.parametrize("alive", [True, False])
def test_where_a_disk_has_no_locks_a_living_process_of_this_machine_holds(tmp_path, monkeypatch, alive):
    def unsupported(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    lease(tmp_path, machine=module._machine(), pid=os.getppid() if alive else 2**22 + 1)
    if alive:
        assert f"process {os.getppid()}" in holder_of(tmp_path)
        with pytest.raises(Held, match=f"process {os.getppid()}"), Lock(tmp_path):
            pass
    else:
        assert holder_of(tmp_path) is None
        with Lock(tmp_path) as lock:
            assert not lock.lost


def test_a_lock_that_was_taken_away_is_known_and_not_removed(tmp_path):
    with Lock(tmp_path) as lock:
        (tmp_path / module.NAME).unlink()
        (tmp_path / module.NAME).write_text("somebody else's")
        assert lock.lost
    assert (tmp_path / module.NAME).read_text() == "somebody else's"


def test_a_lease_that_lapsed_and_was_taken_by_another_host_is_known(tmp_path):
    """That host opens the same file and writes its name into it: the file's number does not change."""
    theirs = json.dumps({"host": "far", "machine": "far", "pid": 7, "since": "now"})
    with Lock(tmp_path) as lock:
        assert not lock.lost
        (tmp_path / module.NAME).write_text(theirs)
        assert lock.lost
    assert (tmp_path / module.NAME).read_text() == theirs


def test_a_lock_that_is_a_link_empties_no_file(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / module.NAME).symlink_to(mine)
    with pytest.raises(ConfigError, match="cannot write to"), Lock(tmp_path):
        pass
    assert mine.read_text() == "mine"


def test_a_lock_that_could_not_be_written_is_free_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="No space left"):
        patch.setattr(module.os, "pwrite", full)
        with Lock(tmp_path):
            pass
    with Lock(tmp_path):
        pass


def test_who_waits_for_a_folder_that_is_renamed_gets_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    folder = tmp_path / "run"
    first = Lock(folder).__enter__()

    def say(text):
        folder.rename(tmp_path / "run-old-1")
        first.__exit__(None, None, None)

    with Lock(folder, wait=True, say=say) as lock:
        assert (folder / module.NAME).exists() and not lock.lost


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to .*file"), Lock(tmp_path / "file"):
        pass
