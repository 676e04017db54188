import numpy as np
import pytest

from deq_nc.sample import even_sample


@pytest.mark.parametrize(
    "size, count", [(0, 5), (5, 0), (5, 5), (5, 9), (7, 6), (50_000, 5_000), (15_001, 32), (10, 1)]
)
def test_indices_are_sorted_distinct_and_as_many_as_asked(size, count):
    index = even_sample(size, count)
    assert index.dtype == np.int64 and len(index) == min(size, count)
    assert (np.diff(index) > 0).all() and (len(index) == 0 or 0 <= index[0] <= index[-1] < size)
    assert np.array_equal(index, even_sample(size, count))
    if count >= size:
        assert np.array_equal(index, np.arange(size))


@pytest.mark.parametrize("sizes", [[2600] * 3, [5000] * 10, [9000, 900, 90], [1] * 64 + [10_000]])
@pytest.mark.parametrize("count", [32, 500, 5000])
def test_a_set_sorted_by_class_gives_each_class_its_share(sizes, count):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    got = np.bincount(labels[even_sample(len(labels), count)], minlength=len(sizes))
    share = np.array(sizes) * min(count / len(labels), 1)
    assert (np.abs(got - share) < 2).all()


@pytest.mark.parametrize("classes", range(2, 21))
def test_classes_in_rotation_get_their_share_too(classes):
    for stretch in (1, 2, 3, 5, 10, 20):  # evenly spaced rows would all be of one class where it divides the stretch
        labels = np.arange(1000 * stretch) % classes
        got = np.bincount(labels[even_sample(len(labels), 1000)], minlength=classes)
        assert (np.abs(got - 1000 / classes) <= 4 * np.sqrt(1000 / classes)).all(), (stretch, got)
