"""One writer a folder: the file `.lock` in it, locked while its holder lives, with a sentence on who that is.

The kernel's lock (flock) ends with the process, however that ends, so that of a dead process stops nobody. Some network
disks keep it to one host; there the file's time is a lease, renewed every few seconds: one that a dead host no longer
renews lapses. Times are those of the disk's clock, so that hosts need not agree on theirs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from deq_nc.config import ConfigError, UserError

NAME = ".lock"
RENEWAL_SECONDS = 15.0
LEASE_SECONDS = 90.0
LOOK_SECONDS = 2.0  # between two tries of one who waits


class Held(UserError, RuntimeError):
    """Another process is at work in the folder; the message says which, on what host, and since when."""

    exit_code = 3


class Lock:
    """A context manager: from entry to exit no other process may write to `folder` (made where it is not there).

    Raises Held where another one is at work and `wait` is False; with it, waits, and says for whom. Raises ConfigError
    where the folder cannot be written.
    """

    def __init__(self, folder: Path, wait: bool = False, say: Callable[[str], Any] = print) -> None:
        self.folder, self.path = folder, folder / NAME
        self.wait, self.say = wait, say
        self._end = threading.Event()
        self._lost = False

    def __enter__(self) -> Lock:
        try:
            said = False
            while (holder := self._try()) is not None:
                if not self.wait:
                    raise Held(
                        f"{self.folder} is in use by {holder}. Wait for it (--wait), stop it, or choose another folder."
                    )
                if not said:
                    self.say(f"{self.folder} is in use by {holder}; waiting")
                said = True
                time.sleep(LOOK_SECONDS)
        except OSError as error:
            raise ConfigError(
                f"workdir: cannot write to {self.folder}: {error.strerror}. Choose another --workdir."
            ) from error
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        try:
            if not self.lost:
                self.path.unlink(missing_ok=True)  # while it is still locked: nobody else's can be hit
        finally:
            os.close(self._file)

    @property
    def lost(self) -> bool:
        """True once the lock file is no longer this one's: removed, or taken by another host when the lease lapsed."""
        self._lost = self._lost or not (_same(self._file, self.path) and self._ours())
        return self._lost

    def _ours(self) -> bool:
        try:
            return os.pread(self._file, 4096, 0) == self._own
        except OSError:
            return True  # an error of the disk is no proof of anything

    def _try(self) -> str | None:
        """None with the lock taken, else who holds it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)  # its last holder may have renamed it
            # A link would lead to somebody's file, which taking the lock empties.
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            taken = False
            try:
                try:
                    _flock(file)
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                        raise
                    return _sentence(_holder(file))
                if not _same(file, self.path):
                    continue  # its last holder removed it between the two calls
                holder = _holder(file)
                if holder and holder.get("machine") != _machine() and _age(self.path) < LEASE_SECONDS:
                    return _sentence(holder)
                self._sign(file)
                taken = True
                return None
            finally:
                if not taken:
                    os.close(file)

    def _sign(self, file: int) -> None:
        own = {
            "host": platform.node(),
            "machine": _machine(),
            "pid": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": " ".join(sys.argv)[:200],
        }
        self._file, self._own = file, json.dumps(own).encode()
        os.ftruncate(file, 0)
        os.pwrite(file, self._own, 0)
        os.fsync(file)

    def _renew(self) -> None:
        while not self._end.wait(RENEWAL_SECONDS):
            try:
                if not self.lost:
                    os.utime(self._file)
            except OSError:
                continue  # a disk's error that may pass


def holder_of(folder: Path) -> str | None:
    """Who is at work in `folder`, None if nobody is: a lock, or a lease of another host that is young by the clock of
    this one. Writes nothing.
    """
    path = folder / NAME
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        holder = _holder(file)
        foreign = holder and holder.get("machine") != _machine()
        return _sentence(holder) if foreign and time.time() - os.fstat(file).st_mtime < LEASE_SECONDS else None
    except OSError:
        return _sentence(_holder(file))
    finally:
        os.close(file)


def _flock(file: int, tries: int = 4) -> None:
    """Tried again within a blink: `holder_of` shares the lock for a moment."""
    for left in reversed(range(tries)):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK or not left:
                raise
            time.sleep(0.02)


def _same(file: int, path: Path) -> bool:
    try:
        there, here = os.stat(path), os.fstat(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # an error of the disk is no proof of anything
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _holder(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _sentence(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    host, pid, since = (str(holder.get(name, "?")) for name in ("host", "pid", "since"))
    return f"process {pid} on {host} since {since}"


def _machine() -> str:
    """This boot of this machine: names of hosts repeat, in containers above all."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + platform.node()
    except OSError:
        return f"{platform.node()}-{uuid.getnode()}"


def _age(path: Path) -> float:
    """Seconds since the lock was renewed, by the clock of the disk."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime
