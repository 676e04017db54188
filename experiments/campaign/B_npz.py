"""Letter B4: .npz files of strangers: bits flipped, ends cut, headers that lie, types that are not numbers."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from deq_nc.collapse import measure, measure_npz, scalars
from deq_nc.npz import Npz, NpzError
from experiments.campaign import Case

N, D, K = 12, 4, 3


def run(quick: bool, seed: int) -> list[Case]:
    """2,000 damaged files read (200 if quick), 200 of them measured (20), and every claim and type listed below."""
    rng = np.random.default_rng(seed)
    arrays = dict(
        features=rng.standard_normal((N, D)).astype(np.float32),
        labels=np.arange(N) % K,
        weights=rng.standard_normal((K, D)).astype(np.float32),
        bias=np.ones(K, np.float32),
        majority=np.arange(K) < 1,
        mask=np.arange(N) < N - 1,
    )
    tries = 200 if quick else 2000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.npz"
        read = [_damaged(path, arrays, save, rng, tries // 2, _same) for save in (np.savez, np.savez_compressed)]
        want = scalars(measure(**arrays, num_classes=K))
        measured = _damaged(path, arrays, np.savez, rng, tries // 10, lambda path, _: _equal(measure_npz(path), want))
        odd = [_refused(path, name, write) for name, write in _oddities(arrays).items()]
    return [
        Case("bits flipped and ends cut, stored", tries // 2, tries // 2 - len(read[0]), tuple(read[0])),
        Case("bits flipped and ends cut, compressed", tries // 2, tries // 2 - len(read[1]), tuple(read[1])),
        Case("the same, measured", tries // 10, tries // 10 - len(measured), tuple(measured)),
        Case("claims, types and files that are odd", len(odd), odd.count(None), tuple(filter(None, odd))),
    ]


def _same(path, arrays) -> bool:
    got = dict(Npz(path))
    return got.keys() == arrays.keys() and all(
        got[k].dtype == arrays[k].dtype and np.array_equal(got[k], arrays[k]) for k in arrays
    )


def _equal(collapse, want) -> bool:
    return all(np.array_equal(value, want[name], equal_nan=True) for name, value in scalars(collapse).items())


def _damaged(path, arrays, save, rng, tries, right) -> list[str]:
    """What went wrong: anything but the right numbers or an NpzError that names the file."""
    buffer = io.BytesIO()
    save(buffer, **arrays)
    whole, faults = buffer.getvalue(), []
    for _ in range(tries):
        content, what = bytearray(whole), "bit"
        if rng.random() < 0.1:
            what, at = "cut", int(rng.integers(len(whole)))
            content = content[:at]
        else:
            at = int(rng.integers(8 * len(whole)))
            content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)
        try:
            if not right(path, arrays):
                faults.append(f"{what} {at}: other numbers without a word")
        except NpzError as error:
            if str(path) not in str(error):
                faults.append(f"{what} {at}: the file is not named: {error}")
        except Exception as error:
            faults.append(f"{what} {at}: {type(error).__name__}: {error}")
    return faults


def _oddities(arrays) -> dict:
    """Writers of files that must be refused by name."""

    def saved(**change):
        return lambda path: np.savez(path, **{k: v for k, v in (arrays | change).items() if v is not None})

    def member(content: bytes):
        def write(path):
            np.savez(path, **{k: v for k, v in arrays.items() if k != "features"})
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("features.npy", content)

        return write

    def header(text: str, data: bytes = b"") -> bytes:
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data

    def shaped(shape: str, descr: str = "<f4", data: bytes = bytes(48)):
        return member(header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}", data))

    def twice(path):
        saved()(path)
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as archive:
            archive.writestr("bias.npy", zipfile.ZipFile(path).read("bias.npy"))

    y = arrays["labels"]
    return {
        "14.6 TiB claimed": shaped("(2000000000000, 2)"),
        "sizes whose product wraps": shaped(f"({2**62}, 4)"),
        "negative sizes": shaped("(-3, -4)"),
        "a bomb": shaped("(2500000000000, 4)", data=bytes(10**8)),
        "a header of 60 kB": member(header(" " * 60_000)),
        "a header of brackets": member(header("[" * 5000)),
        "code for a header": member(header("__import__('os').abort()")),
        "a structured type": shaped("(3,)", "V8"),
        "two arrays of one name": twice,
        "text among the members": lambda path: zipfile.ZipFile(path, "w").writestr("readme.txt", "hello"),
        "string labels": saved(labels=np.array(["a"] * N)),
        "structured labels": saved(labels=np.zeros(N, [("a", int)])),
        "object labels": saved(labels=y.astype(object)),
        "float labels": saved(labels=y.astype(float)),
        "labels + 2^32": saved(labels=y + 2**32),
        "labels + 2^63": saved(labels=y.astype(np.uint64) + np.uint64(2**63)),
        "labels + 2^40, no weights": saved(labels=y + 2**40, weights=None, bias=None, majority=None),
        "complex features": saved(features=arrays["features"].astype(complex)),
        "integer features": saved(features=arrays["features"].astype(int)),
        "bias of another length": saved(bias=np.ones(K + 1, np.float32)),
        "majority of integers": saved(majority=np.arange(K)),
        "mask of floats": saved(mask=np.ones(N)),
        "mask of two axes": saved(mask=np.ones((N, 1), bool)),
        "weights [D, K]": saved(weights=arrays["weights"].T),
        "weights of no axis": saved(weights=np.float32(1)),
        "zero bytes": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_bytes(b"hello"),
        "a single array": lambda path: path.write_bytes(header("{}")),
        "a folder": lambda path: path.mkdir(),
        "a FIFO": lambda path: os.mkfifo(path),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    }


def _refused(path, name, write) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        path.rmdir() if path.is_dir() else path.unlink()
    write(path)
    try:
        measure_npz(path)
        return f"{name}: measured without a word"
    except NpzError as error:
        return None if str(path) in str(error) else f"{name}: the file is not named: {error}"
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
