"""A published archive: fetched without hanging, verified, read without being extracted."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import threading
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from deq_nc.data.cache import log
from deq_nc.data.source import DataError

NETWORK_SECONDS = 8.0  # without an answer for this long there is no internet, as far as the user is concerned
_NETWORK_ERRORS = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors


class Checksum(NamedTuple):
    """What the archive must be: its size in bytes and sha256 in hex."""

    size: int
    sha256: str


def verify(path: Path, checksum: Checksum) -> None:
    """Raises DataError unless the file has the size and sha256 expected."""
    size = path.stat().st_size
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if size == checksum.size else "not computed"
    if (size, found) != checksum:
        raise DataError(
            f"{path} is not the published archive: expected {checksum.size:,} bytes and sha256 {checksum.sha256}, got "
            f"{size:,} bytes, sha256 {found}. Remove it and download it again."
        )


def read_archive(path: Path, prefix: str, names: list[str]) -> dict[str, bytes]:
    """The named files under prefix, read into memory in one pass: nothing is extracted.

    Raises DataError for a file that is no archive, lacks one of the names, or has a member whose path or link leads
    outside (such an archive was tampered with, whatever its other members hold).
    """
    wanted = {str(PurePosixPath(prefix) / name): name for name in names}
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if place.is_absolute() or ".." in place.parts or not (member.isfile() or member.isdir()):
                    raise DataError(f"{path} is refused: its member {member.name!r} is a link or leads outside.")
                if str(place) in wanted and (file := archive.extractfile(member)):
                    files[wanted[str(place)]] = file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a readable tar archive ({error}). Download it again.") from error
    if missing := [p for p, name in wanted.items() if name not in files]:
        raise DataError(f"{path} lacks {', '.join(missing)}. Download the archive again.")
    return files


def download(url: str, path: Path, checksum: Checksum, command: str) -> None:
    """Fetches url to path, by way of a partial file. Raises DataError with what to do by hand, within seconds."""
    log.info("downloading %s (%.0f MB)", url, checksum.size / 1e6)
    draft = path.with_name(path.name + ".part")
    try:
        response = _connect(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with response, draft.open("wb") as out:
            shutil.copyfileobj(response, out, 1 << 20)
        verify(draft, checksum)
        draft.rename(path)
    except _NETWORK_ERRORS as error:
        raise DataError(
            f"{path.name} could not be downloaded ({error}). On a machine with internet, fetch\n"
            f"  {url}\n"
            f"  size {checksum.size:,} bytes, sha256 {checksum.sha256}\n"
            f"copy it here as\n  {path}\nand run again\n  {command}\n"
            "(or leave it elsewhere and add --archive FILE)"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _connect(url: str) -> Any:
    """An open response, or OSError after NETWORK_SECONDS. In a thread: looking a name up obeys no timeout."""
    result: list[Any] = []

    def attempt() -> None:
        try:
            result.append(urllib.request.urlopen(url, timeout=NETWORK_SECONDS))
        except _NETWORK_ERRORS as error:
            result.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    if not result:
        raise TimeoutError(f"no answer within {NETWORK_SECONDS:.0f} s")
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]
