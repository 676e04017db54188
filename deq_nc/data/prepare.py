"""`deq-nc data prepare NAME`: from a published archive to the folder TFDS reads, with or without TensorFlow.

CIFAR-10 and CIFAR-100 are prepared here from the genuine archive. Address, size, sha256 and layout come from the
builder of the installed TFDS, so that they cannot differ from what TFDS itself would accept; the result is the folder
TFDS would write, PNG images in array_record files. Any other set goes through TFDS's own preparation, which needs
TensorFlow.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deq_nc.data.archive import Checksum, download, read_archive, verify
from deq_nc.data.files import home
from deq_nc.data.source import DataError
from deq_nc.data.tfds_source import EMBEDDED, PREPARABLE, data_dir, locate

SIDE = 32


def prepare(
    name: str, directory: str | None = None, archive: str | None = None, checksum: Checksum | None = None
) -> Path:
    """Makes `<data_dir>/<name>/<version>/` and returns it; returns at once what is prepared already.

    name: `NAME` or `NAME:VERSION`; of CIFAR there is one version, that of the installed TFDS. archive: the downloaded
    file; by default `<data_dir>/downloads/<filename>`, fetched if absent. checksum replaces the one TFDS registers (for
    tests). Raises DataError with the address, size, sha256 and place of the archive where there is no internet, and for
    an archive of another checksum or with paths that lead outside. Nothing is left half done.
    """
    base, _, version = name.partition(":")
    if base in EMBEDDED:
        raise DataError(f"{name!r} needs no preparation. Train on it directly: --data.name {base}.")
    if len(os.fsencode(name)) > 200:
        raise DataError(f"NAME: expected the name of a TFDS set, got {len(name)} characters. Try cifar10.")
    root = data_dir(directory)
    if (root / base).is_dir():
        try:
            return locate(name, root)
        except DataError:
            pass  # an unfinished folder
    _require_writable(root)
    if base in PREPARABLE:
        return _prepare_cifar(base, version, root, archive, checksum)
    if archive is not None:
        raise DataError(f"--archive: expected one of {', '.join(PREPARABLE)}, got {name!r}. Leave the option out.")
    return _prepare_by_tfds(name, root)


def _require_writable(root: Path) -> None:
    nearest = next(p for p in (root, *root.absolute().parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK) and nearest.stat().st_mode & 0o222):
        raise DataError(f"--data-dir: {root} cannot be written. Name a folder that can.")


def _require_space(root: Path, needed: int) -> None:
    nearest = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise DataError(
            f"{root} has {free / 1e6:,.0f} MB free; {needed / 1e6:,.0f} MB are needed. Name another folder."
        )


def _prepare_by_tfds(name: str, root: Path) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"{name!r} is prepared by TFDS itself, which needs TensorFlow for that (training does not).\n"
            f"  here: pip install 'deq-nc[tf]', then the same command; without TensorFlow: {', '.join(PREPARABLE)}\n"
            f"  on another machine: tfds.builder({name!r}).download_and_prepare(), then copy the folder {name} "
            f"from its data_dir into {root}"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # unknown names, failed downloads, manual downloads: TFDS's message says which
        raise DataError(f"TFDS could not prepare {name!r} in {root}: {error}") from error
    return Path(builder.data_path)


def _prepare_cifar(name: str, version: str, root: Path, archive: str | None, checksum: Checksum | None) -> Path:
    import tensorflow_datasets as tfds

    builder = _builder(name, root)
    if version not in ("", str(builder.version)):
        raise DataError(f"{name}: expected version {builder.version}, the one TFDS here has, got {version!r}. Drop it.")
    layout = builder._cifar_info  # private, but the one place that states the address and the files
    registered = tfds.builder_cls(name).url_infos[layout.url]
    checksum = checksum or Checksum(int(registered.size), registered.checksum)
    kept = root / "downloads" / (registered.filename or layout.url.rsplit("/", 1)[-1])
    path = home(archive) if archive else kept
    if archive and not path.is_file():
        raise DataError(f"--archive: there is no file {path}. Name the file {kept.name}.")
    if not path.is_file():
        _require_space(root, 2 * checksum.size)
        download(layout.url, path, checksum, f"deq-nc data prepare {name} --data-dir {root}")
    verify(path, checksum)
    builder.files = read_archive(path, layout.prefix, [*layout.train_files, *layout.test_files, *layout.label_files])
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError as error:
        raise DataError(f"{root} cannot take {name}: {error}. Free some space or name another folder.") from error
    return Path(builder.data_path)


def _builder(name: str, root: Path) -> Any:
    """TFDS's own builder of the set, made to read the members in `files` and to hand images to PIL, not TensorFlow."""
    import tensorflow_datasets as tfds

    def examples(self: Any, split: str, names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        keys = self._cifar_info.label_keys
        records = np.concatenate([_records(self.files[n], n, len(keys)) for n in names])
        for i, record in enumerate(records):  # keys and ids as TFDS gives them, so that the order on disk is the same
            image = record[len(keys) :].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
            labels = dict(zip(keys, record.tolist()))
            yield i, {**labels, "id": f"{split}_{i:05d}", "image": Image.fromarray(np.ascontiguousarray(image))}

    def split_generators(self: Any, _: Any) -> dict[str, Any]:
        layout = self._cifar_info
        for key, file in zip(layout.label_keys, layout.label_files):
            self.info.features[key].names = [line for line in self.files[file].decode().split("\n") if line]
        return {"train": examples(self, "train", layout.train_files), "test": examples(self, "test", layout.test_files)}

    original = tfds.builder_cls(name)
    with tfds.core.registered.skip_registration():
        offline = type("Offline", (original,), {"name": name, "_split_generators": split_generators})
    return offline(data_dir=root, file_format="array_record")


def _records(data: bytes, name: str, num_labels: int) -> np.ndarray:
    """uint8 [N, num_labels + 3 * 32 * 32] of one binary file. Raises DataError for a file that is not whole."""
    width = num_labels + 3 * SIDE * SIDE
    if not data or len(data) % width:
        raise DataError(f"{name}: expected a multiple of {width} bytes, got {len(data)}. Download the archive again.")
    return np.frombuffer(data, np.uint8).reshape(-1, width)
