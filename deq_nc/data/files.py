"""Files of strangers: only regular ones are opened, errors that may pass are waited out, names are text to show."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deq_nc.data.source import DataError

T = TypeVar("T")
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENOTCONN, errno.EHOSTDOWN}
WAITS = (0.1, 0.5, 2.0)  # seconds; a server that comes back within them is not noticed
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def home(path: str) -> Path:
    """A path whose ~ stands for the home folder. Raises DataError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(
            f"{path} starts in a home folder, and this account has none. Name a folder: --data.dir DIR (data prepare "
            "and list: --data-dir DIR; with make: DATA_DIR=DIR), or set TFDS_DATA_DIR."
        ) from None


def patiently(action: Callable[[], T]) -> T:
    """`action()`; where the system reports an error that may pass (EIO, ESTALE), again after 0.1, 0.5 and 2 s."""
    for seconds in WAITS:
        try:
            return action()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            time.sleep(seconds)
    return action()


def regular(path: Path) -> os.stat_result:
    """What the system says of a regular file, or of the one a link leads to. Raises OSError for anything else.

    It is asked before a file is opened: a FIFO would never answer, a device may act.
    """
    found = patiently(path.stat)
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))
    return found


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes. Raises OSError."""
    if (size := regular(path).st_size) > limit:
        raise OSError(errno.EFBIG, f"{size:,} bytes; at most {limit:,} are read", str(path))
    return patiently(path.read_bytes)


def reason(error: BaseException) -> str:
    """What went wrong, without the number and the path that an OSError repeats."""
    return shown(str(getattr(error, "strerror", None) or error or type(error).__name__))


def shown(text: str | Path) -> str:
    """A name for people to read: what cannot be printed (controls, escapes, bytes that are not UTF-8) as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
