"""Arrays out of an .npz that anyone may have written: what it claims is checked before anything is read.

An .npz is a zip of .npy members. A member's header names a dtype and a shape; the zip says how many bytes there are.
Nothing is unpickled, nothing is allocated that the file or the memory cannot hold, and the CRC of every array read is
compared. Only bool, integer and floating point arrays are read; two-byte void is bfloat16, which numpy writes so.
"""

from __future__ import annotations

import errno
import io
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

LONGEST_HEADER = 10_000  # bytes; numpy writes 128 and refuses to parse more than these
RATIO = 1032  # deflate makes at most so many bytes of one
MARGIN = 64  # bytes of a deflated member that need not follow RATIO
CHUNK = 2**24
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class NpzError(ValueError):
    """An .npz that cannot be read, or not safely; the message names the file, what was expected and what came."""


class Header(NamedTuple):
    """Shape, dtype (native byte order) and layout of an array in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    stored: np.dtype
    fortran: bool

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether `Npz` reads it: bool, integers, float16, float32, float64 and bfloat16."""
        d = self.dtype
        return d == BFLOAT16 or d.kind in "biu" or (d.kind == "f" and d.itemsize <= 8)


class Npz(Mapping[str, np.ndarray]):
    """The arrays of an .npz by name; headers [name] are read now, an array when it is asked for, and it is not kept.

    Raises FileNotFoundError; NpzError for what is not a regular file or not an .npz, and for members whose header,
    sizes or checksum disagree; from [name] also for arrays that are not plain or larger than the free memory.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        with self._archive() as archive:
            members = archive.infolist()
            if odd := [m.filename for m in members if not m.filename.endswith(".npy")]:
                raise NpzError(f"{path}: expected .npy members only, got {odd[0]!r}. Write it with numpy.savez.")
            names = [m.filename.removesuffix(".npy") for m in members]
            if len(set(names)) < len(names):
                raise NpzError(f"{path}: expected one array of a name, got two of the same. Write the file again.")
            self._members = dict(zip(names, (m.filename for m in members)))
            self.headers: dict[str, Header] = {}
            for name, member in zip(names, members):
                with self._reading(name), archive.open(member) as file:
                    self.headers[name] = _checked_header(file, member)

    def __getitem__(self, name: str) -> np.ndarray:
        header = self.headers[name]
        if header.dtype.hasobject:
            raise NpzError(f"{self.path}: {name} would need pickle, which can run code; refused. Save a plain array.")
        if not header.plain:
            raise NpzError(f"{self.path}: {name}: expected plain numbers, got {header.dtype}. Save floats or integers.")
        if header.nbytes > (free := free_memory()):
            raise NpzError(
                f"{self.path}: {name}: expected at most the free memory, {free / 1e9:.1f} GB, got {header.nbytes:.3g} "
                "bytes. Save fewer rows, or use deq_nc.collapse.measure_stream."
            )
        with self._archive() as archive, self._reading(name), archive.open(self._members[name]) as file:
            if _checked_header(file, archive.getinfo(self._members[name])) != header:
                raise ValueError("it changed while it was read")
            return _read(file, header)

    def __contains__(self, name: object) -> bool:
        return name in self.headers  # a Mapping's own would read the array

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        with self._reading(None):
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # opening a FIFO would wait for ever
                raise NpzError(
                    f"{self.path}: expected an .npz file, got a folder, pipe or device. Name the file itself."
                )
        with self._reading(None), open(self.path, "rb") as file:
            start = file.read(6)
            if start == b"\x93NUMPY":
                raise NpzError(f"{self.path}: expected an .npz archive, got a single array. Use numpy.savez.")
            if start[:2] != b"PK":
                what = f"{os.fstat(file.fileno()).st_size} bytes of something else" if start else "an empty file"
                raise NpzError(f"{self.path}: not an .npz archive but {what}. Write it with numpy.savez.")
            with zipfile.ZipFile(file) as archive:
                file.seek(-22, os.SEEK_END)  # zipfile does not compare how many members the end of the archive counts
                end, count = file.read(12), min(len(archive.infolist()), 0xFFFF)
                if end[:4] != b"PK\x05\x06" or int.from_bytes(end[10:], "little") != count:
                    raise ValueError(f"its last 22 bytes do not count the {count} members found")
                yield archive

    @contextmanager
    def _reading(self, name: str | None) -> Iterator[None]:
        """Whatever goes wrong inside as NpzError: a damaged zip raises nearly any exception."""
        what = "the archive" if name is None else name if name.isidentifier() else repr(name)
        try:
            yield
        except NpzError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.path}: no such file. Write one with numpy.savez.") from error
        except MemoryError as error:
            raise NpzError(f"{self.path}: {what} does not fit in memory. Save fewer rows.") from error
        except OSError as error:
            if error.errno in (None, errno.EINVAL):  # an impossible offset
                raise NpzError(f"{self.path}: {what} is damaged ({error}). Write the file again.") from error
            raise NpzError(f"{self.path}: {what} could not be read ({error.strerror}). Try again.") from error
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise NpzError(f"{self.path}: {what} is damaged ({reason}). Write the file again.") from error


def _checked_header(file: IO[bytes], member: zipfile.ZipInfo) -> Header:
    """The header at the start of a member, which must account for every byte of it. Raises anything for damage."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"expected it stored or deflated, got zip method {member.compress_type}")
    size, packed = member.file_size, member.compress_size
    most = packed if member.compress_type == zipfile.ZIP_STORED else RATIO * packed + MARGIN
    if size > most:
        raise ValueError(f"expected at most {most} bytes of {packed} in the file, got a claim of {size}")
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected .npy version 1.0 or 2.0, got {version[0]}.{version[1]}")
    digits = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(digits, "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"expected a header of at most {LONGEST_HEADER} bytes, got {length}")
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(io.BytesIO(digits + file.read(length)))
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"expected sizes >= 0, got shape {list(shape)}")
    plain = dtype.fields is None and dtype.subdtype is None
    native = BFLOAT16 if plain and dtype.kind == "V" and dtype.itemsize == 2 else dtype.newbyteorder("=")
    header = Header(shape, native, dtype, fortran)
    start = file.tell()
    if not dtype.hasobject and start + header.nbytes != size:  # a pickle has no size of its own
        raise ValueError(f"{dtype} {list(shape)} takes {start + header.nbytes:,} bytes, got {size:,}")
    return header


def _read(file: Any, header: Header) -> np.ndarray:
    flat = np.empty(math.prod(header.shape), header.stored)
    data = (flat.view(np.uint8) if flat.size else np.empty(0, np.uint8)).data
    done = 0
    while done < len(data):
        if not (got := file.readinto(data[done : done + CHUNK])):
            raise EOFError("it ends early")
        done += got
    if file.read(1):  # reading to the end is what compares the CRC
        raise ValueError("it goes on beyond its end")
    flat = flat.view(BFLOAT16) if header.dtype == BFLOAT16 else flat.astype(header.dtype, copy=False)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def free_memory() -> float:
    """Bytes that can be had without swapping, the container's limit at most; infinite where the system does not say."""
    free = math.inf
    try:
        with open("/proc/meminfo") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        with open("/sys/fs/cgroup/memory.max") as limit:
            free = min(free, float(limit.read()))
    except (OSError, StopIteration, ValueError):  # memory.max holds "max" where there is no limit
        pass
    return free
