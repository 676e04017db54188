"""What every source returns: all images of a set, decoded, before any class is thinned out.

Letters: N images of H x W pixels and C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deq_nc.config import UserError


class DataError(UserError, ValueError):
    """Data that is missing, unreadable or cannot give what was asked; the message names the next move."""


@dataclass(frozen=True)
class Source:
    """A decoded image set: images uint8 [N, H, W, C], labels int32 [N] in 0..K-1, both splits."""

    name: str
    class_names: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    notes: tuple[str, ...] = ()


def stratified_split(labels: np.ndarray, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted train and test indices; class k gives round(test_fraction * n_k) images to the test, at least one to each.

    labels: int [N]. Depends on labels and seed alone. Raises DataError for a class of fewer than two images.
    """
    test = []
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        if len(members) < 2:
            raise DataError(
                f"Splitting off a test set needs 2 images in every class; class {k} has {len(members)}. "
                "Add images, or give the data a test split of its own."
            )
        count = min(max(round(test_fraction * len(members)), 1), len(members) - 1)
        test.append(np.random.default_rng([seed, int(k)]).permutation(members)[:count])
    held_out = np.zeros(len(labels), bool)
    held_out[np.concatenate(test)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
