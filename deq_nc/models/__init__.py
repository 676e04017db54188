"""Encoders, cells f(z, x, theta), arms and the classifier; the only importer of flax.

A file holds one kind of part: `encoders` (image -> H0), `cells` (the pure functions f and the modules that own their
weights), `network` (encoder -> arm -> pooled features -> classifier), `norms` and `conv` (what makes a cell a
contraction and its loops fast).
"""

from deq_nc.models.cells import CELLS, CellKind
from deq_nc.models.network import Network, Output, Problem, count_parameters

__all__ = ["CELLS", "CellKind", "Network", "Output", "Problem", "count_parameters"]
