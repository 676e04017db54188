"""What the files of a prepared TFDS folder may name: known feature classes, and record files of their own.

TFDS imports the Python class that features.json names for each feature, so a module that lies beside the data would be
run. The classes are compared with those of TFDS itself before it sees the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from deq_nc.data.files import read_bytes, reason
from deq_nc.data.source import DataError
from deq_nc.disk import regular
from deq_nc.names import printable

TEXTS = ("dataset_info.json", "features.json")
MAX_TEXT = 64 << 20  # bytes: class names of a million classes, and room
_CLASS = ("pythonClassName", "python_class_name", "type")  # the last one as written until TFDS 4.5


class Folder(NamedTuple):
    """A version folder: (name, bytes, time) of its files, and the texts that describe them."""

    stamps: list[tuple[str, int, int]]
    texts: dict[str, str]


def check_folder(folder: Path) -> Folder:
    """Raises DataError for a file that is no regular one, before any is opened."""
    try:
        stamps = [
            (path.name, (found := regular(path)).st_size, found.st_mtime_ns)
            for path in sorted(folder.iterdir())
            if not path.is_dir()
        ]
        return Folder(stamps, {n: read_bytes(folder / n, MAX_TEXT).decode() for n in TEXTS if (folder / n).exists()})
    except OSError as error:
        raise _refused(folder, f"{Path(error.filename or folder).name}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise _refused(folder, reason(error)) from error


def check_classes(features: str) -> None:
    """features: the text of features.json. Raises DataError for a class that is not one of TFDS."""
    try:
        foreign = sorted(set(_classes(json.loads(features))) - _known())
    except (ValueError, RecursionError) as error:
        raise DataError(f"features.json is no JSON ({reason(error)}). Prepare or copy the data set again.") from error
    if foreign:
        raise DataError(
            f"features.json names {printable(', '.join(foreign))}, which is no feature class of TFDS; it would be "
            "imported, and code that lies beside the data be run. Only the classes of tfds.features are read."
        )


def check_builder(builder: Any, folder: Path) -> dict[str, int]:
    """Examples of each split. Raises DataError for record files elsewhere, and for more examples than bytes."""
    counts = {}
    for split, info in builder.info.splits.items():
        paths = [Path(path) for path in info.filepaths]
        if any(path.parent != folder for path in paths):
            raise _refused(folder, f"split {split!r} lies outside of it")
        try:
            size = sum(regular(path).st_size for path in paths)
        except OSError as error:
            raise _refused(folder, f"{Path(error.filename or folder).name}: {reason(error)}") from error
        if not 0 <= info.num_examples <= size or min(info.shard_lengths, default=0) < 0:
            raise _refused(folder, f"split {split!r} is to hold {info.num_examples:,} examples in {size:,} bytes")
        counts[split] = info.num_examples
    return counts


def _refused(folder: Path, why: str) -> DataError:
    return DataError(f"{printable(folder)} cannot be read ({printable(why)}). Prepare or copy the data set again.")


def _known() -> set[str]:
    import tensorflow_datasets as tfds  # slow to import, and needed by this source alone

    kinds: list[Any] = [value for value in vars(tfds.features).values() if isinstance(value, type)]
    kinds = [kind for kind in kinds if issubclass(kind, tfds.features.FeatureConnector)]
    return {name for kind in kinds for name in (f"{kind.__module__}.{kind.__name__}", *kind.ALIASES)}


def _classes(value: Any, depth: int = 0) -> Iterator[str]:
    """Every class that a features.json names. A JSON text may hold another as a string: TFDS reads those too."""
    if depth > 100:
        raise ValueError("nested more than 100 deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            if ".." in PurePosixPath(key).parts or PurePosixPath(key).is_absolute():
                yield key  # a feature's name becomes part of a path, and this one leads outside
            if key in _CLASS and isinstance(inner, str):
                yield inner
            else:
                yield from _classes(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes(inner, depth + 1)
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[", '"')):
        try:
            inner = json.loads(value)
        except ValueError:
            return
        yield from _classes(inner, depth + 1)
