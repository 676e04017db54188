"""A prepared folder from a stranger: nothing it names is imported, opened outside of it, or believed about sizes."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from deq_nc.data import DataError
from deq_nc.data.tfds_check import check_classes

from .fabricate import prepare_tfds
from .test_files import read, tiny_splits

TENSOR = "tensorflow_datasets.core.features.tensor_feature.Tensor"
EVIL = "evil_feature.Evil"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return prepare_tfds(tmp_path_factory.mktemp("made"), tiny_splits())


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the prepared folder, and a module `evil_feature` that can be imported beside it."""
    (tmp_path / "evil_feature.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    yield Path(shutil.copytree(made, tmp_path / "tiny" / "1.0.0"))
    assert "evil_feature" not in sys.modules


def edit(folder, name, change):
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(value) or value))


@pytest.mark.parametrize(
    "feature",
    [
        {"pythonClassName": EVIL, "jsonFeature": {"json": "{}"}},
        {"python_class_name": EVIL, "jsonFeature": {"json": "{}"}},
        {"pythonClassName": "evil_feature", "tensor": {}},
        {"pythonClassName": TENSOR, "jsonFeature": {"json": json.dumps({"type": EVIL, "content": {}})}},
        {
            "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
            "sequence": {"feature": {"pythonClassName": EVIL, "tensor": {}}},
        },
        {"pythonClassName": "antigravity.Flight", "tensor": {}},
    ],
)
def test_a_feature_class_that_is_not_of_tfds_is_refused_before_it_is_imported(folder, feature):
    edit(folder, "features.json", lambda f: f["featuresDict"]["features"].update(more=feature))
    with pytest.raises(DataError, match="no feature class of TFDS"):
        read(folder.parents[1])


def test_the_format_of_older_versions_is_checked_as_well():
    known = {"type": "tensorflow_datasets.core.features.feature.Tensor", "content": {"shape": [], "dtype": "int64"}}
    outer = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    check_classes(json.dumps({"type": outer, "content": {"type": known}}))  # a feature may be called `type`
    for content in ({"x": {"type": EVIL}}, json.dumps({"x": {"type": EVIL}}), json.dumps(json.dumps([{"type": EVIL}]))):
        with pytest.raises(DataError, match=EVIL):
            check_classes(json.dumps({"type": outer, "content": content, "proto_cls": "x"}))
    with pytest.raises(DataError, match=r"names \.\./\.\./x"):
        check_classes(json.dumps({"featuresDict": {"features": {"../../x": {}}}}))
    for text in ("", "{", "[" * 5000, '{"a":' * 200 + "1" + "}" * 200):
        with pytest.raises(DataError, match="no JSON"):
            check_classes(text)


def test_the_module_that_dataset_info_names_is_not_imported(folder):
    edit(folder, "dataset_info.json", lambda info: info.update(moduleName="evil_feature", name="evil_feature"))
    with pytest.raises(DataError):  # the record files have the name of the set
        read(folder.parents[1])
    edit(folder, "dataset_info.json", lambda info: info.update(name="tiny"))
    assert len(read(folder.parents[1]).train_images) == 12


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda s: s.update(filepathTemplate="../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"), "cannot be read"),
        (lambda s: s.update(filepathTemplate="/etc/passwd"), "cannot be read"),
        (lambda s: s.update(shardLengths=[str(1 << 60)]), "1,152,921,504,606,846,976 examples in"),
        (lambda s: s.update(shardLengths=["-3"]), "-3 examples in"),
        (lambda s: s.update(shardLengths="many"), "cannot be read"),
        (lambda s: s.update(name="\x1b[31mtrain"), r"tiny-\\x1b\[31mtrain.array_record-00000-of-00001: No such"),
    ],
)
def test_splits_that_lie_elsewhere_or_hold_more_than_their_bytes_are_refused(folder, change, says):
    edit(folder, "dataset_info.json", lambda info: change(next(s for s in info["splits"] if s["name"] == "train")))
    with pytest.raises(DataError, match=says):
        read(folder.parents[1])


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda f: f["kind"]["classLabel"].update(numClasses=str(1 << 40)), "1,099,511,627,776 classes"),
        (lambda f: f["kind"].pop("classLabel"), "cannot be read"),
        (lambda f: f["photo"]["image"].pop("shape"), "cannot be read"),
        (lambda f: f["photo"]["image"].update(dtype="uint16"), "no image classification set"),
        (lambda f: f.clear(), "no image classification set"),
    ],
)
def test_features_that_make_no_sense_end_in_a_sentence(folder, change, says):
    (folder / "kind.labels.txt").unlink()
    edit(folder, "features.json", lambda f: change(f["featuresDict"]["features"]))
    with pytest.raises(DataError, match=says):
        read(folder.parents[1])


@pytest.mark.parametrize("name", ["features.json", "kind.labels.txt", "tiny-train.array_record-00000-of-00001"])
def test_a_fifo_in_the_place_of_a_file_is_never_opened(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match=f"{name}: a FIFO, not a regular file"):
        read(folder.parents[1])
