"""Which folders are runs, and which runs may stand on one page."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deq_nc.config import differing_fields
from deq_nc.names import printable
from deq_nc.report.read.run import ReportError, Run

log = logging.getLogger("deq_nc.report")
OLD = re.compile(r"-old-[0-9]+$")
FREE = ("arm", "seed", "workdir", "data.allow_single")  # may differ between the runs of one setting
# May differ beside these between the settings of a grid; epochs, since imbalance leaves fewer updates in each.
VARYING = (*FREE, "data.imbalance", "data.majority", "data.ratio", "train.epochs")


def run_folders(given: Path) -> list[Path]:
    """`given` itself, or the run folders in it, or those of the settings in it, without RUN-old-N. Raises ReportError.

    Links are kept as they are named: a page goes beside what was named, not beside what a link points to.
    """
    given = Path(os.path.abspath(given))
    try:
        if not given.is_dir():
            raise ReportError(f"{printable(given)}: expected a run folder, got no folder of that name. Check the path.")
        if _is_run(given):
            return [given]
        if (given / "index.html").is_file() and (given / "tables.csv").is_file():
            return []  # a page of ours, which a wildcard over the settings catches too
        children = [child for child in sorted(given.iterdir()) if child.is_dir()]
        inside = [child for child in children if _is_run(child)]
        inside += [run for child in children if not _is_run(child) for run in sorted(child.iterdir()) if _is_run(run)]
        if old := [run for run in inside if OLD.search(run.name)]:
            log.info(f"left out, renamed by --fresh: {', '.join(printable(run) for run in old)}")
            inside = [run for run in inside if run not in old]
    except OSError as error:
        raise ReportError(f"{printable(given)}: could not be read ({error.strerror}). Check the path.") from error
    if not inside:
        raise ReportError(
            f"{printable(given)}: expected a run folder (config.json, history.jsonl) or a folder of them, got a folder "
            "without either. Pass the folder that `deq-nc train` wrote."
        )
    return inside


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def check_once(runs: Sequence[Run]) -> None:
    """Raises ReportError where two folders hold the same arm and seed."""
    seen: dict[tuple[str, int], Path] = {}
    for run in runs:
        if (other := seen.setdefault((run.arm, run.seed), run.path)) != run.path:
            raise ReportError(
                f"report: expected one run per arm and seed, got {run.name} twice: {printable(other)} and "
                f"{printable(run.path)}. Leave one out."
            )


def check_together(runs: Sequence[Run], free: Sequence[str]) -> None:
    """Raises ReportError where runs differ in another field of their configuration than `free`, in data or versions.

    The folder of the data may differ where checksums say that they are the same; the settings of a grid (`free` is
    VARYING) keep other train images of one set.
    """
    one = free == FREE
    for run in runs[1:]:
        differ = differing_fields(runs[0].config, run.config)
        if runs[0].data and run.data:
            differ.pop("data.dir", None)
            for split in ("train", "test") if one else ("test",):
                if (pair := (runs[0].data.get(split), run.data.get(split)))[0] != pair[1]:
                    differ[f"checksum of the {split} images"] = pair
        if differ := {name: values for name, values in differ.items() if name not in free}:
            allowed = "arm and seed" if one else "arm, seed, imbalance and its epochs"
            raise _apart(
                f"of one setting (only {allowed} may differ)", runs[0], run, differ, "Report each setting on its own."
            )
    known = [run for run in runs if run.summary.get("versions")]
    for run in known[1:]:
        if differ := differing_fields(known[0].summary["versions"], run.summary["versions"]):
            do = "Train those of one version again, or report them apart."
            raise _apart("made with the same packages", known[0], run, differ, do)


def _apart(wanted: str, one: Run, two: Run, differ: dict[str, tuple[Any, Any]], do: str) -> ReportError:
    pairs = "; ".join(f"{name}: {left!r} and {right!r}" for name, (left, right) in differ.items())
    both = f"{printable(one.path)} and {printable(two.path)}"
    return ReportError(f"report: expected runs {wanted}, got {both} which differ in {pairs}. {do}")
