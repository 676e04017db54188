"""One look for every figure: an arm has one colour, line and marker everywhere (Okabe-Ito, readable in grey)."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deq_nc.names import figure as figure_text

ARM_STYLE: dict[str, dict[str, Any]] = {
    "explicit": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "deq": {"color": "#D55E00", "linestyle": (0, (5, 1.5)), "marker": "s"},
    "unrolled": {"color": "#009E73", "linestyle": (0, (1.5, 1)), "marker": "^"},
    "residual": {"color": "#CC79A7", "linestyle": (0, (5, 1, 1, 1)), "marker": "D"},
}
OTHER: dict[str, Any] = {"color": "#555555", "linestyle": "-", "marker": "x"}
ARM_HATCH = {"explicit": "", "deq": "///", "unrolled": "...", "residual": "xxx"}
GREY = "#666666"
DASHES: dict[str, Any] = {"color": GREY, "linewidth": 1.2, "linestyle": (0, (2, 2))}  # of a reference line

DPI = 110
RC: Any = {
    "font.size": 9,
    "axes.titlesize": 8.5,
    "axes.titlecolor": GREY,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True)
class Picture:
    """A figure as PNG bytes, with the sentence that says how to read it."""

    name: str
    title: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode("ascii")


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own (inches); no pyplot, so that nothing global is left behind."""
    return Figure(figsize=(width, height), layout="constrained")


def picture(name: str, title: str, caption: str, figure: Figure) -> Picture:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box is drawn instead
        figure.savefig(out, format="png", facecolor="white")
    return Picture(name, title, caption, out.getvalue())


def style_context(dpi: int = DPI) -> Any:
    """A context under which every figure is drawn and saved."""
    return matplotlib.rc_context({**RC, "figure.dpi": dpi})


def arm_style(arm: str) -> dict[str, Any]:
    return ARM_STYLE.get(arm, OTHER)


def bar_style(arm: str) -> dict[str, Any]:
    return {"facecolor": arm_style(arm)["color"], "alpha": 0.85, "hatch": ARM_HATCH.get(arm, ""), "edgecolor": "white"}


def arm_legend(figure: Figure, arms: Iterable[str], extra: Iterable[Line2D] = ()) -> None:
    """Legend above the panels, outside every axis."""
    handles = [Line2D([], [], label=figure_text(arm), **arm_style(arm)) for arm in arms] + list(extra)
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=3.2, fontsize=9.5)
