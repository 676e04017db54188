import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from deq_nc.config import DataConfig
from deq_nc.data import DataError, describe, load, synthetic_nc1
from deq_nc.data.dataset import _available, channel_statistics
from deq_nc.data.source import stratified_split
from deq_nc.data.synthetic import load_synthetic


def test_digits_are_the_real_ones_split_and_scaled():
    from sklearn.datasets import load_digits

    data = load(DataConfig())
    assert data.image_shape == (8, 8, 1) and data.num_classes == 10
    assert data.train_images.dtype == np.uint8 and data.train_labels.dtype == np.int32
    assert len(data.train_images) + len(data.test_images) == 1797
    assert abs(len(data.test_images) / 1797 - 0.3) < 0.005
    levels = np.rint(np.concatenate([data.train_images, data.test_images])[..., 0] * (16 / 255))
    ours = {(x.tobytes(), y) for x, y in zip(levels, np.concatenate([data.train_labels, data.test_labels]).tolist())}
    bunch = load_digits()
    assert ours == {(x.tobytes(), y) for x, y in zip(bunch.images, bunch.target.tolist())}
    again = load(DataConfig(subset_seed=9, order_seed=9))
    assert np.array_equal(data.test_images, again.test_images)  # no seed of a run moves the split


def test_statistics_are_of_the_kept_train_images():
    data = load(DataConfig(imbalance="step", ratio=10))
    pixels = data.train_images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32
    mean, std = channel_statistics(np.full((3, 2, 2, 2), 255, np.uint8))
    assert mean.tolist() == [1, 1] and std.tolist() == [1, 1]


def test_checksums_tell_data_apart():
    whole, step = load(DataConfig()), load(DataConfig(imbalance="step"))
    assert whole.checksums() == load(DataConfig(dir="anywhere")).checksums()
    assert (
        whole.checksums()["test"] == step.checksums()["test"]
        and whole.checksums()["train"] != step.checksums()["train"]
    )
    images = whole.test_images.copy()
    images[7, 3, 3] += 1
    changed = dataclasses.replace(whole, test_images=images).checksums()
    relabelled = dataclasses.replace(whole, train_labels=np.roll(whole.train_labels, 1)).checksums()
    for split, other in (("test", changed), ("train", relabelled)):
        assert [name for name in other if other[name] != whole.checksums()[name]] == [split]


def test_stratified_split_keeps_every_class_on_both_sides():
    labels = np.repeat([0, 1, 2], [2, 10, 100])
    train, test = stratified_split(labels, 0.3, 0)
    assert sorted([*train, *test]) == list(range(112))
    assert np.bincount(labels[test]).tolist() == [1, 3, 30]
    with pytest.raises(DataError, match="class 1 has 1"):
        stratified_split(np.array([0, 0, 1]), 0.3, 0)


def _nc1(h, y, classes):
    """tr(S_W S_B^+) / K by the dense definition."""
    means = np.stack([h[y == k].mean(0) for k in range(classes)])
    within = h - means[y]
    centred = means - h.mean(0)
    return np.trace(within.T @ within / len(h) @ np.linalg.pinv(centred.T @ centred / classes)) / classes


@pytest.mark.parametrize("classes, noise", [(2, 0.05), (4, 0.2), (16, 0.6), (5, 0.0)])
def test_synthetic_collapse_is_what_the_closed_form_says(classes, noise):
    data = load(DataConfig(name="synthetic", synthetic_classes=classes, synthetic_noise=noise))
    h = data.train_images.reshape(len(data.train_images), -1).astype(np.float64)
    normalised = (h / 255 - data.mean) / data.std
    for features in (h, normalised):
        assert _nc1(features, data.train_labels, classes) == pytest.approx(
            synthetic_nc1(classes, noise), rel=1e-6, abs=1e-12
        )
    means = np.stack([h[data.train_labels == k].mean(0) for k in range(classes)])
    gram = (means - means.mean(0)) @ (means - means.mean(0)).T
    etf = np.eye(classes) - 1 / classes
    np.testing.assert_allclose(gram, 100**2 * etf, atol=1e-8)  # exactly a simplex ETF


def test_synthetic_refuses_what_it_cannot_hold():
    with pytest.raises(DataError, match="2 to 16, got 17"):
        load_synthetic(17)
    with pytest.raises(DataError, match="0 to 0.6"):
        load_synthetic(4, 0.7)


def test_classes_without_images_and_hidden_labels_are_refused():
    source = load_synthetic()
    few = dataclasses.replace(source, train_labels=np.minimum(source.train_labels, 2))
    with pytest.raises(DataError, match="no train image of cluster 3"):
        _available(few)
    with pytest.raises(DataError, match=r"test: expected labels in 0..3, got -1..3"):
        _available(dataclasses.replace(source, test_labels=np.array([-1, 3])))


def test_the_example_of_the_docs_runs():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["batch"].image.shape == (128, 8, 8, 1)
    assert names["batch"].mask.sum() == len(names["data"].train_labels) % 128


def test_describe_counts_every_class():
    rows = describe(load(DataConfig(imbalance="step", majority=3, ratio=10)))
    assert [row[0] for row in rows] == [str(k) for k in range(10)]
    assert [row[3] for row in rows] == ["majority"] * 3 + ["minority"] * 7
    assert sum(row[2] for row in rows) == len(load(DataConfig()).test_labels)
    assert {row[3] for row in describe(load(DataConfig()))} == {""}
