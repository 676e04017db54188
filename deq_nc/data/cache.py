"""Decoded images, kept as uncompressed .npy: decoding 60,000 PNGs takes some ten seconds, mapping them takes none.

An entry is a folder `<root>/<key>-<fingerprint>/` of four arrays and `meta.json`, which holds their checksums and its
own. It is written as a draft and renamed, so that a run killed while writing leaves nothing that looks like an entry.
Who reads an entry deletes nothing; who writes one also removes what killed writers left.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deq_nc.data.files import reason
from deq_nc.data.source import Source
from deq_nc.disk import patiently, regular
from deq_nc.names import printable

log = logging.getLogger("deq_nc.data")
ARRAYS = {"train_images": (np.uint8, 4), "train_labels": (np.int32, 1)}
ARRAYS |= {"test_images": (np.uint8, 4), "test_labels": (np.int32, 1)}
DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)  # a file is missing or no regular file
DRAFT, ASIDE = ".draft-", ".damaged-"
DAY = 86_400.0


class _Damaged(ValueError):
    """An entry that is not what was written; any other error of reading says nothing of the entry."""


def cache_roots(data_dir: Path) -> list[Path]:
    """Where entries may lie: beside the data, and for read-only data in the user's cache folder."""
    try:
        user = [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deq_nc"]
    except RuntimeError:  # an account without a home
        user = []
    return [data_dir / ".deq_nc_cache", *user]


def cached(key: str, fingerprint: str, roots: Sequence[Path], decode: Callable[[], Source]) -> Source:
    """The entry under any of the roots, memory-mapped, or else `decode()`, kept under the first writable root.

    The fingerprint stands for the files decoded and the way they are decoded: a change of it is another entry. A
    damaged entry (checksum, missing file) is set aside and built again; one that the system cannot read is left alone.
    Either, and a cache that cannot be written, is logged and noted in the Source returned, never an error.
    """
    short = printable(key).encode()[:100].decode("utf-8", "ignore")  # no file system takes names of more than 255 bytes
    folder = f"{short}-{fingerprint[:16]}"
    notes: list[str] = []
    unreadable = False
    for root in roots:
        try:
            if (root / folder).is_dir():
                return _read_twice(root / folder)
        except _Damaged as error:
            notes.append(f"the cache {printable(root / folder)} was damaged ({printable(str(error))}); decoded again")
        except OSError as error:
            notes.append(f"the cache {printable(root / folder)} cannot be read now ({reason(error)}); decoded again")
            unreadable = True
    source = decode()
    if not unreadable:
        source, failures = _kept(folder, roots, source)
        notes += failures
    for note in notes:
        log.warning(note)
    return replace(source, notes=(*source.notes, *notes))


def _kept(folder: str, roots: Sequence[Path], source: Source) -> tuple[Source, list[str]]:
    """The source, mapped from the entry made of it, or itself and why no root could take it."""
    failures = []
    for root in roots:
        try:
            return _write(root / folder, source), []
        except OSError as error:  # read-only data, a full disk
            full = "" if error.errno else ": is the disk full?"  # NumPy counts bytes and names no cause
            failures.append(f"{printable(root)}: {reason(error)}{full}")
    return source, [f"decoded images could not be cached ({'; '.join(failures)}); the next run decodes again"]


def _read_twice(entry: Path) -> Source:
    """Another process may be replacing the entry, for the blink of an eye in which half of it is missing."""
    try:
        return _read(entry)
    except _Damaged:
        return _read(entry)


def _read(entry: Path) -> Source:
    """Raises _Damaged, or OSError where the system does not let it be read."""
    try:
        regular(entry / "meta.json")
        meta = json.loads(patiently((entry / "meta.json").read_bytes))
        if meta["crc32"] != _crc_of(meta["entry"]):
            raise ValueError("checksum of meta.json")
        found = meta["entry"]
        for name in ARRAYS:
            if patiently(partial(_crc_of_file, entry / f"{name}.npy")) != found["crc32"][name]:
                raise ValueError(f"checksum of {name}")
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        if any((a.dtype, a.ndim) != ARRAYS[name] for name, a in arrays.items()):
            raise ValueError("types of its arrays")
        if any(len(arrays[f"{s}_images"]) != len(arrays[f"{s}_labels"]) for s in ("train", "test")):
            raise ValueError("lengths of its arrays")
        return Source(found["name"], tuple(found["class_names"]), notes=tuple(found["notes"]), **arrays)
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        raise _Damaged(f"{Path(error.filename or entry).name}: {reason(error)}") from error
    except Exception as error:  # whatever json and NumPy make of garbage
        raise _Damaged(str(error)) from error


def _crc_of(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry, sort_keys=True).encode())


