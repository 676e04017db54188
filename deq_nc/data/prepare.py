"""`deq-nc data prepare NAME`: from a published archive to the folder TFDS reads, with or without TensorFlow.

CIFAR-10 and CIFAR-100 are prepared here from the genuine archive. Address, size, sha256 and layout come from the
builder of the installed TFDS, so that they cannot differ from what TFDS itself would accept; the result is the folder
TFDS would write, PNG images in array_record files. Any other set goes through TFDS's own preparation, which needs
TensorFlow.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deq_nc.data.cache import log
from deq_nc.data.source import DataError
from deq_nc.data.tfds_source import EMBEDDED, PREPARABLE, data_dir, locate

NETWORK_SECONDS = 8.0  # without an answer for this long there is no internet, as far as the user is concerned
SIDE = 32


class Checksum(NamedTuple):
    """What the archive must be: its size in bytes and sha256 in hex."""

    size: int
    sha256: str


def prepare(
    name: str, directory: str | None = None, archive: str | None = None, checksum: Checksum | None = None
) -> Path:
    """Makes `<data_dir>/<name>/<version>/` and returns it; returns at once what is prepared already.

    archive: the downloaded file; by default `<data_dir>/downloads/<filename>`, fetched if absent. checksum replaces the
    one TFDS registers (for tests). Raises DataError with the address, size, sha256 and place of the archive where there
    is no internet, and for an archive of another checksum or with paths that lead outside. Nothing is left half done.
    """
    if name in EMBEDDED:
        raise DataError(f"{name!r} needs no preparation. Train on it directly: --data.name {name}.")
    root = data_dir(directory)
    if (root / name).is_dir():
        try:
            return locate(name, root)
        except DataError:
            pass  # an unfinished folder
    _require_writable(root)
    if name in PREPARABLE:
        return _prepare_cifar(name, root, archive, checksum)
    if archive is not None:
        raise DataError(f"--archive: expected one of {', '.join(PREPARABLE)}, got {name!r}. Leave the option out.")
    return _prepare_by_tfds(name, root)


def _require_writable(root: Path) -> None:
    nearest = next(p for p in (root, *root.absolute().parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK) and nearest.stat().st_mode & 0o222):
        raise DataError(f"--data-dir: {root} cannot be written. Name a folder that can.")


def _prepare_by_tfds(name: str, root: Path) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"{name!r} is prepared by TFDS itself, which needs TensorFlow for that (training does not).\n"
            f"  here: pip install 'deq-nc[tf]', then the same command; without TensorFlow: {', '.join(PREPARABLE)}\n"
            f"  on another machine: tfds.builder({name!r}).download_and_prepare(), then copy the folder {name} from its "
            f"data_dir into {root}"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # unknown names, failed downloads, manual downloads: TFDS's message says which
        raise DataError(f"TFDS could not prepare {name!r} in {root}: {error}") from error
    return Path(builder.data_path)


def _prepare_cifar(name: str, root: Path, archive: str | None, checksum: Checksum | None) -> Path:
    import tensorflow_datasets as tfds

    builder_cls = tfds.builder_cls(name)
    layout = builder_cls._cifar_info.fget(_Named(name))  # a property of the instance that reads its name alone
    registered = builder_cls.url_infos[layout.url]
    checksum = checksum or Checksum(int(registered.size), registered.checksum)
    kept = root / "downloads" / (registered.filename or layout.url.rsplit("/", 1)[-1])
    path = Path(archive).expanduser() if archive else kept
    if archive and not path.is_file():
        raise DataError(f"--archive: there is no file {path}. Name the file {kept.name}.")
    if not path.is_file():
        _require_space(root, 2 * checksum.size)
        _download(layout.url, path, checksum, f"deq-nc data prepare {name} --data-dir {root}")
    verify(path, checksum)
    files = read_archive(path, layout.prefix, [*layout.train_files, *layout.test_files, *layout.label_files])

    def examples(split: str, names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        records = np.concatenate([_records(files[n], n, len(layout.label_keys)) for n in names])
        for i, record in enumerate(records):  # keys and ids as TFDS gives them, so that the order on disk is the same
            labels = dict(zip(layout.label_keys, record.tolist()))
            pixels = record[len(layout.label_keys) :].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
            image = Image.fromarray(np.ascontiguousarray(pixels))  # PIL encodes PNG without TensorFlow
            yield i, {**labels, "id": f"{split}_{i:05d}", "image": image}

    def split_generators(self: Any, _: Any) -> dict[str, Any]:
        for key, file in zip(layout.label_keys, layout.label_files):
            self.info.features[key].names = files[file].decode().split()
        return {"train": examples("train", layout.train_files), "test": examples("test", layout.test_files)}

    with tfds.core.registered.skip_registration():
        offline = type("Offline", (builder_cls,), {"name": name, "_split_generators": split_generators})
    builder = offline(data_dir=root, file_format="array_record")
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError as error:
        raise DataError(f"{root} cannot take {name}: {error}. Free some space or name another folder.") from error
    return Path(builder.data_path)


class _Named(NamedTuple):
    name: str


def _records(data: bytes, name: str, num_labels: int) -> np.ndarray:
    """uint8 [N, num_labels + 3 * 32 * 32] of one binary file. Raises DataError for a file that is not whole."""
    width = num_labels + 3 * SIDE * SIDE
    if not data or len(data) % width:
        raise DataError(f"{name}: expected a multiple of {width} bytes, got {len(data)}. Download the archive again.")
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def verify(path: Path, checksum: Checksum) -> None:
    """Raises DataError unless the file has the size and sha256 expected."""
    size = path.stat().st_size
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if size == checksum.size else "not computed"
    if (size, found) != checksum:
        raise DataError(
            f"{path} is not the published archive: expected {checksum.size:,} bytes and sha256 {checksum.sha256}, got "
            f"{size:,} bytes, sha256 {found}. Remove it and download it again."
        )


def read_archive(path: Path, prefix: str, names: list[str]) -> dict[str, bytes]:
    """The named files under prefix, read into memory in one pass: nothing is extracted.

    Raises DataError for a file that is no archive, lacks one of the names, or has a member whose path or link leads
    outside (such an archive was tampered with, whatever its other members hold).
    """
    wanted = {str(PurePosixPath(prefix) / name): name for name in names}
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if place.is_absolute() or ".." in place.parts or not (member.isfile() or member.isdir()):
                    raise DataError(f"{path} is refused: its member {member.name!r} is a link or leads outside.")
                if member.isfile() and str(place) in wanted:
                    files[wanted[str(place)]] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a readable tar archive ({error}). Download it again.") from error
    if missing := [p for p, name in wanted.items() if name not in files]:
        raise DataError(f"{path} lacks {', '.join(missing)}. Download the archive again.")
    return files


def _require_space(root: Path, needed: int) -> None:
    nearest = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise DataError(
            f"{root} has {free / 1e6:,.0f} MB free; {needed / 1e6:,.0f} MB are needed. Name another folder."
        )


def _download(url: str, path: Path, checksum: Checksum, command: str) -> None:
    """Fetches url to path, by way of a partial file. Raises DataError with what to do by hand, within seconds."""
    log.info("downloading %s (%.0f MB)", url, checksum.size / 1e6)
    draft = path.with_name(path.name + ".part")
    try:
        response = _connect(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with response, draft.open("wb") as out:
            shutil.copyfileobj(response, out, 1 << 20)
        draft.rename(path)
    except OSError as error:  # URLError and timeouts are OSErrors
        draft.unlink(missing_ok=True)
        raise DataError(
            f"{path.name} could not be downloaded ({error}). On a machine with internet, fetch\n"
            f"  {url}\n"
            f"  size {checksum.size:,} bytes, sha256 {checksum.sha256}\n"
            f"copy it here as\n  {path}\nand run again\n  {command}\n"
            "(or leave it elsewhere and add --archive FILE)"
        ) from error


def _connect(url: str) -> Any:
    """An open response, or OSError after NETWORK_SECONDS. In a thread: looking a name up obeys no timeout."""
    result: list[Any] = []

    def attempt() -> None:
        try:
            result.append(urllib.request.urlopen(url, timeout=NETWORK_SECONDS))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    if not result:
        raise TimeoutError(f"no answer within {NETWORK_SECONDS:.0f} s")
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]
