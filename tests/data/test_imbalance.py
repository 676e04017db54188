import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deq_nc.config import DataConfig
from deq_nc.data import DataError, balanced_counts, class_order, load, longtail_counts, step_counts, subset

CIFAR10, CIFAR100 = np.full(10, 5000), np.full(100, 500)


@pytest.mark.parametrize("ratio, minority", [(10, 500), (50, 100), (100, 50)])
@pytest.mark.parametrize("majority", [3, 5, 7, 10])
def test_step_counts_of_cifar(majority, ratio, minority):
    assert step_counts(CIFAR10, majority, ratio).tolist() == [5000] * majority + [minority] * (10 - majority)


@pytest.mark.parametrize("available, total", [(CIFAR10, 12406), (CIFAR100, 10847)])
def test_longtail_counts_reproduce_the_published_totals(available, total):
    counts = longtail_counts(available, 100)
    assert counts.sum() == total
    assert counts[0] == available[0] and counts[-1] == available[0] // 100
    assert (np.diff(counts) <= 0).all()


@given(n_b=st.integers(1, 300), tenths=st.integers(10, 1000), classes=st.integers(2, 12), majority=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_step_floor_is_exact_for_ratios_that_floats_cannot_hold(n_b, tenths, classes, majority):
    majority = min(majority, classes)
    n_a = n_b * tenths  # R = tenths / 10, so n_A / R = 10 n_B exactly
    counts = step_counts(np.full(classes, n_a), majority, tenths / 10)
    assert counts.tolist() == [n_a] * majority + [10 * n_b] * (classes - majority)


def test_order_decides_which_classes_are_majority():
    order = class_order(10, seed=3)
    assert sorted(order) == list(range(10)) and order.tolist() != list(range(10))
    step, tail = step_counts(CIFAR10, 3, 10, order=order), longtail_counts(CIFAR10, 100, order=order)
    assert set(np.flatnonzero(step == 5000)) == set(order[:3])
    assert tail[order].tolist() == longtail_counts(CIFAR10, 100).tolist()
    assert class_order(10).tolist() == list(range(10))


def test_uneven_classes_take_the_smallest_as_n_a():
    assert step_counts(np.array([9, 40, 12]), 1, 3).tolist() == [9, 3, 3]
    # a minority class may be smaller than n_A if it holds n_B
    assert step_counts(np.array([40, 9]), 1, 10, per_class=40).tolist() == [40, 4]
    assert balanced_counts(np.array([9, 40]), None).tolist() == [9, 40]
    assert balanced_counts(np.array([9, 40]), 5).tolist() == [5, 5]


def test_refusals_name_the_counts_and_the_next_move():
    with pytest.raises(DataError, match=r"\[5, 5, 0, 0\].*allow_single"):
        step_counts(np.full(4, 5), 2, 10)
    with pytest.raises(DataError, match=r"without an image.*\[5, 0\]"):
        longtail_counts(np.full(2, 5), 10)
    assert step_counts(np.full(4, 5), 2, 10, allow_single=True).tolist() == [5, 5, 1, 1]
    with pytest.raises(DataError, match="1 to 4.*got 5"):
        step_counts(np.full(4, 5), 5, 10)
    with pytest.raises(DataError, match=r"Classes \[1\] offer \[3\].*at most 3"):
        step_counts(np.array([9, 3]), 2, 1, per_class=9)
    with pytest.raises(DataError, match=r"Classes \[1\]"):
        balanced_counts(np.array([9, 3]), 4)
    with pytest.raises(DataError, match=r"Classes \[0\] offer \[2\]"):
        subset(np.array([0, 0, 1]), np.array([3, 1]), 0)


def test_subset_has_the_counts_is_nested_and_moves_with_its_seed():
    labels = np.random.default_rng(0).integers(0, 3, 300)
    large, small = np.array([50, 40, 30]), np.array([50, 4, 0])
    a, b = subset(labels, large, 7), subset(labels, small, 7)
    assert np.bincount(labels[a], minlength=3).tolist() == large.tolist()
    assert np.bincount(labels[b], minlength=3).tolist() == small.tolist()
    assert set(b) < set(a) and (np.diff(a) > 0).all()
    assert set(subset(labels, large, 8)) != set(a)


def test_loaded_dataset_is_thinned_in_training_only():
    full = load(DataConfig())
    thin = load(DataConfig(imbalance="step", majority=3, ratio=10, order_seed=1, subset_seed=5))
    n_a = int(full.train_counts.min())
    order = class_order(10, 1)
    assert thin.majority[order[:3]].all() and thin.majority.sum() == 3
    assert thin.train_counts.tolist() == np.where(thin.majority, n_a, n_a // 10).tolist()
    assert np.bincount(thin.train_labels).tolist() == thin.train_counts.tolist()
    assert np.array_equal(thin.test_images, full.test_images)
    assert full.majority.all()
    kept = {image.tobytes() for image in thin.train_images}
    assert kept <= {image.tobytes() for image in full.train_images}


def test_load_flags_single_image_classes_and_refuses_ka_above_k():
    single = load(DataConfig(imbalance="longtail", ratio=1000, allow_single=True))
    assert single.train_counts.min() == 1
    assert any("one train image" in note and "9" in note for note in single.notes)
    for imbalance in ("step", "longtail"):
        with pytest.raises(DataError, match="K = 10"):
            load(DataConfig(imbalance=imbalance, majority=11))
