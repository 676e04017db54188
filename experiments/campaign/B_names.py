"""Names that mean something to a terminal, a spreadsheet, TeX, HTML, Markdown or a file system, all over a run folder.

Each try is a small grid or a setting of run folders with hostile names, values and arrays; `deq-nc report` must end
without a traceback, write below its own folder alone, leave the runs as they are, and let no name act.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from experiments.campaign import Case

NAMES = (
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", ' =HYPERLINK("http://x")',
    "$x$", "$\\frac{", "$", "\\$", "_hidden", "[/red]", "[bold red]x", ":smile:", "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "\x9b31m", "\u202ereversed", "a\x00b", "a\nb", "a|b", "`code`", "<script>alert(1)</script>",
    "</title><img src=x>", '"><svg onload=x>', "{{ 7*7 }}", "{% include x %}", "\\input{/etc/passwd}", "\\write18{x}",
    "%", "#", "&amp;", "~", "^", "*", "**x**", "[x](http://y)", "![x](http://y/z.png)", "\ud800", "\udcff", "é",
    "日本語", "🦆", "\ufeff", "", " ", "x" * 256, "日" * 300, "/etc/passwd", "../../outside", "..", ".", "/absolute",
    "a/b", "con", "-rf", "--out",
)  # fmt: skip
VALUES = (
    "=1", [], {}, True, -1, 2**70, 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf"), "nan", None, 0, [[1]],
    {"a": {"b": 1}},
)  # fmt: skip
KILLERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Page(HTMLParser):
    """Raises on a tag or an address that the page does not have by itself."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "svg", "link", "base", "form"):
            raise ValueError(f"tag {tag}")
        for name, value in attrs:
            if name.startswith("on") or (
                name in ("src", "href") and not (value or "").startswith(("#", "data:image/png"))
            ):
                raise ValueError(f"attribute {name}={value!r}")


def fingerprint(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()
    }  # fmt: skip


def check(page: Path) -> None:
    """Raises where a name acts in a file of the page."""
    for path in page.rglob("*"):
        if path.suffix in (".html", ".md", ".csv", ".tex"):
            text = path.read_text(encoding="utf-8")
            if found := KILLERS.search(text):
                raise ValueError(f"{path.name}: control character {found.group()!r}")
    Page().feed((page / "index.html").read_text(encoding="utf-8"))
    for path in page.glob("*.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        for cell in (cell for row in rows for cell in row):
            if re.match(r"\s*[=+\-@＝]", cell) and not re.fullmatch(r"[+-]?(\d[\d.]*(e[+-]?\d+)?|inf|nan)", cell):
                raise ValueError(f"{path.name}: formula {cell!r}")
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"{path.name}: rows of different lengths")
    for path in page.glob("*.md"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"(?<!\\)(<\w|\]\(|`)", line):
                raise ValueError(f"{path.name}: markup in {line[:80]!r}")
        check_tables(path)
    for path in page.glob("*.tex"):
        check_tex(path.read_text(encoding="utf-8"))


def check_tables(path: Path) -> None:
    """Every row of a table has as many cells as its heading."""
    size = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            size = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        if size not in (None, cells):
            raise ValueError(f"{path.name}: {cells} cells, expected {size}")
        size = cells


def check_tex(text: str) -> None:
    """Balanced groups and mathematics, no command that the writer does not know."""
    layout = "begin end centering footnotesize setlength tabcolsep caption label toprule midrule bottomrule"
    signs = "pm to times partial textbackslash textasciitilde textasciicircum textless textgreater textbar textquotedbl"
    known = {"addlinespace", *layout.split(), *signs.split()}
    body = "\n".join(line for line in text.splitlines() if not line.startswith("% "))
    plain = re.sub(r"\\[\\{}%_&#$|]", "", body)
    if unknown := set(re.findall(r"\\([A-Za-z]+)", plain)) - known:
        raise ValueError(f"tables.tex: commands {sorted(unknown)}")
    if plain.count("{") != plain.count("}") or plain.count("$") % 2 or re.search(r"(?<!\\)[#~]", plain):
        raise ValueError("tables.tex: unbalanced")


def hostile(value: object, rng: random.Random, share: float) -> object:
    """A JSON value with some of its strings, numbers and keys replaced."""
    if isinstance(value, dict):
        return {key: hostile(each, rng, share) for key, each in value.items() if rng.random() > share / 4} | (
            {rng.choice(NAMES): rng.choice(VALUES)} if rng.random() < share else {}
        )
    if rng.random() < share:
        return rng.choice(NAMES if isinstance(value, str) else VALUES)
    return [hostile(each, rng, share) for each in value] if isinstance(value, list) else value