def _crc_of_file(path: Path) -> int:
    """By reading, not by mapping: an error of the disk then is an OSError, and no signal that ends the process."""
    regular(path)
    crc = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc


def _write(entry: Path, source: Source) -> Source:
    nearest = next(p for p in entry.parents if p.exists())
    if not nearest.stat().st_mode & 0o222:  # root may write anywhere, but read-only data were meant to stay so
        raise PermissionError(errno.EACCES, "read-only", str(nearest))
    entry.parent.mkdir(parents=True, exist_ok=True)
    _sweep(entry.parent)
    draft = Path(tempfile.mkdtemp(prefix=f"{DRAFT}{_host()}-{os.getpid()}-", dir=entry.parent))
    try:
        for name in ARRAYS:
            np.save(draft / f"{name}.npy", getattr(source, name))
        meta = {
            "name": source.name,
            "class_names": source.class_names,
            "notes": source.notes,
            "crc32": {name: _crc_of_file(draft / f"{name}.npy") for name in ARRAYS},
        }
        (draft / "meta.json").write_text(json.dumps({"entry": meta, "crc32": _crc_of(meta)}))
        draft.chmod(0o755)  # mkdtemp gives 0700, which would shut out the other users of a shared data folder
        ours = _read(draft)  # its maps outlive the renaming
        given = {name: np.ascontiguousarray(getattr(source, name)).data for name in ARRAYS}
        if any(zlib.crc32(given[name]) != zlib.crc32(getattr(ours, name)) for name in ARRAYS):
            raise _Damaged("other pixels")
        return _placed(draft, entry, ours)
    except _Damaged as error:
        raise OSError(f"what was written does not read back ({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _placed(draft: Path, entry: Path, ours: Source) -> Source:
    """The draft in the entry's place, unless another process was first; a damaged entry is set aside."""
    try:
        draft.rename(entry)
        return ours
    except OSError:
        if not entry.is_dir():
            raise
    try:
        return _read(entry)
    except _Damaged:
        aside = tempfile.mkdtemp(prefix=f"{ASIDE}{_host()}-{os.getpid()}-", dir=entry.parent)
        entry.rename(aside)
        os.utime(aside)  # its day begins now
        try:
            draft.rename(entry)
        except OSError:  # a third process put its own there meanwhile
            return _read(entry)
        return ours


def _sweep(root: Path) -> None:
    """Removes drafts of processes of this host that are gone, and drafts and damaged entries older than a day."""
    for path in [*root.glob(f"{DRAFT}*"), *root.glob(f"{ASIDE}*")]:
        try:
            old = time.time() - path.stat().st_mtime > DAY
        except OSError:
            continue  # just renamed or removed by its owner
        if old or (path.name.startswith(DRAFT) and _gone(path.name)):
            shutil.rmtree(path, ignore_errors=True)


def _gone(name: str) -> bool:
    host, _, rest = name.removeprefix(DRAFT).rpartition("-")[0].rpartition("-")
    if host != _host() or not rest.isdecimal():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it lives, under another account
    return False


def _host() -> str:
    return socket.gethostname().replace("/", "_")[:64]
