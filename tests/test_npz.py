"""Files of strangers: what an .npz claims is checked before it is believed, and no damage is read as numbers."""

import io
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest

import deq_nc.npz
from deq_nc.npz import Npz, NpzError

X = np.arange(12, dtype=np.float32).reshape(3, 4)
ARRAYS = dict(features=X, labels=np.arange(3), bias=np.array([0.5, 1, 2]), mask=np.array([True, False, True]))


def npy(shape="(3, 4)", data=bytes(48), header=None):
    """A .npy whose header says what it likes."""
    text = header or f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_wrote(tmp_path, save):
    more = dict(
        big=X.astype(">f8"),
        fortran=np.asfortranarray(X),
        scalar=np.float16(2),
        none=np.zeros((0, 5)),
        byte=np.uint8([7]),
    )
    save(tmp_path / "f.npz", **ARRAYS, **more, half=X.astype(ml_dtypes.bfloat16))
    arrays = Npz(tmp_path / "f.npz")
    assert list(arrays) == [*ARRAYS, *more, "half"] and arrays.headers["features"].shape == (3, 4)
    for name, want in {**ARRAYS, **more}.items():
        got = arrays[name]
        assert got.dtype == np.asarray(want).dtype.newbyteorder("=") and got.shape == np.shape(want)
        np.testing.assert_array_equal(got, want)
    assert arrays["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(arrays["half"].astype(np.float32), X)
    with pytest.raises(KeyError):
        arrays["other"]


@pytest.mark.parametrize(
    "content, message",
    [
        (npy(shape="(2000000000000, 2)"), "takes 16,000,000,000,0.* bytes, got 1"),  # 14.6 TiB
        (npy(shape="(-3, -4)"), "sizes >= 0"),
        (npy(shape="(3, True)"), "sizes >= 0"),
        (npy(shape="(3, 3)"), "bytes, got"),
        (npy(header="{'descr': '<f4'"), "EOF"),
        (npy(header="[" * 3000), ""),
        (npy(header=" " * 20_000), "at most 10000 bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(2**20), "at most 10000 bytes"),
        (b"\x93NUMPY\x09\x00", r"expected .npy version 1.0 or 2.0, got 9.0"),
        (b"", "EOF"),
    ],
    ids=range(10),
)
def test_a_header_that_cannot_be_true_is_refused_before_anything_is_read(tmp_path, content, message):
    with pytest.raises(NpzError, match=f"f.npz: features is damaged.*{message}"):
        Npz(archive(tmp_path / "f.npz", features=content))


@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.zeros(2, [("a", "f4")]), np.zeros(2, complex), np.zeros(2, "M8[s]"), np.zeros(3, "V3")],
)
def test_only_numbers_are_read(tmp_path, array):
    np.savez(tmp_path / "f.npz", x=array, good=X)
    arrays = Npz(tmp_path / "f.npz")
    np.testing.assert_array_equal(arrays["good"], X)
    with pytest.raises(NpzError, match="f.npz: x: expected plain numbers"):
        arrays["x"]


def test_pickles_are_not_loaded(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.array([{}], object))
    with pytest.raises(NpzError, match="x would need pickle"):
        Npz(tmp_path / "f.npz")["x"]


def test_bombs_are_refused(tmp_path, monkeypatch):
    archive(tmp_path / "f.npz", features=npy(shape="(2500000, 4)", data=bytes(40_000_000)))  # 40 kB
    monkeypatch.setattr(deq_nc.npz, "free_memory", lambda: 1e7)
    with pytest.raises(NpzError, match=r"free memory, 0.0 GB, got 4e\+07 bytes"):
        Npz(tmp_path / "f.npz")["features"]
    raw = bytearray((tmp_path / "f.npz").read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 20 : entry + 24] = (1000).to_bytes(4, "little")
    (tmp_path / "f.npz").write_bytes(raw)
    with pytest.raises(NpzError, match="expected at most 1032064 bytes of 1000 in the file"):
        Npz(tmp_path / "f.npz")


def test_things_that_are_not_archives(tmp_path):
    path = tmp_path / "f.npz"
    with pytest.raises(FileNotFoundError):
        Npz(path)
    for content, message in (
        (b"", "an empty file"),
        (b"text", "4 bytes of something else"),
        (b"PK\x03\x04", "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(NpzError, match=f"f.npz: .*{message}"):
            Npz(path)
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(NpzError, match="single array"):
        Npz(tmp_path / "a.npy")
    os.mkfifo(tmp_path / "pipe.npz")  # nothing waits for its other end
    for odd in (tmp_path, tmp_path / "pipe.npz", "/dev/null"):
        with pytest.raises(NpzError, match="got a folder, pipe or device"):
            Npz(odd)
    with pytest.raises(NpzError, match="File name too long"):
        Npz(tmp_path / ("x" * 300))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_is_read_as_numbers(tmp_path, save):
    """Every array as it was written, or an NpzError; single flips and cuts in every third byte."""
    buffer = io.BytesIO()
    save(buffer, **ARRAYS)
    whole, path, refused = buffer.getvalue(), tmp_path / "f.npz", 0
    rng = np.random.default_rng(0)
    for i in range(0, len(whole), 3):
        bad = bytearray(whole)
        bad[i] ^= 1 << rng.integers(8)
        path.write_bytes(bad if rng.random() < 0.9 else whole[:i])
        try:
            got = dict(Npz(path))
        except NpzError as error:
            assert str(error).startswith(str(path))
            refused += 1
        else:
            assert got.keys() == ARRAYS.keys()
            for name, want in ARRAYS.items():
                assert got[name].dtype == want.dtype
                np.testing.assert_array_equal(got[name], want)
    assert refused > len(whole) / 12
