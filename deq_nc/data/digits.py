"""The digits of scikit-learn: 1,797 real handwritten digits of 8 x 8 grey pixels, embedded, nothing to download."""

from __future__ import annotations

import numpy as np

from deq_nc.data.source import Source, stratified_split

TEST_FRACTION = 0.3
SPLIT_SEED = 0  # fixed: every run of every seed sees the same test images


def load_digits() -> Source:
    """1,258 train and 539 test images uint8 [N, 8, 8, 1]; grey 0..16 is scaled to 0..255 and rounded."""
    from sklearn import datasets  # about a second to import, and only this source needs it

    bunch = datasets.load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    train, test = stratified_split(labels, TEST_FRACTION, SPLIT_SEED)
    return Source(
        name="digits",
        class_names=tuple(str(k) for k in range(10)),
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )
