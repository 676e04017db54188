"""From a DataConfig to the arrays a run trains and tests on.

Letters: N images of H x W pixels and C channels, K classes, n_k train images of class k.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from deq_nc.config import DataConfig
from deq_nc.data.digits import load_digits
from deq_nc.data.image_folder import load_folder
from deq_nc.data.imbalance import balanced_counts, check_majority, class_order, longtail_counts, step_counts, subset
from deq_nc.data.source import DataError, Source
from deq_nc.data.synthetic import load_synthetic
from deq_nc.data.tfds_source import load_tfds


@dataclass(frozen=True)
class Dataset:
    """Train and test images in host memory (or memory-mapped from the cache), with what a run must know of them.

    mean, std: of the kept train images in [0, 1], per channel. majority: True for the first KA classes of the order;
    all True where the data are balanced, and then the blocks mean nothing. notes: what a reader of the numbers must
    know (classes kept at one image, lossy pixels, a rebuilt cache).
    """

    name: str
    class_names: tuple[str, ...]
    train_images: np.ndarray  # uint8 [N, H, W, C]
    train_labels: np.ndarray  # int32 [N]
    test_images: np.ndarray
    test_labels: np.ndarray
    train_counts: np.ndarray  # int [K]
    majority: np.ndarray  # bool [K]
    mean: np.ndarray  # float32 [C]
    std: np.ndarray  # float32 [C]
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.train_images.shape[1:])

    def checksums(self) -> dict[str, str]:
        """CRC-32 of the kept train and of the test images with their labels: which data they are, wherever they lie."""
        pairs = {"train": (self.train_images, self.train_labels), "test": (self.test_images, self.test_labels)}
        found = {}
        for split, (images, labels) in pairs.items():
            crc = zlib.crc32(np.ascontiguousarray(images).data, zlib.crc32(np.ascontiguousarray(labels).data))
            found[split] = f"{crc:08x}"
        return found


def load(config: DataConfig) -> Dataset:
    """The data set a configuration names, its classes thinned as it asks.

    Raises DataError: at once for data that are missing, and where the counts asked for cannot be had, which is known
    once the set is decoded (the first time; the work is cached).
    """
    source = _source(config)
    available = _available(source)
    counts, majority = _counts(config, available)
    notes = list(source.notes)
    if config.imbalance != "none" and config.allow_single:
        single = np.flatnonzero(counts == 1)
        if len(single):
            names = ", ".join(source.class_names[k] for k in single)
            notes.append(f"classes at the minimum of one train image: {names}")
    images, labels = source.train_images, source.train_labels
    if (counts < available).any():
        index = subset(labels, counts, config.subset_seed)
        images, labels = images[index], labels[index]
    mean, std = channel_statistics(images)
    return Dataset(
        name=source.name,
        class_names=source.class_names,
        train_images=images,
        train_labels=labels,
        test_images=source.test_images,
        test_labels=source.test_labels,
        train_counts=counts,
        majority=majority,
        mean=mean,
        std=std,
        notes=tuple(notes),
    )


def _source(config: DataConfig) -> Source:
    if config.name == "digits":
        return load_digits()
    if config.name == "synthetic":
        return load_synthetic(config.synthetic_classes, config.synthetic_noise)
    if config.name == "folder":
        return load_folder(config.dir, config.image_size)
    return load_tfds(config.name, config.dir, config.image_size)


def _available(source: Source) -> np.ndarray:
    """Train images a class, int [K]. Raises DataError for a class without any, or labels outside 0..K-1."""
    num_classes = len(source.class_names)
    for split, labels in (("train", source.train_labels), ("test", source.test_labels)):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{source.name} {split}: expected labels in 0..{num_classes - 1}, got {low}..{high}. "
                "Prepare it again, or choose a set whose labels are published."
            )
    available = np.bincount(source.train_labels, minlength=num_classes)
    if (empty := np.flatnonzero(available == 0)).size:
        raise DataError(
            f"{source.name} has no train image of {', '.join(source.class_names[k] for k in empty)}. "
            "Remove these classes."
        )
    return available


def _counts(config: DataConfig, available: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Train images a class, int [K], and which classes are majority, bool [K]."""
    num_classes = len(available)
    if config.imbalance == "none":
        return balanced_counts(available, config.per_class), np.ones(num_classes, bool)
    order = class_order(num_classes, config.order_seed)
    check_majority(config.majority, num_classes)
    majority = np.zeros(num_classes, bool)
    majority[order[: config.majority]] = True
    options = (config.ratio, config.per_class, order, config.allow_single)
    if config.imbalance == "step":
        return step_counts(available, config.majority, *options), majority
    return longtail_counts(available, *options), majority


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float32 [C] of pixels in [0, 1]; by exact integer sums; std 1 if constant."""
    channels = images.shape[-1]
    rows = images.reshape(len(images), -1)
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    height = min(max((1 << 22) // rows.shape[1], 1), 1 << 15)  # 2^15 squares of at most 65,025 fit into uint32
    for start in range(0, len(rows), height):
        chunk = rows[start : start + height].astype(np.uint16)  # 255^2 fits; 12 times faster than summing int64
        total += chunk.sum(axis=0, dtype=np.uint32).reshape(-1, channels).sum(axis=0, dtype=np.int64)
        np.square(chunk, out=chunk)
        squares += chunk.sum(axis=0, dtype=np.uint32).reshape(-1, channels).sum(axis=0, dtype=np.int64)
    count = images.size // channels
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    std = np.where(variance > 1e-9, np.sqrt(variance), 255)
    return (mean / 255).astype(np.float32), (std / 255).astype(np.float32)


def describe(dataset: Dataset) -> list[tuple[str, int, int, str]]:
    """Rows (class name, train images, test images, "majority" | "minority" | "") for a table of counts."""
    tests = np.bincount(dataset.test_labels, minlength=dataset.num_classes)
    blocks = [""] * dataset.num_classes
    if not dataset.majority.all():
        blocks = ["majority" if m else "minority" for m in dataset.majority]
    return list(zip(dataset.class_names, dataset.train_counts.tolist(), tests.tolist(), blocks))
