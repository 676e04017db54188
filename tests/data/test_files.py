"""Sources that lie on disk: prepared TFDS folders, image folders, and the cache of what was decoded."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from deq_nc.config import DataConfig
from deq_nc.data import DataError, load

from .fabricate import pixels, prepare_tfds, to_tfrecord

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])


def pairs(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels))


def tiny_splits(channels=3):
    return {
        "train": (pixels(12, 0, 8, channels), LABELS),
        "test": (pixels(6, 1, 8, channels), LABELS[:6]),
    }


def read(root, name="tiny", **options):
    return load(DataConfig(name=name, dir=str(root), **options))


@pytest.mark.parametrize("layout", ["array_record", "tfrecord"])
@pytest.mark.parametrize("channels", [1, 3])
def test_prepared_folders_are_read_exactly_without_tensorflow(tmp_path, layout, channels):
    splits = tiny_splits(channels)
    folder = prepare_tfds(tmp_path, splits, shape=(8, 8, channels))
    if layout == "tfrecord":
        to_tfrecord(folder)
    data = read(tmp_path)
    assert data.class_names == ("a", "b", "c") and data.name == "tiny" and data.notes == ()
    assert pairs(data.train_images, data.train_labels) == pairs(*splits["train"])
    assert pairs(data.test_images, data.test_labels) == pairs(*splits["test"])
    assert data.train_images.dtype == np.uint8 and data.train_labels.dtype == np.int32
    assert "tensorflow" not in sys.modules


def test_the_second_load_maps_the_cache_and_decodes_nothing(tmp_path, monkeypatch):
    prepare_tfds(tmp_path, tiny_splits())
    first = read(tmp_path)
    monkeypatch.setattr("deq_nc.data.tfds_source._decode", lambda *_: pytest.fail("decoded again"))
    again = read(tmp_path)
    assert isinstance(again.train_images, np.memmap)
    assert np.array_equal(first.train_images, again.train_images)
    entries = list((tmp_path / ".deq_nc_cache").iterdir())
    assert len(entries) == 1 and entries[0].name.startswith("tiny-1.0.0-")  # and no draft is left


def test_a_change_of_the_files_is_another_entry(tmp_path):
    prepare_tfds(tmp_path, tiny_splits())
    read(tmp_path)
    shutil.rmtree(tmp_path / "tiny")
    other = {"train": (pixels(12, 7, 8), LABELS), "test": (pixels(6, 8, 8), LABELS[:6])}
    prepare_tfds(tmp_path, other)
    data = read(tmp_path)
    assert pairs(data.train_images, data.train_labels) == pairs(*other["train"])


def test_missing_data_are_reported_within_a_second_and_before_tfds_is_imported(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").write_text("{}")
    code = f"""
import sys, time
from deq_nc.config import DataConfig
from deq_nc.data import DataError, load
start = time.perf_counter()
try:
    load(DataConfig(name="cifar10", dir={str(tmp_path)!r}))
except DataError as error:
    print(error)
assert time.perf_counter() - start < 1
assert "tensorflow_datasets" not in sys.modules
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "deq-nc data prepare cifar10 --data-dir" in out and "embedded: digits, synthetic, folder" in out
    assert f"prepared in {tmp_path}: mnist" in out and "copy its folder cifar10/<version>/" in out


def test_a_misspelt_name_gets_a_suggestion(tmp_path):
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        read(tmp_path, "digit")
    with pytest.raises(DataError, match="not on this machine"):
        load(DataConfig(name="cifar10", dir="gs://bucket/data"))
    for name in ("../x", "", "/etc"):
        with pytest.raises(DataError, match="neither embedded nor prepared"):
            read(tmp_path, name)


def test_data_dir_comes_from_the_environment(tmp_path, monkeypatch):
    prepare_tfds(tmp_path, tiny_splits())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load(DataConfig(name="tiny")).num_classes == 3
    assert load(DataConfig(name="tiny:1.0.0")).num_classes == 3


def test_damaged_records_and_foreign_sets_are_refused(tmp_path):
    folder = prepare_tfds(tmp_path / "a", tiny_splits())
    to_tfrecord(folder)
    (record,) = folder.glob("*train.tfrecord*")
    record.write_bytes(record.read_bytes()[:-50])
    with pytest.raises(DataError, match="cut short"):
        read(tmp_path / "a")
    (tmp_path / "a" / "tiny" / "1.0.0" / "dataset_info.json").write_text("{broken")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "a")
    prepare_tfds(tmp_path / "b", tiny_splits(), extra=("other",), supervised=False)
    with pytest.raises(
        DataError, match=r"no image classification set.*kind \(ClassLabel\), other \(ClassLabel\), photo \(Image\)"
    ):
        read(tmp_path / "b")
    prepare_tfds(tmp_path / "c", {"validation": tiny_splits()["test"]})
    with pytest.raises(DataError, match="no train split, only validation"):
        read(tmp_path / "c")
    folder = prepare_tfds(tmp_path / "d", tiny_splits())
    info = json.loads((folder / "dataset_info.json").read_text())
    next(s for s in info["splits"] if s["name"] == "train")["shardLengths"] = ["13"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "d")


