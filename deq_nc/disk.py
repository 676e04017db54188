"""What a disk may do: errors that pass are waited out, only regular files are opened, a full one is known as such.

Files are written whole or not at all.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

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


class HalfRenamed(OSError):
    """Of several files some are new, the one named and those after it are as they were."""


def write_whole(files: Mapping[Path, Callable[[Any], Any]]) -> None:
    """Each `write(file)` into a draft beside its path, synced; when all are whole, renamed over them in their order.

    Raises OSError where nothing was changed, HalfRenamed where some were renamed before one could not be.
    """
    drafts = {path: path.with_name(path.name + ".tmp") for path in files}
    renamed = 0
    try:
        for path, draft in drafts.items():
            draft.unlink(missing_ok=True)  # a link of that name would lead elsewhere
            with draft.open("xb") as file:
                files[path](file)
                file.flush()
                os.fsync(file.fileno())
        for path, draft in drafts.items():
            draft.replace(path)
            renamed += 1
    except OSError as error:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)  # of a full disk, they would take what room is left
        if renamed:
            raise HalfRenamed(error.errno, error.strerror, error.filename2 or error.filename) from error
        raise


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or an exhausted quota is behind an error; libraries wrap it, some into bare text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error) for words in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")):
            return True
        error = error.__cause__ or error.__context__
    return False
