"""What a disk may do: errors that pass are waited out, only regular files are opened, a full one is known as such."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# A network disk's above all: they say nothing about what the file holds.
PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOTCONN,
    errno.EHOSTDOWN, errno.ENFILE, errno.EMFILE,
}  # fmt: skip
PAUSES = (0.1, 0.5, 2.0)  # seconds between tries; a server that comes back within them is not noticed
FULL = {errno.ENOSPC, errno.EDQUOT}
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def patiently(action: Callable[[], T]) -> T:
    """`action()`, again after each of PAUSES where the error may pass. Raises OSError where it does not."""
    for pause in PAUSES:
        try:
            return action()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            time.sleep(pause)
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


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or an exhausted quota is behind an error; libraries wrap it, some into bare text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error) for words in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")):
            return True
        error = error.__cause__ or error.__context__
    return False
