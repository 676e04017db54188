"""The files of a page onto the disk: all drafts first, then renamed; the page itself last."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from deq_nc.config import ConfigError
from deq_nc.disk import HalfRenamed, write_whole
from deq_nc.names import printable
from deq_nc.report.read import ReportError
from deq_nc.runs import Lock


class NotWrittenError(ReportError):
    """The page could not be written; the message says what was kept."""

    exit_code = 1


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """The folder of the page, made and held: another report there says so and leaves. Raises Held, NotWrittenError."""
    lock = Lock(folder, wait)
    try:
        lock.__enter__()
    except ConfigError as error:
        raise _not_written(folder, error.__cause__ or error) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files` (path below `folder` -> bytes), index.html last; a kill leaves each as it was or as it is.

    Raises NotWrittenError where the system refuses: where a draft cannot be written, an older page is as it was.
    Raises ReportError for a path that leaves the folder or passes a link.
    """
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ReportError(f"{printable(folder)}: expected files below it, got {printable(name)}.")
        for above in list(PurePosixPath(name).parents)[:-1]:
            if os.path.islink(folder / above):
                raise ReportError(f"{printable(folder / above)}: expected a folder of ours, got a link. Remove it.")
    try:
        for parent in {(folder / name).parent for name in files}:
            parent.mkdir(parents=True, exist_ok=True)
        ordered = sorted(files, key=lambda name: name == "index.html")
        write_whole({folder / name: partial(_put, files[name]) for name in ordered})
    except OSError as error:
        raise _not_written(folder, error) from error


def _put(data: bytes, file: IO[bytes]) -> None:
    file.write(data)


def _not_written(folder: Path, error: BaseException) -> NotWrittenError:
    kept = "The page that was there is as it was" if os.path.isfile(folder / "index.html") else "There is no page yet"
    if isinstance(error, HalfRenamed):
        kept += f", but some files beside it are new, those from {printable(Path(error.filename).name)} on are not"
    why = getattr(error, "strerror", None) or error
    return NotWrittenError(
        f"{printable(folder)}: the page could not be written ({why}). {kept}, and no run was touched. Make room "
        "there, or name another folder with --out."
    )
