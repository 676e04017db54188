"""What the step-imbalance optimum looks like: norms, cosines and Grams from its four scalars.

Letters: Z = a1 P_A + e1 P_B + u v^T; W W^T = (Z Z^T)^(1/2), H^T H = (Z^T Z)^(1/2) at E_W = E_H. Block inner products
of W W^T: a minority classifier has e1 (1 - 1/KB) + q with itself and q - e1/KB with another, q = |v| KA/(K KB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deq_nc.geometry import simplex
from deq_nc.theory.checks import require


@dataclass(frozen=True)
class StepOptimum:
    """The optimum under step imbalance; every field is a float64 scalar, or an array of the broadcast inputs' shape.

    loss: the minimum; log_loss keeps it where it underflows. relative_gap: (loss - a lower bound) / loss, from the
    duality gap of the nuclear-norm program at this point: a certificate, not an estimate. multiplier: Lambda.
    collapsed: the minority classifiers are equal (e1 = 0). vanished: they are zero as well (v = 0), and their cosines
    are NaN, since a zero vector has none. Norms are squared, for E_W = E_H; else multiply by sqrt(E_W / E_H).
    """

    loss: Any
    log_loss: Any
    relative_gap: Any
    multiplier: Any
    a1: Any
    e1: Any
    vA: Any
    vB: Any
    majority: Any
    minority: Any
    collapsed: Any
    vanished: Any

    @property
    def v(self) -> Any:
        """|v|, the singular value that tells the two groups apart."""
        return np.hypot(self.vA, self.vB)

    @property
    def norm_majority(self) -> Any:
        """Squared norm of a majority classifier."""
        k = self.majority + self.minority
        return self.a1 * (1 - 1 / self.majority) + self.v * self.minority / (k * self.majority)

    @property
    def norm_minority(self) -> Any:
        """Squared norm of a minority classifier."""
        k = self.majority + self.minority
        return self.e1 * (1 - 1 / self.minority) + self.v * self.majority / (k * self.minority)

    @property
    def cos_majority(self) -> Any:
        """Cosine between two majority classifiers; NaN where there is only one."""
        inner = self.norm_majority - self.a1
        return _ratio(np.where(np.asarray(self.majority) > 1, inner, np.nan), self.norm_majority)

    @property
    def cos_minority(self) -> Any:
        """Cosine between two minority classifiers: 1 at collapse, NaN where they vanish or there is only one."""
        inner = self.norm_minority - self.e1
        return _ratio(np.where(np.asarray(self.minority) > 1, inner, np.nan), self.norm_minority)

    @property
    def cos_cross(self) -> Any:
        """Cosine between a majority and a minority classifier."""
        inner = -self.v / (self.majority + self.minority)
        return _ratio(inner, np.sqrt(self.norm_majority * self.norm_minority))

    @property
    def gap(self) -> Any:
        """Duality gap: loss - gap <= true minimum <= loss."""
        return self.relative_gap * self.loss

    def gram_weights(self) -> np.ndarray:
        """W W^T [K,K] = (Z Z^T)^(1/2) for E_W = E_H, majority classes first; of a scalar optimum only."""
        inside, left, _ = self._parts()
        return inside + self.v * np.outer(left, left)

    def gram_means(self) -> np.ndarray:
        """H^T H [K,K] = (Z^T Z)^(1/2) for E_W = E_H, not centred; centre with P G P as the collapse metrics do."""
        inside, _, right = self._parts()
        return inside + np.outer(right, right) / (self.v if self.v > 0 else 1.0)

    def logits(self) -> np.ndarray:
        """Z [K,K]: column k holds the logits of a sample of class k."""
        inside, left, right = self._parts()
        return inside + np.outer(left, right)

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(a1 P_A + e1 P_B [K,K], u [K], v [K]) of Z."""
        require(np.ndim(self.loss) == 0, "optimum", "a scalar one", np.shape(self.loss), "Index the inputs first.")
        ka, kb = sizes = int(self.majority), int(self.minority)
        k = ka + kb
        inside = np.zeros((k, k))
        inside[:ka, :ka] = self.a1 * simplex(np.ones(ka))
        inside[ka:, ka:] = self.e1 * simplex(np.ones(kb))
        left = np.repeat([np.sqrt(kb / k / ka), -np.sqrt(ka / k / kb)], sizes)
        return inside, left, np.repeat([self.vA / np.sqrt(ka), self.vB / np.sqrt(kb)], sizes)


def _ratio(numerator: Any, norm: Any) -> Any:
    """numerator / norm, NaN where the norm is zero."""
    norm = np.asarray(norm)
    out = np.where(norm > 0, numerator / np.where(norm > 0, norm, 1.0), np.nan)
    return out if out.ndim else float(out)
