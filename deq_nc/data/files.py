"""Files of strangers: how much of one is read, where a path leads, what an error says."""

from __future__ import annotations

import errno
from pathlib import Path

from deq_nc.data.source import DataError
from deq_nc.disk import patiently, regular
from deq_nc.names import printable


def home(path: str) -> Path:
    """A path whose ~ stands for the home folder. Raises DataError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(
            f"{path} starts in a home folder, and this account has none. Name a folder: --data.dir DIR (data prepare "
            "and list: --data-dir DIR), or set TFDS_DATA_DIR."
        ) from None


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes. Raises OSError."""
    if (size := regular(path).st_size) > limit:
        raise OSError(errno.EFBIG, f"{size:,} bytes; at most {limit:,} are read", str(path))
    return patiently(path.read_bytes)


def reason(error: BaseException) -> str:
    """What went wrong, without the number and the path that an OSError repeats."""
    return printable(str(getattr(error, "strerror", None) or error or type(error).__name__))
