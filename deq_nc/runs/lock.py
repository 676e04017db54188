"""One writer a folder: the file `.lock` in it, locked while its holder lives, with a sentence on who that is.

The kernel's lock (flock) ends with the process, however that ends, so that of a dead process stops nobody. Some network
disks keep it to one host, or have none; there the file's time is a lease, renewed every few seconds. One that another
host left is watched: renewed, its holder lives; else it lapses. Times are those of the disk's clock, so that hosts need
not agree on theirs.
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
from typing import Any, NamedTuple

from deq_nc.config import ConfigError, UserError

NAME = ".lock"
RENEWAL_SECONDS = 15.0
LEASE_SECONDS = 90.0
LOOK_SECONDS = 2.0  # between two tries of one who waits
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Held(UserError, RuntimeError):
    """Another process is at work in the folder; the message says which, on what host, and since when."""

    exit_code = 3


class Lock:
    """A context manager: from entry to exit no other process may write to `folder` (made where it is not there).

    Raises Held where another one is at work and `wait` is False; with it, waits, and says for whom. Raises ConfigError
    where the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        wait: bool = False,
        say: Callable[[str], Any] = print,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        self.folder, self.path = folder, folder / NAME
        self.wait, self.say, self.sleep = wait, say, sleep
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._end = threading.Event()
        self._lost = False

    def __enter__(self) -> Lock:
        try:
            first = None
            while (other := self._try()) is not None:
                first = first or other
                if not self.wait and (other.lease is None or other != first):
                    raise Held(
                        f"{self.folder} is in use by {other.who}. Wait for it (--wait), stop it, or choose another "
                        "folder."
                    )
                if other is first:
                    until = "waiting" if self.wait else f"waiting {LEASE_SECONDS:.0f} s for a sign of life"
                    self.say(f"{self.folder} is in use by {other.who}; {until}")
                self.sleep(LOOK_SECONDS)
        except OSError as error:
            raise ConfigError(
                f"workdir: cannot write to {self.folder}: {error.strerror}. Choose another --workdir."
            ) from error
        self._renewal.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._renewal.join()  # it must not touch what another file may be once this one is closed
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

    def _try(self) -> _Other | None:
        """None with the lock taken, else who holds it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)  # its last holder may have renamed it
            # A link would lead to somebody's file, which taking the lock empties.
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            taken = False
            try:
                locked = _flock(file)
                holder = _holder(file)
                if locked is False:
                    return _Other(_sentence(holder), None)
                if not _same(file, self.path):
                    continue  # its last holder removed it between the two calls
                if holder and _foreign(holder) and _age(self.path) < LEASE_SECONDS:
                    return _Other(_sentence(holder), os.fstat(file).st_mtime)
                if holder and locked is None and not _foreign(holder) and _alive(holder):
                    return _Other(_sentence(holder), None)
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
    """Who is surely at work in `folder`, None if nobody is known to be. Writes nothing; for a word ahead of `Lock`."""
    try:
        file = os.open(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        locked = _flock(file, fcntl.LOCK_SH, tries=1)
        holder = _holder(file)
        alive = locked is None and bool(holder) and not _foreign(holder) and _alive(holder)
        return _sentence(holder) if locked is False or alive else None
    except OSError:
        return None
    finally:
        os.close(file)


class _Other(NamedTuple):
    who: str
    lease: float | None  # when it was renewed, where nothing else says that its holder lives


def _flock(file: int, kind: int = fcntl.LOCK_EX, tries: int = 4) -> bool | None:
    """True: locked; False: another process has it; None: this file system has no such locks.

    Tried again within a blink: `holder_of` shares the lock for a moment.
    """
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return None
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if left:
                time.sleep(0.02)
    return False


def _foreign(holder: dict[str, Any]) -> bool:
    return holder.get("machine") != _machine()


def _alive(holder: dict[str, Any]) -> bool:
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, KeyError, TypeError, ValueError):
        return False
    except OSError:
        pass  # another user's
    return True


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
    """This boot of this machine: names of hosts repeat and change, in containers above all."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()}-{uuid.getnode()}"


def _age(path: Path) -> float:
    """Seconds since the lock was renewed, by the clock of the disk."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime
