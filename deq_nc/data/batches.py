"""Batches from a set that lies whole on the device: shuffle, gather, crop, flip and normalise inside jit.

Letters: N images, B images a batch, C channels. Every function is pure, of static shapes, and can be jitted and vmapped
over its key. Keys come from the caller by `jax.random.fold_in`, so that a resumed run replays the same batches.
Images stay uint8 until a batch is taken: a quarter of the memory, and crops pad with black as they do on files.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from deq_nc.config import Augment
from deq_nc.data.source import DataError

AUGMENTATIONS = get_args(Augment)
Array = jax.Array | np.ndarray


class Corpus(NamedTuple):
    """A data set on the device."""

    image: jax.Array  # uint8 [N, H, W, C]
    label: jax.Array  # int32 [N]
    mean: jax.Array  # [C]
    std: jax.Array  # [C]
    counts: jax.Array  # [K], train images a class


class Batch(NamedTuple):
    """image float32 [B, H, W, C] normalised; label int32 [B]; mask bool [B], False for a filler of the last batch."""

    image: Array
    label: Array
    mask: Array


def steps_per_epoch(size: int, batch_size: int) -> int:
    """ceil(N / B), the last batch filled up and masked. Raises DataError for a batch larger than the set."""
    if batch_size > size:
        raise DataError(
            f"train.batch_size: expected at most the {size} train images, got {batch_size}. "
            "Lower it, or keep more images."
        )
    return -(-size // batch_size)


def epoch_permutation(key: jax.Array, size: int) -> jax.Array:
    """A random order int32 [N] of the examples; one key an epoch."""
    return jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))


def drawn(
    permutation: jax.Array, step: jax.Array | int, batch_size: int, rows: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Index int32 [rows] and mask bool [rows] of batch `step` of an epoch: permutation[step B : (step + 1) B].

    `rows` (default B) of a batch padded to the devices. Fillers are images that come round again (real ones, so that
    batch statistics stay sane) with mask False.
    """
    size, row = permutation.shape[0], jnp.arange(rows or batch_size, dtype=jnp.int32)
    place = step * batch_size + row
    return permutation[place % size], (row < batch_size) & (place < size)


def gather(
    corpus: Corpus, index: jax.Array, mask: jax.Array, key: jax.Array | None = None, kind: Augment = "none"
) -> Batch:
    """The batch of examples `index` int32 [B], normalised; with a key augmented before, as kind asks."""
    image: Array = corpus.image[index]
    if key is not None:
        image = augment(key, image, kind)
    return Batch(normalise(image, corpus.mean, corpus.std), corpus.label[index], mask)


def normalise(image: Array, mean: Array, std: Array) -> Array:
    """(image / 255 - mean) / std as float32; image uint8 [..., C], mean and std float32 [C] of pixels in [0, 1]."""
    shape = (1,) * (image.ndim - 1) + (-1,)
    return (image.astype(jnp.float32) / 255 - jnp.reshape(mean, shape)) / jnp.reshape(std, shape)


def augment(key: jax.Array, image: Array, kind: str) -> Array:
    """Random crop (`crop`), crop and left-right flip (`crop_flip`), or nothing (`none`), per example.

    image [B, H, W, C] of any dtype. A crop shifts by up to 4 pixels, 1 for images under 16 pixels, and fills with
    zeros: black for uint8. Raises DataError for an unknown kind.
    """
    if kind not in AUGMENTATIONS:
        raise DataError(f"data.augment: expected one of {', '.join(AUGMENTATIONS)}, got {kind!r}. Choose one of these.")
    if kind == "none":
        return image
    batch, height, width, channels = image.shape
    pad = 4 if min(height, width) >= 16 else 1
    crop_key, flip_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    corner = jax.random.randint(crop_key, (batch, 2), 0, 2 * pad + 1)
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def crop(one: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(one, (at[0], at[1], 0), (height, width, channels))

    image = jax.vmap(crop)(padded, corner)
    if kind == "crop":
        return image
    flip = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
    return jnp.where(flip, image[:, :, ::-1], image)


def padded_batches(size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Index int32 [S, B] and mask bool [S, B] that visit 0..N-1 once in order, S = ceil(N / B)."""
    steps = -(-size // batch_size)
    place = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size)
    return place % max(size, 1), place < size