def test_without_a_labelled_test_split_the_next_best_is_used_and_noted(tmp_path):
    splits = tiny_splits()
    prepare_tfds(tmp_path / "a", {"train": splits["train"], "validation": splits["test"]})
    data = read(tmp_path / "a")
    assert pairs(data.test_images, data.test_labels) == pairs(*splits["test"])
    assert "validation" in data.notes[0]
    prepare_tfds(tmp_path / "b", {"train": splits["train"]})
    data = read(tmp_path / "b")
    assert len(data.train_labels) == 9 and sorted(data.test_labels) == [0, 1, 2]
    both = pairs([*data.train_images, *data.test_images], [*data.train_labels, *data.test_labels])
    assert both == pairs(*splits["train"])
    assert "held out" in data.notes[0]


def test_images_of_several_sizes_need_image_size(tmp_path):
    images = [*pixels(6, 0, 8), *pixels(6, 1, 10)]
    prepare_tfds(tmp_path, {"train": (images, LABELS), "test": (images, LABELS)}, shape=(None, None, 3))
    with pytest.raises(DataError, match=r"one size: .*data.image_size"):
        read(tmp_path)
    assert read(tmp_path, image_size=8).image_shape == (8, 8, 3)


def write_folder(root, images, labels, names=("ant", "bee", "cat"), suffix="png", **save):
    for i, (image, label) in enumerate(zip(images, labels)):
        (root / names[label]).mkdir(parents=True, exist_ok=True)
        array = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(array).save(root / names[label] / f"{i:03d}.{suffix}", **save)


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_with_a_test_split(tmp_path, channels):
    splits = tiny_splits(channels)
    for split, (images, labels) in splits.items():
        write_folder(tmp_path / split, images, labels)
    (tmp_path / "train" / "ant" / "Thumbs.db").write_bytes(b"not an image")
    for _ in range(2):  # decoded, then from the cache
        data = read(tmp_path, "folder")
        assert data.class_names == ("ant", "bee", "cat") and data.image_shape == (8, 8, channels)
        assert pairs(data.train_images, data.train_labels) == pairs(*splits["train"])
        assert pairs(data.test_images, data.test_labels) == pairs(*splits["test"])
    time.sleep(0.01)
    Image.fromarray(pixels(1, 9, 8)[0]).save(tmp_path / "train" / "ant" / "new.png")
    assert len(read(tmp_path, "folder").train_labels) == 13  # a new image is another entry


def test_folder_without_a_test_split_holds_a_fifth_out(tmp_path):
    labels = np.repeat([0, 1], 10)
    write_folder(tmp_path, pixels(20, 0, 8), labels)
    data = read(tmp_path, "folder")
    assert np.bincount(data.test_labels).tolist() == [2, 2] and data.train_counts.tolist() == [8, 8]
    assert "held out" in data.notes[0]


def test_folder_refusals(tmp_path):
    with pytest.raises(DataError, match="needs the folder DIR"):
        load(DataConfig(name="folder"))
    with pytest.raises(DataError, match="there is no folder"):
        read(tmp_path / "absent", "folder")
    with pytest.raises(DataError, match="0 class folders"):
        read(tmp_path, "folder")
    write_folder(tmp_path / "train", pixels(4, 0, 8), [0, 0, 1, 1])
    write_folder(tmp_path / "test", pixels(1, 0, 8), [2])
    with pytest.raises(DataError, match="train folder lacks: cat"):
        read(tmp_path, "folder")
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(DataError, match="cat holds no image"):
        read(tmp_path, "folder")
    write_folder(tmp_path / "train", pixels(5, 0, 9), [2] * 5)
    with pytest.raises(DataError, match="ant holds no image"):
        read(tmp_path, "folder")
    write_folder(tmp_path / "test", pixels(2, 0, 8), [0, 1])
    with pytest.raises(DataError, match="8 x 8, .* 9 x 9.*data.image_size"):
        read(tmp_path, "folder")
    assert read(tmp_path, "folder", image_size=4).image_shape == (4, 4, 3)
    (tmp_path / "train" / "cat" / "000.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match="000.png is not a readable image"):
        read(tmp_path, "folder", image_size=4)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "train" / "cat" / "000.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        read(tmp_path, "folder", image_size=4)
