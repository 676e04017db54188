"""B2, C12: images of strangers. Flipped, cut, mislabelled and swapped for what is no file; never opened, or said."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from deq_nc.config import DataConfig
from deq_nc.data import DataError, load
from deq_nc.data.cache import log
from deq_nc.data.pixels import FORMATS, decode
from experiments.campaign import Case

OPTIONS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}


def run(quick: bool, seed: int) -> list[Case]:
    """Files of a folder set, through `load`: a DataError that names the file, or images; nothing else holds."""
    rng = np.random.default_rng(seed)
    tries = 40 if quick else 1500  # of flipped and of cut files each
    cases = []
    with tempfile.TemporaryDirectory() as scratch, _no_cache():
        root = _set(Path(scratch) / "set", rng)
        for suffix in (".png", ".jpg", ".bmp", ".gif", ".webp"):
            whole = _encoded(_picture(rng, FORMATS[suffix]), FORMATS[suffix])
            cases.append(_case(f"{suffix} flipped", root, suffix, whole, _flipped(whole, tries, rng)))
            cases.append(_case(f"{suffix} cut short", root, suffix, whole, _cut(whole, tries, rng)))
        cases.append(_mislabelled(root, rng))
        cases.append(_no_files(root))
    return cases


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """A cache for each of thousands of sets would be most of the work: there is no place for one."""
    level, home = log.level, os.environ.get("XDG_CACHE_HOME")
    log.setLevel(logging.CRITICAL)
    os.environ["XDG_CACHE_HOME"] = "/dev/null"
    try:
        yield
    finally:
        log.setLevel(level)
        os.environ.pop("XDG_CACHE_HOME")
        if home is not None:
            os.environ["XDG_CACHE_HOME"] = home


def _picture(rng: np.random.Generator, format: str) -> Image.Image:
    """24 x 24 of blocks and noise; where the format can, with alpha and EXIF, which have parsers of their own."""
    rgba = rng.integers(0, 256, (6, 6, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    return Image.fromarray(rgba if format in ("PNG", "WEBP") else np.ascontiguousarray(rgba[..., :3]))


def _encoded(image: Image.Image, format: str) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif} if format in ("PNG", "JPEG", "WEBP") else {}
    image.save(out, format, **OPTIONS.get(format, {}), **more)
    return out.getvalue()


def _set(root: Path, rng: np.random.Generator) -> Path:
    for k in "ab":
        (root / k).mkdir(parents=True)
        for i in range(2):
            _picture(rng, "BMP").save(root / k / f"{i}.bmp")
    root.chmod(0o555)  # data that are read-only get no cache beside them
    return root


def _flipped(whole: bytes, tries: int, rng: np.random.Generator) -> Iterator[bytes]:
    """One bit in a file, half of them in its first 200 bytes."""
    for i in range(tries):
        data = bytearray(whole)
        data[rng.integers(min(len(data), 200) if i % 2 else len(data))] ^= 1 << rng.integers(8)
        yield bytes(data)


def _cut(whole: bytes, tries: int, rng: np.random.Generator) -> Iterator[bytes]:
    for _ in range(tries):
        yield whole[: rng.integers(len(whole))]


def _case(name: str, root: Path, suffix: str, whole: bytes, files: Iterator[bytes]) -> Case:
    """Silent is a PNG of other pixels, or a file cut short that is taken for whole: those formats can tell."""
    truth = decode(whole, 3, None, Counter())
    must_tell = suffix == ".png" or "cut" in name
    file = root / "a" / f"z{suffix}"
    tried, faults = 0, []
    for data in files:
        tried += 1
        file.write_bytes(data)
        try:
            found = load(DataConfig(name="folder", dir=str(root), image_size=24)).train_images
            kept = any(np.array_equal(image, truth) for image in found)
            if must_tell and not kept and _decodes_otherwise(data, truth, suffix):
                faults.append(f"{name} {tried}: other pixels, silently")
        except DataError as error:
            if file.name not in str(error):
                faults.append(f"{name} {tried}: does not name the file: {error}")
        except Exception as error:
            faults.append(f"{name} {tried}: {type(error).__name__}: {error}")
    file.unlink()
    return Case(name, tried, tried - len(faults), tuple(faults))


def _decodes_otherwise(data: bytes, truth: np.ndarray, suffix: str) -> bool:
    """A fifth of the images is held out as test, so that an image may be absent from train."""
    return not np.array_equal(decode(data, 3, None, Counter(), [FORMATS[suffix]]), truth)


def _mislabelled(root: Path, rng: np.random.Generator) -> Case:
    """Every format Pillow can write, and EPS, under every suffix that is not its own."""
    contents = {"EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"}
    Image.init()
    for format in sorted(Image.SAVE):
        out = io.BytesIO()
        try:
            _picture(rng, "BMP").save(out, format)
            contents[format] = out.getvalue()
        except Exception:
            continue  # a writer that needs a file, another mode or a program
    tried, faults = 0, []
    for format, data in contents.items():
        for suffix, own in FORMATS.items():
            if {format, own} in ({"MPO", "JPEG"}, {"BMP", "DIB"}) or format == own:
                continue
            tried += 1
            faults += _refused(root, f"z{suffix}", lambda file, data=data: file.write_bytes(data), format)
    return Case("mislabelled, among them EPS", tried, tried - len(faults), tuple(faults))


def _no_files(root: Path) -> Case:
    makers: dict[str, Callable[[Path], object]] = {
        "a FIFO": os.mkfifo,
        "a directory": Path.mkdir,
        "a link to a device": lambda file: file.symlink_to("/dev/zero"),
        "a link in a circle": lambda file: file.symlink_to(file),
        "a link to nowhere": lambda file: file.symlink_to(root / "absent"),
    }
    faults = [fault for what, make in makers.items() for fault in _refused(root, "z.png", make, what)]
    return Case("no regular file", len(makers), len(makers) - len(faults), tuple(faults))


def _refused(root: Path, name: str, make: Callable[[Path], object], what: str) -> list[str]:
    file = root / "a" / name
    make(file)
    try:
        load(DataConfig(name="folder", dir=str(root), image_size=24))
        return [f"{what} as {name}: read"]
    except DataError as error:
        return [] if name in str(error) else [f"{what} as {name}: does not name the file: {error}"]
    except Exception as error:
        return [f"{what} as {name}: {type(error).__name__}: {error}"]
    finally:
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
