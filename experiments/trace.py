"""Every measured number of a page, traced to a committed file under experiments/results.

    python -m experiments.trace [PAGE.md ...]       # README.md, docs/results.md; exit code 1 on an untraced number

A block (paragraph, list, table, fence) with measured numbers stands under a comment that names its sources:

    <!-- from: experiments/results/digits/tables.csv?quantity=nc1|nc3&column=deq, experiments/results/x/y.json -->
    <!-- from: none, REASON -->                     definitions, targets, examples

`column=a|b` keeps rows of a CSV, JSON or JSONL file (every object or list in JSON is a row and inherits the scalars of
the objects around it), `at=cells.0` what lies under a dotted path; `as=%` is for percent shown without the sign.
Measured is what has a decimal point, exponent, thousands comma, ±, % or unit, outside EXEMPT and fences of CODE. A
number is traced if a value rounds to it at its shown precision, sign included; a bound (<0.001) if a value lies within
its last digit; `x ± y` if both are in one row, y in a column *half_width*, where only numbers after ± are sought. In a
table, the words of the row and the column's header narrow the search to values that the sources know by these names:
`deq`, `NC1`, `balanced: NC1`, `KA=3, R=10` (columns majority and ratio), or `10` under a header `R`.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = "experiments/results"
CODE = {"python", "bash", "sh", "toml", "yaml"}  # languages of fences that hold no output
EXEMPT = re.compile(
    r"(?P<ticks>`+).+?(?P=ticks)"  # inline code
    r"|\]\([^)]*\)|https?://\S+"  # targets of links and images
    r"|\b(?:Python|jax|flax|jaxopt|torch|torchdeq|NumPy)\s\d+(?:\.\d+)+(?:\sto\s\d+(?:\.\d+)+)?"  # versions
    r"|\b\d+\.\d+\.\d+\b|Apache-2\.0"
    r"|\b95\s%\s(?:t-)?(?:interval|band)",  # the level of every interval
    re.S,
)
BLOCK = re.compile(
    r"^ *(?P<fence>```+|~~~+)(?P<language>\w*).*\n(?P<output>(?:.*\n)*?)(?: *(?P=fence).*$|\Z)"
    r"|^ *<!--\s*(?P<from>from:\s*)?(?P<comment>(?:.|\n)*?)\s*-->"
    r"|(?P<text>(?:(?:^|(?<=-->))(?! *(?:```|~~~|<!--)).*\S.*\n?)+)",
    re.M,
)
UNITS = {"%": (100,), "points": (100,), "ms": (1, 1e3), "min": (1, 1 / 60), "h": (1, 1 / 3600)}
UNITS |= {"MiB": (1, 2.0**-20), "GiB": (1, 2.0**-30)}  # shown = value in the file x one of these
KNOWN_AS = {"majority": "KA", "ratio": "R"}  # columns that pages call by other names
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d*\.\d+|\d+)(?:[eE][-+−]?\d+)?"
SHOWN = re.compile(
    r"(?<![^\W_])(?<!\d\.)(?:(?:(?P<hours>\d+)\sh\s)?(?P<minutes>\d+)\smin(?:\s(?P<seconds>\d+)\ss)?\b"
    rf"|(?P<bound>[<>≤≥±]=?\s*)?(?P<mean>[-−+]?{NUMBER})(?:\s*±\s*(?P<width><?{NUMBER}))?"
    r"(?:\)[eE](?P<power>[-+−]?\d+))?(?:\s*(?P<unit>%|(?:points|ms|s|min|h|MiB|GiB)\b(?!/)))?)"
)
PLAIN = re.compile(r"[<>≤≥]?=?\s*[-−+]?\d+")  # whole numbers without a unit: counts, seeds, classes
Value = namedtuple("Value", "number key row names")  # row: scalars beside it; names: its key, path and row's words


def misses(text: str, power: str | None = None, bound: str | None = None, unit: str | None = None) -> Callable:
    """A function of a file's value: 0 if it would be shown so, else how many units of the last digit it is off."""
    digits, _, exponent = re.sub("[,<]", "", text.replace("−", "-")).lower().partition("e")
    exponent = int(exponent or 0) + int((power or "0").replace("−", "-"))
    number, step = float(f"{digits}e{exponent}"), 10.0 ** (exponent - len(digits.partition(".")[2]))
    below = {"<": 1, "≤": 1, ">": 0, "≥": 0}.get("<" if text[0] == "<" else (bound or " ")[0], 0.5)
    low, high = number - (below + 1e-6) * step, number + (1 - below + 1e-6) * step
    return lambda value: min(max(low - value * s, value * s - high, 0) / step for s in UNITS.get(unit, (1,)))


