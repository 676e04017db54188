"""Neural-collapse metrics: class moments that merge, NC1 to NC4, target geometries, imbalance; usable alone.

What belongs here: a number read off features, labels and a linear classifier.
moments (first pass) -> directions, tables -> decisions, residuals (second pass) -> frames -> measure; stream, series
and npz are other ways in; targets and distances are those of deq_nc/geometry.py. Definitions, ranges and sources:
docs/collapse.md.
"""

from deq_nc.geometry import (
    GramDistance,
    centre_gram,
    gof,
    gram_distance,
    gram_distance_blocks,
    orthogonal_frame,
    seli,
    simplex_etf,
)

from .measure import Collapse, measure, scalars, summarise
from .moments import ClassMoments, class_moments, merge, merge_axis
from .npz import measure_npz
from .residuals import residual_sums
from .series import measure_layers, measure_trajectory
from .stream import measure_stream, stream_moments
from .tables import make_tables

__all__ = [
    "ClassMoments",
    "Collapse",
    "GramDistance",
    "centre_gram",
    "class_moments",
    "gof",
    "gram_distance",
    "gram_distance_blocks",
    "make_tables",
    "measure",
    "measure_layers",
    "measure_npz",
    "measure_stream",
    "measure_trajectory",
    "merge",
    "merge_axis",
    "orthogonal_frame",
    "residual_sums",
    "scalars",
    "seli",
    "simplex_etf",
    "stream_moments",
    "summarise",
]
