"""Where images come from, how many of each class are kept, and how they become batches on the device.

Belongs here: one file per source (each returns a `Source`, the whole set as uint8 arrays), class imbalance (pure
NumPy), the cache of decoded images, batches (pure JAX), preparation of downloads. Does not belong here: anything that
knows a model, a loss or a training step.
"""

from deq_nc.data.batches import (
    Batch,
    Corpus,
    augment,
    drawn,
    epoch_permutation,
    gather,
    normalise,
    padded_batches,
    steps_per_epoch,
)
from deq_nc.data.dataset import Dataset, describe, load
from deq_nc.data.imbalance import balanced_counts, class_order, longtail_counts, step_counts, subset
from deq_nc.data.source import DataError, Source
from deq_nc.data.synthetic import synthetic_nc1

__all__ = [
    "Batch",
    "Corpus",
    "DataError",
    "Dataset",
    "Source",
    "augment",
    "balanced_counts",
    "class_order",
    "describe",
    "drawn",
    "epoch_permutation",
    "gather",
    "load",
    "longtail_counts",
    "normalise",
    "padded_batches",
    "step_counts",
    "steps_per_epoch",
    "subset",
    "synthetic_nc1",
]
