"""Image classification sets that TensorFlow Datasets (TFDS) has prepared, read without TensorFlow.

Any prepared folder `<data_dir>/<name>[/<config>]/<version>/` with images and class labels will do: array_record files
through TFDS's own reader, tfrecord files (what a TensorFlow user has) through a reader of the record frame here.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deq_nc.data import pixels
from deq_nc.data.cache import cache_roots, cached, log
from deq_nc.data.files import home, reason
from deq_nc.data.image_folder import SPLIT_SEED, TEST_FRACTION
from deq_nc.data.source import DataError, Source, stratified_split
from deq_nc.data.tfds_check import check_builder, check_classes, check_folder
from deq_nc.names import printable

EMBEDDED = ("digits", "synthetic", "folder")
PREPARABLE = ("cifar10", "cifar100")  # without TensorFlow, by deq_nc.data.prepare


def data_dir(given: str | None) -> Path:
    """The folder of prepared sets: the one given, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = given or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in chosen:
        raise DataError(f"data.dir: {chosen} is not on this machine. Copy the set to a local disk; name its folder.")
    return home(chosen)


def prepared(root: Path) -> list[str]:
    """Names (`name` or `name/config`) under a data_dir that have a `dataset_info.json`."""
    found = {p.parent.parent for pattern in ("*/*/", "*/*/*/") for p in root.glob(pattern + "dataset_info.json")}
    return sorted(str(p.relative_to(root)) for p in found)


def locate(name: str, root: Path) -> Path:
    """The version folder of `name`, `name/config` or `name:version`, the newest version unless named.

    Looks for `dataset_info.json` before TFDS is imported, so that missing data are reported at once. Raises DataError.
    """
    base, _, version = name.partition(":")
    if "" not in base.split("/") and ".." not in base.split("/") and len(os.fsencode(name)) < 200:
        versions = sorted(
            (p.parent for p in (root / base).glob(f"{version or '*'}/dataset_info.json")),
            key=lambda p: [int(part) if part.isdecimal() else -1 for part in p.name.split(".")],
        )
        if versions:
            return versions[-1]
    here = prepared(root)
    known = [*EMBEDDED, *PREPARABLE, *here]
    close = difflib.get_close_matches(base, known, 1)
    hint = f" Did you mean {close[0]!r}?" if close and close[0] != base else ""
    raise DataError(
        f"data.name: {name!r} is neither embedded nor prepared (no {root / base}/{version or '<version>'}/"
        f"dataset_info.json).{hint}\n"
        f"  embedded: {', '.join(EMBEDDED)}; prepared in {root}: {', '.join(here) or 'nothing'}\n"
        f"  to prepare it: deq-nc data prepare {base} --data-dir {root} (after make: .venv/bin/deq-nc ...)\n"
        f"  prepared on another machine: copy its folder {base}/<version>/ (dataset_info.json and the record files) "
        f"into {root / base}/\n"
        "  prepared elsewhere on this one: pass --data.dir DIR, or set TFDS_DATA_DIR"
    )


def load_tfds(name: str, directory: str | None = None, size: int | None = None) -> Source:
    """The set `name` of the data_dir, decoded once and cached. size: side in pixels to resize to.

    The test split is `test`, else `validation`, else a fixed stratified fifth of train, which is noted. Raises
    DataError where data are missing, damaged, no image classification set, or of several sizes with size None.
    """
    root = data_dir(directory)
    folder = locate(name, root)
    found = check_folder(folder)
    fingerprint = hashlib.sha256(repr((found.stamps, list(found.texts.values()), size, "2")).encode()).hexdigest()
    relative = folder.relative_to(root)
    features = found.texts.get("features.json", "{}")
    label = printable("/".join(relative.parts[:-1]))
    return cached(
        "-".join(relative.parts), fingerprint, cache_roots(root), lambda: _decode(label, folder, size, features)
    )


def _decode(name: str, folder: Path, size: int | None, features: str) -> Source:
    check_classes(features)
    import tensorflow_datasets as tfds  # slow to import, and only this source needs it

    try:
        builder = tfds.builder_from_directory(folder)
        splits = check_builder(builder, folder)
        image_key, label_key = _keys(builder.info, tfds)
        channels = 1 if builder.info.features[image_key].shape[-1] == 1 else 3
        classes = _class_names(builder.info.features[label_key], splits)
    except DataError:
        raise
    except Exception as error:
        raise _damaged(printable(folder), error) from error
    if not splits.get("train"):
        raise DataError(f"{name} has no train split, only {', '.join(splits) or 'none'}. Choose another data set.")

    seen: Counter[str] = Counter()

    def read(split: str) -> tuple[np.ndarray, np.ndarray, bool]:
        log.info("decoding %s %s: %d images, once", name, split, splits[split])
        return _read(builder, split, image_key, label_key, channels, size, seen)

    notes = []
    train_images, train_labels, jpeg = read("train")
    for split in ("test", "validation"):
        if splits.get(split):
            test_images, test_labels, _ = read(split)
            if test_labels.min() >= 0:  # some sets keep the labels of their test split back as -1
                if split != "test":
                    notes.append(f"{name}: test numbers are from its split {split!r}")
                break
    else:
        kept, held = stratified_split(train_labels, TEST_FRACTION, SPLIT_SEED)
        test_images, test_labels = train_images[held], train_labels[held]
        train_images, train_labels = train_images[kept], train_labels[kept]
        notes.append(f"{name} has no labelled test split: a fixed stratified {TEST_FRACTION:.0%} of train is held out")
    if jpeg:
        notes.append(f"{name} is stored as JPEG here: where the original was not, its pixels differ")
        name = f"{name} (JPEG)"
    notes += pixels.notes(seen, name)
    return Source(name, classes, train_images, train_labels, test_images, test_labels, tuple(notes))


