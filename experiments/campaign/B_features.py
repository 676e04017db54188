"""B3: prepared TFDS folders whose descriptions name modules, places and sizes; and descriptions that are damaged."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deq_nc.config import DataConfig
from deq_nc.data import DataError, load
from experiments.campaign import Case

EVIL = "evil_feature"
LABELS = [0, 1, 2] * 4


def run(quick: bool, seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _prepared(Path(scratch) / "sound")
        (Path(scratch) / f"{EVIL}.py").write_text("raise SystemExit('a module of a stranger was run')")
        sys.path.insert(0, scratch)
        try:
            return [
                _tried("a class to import", folder, _classes(folder), must_refuse=True),
                _tried("a word swapped in a description", folder, _words(folder, 30 if quick else 500, rng)),
                _tried("a bit flipped in a description", folder, _bits(folder, 30 if quick else 1000, rng)),
            ]
        finally:
            sys.path.remove(scratch)


def _prepared(root: Path) -> Path:
    """Twelve 8 x 8 images of three classes, as TFDS writes them."""
    import tensorflow_datasets as tfds

    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    features = {"photo": tfds.features.Image(shape=(8, 8, 3)), "kind": tfds.features.ClassLabel(names=["a", "b", "c"])}

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("photo", "kind")
        )

    def examples() -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(images, LABELS)):
            yield i, {"photo": Image.fromarray(image), "kind": label}

    body = {
        "name": "tiny",
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, _: {"train": examples(), "test": examples()},
        "_generate_examples": lambda self: None,
    }
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        with tfds.core.registered.skip_registration():
            builder = type("Tiny", (tfds.core.GeneratorBasedBuilder,), body)(data_dir=root, file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_path)


def _tried(name: str, sound: Path, changes: Iterator[tuple[str, str, bytes]], must_refuse: bool = False) -> Case:
    """changes: (what, file, its bytes). Holds: the images of the sound set, a note, or a DataError."""
    truth = load(DataConfig(name="tiny", dir=str(sound.parents[1])))
    tried, faults = 0, []
    for what, file, data in changes:
        tried += 1
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(shutil.copytree(sound, Path(scratch) / "tiny" / "1.0.0"))
            (folder / file).write_bytes(data)
            try:
                found = load(DataConfig(name="tiny", dir=scratch))
                if must_refuse:
                    faults.append(f"{what}: read")
                elif not found.notes and sorted(found.train_labels) != sorted(truth.train_labels):
                    faults.append(f"{what}: other images, silently")
            except DataError:
                pass
            except BaseException as error:  # SystemExit is what the module raises
                faults.append(f"{what}: {type(error).__name__}: {error}")
        if sys.modules.pop(EVIL, None):
            faults.append(f"{what}: the module was imported")
    return Case(name, tried, tried - len(faults), tuple(faults))


def _classes(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Every place where a class may be named, in the formats of every version, and inside of texts."""
    tensor = "tensorflow_datasets.core.features.tensor_feature.Tensor"
    legacy: dict[str, Any] = {"type": f"{EVIL}.Evil", "content": {}}
    places: list[dict[str, Any]] = [
        {key: f"{module}", "jsonFeature": {"json": "{}"}}
        for key in ("pythonClassName", "python_class_name")
        for module in (f"{EVIL}.Evil", EVIL, f"{EVIL}.a.b", "os.path", f"tensorflow_datasets.{EVIL}.X", "", ".", "..x")
    ]
    places += [
        {"pythonClassName": tensor, "jsonFeature": {"json": json.dumps(legacy)}},
        {"pythonClassName": tensor, "jsonFeature": {"json": json.dumps(json.dumps(legacy))}},
        {"pythonClassName": tensor, "sequence": {"feature": {"pythonClassName": f"{EVIL}.Evil", "tensor": {}}}},
        {"pythonClassName": tensor, "featuresDict": {"features": {"x": {"python_class_name": f"{EVIL}.Evil"}}}},
    ]
    text = (folder / "features.json").read_text()
    for i, place in enumerate(places):
        value = json.loads(text)
        value["featuresDict"]["features"]["more"] = place
        yield f"place {i}", "features.json", json.dumps(value).encode()
    outer = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    for i, content in enumerate(({"x": legacy}, json.dumps({"x": legacy}), [legacy])):
        value = {"type": outer, "content": content, "proto_cls": "tensorflow_datasets.FeaturesDict"}
        yield f"older place {i}", "features.json", json.dumps(value).encode()


def _words(folder: Path, tries: int, rng: np.random.Generator) -> Iterator[tuple[str, str, bytes]]:
    """One value of a description replaced by one of another kind, a size beyond all bounds, or a place elsewhere."""
    values: list[Any] = [
        None,
        [],
        {},
        "",
        -1,
        0,
        2**40,
        2**62,
        "9" * 40,
        1e308,
        True,
        "../../x",
        "/dev/zero",
        "\x1b[31m",
    ]
    values += ["x" * 300, "\ud800", [[[]]], {"type": f"{EVIL}.Evil"}, "evil_feature", "tfrecord", "riegeli"]
    for _ in range(tries):
        file = str(rng.choice(["dataset_info.json", "features.json"]))
        value = json.loads((folder / file).read_text())
        places = list(_places(value))
        set_, path = places[rng.integers(len(places))]
        new = values[rng.integers(len(values))]
        set_(new)
        yield f"{file}: {path} = {str(new)[:30]!r}", file, json.dumps(value).encode()


def _places(value: Any, path: str = "") -> Iterator[tuple[Callable[[Any], None], str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield (lambda new, key=key: value.__setitem__(key, new)), f"{path}.{key}"
        yield from _places(inner, f"{path}.{key}")


def _bits(folder: Path, tries: int, rng: np.random.Generator) -> Iterator[tuple[str, str, bytes]]:
    for _ in range(tries):
        file = str(rng.choice(["dataset_info.json", "features.json", "kind.labels.txt"]))
        data = bytearray((folder / file).read_bytes())
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[place] ^= 1 << bit
        yield f"{file}: bit {bit} of byte {place}", file, bytes(data)
