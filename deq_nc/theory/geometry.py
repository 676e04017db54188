"""The collapse metrics of small exact matrices, float64: what a predicted or measured geometry is compared by.

Letters: K classes, W [K,d] classifiers, M [K,d] class means, E = P / sqrt(K-1) the ETF Gram of unit norm,
P = I - 11^T/K. Definitions are those of the collapse metrics; these work on Grams, so that any d will do.
"""

from __future__ import annotations

import numpy as np


def centred(gram: np.ndarray) -> np.ndarray:
    """P G P: the Gram about the unweighted mean of the K vectors."""
    g = gram - gram.mean(axis=0, keepdims=True)
    return g - g.mean(axis=1, keepdims=True)


def gram_distance(a: np.ndarray, b: np.ndarray) -> float:
    """||A/||A||_F - B/||B||_F||_F of two Grams [K,K]; NaN if either is zero."""
    na, nb = np.linalg.norm(a), np.linalg.norm(b)
    return float(np.linalg.norm(a / na - b / nb)) if na > 0 and nb > 0 else float("nan")


def nc2(gram: np.ndarray) -> float:
    """Distance of a Gram to the simplex ETF, ||G/||G||_F - E||_F."""
    return gram_distance(gram, np.eye(len(gram)) - 1 / len(gram))


def nc3(W: np.ndarray, M: np.ndarray) -> float:
    """Self-duality ||W/||W||_F - Mc/||Mc||_F||_F, with Mc = M - unweighted mean; NaN if either is zero."""
    Mc = M - M.mean(axis=0)
    nw, nm = np.linalg.norm(W), np.linalg.norm(Mc)
    return float(np.linalg.norm(W / nw - Mc / nm)) if nw > 0 and nm > 0 else float("nan")


def block_cosines(gram: np.ndarray, majority: np.ndarray, floor: float = 1e-6) -> dict[str, float]:
    """Mean cosine over the pairs of each block: 'majority', 'cross', 'minority'.

    Pairs with a vector shorter than `floor` times the longest are left out, since the direction of a vanished vector
    is noise; NaN where no pair is left. majority [K] is boolean.
    """
    length = np.sqrt(np.clip(np.diag(gram), 0.0, None))
    alive = length > floor * length.max() if length.max() > 0 else np.zeros(len(gram), dtype=bool)
    cos = gram / np.where(alive, length, 1.0)[:, None] / np.where(alive, length, 1.0)[None, :]
    pairs = np.triu(np.ones_like(gram, dtype=bool), 1) & alive[:, None] & alive[None, :]
    both = majority[:, None] & majority[None, :]
    neither = ~majority[:, None] & ~majority[None, :]
    blocks = {"majority": both, "cross": ~both & ~neither, "minority": neither}
    return {name: float(cos[pairs & b].mean()) if (pairs & b).any() else float("nan") for name, b in blocks.items()}
