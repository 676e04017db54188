"""How the classes of a run are balanced, under the one name that folders, tables and figures use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("none", "step", "longtail")
_RATIO = r"-R(\d+(?:\.\d+)?(?:e\+?\d+)?)"
_NAME = re.compile(rf"(?:^|-)(?:balanced|step-KA(\d+){_RATIO}|longtail{_RATIO})$")


@dataclass(frozen=True)
class Setting:
    """`kind` none, step (`majority` = KA classes keep `ratio` = R times the images of the others) or longtail (R)."""

    kind: str
    majority: int | None = None
    ratio: float | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Setting:
        """The setting of a configuration's `data`; its `majority` and `ratio` mean nothing where classes are balanced.

        The ratio to the digits of the name, so that `parse(setting.name) == setting`.
        """
        kind = data.get("imbalance", "none")
        ratio = None if kind == "none" else float(f"{data['ratio']:g}")
        return cls(kind, data["majority"] if kind == "step" else None, ratio)

    @classmethod
    def parse(cls, text: str) -> Setting | None:
        """The setting that `text`, a name or a folder's RECIPE-NAME, ends with; None where it ends with none."""
        if (found := _NAME.search(text)) is None:
            return None
        majority, step, tail = found.groups()
        if step is not None:
            return cls("step", int(majority), float(step))
        return cls("none") if tail is None else cls("longtail", None, float(tail))

    @property
    def name(self) -> str:
        """`balanced`, `step-KA3-R10` or `longtail-R100`."""
        if self.kind == "none":
            return "balanced"
        return f"step-KA{self.majority}-R{self.ratio:g}" if self.kind == "step" else f"longtail-R{self.ratio:g}"

    @property
    def panel(self) -> str:
        """What the settings that share a table and a panel have in common: `balanced`, `KA = 3` or `long tail`."""
        return {"none": "balanced", "step": f"KA = {self.majority}"}.get(self.kind, "long tail")

    @property
    def title(self) -> str:
        return self.panel if self.kind == "none" else f"{self.panel}, R = {self.ratio:g}"

    @property
    def order(self) -> tuple[int, int, float]:
        return KINDS.index(self.kind), self.majority or 0, self.ratio or 0.0
