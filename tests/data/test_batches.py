import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deq_nc.data import (
    Corpus,
    DataError,
    augment,
    drawn,
    epoch_permutation,
    gather,
    normalise,
    padded_batches,
    steps_per_epoch,
)

N, B, SIDE = 10, 4, 6
IMAGES = np.random.default_rng(0).integers(1, 256, (N, SIDE, SIDE, 3)).astype(np.uint8)
LABELS = np.arange(N, dtype=np.int32)
MEAN, STD = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.25, 0.3], np.float32)
KEY = jax.random.key(0)
CORPUS = Corpus(*map(jnp.asarray, (IMAGES, LABELS, MEAN, STD, np.ones(N, np.float32))))
jit_augment = jax.jit(augment, static_argnums=2)


@functools.partial(jax.jit, static_argnames="kind")
def take(permutation, step, kind="none"):
    return gather(CORPUS, *drawn(permutation, step, B), KEY, kind)


def test_an_epoch_visits_every_example_once():
    permutation = epoch_permutation(KEY, N)
    assert steps_per_epoch(N, B) == 3
    batches = [take(permutation, step) for step in range(3)]
    seen = np.concatenate([b.label[b.mask] for b in batches])
    assert sorted(seen.tolist()) == list(range(N))
    assert seen.tolist() == permutation.tolist()
    assert batches[2].mask.tolist() == [True, True, False, False]
    assert batches[2].label[2:].tolist() == permutation[:2].tolist()  # fillers are real images
    assert take._cache_size() == 1  # one trace for every step
    for b in batches:
        np.testing.assert_allclose(b.image, (IMAGES[b.label] / 255 - MEAN) / STD, rtol=1e-5, atol=1e-6)
        assert b.image.dtype == jnp.float32


def test_batches_replay_from_the_key_and_differ_between_epochs():
    first, second = (epoch_permutation(jax.random.fold_in(KEY, epoch), 100) for epoch in (0, 1))
    assert first.tolist() == epoch_permutation(jax.random.fold_in(KEY, 0), 100).tolist()
    assert first.tolist() != second.tolist()
    both = jax.vmap(functools.partial(epoch_permutation, size=100))(
        jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2))
    )
    assert both.tolist() == [first.tolist(), second.tolist()]


def test_rows_beyond_the_batch_are_masked_images_too():
    index, mask = drawn(jnp.arange(N)[::-1], 1, B, rows=6)
    assert index.tolist() == [5, 4, 3, 2, 1, 0] and mask.tolist() == [True] * 4 + [False] * 2
    index, mask = drawn(jnp.arange(N), 2, B, rows=6)
    assert index.tolist() == [8, 9, 0, 1, 2, 3] and mask.tolist() == [True] * 2 + [False] * 4


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(DataError, match="at most the 10 train images, got 11"):
        steps_per_epoch(10, 11)


def _windows(image, pad):
    """Every shift of one padded image, left-right flipped and not, by brute force."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    side = image.shape[0]
    crops = {}
    for i in range(2 * pad + 1):
        for j in range(2 * pad + 1):
            crops[padded[i : i + side, j : j + side].tobytes()] = (i, j, False)
            crops[padded[i : i + side, j : j + side][:, ::-1].tobytes()] = (i, j, True)
    return crops


@pytest.mark.parametrize("side, pad", [(6, 1), (16, 4)])
@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_augmented_images_are_shifts_of_their_own_image_and_all_shifts_occur(side, pad, kind):
    one = np.random.default_rng(1).integers(1, 256, (side, side, 1)).astype(np.uint8)
    out = np.asarray(jit_augment(KEY, np.broadcast_to(one, (2000, side, side, 1)), kind))
    windows = _windows(one, pad)
    seen = [windows[image.tobytes()] for image in out]  # a KeyError is an image that no shift gives
    assert {(i, j) for i, j, _ in seen} == {(i, j) for i in range(2 * pad + 1) for j in range(2 * pad + 1)}
    flipped = np.mean([flip for *_, flip in seen])
    assert flipped == 0 if kind == "crop" else abs(flipped - 0.5) < 0.05  # 4.5 standard deviations


def test_augmentation_keeps_examples_apart_and_follows_its_key():
    out = np.asarray(jit_augment(KEY, IMAGES, "crop_flip"))
    assert all(out[n].tobytes() in _windows(IMAGES[n], 1) for n in range(N))
    assert np.array_equal(out, jit_augment(KEY, IMAGES, "crop_flip"))
    assert not np.array_equal(out, jit_augment(jax.random.key(1), IMAGES, "crop_flip"))
    assert augment(KEY, IMAGES, "none") is IMAGES
    with pytest.raises(DataError, match="none, crop, crop_flip"):
        augment(KEY, IMAGES, "rotate")


def test_a_batch_is_augmented_before_normalising_so_that_borders_are_black():
    batch = take(jnp.arange(N), 0, kind="crop")
    pixels = np.rint((np.asarray(batch.image) * STD + MEAN) * 255).astype(np.uint8)
    assert np.array_equal(pixels, augment(KEY, IMAGES[:B], "crop"))
    assert (pixels == 0).any()  # the images themselves hold no 0


def test_vmap_over_keys():
    keys = jax.random.split(KEY, 2)
    images = jax.vmap(lambda key: augment(key, IMAGES, "crop"))(keys)
    assert np.array_equal(images[1], augment(keys[1], IMAGES, "crop"))


@pytest.mark.parametrize("size", [1, 4, 10])
def test_padded_batches_cover_the_set_once(size):
    index, mask = padded_batches(size, B)
    assert index.shape == mask.shape == (-(-size // B), B)
    assert index[mask].tolist() == list(range(size))
    assert index.min() >= 0 and index.max() < size and index.dtype == np.int32
    batch = gather(CORPUS, index[-1], mask[-1])
    assert batch.label.tolist() == index[-1].tolist()


def test_normalise_matches_numpy_and_leaves_the_train_set_standard():
    out = np.asarray(normalise(jnp.asarray(IMAGES), MEAN, STD))
    np.testing.assert_allclose(out, (IMAGES / 255 - MEAN) / STD, rtol=1e-5, atol=1e-6)
