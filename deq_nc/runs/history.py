"""history.jsonl: a line a measurement, steps ascending. One reader, which says where a file stops being sound."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

from deq_nc.runs.files import parse, read_bytes, strict
from deq_nc.runs.records import Line, Number, fits, said

KEYS = ("epoch", "step")  # of every line, integers, both ascending


class History(NamedTuple):
    """The lines before the first damaged one, and what is wrong with that one (None where all are sound)."""

    lines: list[Line]
    damage: str | None

    @property
    def step(self) -> int:
        return self.lines[-1]["step"] if self.lines else 0


def read_history(path: Path) -> History:
    """The history at `path`, empty where there is no file. Raises RunError where it cannot be read at all.

    A last line without its end is what a killed run leaves: it is dropped, and is no damage.
    """
    if not path.exists():
        return History([], None)
    texts = read_bytes(path).split(b"\n")
    tail, lines = texts.pop(), list[Line]()
    for number, text in enumerate(texts, start=1):
        line, wrong = _parse(text, lines[-1] if lines else None)
        if line is None:
            return History(lines, f"line {number} of {len(texts)}: {wrong}")
        lines.append(line)
    line, _ = _parse(tail, lines[-1] if lines else None)
    return History(lines if line is None else [*lines, line], None)


def dump(lines: Iterable[Line]) -> str:
    return "".join(json.dumps(strict(line)) + "\n" for line in lines)


def _parse(text: bytes, before: Any) -> tuple[Line | None, str]:
    try:
        line = parse(text)
    except (ValueError, RecursionError):
        return None, f"expected a JSON object, got {text[:40]!r}"
    if not isinstance(line, dict) or any(not fits(line.get(key), int) or line[key] < 0 for key in KEYS):
        return None, f"expected an object with {' and '.join(KEYS)}, got {text[:40]!r}"
    # Every other field of a Line is a number too, and so is what another version added to it.
    if wrong := [key for key, each in line.items() if not fits(each, Number) and not isinstance(each, bool)]:
        return None, f"expected numbers, got {said(line[wrong[0]])} for {wrong[0]!r}"
    if before is not None and any(line[key] <= before[key] for key in KEYS):
        return None, f"expected a step after {before['step']}, got {line['step']}"
    return cast(Line, line), ""
