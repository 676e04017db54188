"""Files onto the disk, each whole: under a draft's name first, then renamed; the page itself last."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from deq_nc.config import ConfigError
from deq_nc.names import printable
from deq_nc.report.runs import ReportError
from deq_nc.runs import Lock

DRAFT = ".draft-"


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
    """Writes `files` (path below `folder` -> bytes) in their order, so that a kill leaves each as it was or as it is.

    Raises NotWrittenError where the system refuses; while the drafts are written, nothing of an older page is touched.
    Raises ReportError for a path that leaves the folder or passes a link.
    """
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ReportError(f"{printable(folder)}: expected files below it, got {printable(name)}.")
        for parent in list(PurePosixPath(name).parents)[:-1]:
            if os.path.islink(folder / parent):
                raise ReportError(f"{printable(folder / parent)}: expected a folder of ours, got a link. Remove it.")
    draft = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(DRAFT + "*"):  # of a report that was killed
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder))
        for number, data in enumerate(files.values()):
            (draft / str(number)).write_bytes(data)
        for parent in {(folder / name).parent for name in files}:
            parent.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(files):
            os.replace(draft / str(number), folder / name)
    except OSError as error:
        raise _not_written(folder, error) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _not_written(folder: Path, error: BaseException) -> NotWrittenError:
    kept = "The page that was there is as it was" if os.path.isfile(folder / "index.html") else "There is no page yet"
    why = getattr(error, "strerror", None) or error
    return NotWrittenError(
        f"{printable(folder)}: the page could not be written ({why}). {kept}, and no run was touched. Make room "
        "there, or name another folder with --out."
    )
