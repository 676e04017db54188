"""Neural-collapse metrics: class moments that merge, NC1 to NC4, target geometries, imbalance; usable alone.

What belongs here: a number read off features, labels and a linear classifier. It imports nothing else of the project.
moments (first pass) -> directions, residuals (second pass) -> frames, geometry -> measure.
"""

from .geometry import gram_distance, seli, simplex_etf
from .measure import Collapse, measure, scalars
from .moments import ClassMoments, class_moments, merge

__all__ = [
    "ClassMoments",
    "Collapse",
    "class_moments",
    "gram_distance",
    "measure",
    "merge",
    "scalars",
    "seli",
    "simplex_etf",
]
