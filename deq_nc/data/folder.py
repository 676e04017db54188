"""A folder of class folders: `DIR/train/<class>/*.png`, `DIR/test/<class>/*.png`; or `DIR/<class>/*.png` alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from deq_nc.data import pixels
from deq_nc.data.cache import cache_roots, cached
from deq_nc.data.source import DataError, Source, stratified_split

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
TEST_NAMES = ("test", "val", "validation")
TEST_FRACTION, SPLIT_SEED = 0.2, 0  # of a set that comes without a test split
_LAYOUT = "Expected DIR/train/<class>/*.png (and DIR/test/<class>/*.png), or DIR/<class>/*.png."

Listing = tuple[tuple[str, ...], list[Path], np.ndarray]  # class names, files, labels


def load_folder(directory: str | None, size: int | None = None) -> Source:
    """Every PNG, JPEG, BMP, GIF or WebP of the folder, grey if all are grey, else RGB; the classes sorted by name.

    Without a test folder a fixed fifth of each class is held out, and noted. size: side in pixels to resize to. Raises
    DataError for a missing or empty folder, a class without images, images of several sizes or of 16 bits.
    """
    if directory is None:
        raise DataError(f"data.dir: the data set 'folder' needs the folder DIR of class folders. {_LAYOUT}")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise DataError(f"data.dir: there is no folder {root}. {_LAYOUT}")
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = next((root / n for n in TEST_NAMES if train_root != root and (root / n).is_dir()), None)
    train = _listing(train_root)
    test = None if test_root is None else _listing(test_root, train[0])
    files = [*train[1], *(test[1] if test else [])]
    stamps = [(str(f.relative_to(root)), (stat := f.stat()).st_size, stat.st_mtime_ns) for f in files]
    fingerprint = hashlib.sha256(repr((stamps, size, "1")).encode()).hexdigest()
    name = root.resolve().name or "folder"
    return cached(f"folder-{name}", fingerprint, cache_roots(root), lambda: _decode(name, train, test, size))


def _listing(root: Path, classes: tuple[str, ...] | None = None) -> Listing:
    found = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if classes is None:
        classes = found
    if len(classes) < 2:
        raise DataError(f"{root} holds {len(found)} class folders; at least 2 are needed. {_LAYOUT}")
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(
            f"{root} holds classes that the train folder lacks: {', '.join(unknown)}. Rename or remove them."
        )
    files, labels = [], []
    for k, name in enumerate(classes):
        members = sorted(p for p in (root / name).glob("*") if p.suffix.lower() in SUFFIXES)
        if not members:
            raise DataError(
                f"{root / name} holds no image ({', '.join(sorted(SUFFIXES))}). Add some or remove the class."
            )
        files += members
        labels += [k] * len(members)
    return classes, files, np.array(labels, np.int32)


def _decode(name: str, train: Listing, test: Listing | None, size: int | None) -> Source:
    classes, files, labels = train
    test_files, test_labels = ([], np.empty(0, np.int32)) if test is None else test[1:]
    channels = _check_headers([*files, *test_files], size)

    def read(paths: list[Path]) -> np.ndarray:
        return pixels.stack((_image(p, channels, size) for p in paths), len(paths), lambda i: str(paths[i]))

    images = read(files)
    if test is not None:
        return Source(name, classes, images, labels, read(test_files), test_labels)
    kept, held = stratified_split(labels, TEST_FRACTION, SPLIT_SEED)
    note = f"{name} has no test folder: a fixed stratified {TEST_FRACTION:.0%} is held out as test"
    return Source(name, classes, images[kept], labels[kept], images[held], labels[held], (note,))


def _check_headers(files: list[Path], size: int | None) -> int:
    """Channels of the whole set; sizes and depths are refused here, from the headers, before anything is decoded."""
    channels, first = 1, None
    for file in files:
        try:
            with Image.open(file) as image:
                mode, shape = image.mode, (image.height, image.width)
        except OSError as error:
            raise DataError(f"{file} is not a readable image ({error}). Replace or remove it.") from error
        if mode.startswith(("I", "F")):
            raise DataError(f"{file} has more than 8 bits a channel (mode {mode}). Convert it to 8 bits.")
        if mode not in ("L", "1"):
            channels = 3
        first = first or shape
        if size is None and shape != first:
            raise pixels.different_sizes(str(files[0]), first, str(file), shape)
    return channels


def _image(file: Path, channels: int, size: int | None) -> np.ndarray:
    try:
        return pixels.decode(file, channels, size)
    except OSError as error:
        raise DataError(f"{file} is not a readable image ({error}). Replace or remove it.") from error
