"""Decoded images, kept as uncompressed .npy: decoding 60,000 PNGs takes some ten seconds, mapping them takes none.

An entry is a folder `<root>/<key>-<fingerprint>/` of four arrays and `meta.json` with their checksums. It is written
under another name and renamed, so that a run killed while writing leaves nothing that looks like an entry.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from deq_nc.data.source import Source

log = logging.getLogger("deq_nc.data")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def cache_roots(data_dir: Path) -> tuple[Path, Path]:
    """Where entries may lie: beside the data, and for read-only data in the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return data_dir / ".deq_nc_cache", user / "deq_nc"


def cached(key: str, fingerprint: str, roots: Sequence[Path], decode: Callable[[], Source]) -> Source:
    """The entry under any of the roots, memory-mapped, or else `decode()`, kept under the first writable root.

    The fingerprint stands for the files decoded and the way they are decoded: a change of it is another entry. A
    damaged entry (checksum, shape, missing file) is rebuilt; that, and a cache that cannot be written, is logged and
    noted in the Source returned, never an error.
    """
    folder = f"{key}-{fingerprint[:16]}"
    notes: list[str] = []
    for root in roots:
        entry = root / folder
        if entry.is_dir():
            try:
                return _read(entry)
            except (OSError, ValueError, KeyError) as error:
                notes.append(f"the cache {entry} was damaged ({error}); decoded again")
                log.warning(notes[-1])
                shutil.rmtree(entry, ignore_errors=True)
    source = decode()
    failures = []
    for root in roots:
        try:
            source = _write(root / folder, source)
            break
        except OSError as error:  # read-only data, a full disk
            failures.append(f"{root}: {error.strerror or error}")
    else:
        notes.append("decoded images could not be cached (" + "; ".join(failures) + "); the next run decodes again")
        log.warning(notes[-1])
    return replace(source, notes=(*source.notes, *notes))


def _read(entry: Path) -> Source:
    meta = json.loads((entry / "meta.json").read_text())
    arrays = {}
    for name in ARRAYS:
        array = np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if zlib.crc32(array) != meta["crc32"][name]:
            raise ValueError(f"checksum of {name}")
        arrays[name] = array
    return Source(meta["name"], tuple(meta["class_names"]), notes=tuple(meta["notes"]), **arrays)


def _write(entry: Path, source: Source) -> Source:
    nearest = next(p for p in entry.parents if p.exists())
    if not nearest.stat().st_mode & 0o222:  # root may write anywhere, but read-only data were meant to stay so
        raise PermissionError(errno.EACCES, "read-only", str(nearest))
    entry.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=entry.parent))
    try:
        for name in ARRAYS:
            np.save(draft / f"{name}.npy", getattr(source, name))
        meta = {
            "name": source.name,
            "class_names": source.class_names,
            "notes": source.notes,
            "crc32": {name: zlib.crc32(np.ascontiguousarray(getattr(source, name))) for name in ARRAYS},
        }
        (draft / "meta.json").write_text(json.dumps(meta))
        draft.chmod(0o755)  # mkdtemp gives 0700, which would shut out the other users of a shared data folder
        try:
            draft.rename(entry)
        except OSError:  # another process was first, with the same content
            if not entry.is_dir():
                raise
        return _read(entry)
    except ValueError as error:
        raise OSError(f"what was written does not read back ({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
