"""A study -> its pictures, each drawn once; a figure is a function that returns `Picture`s.

`style` is the look of an arm, `epochs`, `iterates`, `classes`, `gram` and `tsne` draw the runs of one setting, `ratios`
and `price` a grid.
"""

from __future__ import annotations

from deq_nc.report.figures import classes, epochs, gram, iterates, price, ratios, tsne
from deq_nc.report.figures.style import Picture, style_context
from deq_nc.report.read import Study

__all__ = ["Figures", "Picture", "figures"]

Figures = dict[str, Picture]  # by the name of the file; those of one setting of a grid are SETTING/NAME
DETAIL_DPI = 85  # ten settings of four figures: 5 MB instead of 9


def figures(study: Study) -> Figures:
    """Every figure of the page, in the order of the page; what was not measured has none."""
    k = next((run.num_classes for run in study.all if run.num_classes), None)
    if not study.many:
        runs = study.all
        with style_context():
            drawn = [*epochs.pictures(runs, k), *iterates.pictures(runs)]
            drawn += [*gram.pictures(runs), *tsne.pictures(runs), *classes.pictures(runs)]
        return {each.name: each for each in drawn}
    with style_context():
        drawn = [*ratios.pictures(study, k), *price.pictures(study)]
    found = {each.name: each for each in drawn}
    with style_context(DETAIL_DPI):
        for setting, some in study.runs.items():
            if any(run.history for run in some):
                drawn = epochs.pictures(some, k, ("accuracy", "collapse"))
                drawn += [*gram.beside(some), *iterates.pictures(some)]
                found |= {f"{setting.name}/{each.name}": each for each in drawn}
    return found