def scalar(value: object, scale: float = 1) -> float | str:
    """A finite number, which CSV files keep as text, times `scale`; else the value as text."""
    numeric = not isinstance(value, bool) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", str(value))
    return scale * float(value) if numeric else str(value)


def fold(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def rows_of(node: dict | list, path: tuple[str, ...] = (), around: dict | None = None) -> Iterator[tuple]:
    """(path, scalars, scalars with those of the objects around) of every object and list in a JSON document."""
    items = {str(key): item for key, item in (node.items() if isinstance(node, dict) else enumerate(node))}
    own = {key: item for key, item in items.items() if not isinstance(item, dict | list)}
    yield path, own, (context := {**(around or {}), **own})
    for key in (key for key in items if key not in own):
        yield from rows_of(items[key], (*path, key), context if isinstance(node, dict) else around)


@lru_cache
def read(path: Path) -> list[tuple]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return [((), row, row) for row in csv.DictReader(text.splitlines())]
    return list(rows_of(json.loads(text) if path.suffix == ".json" else [*map(json.loads, text.splitlines())]))


def values(source: str, root: Path) -> Iterator[Value]:
    """All numbers of one source as a comment writes it; ValueError says what is wrong with it."""
    name, _, query = source.partition("?")
    path = (root / name).resolve()
    if not path.is_relative_to((root / RESULTS).resolve()) or path.suffix not in (".csv", ".json", ".jsonl"):
        raise ValueError(f"{source}: expected a .csv, .json or .jsonl file under {RESULTS}")
    if not path.is_file():
        raise ValueError(f"{source}: no such file")
    rows, scale = read(path), 1
    for column, _, wanted in (part.partition("=") for part in query.split("&") if part):
        if column == "as":
            scale = UNITS.get(wanted, (1,))[-1]
        elif column == "at":
            rows = [row for row in rows if f"{'.'.join(row[0])}.".startswith(f"{wanted}.")]
        else:
            rows = [row for row in rows if str(row[2].get(column)) in wanted.split("|")]
        if not rows:
            raise ValueError(f"{source}: nothing is left after {column}={wanted}")
    for where, row, context in rows:
        row = {key: scalar(value, scale) for key, value in row.items()}
        named = [(KNOWN_AS.get(key, key), scalar(value)) for key, value in context.items()]
        words = [*name.split("/"), *where, *(v if isinstance(v, str) else f"{k} {v:g}" for k, v in named)]
        yield from (Value(v, k, row, [*map(fold, words), fold(k)]) for k, v in row.items() if isinstance(v, float))


def narrow(candidates: list[Value], lines: list[str], row: int, offset: int) -> list[Value]:
    """Values that go by the names of a table's row and column, as far as the sources know these names."""
    if not lines[row].startswith("|"):
        return candidates
    header = next(line for line in lines if line.startswith("|")).split("|")
    column, labels = lines[row].count("|", 0, offset), []
    for head, cell in list(zip(header, lines[row].split("|")))[1:column]:
        if all(PLAIN.fullmatch(match[0]) for match in SHOWN.finditer(cell)) and cell.strip():
            labels += [part for whole in cell.split(":") for part in (whole, *whole.split(","), head + whole)]
    for label in filter(re.compile("[a-z]").search, map(fold, [*labels, *header[column : column + 1]])):
        exact = [v for v in candidates if label in v.names]
        ending = [v for v in candidates if len(label) > 2 and any(name.endswith(label) for name in v.names)]
        candidates = exact or ending or candidates
    return candidates


def failure(match: re.Match, candidates: list[Value]) -> str | None:
    """Why no value is what the page shows, with the nearest one; None where it is traced."""
    if match["minutes"]:
        if any(match[0] in v.row.values() for v in candidates):
            return None
        minutes, seconds = 60 * int(match["hours"] or 0) + int(match["minutes"]), int(match["seconds"] or 0)
        mean = misses(str(60 * minutes + seconds)) if match["seconds"] else misses(str(minutes), unit="min")
    else:
        mean = misses(match["mean"], match["power"], match["bound"], match["unit"])
    if not match["width"]:
        alone = [v for v in candidates if ("half_width" in v.key) == (match["bound"] or "").startswith("±")]
        best = min(alone or candidates, key=lambda v: mean(v.number))
        miss, near, what = mean(best.number), f"{best.number:.6g}", "no value of the sources is shown so"
    else:
        half = misses(match["width"], match["power"], None, match["unit"])
        pairs = [(v, w) for v in candidates for key, w in v.row.items() if "half_width" in key and isinstance(w, float)]
        if not (pairs := [(mean(v.number) + half(w), v, w) for v, w in pairs if "half_width" not in v.key]):
            return "the sources have no column *half_width*"
        miss, best, width = min(pairs, key=lambda pair: pair[0])
        near, what = f"{best.number:.6g} ± {width:.6g}", "no row of the sources has both mean and half width"
    words = " ".join([*(word for word in best.row.values() if word and isinstance(word, str)), best.key])
    return f"{what}; nearest {near} ({words})" if miss else None


def trace(page: str, name: str = "page", root: Path = ROOT) -> tuple[list[str], int]:
    """Errors `name:line: number: reason` of a page's text, and how many of its numbers were traced."""
    errors, traced, sources = [], 0, ""
    for block in BLOCK.finditer(page):
        if block["comment"] is not None:
            sources += f", {block['comment']}" if block["from"] else ""
            continue
        body, named, sources = "output" if block["fence"] else "text", sources.removeprefix(", "), ""
        text = EXEMPT.sub(lambda match: re.sub(r"\S", " ", match[0]), block[body])
        found = [match for match in SHOWN.finditer(text) if not PLAIN.fullmatch(match[0])]
        if not found or block["language"] in CODE or re.match(r"none,\s*\S", named):
            continue
        first = page.count("\n", 0, block.start(body)) + 1
        try:
            candidates = [v for source in filter(None, re.split(r",\s+", named)) for v in values(source, root)]
        except ValueError as error:
            errors.append(f"{name}:{first}: {error}")
            continue
        for match in found:
            row, offset = text.count("\n", 0, match.start()), match.start() - text.rfind("\n", 0, match.start()) - 1
            near = narrow(candidates, block[body].splitlines(), row, offset)
            why = failure(match, near) if near else "no source: the block needs a comment <!-- from: FILE --> before it"
            errors += [f"{name}:{first + row}: {match[0].strip()}: {why}"] if why else []
            traced += not why
    return errors, traced


def main(pages: list[str]) -> int:
    pages = pages or ["README.md", "docs/results.md"]
    if missing := [page for page in pages if not (ROOT / page).is_file()]:
        print(f"{', '.join(missing)}: no such page in {ROOT}. Run this from a checkout of the project.")
        return 2
    found = {page: trace((ROOT / page).read_text(encoding="utf-8"), page) for page in pages}
    for page, (errors, traced) in found.items():
        print(*errors, f"{page}: {traced} numbers traced, {len(errors)} errors", sep="\n")
    return int(any(errors for errors, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