def _class_names(feature: Any, splits: dict[str, int]) -> tuple[str, ...]:
    """Raises DataError for more classes than images, before a list of so many names is made."""
    if not 0 < (count := feature.num_classes or 0) <= sum(splits.values()):
        raise DataError(
            f"The class label has {count:,} classes, the set {sum(splits.values()):,} images. Prepare it again."
        )
    return tuple(feature.names)


def _read(
    builder: Any, split: str, image_key: str, label_key: str, channels: int, size: int | None, seen: Counter[str]
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Images, labels and whether an image is stored as JPEG. Raises DataError for a missing or unreadable record."""
    labels = np.empty(builder.info.splits[split].num_examples, np.int32)
    where = f"{split} of {printable(builder.data_path)}"
    jpeg = False

    def images() -> Iterator[np.ndarray]:
        nonlocal jpeg
        done = 0
        try:
            for example in _examples(builder, split, image_key):
                encoded = example[image_key]
                jpeg |= encoded[:2] == b"\xff\xd8"
                labels[done] = example[label_key]
                yield pixels.decode(encoded, channels, size, seen)
                done += 1
        except DataError:
            raise
        except Exception as error:
            raise _damaged(f"image {done} of {where}", error) from error
        if done != len(labels):
            raise _damaged(where, f"it holds {done} of its {len(labels)} images")

    return pixels.stack(images(), len(labels), lambda i: f"image {i} of {where}"), labels, jpeg


def _damaged(what: str, why: Exception | str) -> DataError:
    return DataError(
        f"{what} cannot be read ({why if isinstance(why, str) else reason(why)}). Prepare or copy the data set again."
    )


def _keys(info: Any, tfds: Any) -> tuple[str, str]:
    """Names of the image and the class label: the supervised pair, else the only feature of each kind."""
    features = dict(sorted(info.features.items()))  # a prepared folder does not fix their order
    images = [k for k, f in features.items() if type(f) is tfds.features.Image and np.dtype(f.np_dtype) == np.uint8]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    keys = info.supervised_keys
    if keys and keys[0] in images and keys[1] in labels:
        return keys[0], keys[1]
    if len(images) == len(labels) == 1:
        return images[0], labels[0]
    listed = ", ".join(f"{k} ({type(f).__name__})" for k, f in features.items())
    raise DataError(
        f"{info.name} is no image classification set: expected one uint8 image and one class label, its features are "
        f"{listed}. Choose another, or write the images to a folder of class folders (data.name folder)."
    )


def _examples(builder: Any, split: str, image_key: str) -> Iterator[dict[str, Any]]:
    """Examples in file order, the image still encoded: PIL decodes it, and the bytes show whether it is JPEG."""
    import tensorflow_datasets as tfds

    skip = {image_key: tfds.decode.SkipDecoding()}
    kind = builder.info.file_format.value
    if kind == "array_record":
        source = builder.as_data_source(split=split, decoders=skip)
        for start in range(0, len(source), 500):  # four times the speed of one at a time
            yield from source.__getitems__(range(start, min(start + 500, len(source))))
    elif kind == "tfrecord":
        for path in builder.info.splits[split].filepaths:
            for record in tfrecords(Path(path)):
                yield builder.info.features.deserialize_example_np(record, decoders=skip)
    else:
        raise DataError(
            f"{builder.info.name} is stored as {kind}; array_record and tfrecord can be read. Prepare it so."
        )


def tfrecords(path: Path) -> Iterator[bytes]:
    """Records of a tfrecord file: uint64 length, uint32 checksum, the bytes, uint32 checksum; little endian.

    The checksums (CRC-32C) are not verified: in Python that would cost more than decoding; a damaged image fails in its
    own PNG or JPEG decoder. Raises DataError for a file cut short.
    """
    with path.open("rb") as file:
        while header := file.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else -1
            body = file.read(length + 4) if 0 <= length < 1 << 32 else b""
            if len(body) != length + 4:
                raise DataError(f"{path} is cut short or no tfrecord file. Prepare or copy it again.")
            yield body[:-4]