def spoil_arrays(path: Path, rng: random.Random) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    name = rng.choice(sorted(arrays))
    old = arrays[name]
    arrays[name] = rng.choice(
        [
            np.zeros_like(old), np.full(old.shape, np.nan), np.full(old.shape, np.inf), old[:1], old[:0],
            old[..., None], old.astype(str), np.full(old.shape, 1e38), np.full(old.shape, -1), np.float64(3),
            1e-40 * np.ones(old.shape),
        ]
    )  # fmt: skip
    np.savez(path, **arrays)


def spoil(run: Path, rng: random.Random, kind: str, level: str) -> None:
    if kind == "arrays":
        return spoil_arrays(run / "analysis.npz", rng)
    if kind == "bytes":
        path = rng.choice([path for path in run.iterdir() if path.is_file()])
        data = bytearray(path.read_bytes())
        cut = rng.randrange(len(data))
        if rng.random() < 0.5:
            data = data[:cut]
        else:
            data[cut] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        return None
    for path in run.glob("*.json"):
        value = json.loads(path.read_text())
        if kind == "names":
            if path.name == "config.json":
                value["recipe"] = level
            if path.name == "summary.json":
                value["class_names"] = [rng.choice(NAMES) for _ in value["class_names"]]
                value |= {"dataset": rng.choice(NAMES), "notes": [rng.choice(NAMES)], "device": rng.choice(NAMES)}
                value["versions"] = {rng.choice(NAMES): rng.choice(NAMES)} if rng.random() < 0.1 else value["versions"]
        else:
            value = hostile(value, rng, 0.02)
        path.write_text(json.dumps(value))
    if kind == "values":
        path = run / "history.jsonl"
        rows = [hostile(json.loads(line), rng, 0.003) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return None


def rename_arm(run: Path, arm: str) -> None:
    for name in ("config.json", "summary.json"):
        value = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(value | {"arm": arm}))


PROGRAM = """
import sys
from pathlib import Path
from deq_nc.cli import main
for root in sys.argv[1:]:
    code = main(["report", root, "--out", str(Path(root).parent / "page")])
    print(f"code {code}", flush=True)
"""


def run(quick: bool, seed: int, kinds: Sequence[str] = ("names", "values", "bytes", "arrays")) -> list[Case]:
    from tests.report.folders import make_run
    from tests.report.grids import make_cell

    rng, cases, tries = random.Random(seed), [], 6 if quick else 40
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            roots = []
            for number in range(tries):
                root = Path(folder) / str(number) / "runs"
                arm = rng.choice(NAMES)
                recipe = rng.choice(NAMES)
                if number % 3 == 2:
                    runs = [make_cell(root, s, "deq", 0, tests=20) for s in ("balanced", "step-KA3-R10")]
                    runs.append(make_cell(root, "step-KA3-R10", "explicit", 0, tests=20))
                else:
                    runs = [make_run(root / "digits", arm, 0, tests=20) for arm in ("deq", "explicit")]
                spoiled = runs if kind == "names" else runs[:1]
                for each in spoiled:
                    spoil(each, rng, kind, recipe)
                if kind == "names":
                    rename_arm(runs[-1], arm)
                roots.append(root)
            before = [fingerprint(root) for root in roots]
            faults = attempt(roots)
            for root, old in zip(roots, before):
                if fingerprint(root) != old:
                    faults.append(f"{root}: the runs were touched")
                if extra := {path.name for path in root.parent.iterdir()} - {"runs", "page"}:
                    faults.append(f"{root}: wrote {extra}")
            cases.append(Case(f"report: hostile {kind}", tries, max(tries - len(faults), 0), tuple(faults)))
    return cases


def attempt(roots: list[Path]) -> list[str]:
    """Reports in one process (a second of imports each would be most of the time); a death is followed by the rest."""
    faults, left = [], list(roots)
    while left:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, left)], capture_output=True, text=True, errors="replace"
        )
        codes = [int(code) for code in re.findall(r"^code (\d+)$", done.stdout, re.M)]
        if found := re.search("[\x1b\x9b\x07\u202e]", done.stdout + done.stderr):
            faults.append(f"terminal: {found.group()!r}")
        for root, code in zip(left, codes):
            page = root.parent / "page"
            try:
                if code not in (0, 1, 2) or (code < 2 and not (page / "index.html").is_file()):
                    raise ValueError(f"exit code {code}")
                if code < 2:
                    check(page)
            except ValueError as error:
                faults.append(f"{root}: {error}")
        if len(codes) < len(left):
            faults.append(f"{left[len(codes)]}: died with {done.returncode}: {done.stderr[-1500:]}")
        left = left[len(codes) + 1 :]
    return faults
