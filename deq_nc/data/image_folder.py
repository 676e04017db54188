"""A folder of class folders: `DIR/train/<class>/*.png`, `DIR/test/<class>/*.png`; or `DIR/<class>/*.png` alone."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np

from deq_nc.data import pixels
from deq_nc.data.cache import cache_roots, cached
from deq_nc.data.files import home, read_bytes, reason
from deq_nc.data.source import DataError, Source, stratified_split
from deq_nc.disk import patiently, regular
from deq_nc.names import printable

TEST_NAMES = ("test", "val", "validation")
TEST_FRACTION, SPLIT_SEED = 0.2, 0  # of a set that comes without a test split
_LAYOUT = "Expected DIR/train/<class>/*.png (and DIR/test/<class>/*.png), or DIR/<class>/*.png."

Listing = tuple[tuple[str, ...], list[Path], np.ndarray]  # class names, files, labels


def load_folder(directory: str | None, size: int | None = None) -> Source:
    """Every PNG, JPEG, BMP, GIF or WebP of the folder, grey if all are grey, else RGB; the classes sorted by name.

    Without a test folder a fixed fifth of each class is held out, and noted. size: side in pixels to resize to. Raises
    DataError for a missing or empty folder, a class without images, images of several sizes or of 16 bits, and with
    its name for a file that cannot be read, is not what its suffix says, or no regular file.
    """
    if directory is None:
        raise DataError(f"data.dir: the data set 'folder' needs the folder DIR of class folders. {_LAYOUT}")
    root = home(directory)
    if not _is_dir(root):
        raise DataError(f"data.dir: there is no folder {printable(root)}. {_LAYOUT}")
    train_root = root / "train" if _is_dir(root / "train") else root
    test_root = next((root / n for n in TEST_NAMES if train_root != root and _is_dir(root / n)), None)
    train = _listing(train_root)
    test = None if test_root is None else _listing(test_root, train[0])
    stamps = [_stamp(file, root) for file in [*train[1], *(test[1] if test else [])]]
    fingerprint = hashlib.sha256(repr((stamps, size, "2")).encode()).hexdigest()
    name = printable(root.resolve().name) or "folder"
    return cached(f"folder-{name}", fingerprint, cache_roots(root), lambda: _decode(name, train, test, size))


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read ({reason(error)}). Mend or replace it.") from error


def _stamp(file: Path, root: Path) -> tuple[str, int, int]:
    try:
        found = regular(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    return str(file.relative_to(root)), found.st_size, found.st_mtime_ns


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{printable(file)} is not a readable image ({reason(error)}). Replace or remove it.")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(patiently(lambda: list(folder.iterdir())))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be listed ({reason(error)}). Mend or replace it.") from error


def _text(name: str) -> str:
    """A file's name as UTF-8, whatever the locale of this process takes its bytes for. Raises UnicodeDecodeError."""
    return os.fsencode(name).decode()


def _listing(root: Path, classes: tuple[str, ...] | None = None) -> Listing:
    found = tuple(p.name for p in _children(root) if not p.name.startswith(".") and _is_dir(p))
    for name in found:
        try:
            _text(name)
        except UnicodeDecodeError:
            raise DataError(
                f"{printable(root)} holds a class whose name is not UTF-8: {printable(name)}. Rename it."
            ) from None
    if classes is None:
        classes = found
    if len(classes) < 2:
        raise DataError(f"{printable(root)} holds {len(found)} class folders; at least 2 are needed. {_LAYOUT}")
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(
            f"{printable(root)} holds classes that the train folder lacks: {printable(', '.join(unknown))}. "
            "Rename or remove them."
        )
    files, labels = [], []
    for k, name in enumerate(classes):
        members = [p for p in _children(root / name) if p.suffix.lower() in pixels.FORMATS]
        if not members:
            raise DataError(
                f"{printable(root / name)} holds no image ({', '.join(sorted(pixels.FORMATS))}). Add some, or remove "
                "the class."
            )
        files += members
        labels += [k] * len(members)
    return classes, files, np.array(labels, np.int32)


def _decode(name: str, train: Listing, test: Listing | None, size: int | None) -> Source:
    folders, files, labels = train
    classes = tuple(map(_text, folders))
    test_files, test_labels = ([], np.empty(0, np.int32)) if test is None else test[1:]
    channels = _check_headers([*files, *test_files], size)

    seen: Counter[str] = Counter()

    def read(paths: list[Path]) -> np.ndarray:
        return pixels.stack((_image(p, channels, size, seen) for p in paths), len(paths), lambda i: printable(paths[i]))

    images = read(files)
    if test is not None:
        tested = read(test_files)
        return Source(name, classes, images, labels, tested, test_labels, pixels.notes(seen, name))
    kept, held = stratified_split(labels, TEST_FRACTION, SPLIT_SEED)
    note = f"{name} has no test folder: a fixed stratified {TEST_FRACTION:.0%} is held out as test"
    known = (note, *pixels.notes(seen, name))
    return Source(name, classes, images[kept], labels[kept], images[held], labels[held], known)


def _formats(file: Path) -> list[str]:
    return [pixels.FORMATS[file.suffix.lower()]]


def _check_headers(files: list[Path], size: int | None) -> int:
    """Channels of the whole set; sizes are refused here, from the headers, before anything is decoded."""
    channels, first = 1, None
    for file in files:
        try:
            with file.open("rb") as data:
                grey, shape = pixels.header(data, _formats(file))
        except Exception as error:  # Pillow's readers raise what they like
            raise _unreadable(file, error) from error
        if not grey:
            channels = 3
        first = first or shape
        if size is None and sorted(shape) != sorted(first):  # EXIF may swap them, which is known once decoded
            raise pixels.different_sizes(printable(files[0]), first, printable(file), shape)
    return channels


def _image(file: Path, channels: int, size: int | None, seen: Counter[str]) -> np.ndarray:
    try:
        return pixels.decode(read_bytes(file, pixels.MAX_BYTES), channels, size, seen, _formats(file))
    except Exception as error:
        raise _unreadable(file, error) from error
