"""Class clusters whose collapse is known exactly, as integers: an oracle that passes through the whole program.

An "image" is one pixel of C = 16 channels, [N, 1, 1, 16]. Class k has the mean BASE + STEP e_k, so that the centred
means are exactly a simplex ETF. Around it lie the points mean +- a e_j for every channel j and amplitude a (the corners
of cross-polytopes), so that the within-class covariance is exactly mean(a^2) / C times the identity. With
S_W = mean(a^2)/C I and S_B = STEP^2/K (I - 11^T/K) on the first K channels,

    NC1 = tr(S_W S_B^+) / K = (K - 1) mean(a^2) / (C STEP^2).

Standardising the channels leaves it unchanged: the first K share one scale, the others carry no S_B.
"""

from __future__ import annotations

import numpy as np

from deq_nc.data.source import DataError, Source

CHANNELS = 16
BASE, STEP = 75, 100  # grey levels; noise up to 0.6 stays within 0..255
_TRAIN = (0.5, 0.75, 1.0, 1.25)  # amplitudes in units of noise * STEP: 4 * 32 images a class
_TEST = (0.625, 1.125)  # between the train ones: 2 * 32 images a class


def _amplitudes(noise: float, units: tuple[float, ...]) -> np.ndarray:
    return np.rint(noise * STEP * np.array(units)).astype(np.int64)


def synthetic_nc1(num_classes: int, noise: float) -> float:
    """NC1 of the unthinned train images, (K - 1) mean(a^2) / (C STEP^2), with the integer amplitudes used."""
    a = _amplitudes(noise, _TRAIN)
    return float((num_classes - 1) * np.mean(a**2) / (CHANNELS * STEP**2))


def load_synthetic(num_classes: int = 4, noise: float = 0.2) -> Source:
    """128 train and 64 test images a class, uint8 [N, 1, 1, 16]; noise is in units of the distance STEP.

    Raises DataError unless 2 <= num_classes <= 16 and 0 <= noise <= 0.6.
    """
    if not 2 <= num_classes <= CHANNELS:
        raise DataError(f"data.synthetic_classes: expected 2 to {CHANNELS}, got {num_classes}. Choose within.")
    if not 0 <= noise <= 0.6:
        raise DataError(f"data.synthetic_noise: expected 0 to 0.6, got {noise}. Beyond, grey levels leave 0..255.")
    means = BASE + STEP * np.eye(num_classes, CHANNELS, dtype=np.int64)
    corners = np.concatenate([np.eye(CHANNELS, dtype=np.int64), -np.eye(CHANNELS, dtype=np.int64)])

    def split(units: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        offsets = (_amplitudes(noise, units)[:, None, None] * corners).reshape(-1, CHANNELS)
        images = (means[:, None] + offsets).reshape(-1, 1, 1, CHANNELS).astype(np.uint8)
        return images, np.repeat(np.arange(num_classes, dtype=np.int32), len(offsets))

    return Source("synthetic", tuple(f"cluster {k}" for k in range(num_classes)), *split(_TRAIN), *split(_TEST))
