"""Remove the runs of a folder, and only these, after asking: `make clean-runs`, `python -m experiments.clean_runs`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deq_nc.config import ConfigError
from deq_nc.names import printable
from deq_nc.runs import Held, Lock, RunFolder, read_json
from deq_nc.runs.lock import NAME, holder_of

CACHE = ".compiled"  # of a sweep's workers

USAGE = "usage: python -m experiments.clean_runs WORKDIR"


RUN = {"config.json", "data.json", "history.jsonl", "checkpoints", "summary.json", "analysis.npz", "along.json"}
RUN |= {"failed.txt", "damaged", "tensorboard", "report", NAME}
PAGE = {"index.html", "figures", "runs.csv", "tables.md", "tables.csv", "tables.tex", "cost.md", "cost.csv", NAME}


def parts(root: Path) -> tuple[list[Path], list[Path]]:
    """What runs and pages left below `root`, and folders that look like these and hold what we did not write.

    Runs are ROOT/SETTING/RUN with a configuration of ours; no link is followed. The compilation cache goes with them.
    """
    settings = [path for path in root.glob("*") if path.is_dir() and not path.is_symlink()]
    runs = [run for path in settings for run in path.glob("*") if (run / "config.json").exists() and _is_ours(run)]
    pages = [path / "report" for path in settings] + [path for path in settings if path.name.endswith("-grid")]
    pages = [page for page in pages if (page / "index.html").is_file() and (page / "tables.csv").is_file()]
    strange = [run for run in runs if not _holds_only(run, RUN)] + [p for p in pages if not _holds_only(p, PAGE)]
    cache = [path for path in root.glob(CACHE) if runs]
    return sorted(path for path in [*runs, *pages, *cache] if path not in strange), sorted(strange)


def _is_ours(run: Path) -> bool:
    """Whether config.json holds the fields of an experiment."""
    try:
        RunFolder(run).experiment()
        return {"arm", "seed", "data", "train"} <= read_json(run / "config.json").keys()
    except ConfigError:
        return False


def _holds_only(folder: Path, names: set[str]) -> bool:
    found = {path.name.removesuffix(".tmp") for path in folder.iterdir()}
    page = folder / "report"
    return not folder.is_symlink() and found <= names and (not page.exists() or _holds_only(page, PAGE))


def main(arguments: list[str] | None = None) -> int:
    """0 removed or nothing there, 1 not confirmed, 2 nobody to ask, 3 a run is in use."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    root = Path(arguments[0]).expanduser()
    found, strange = parts(root)
    for path in strange:
        print(f"left alone, it holds files that no run and no report writes, or is a link: {printable(path)}")
    if not found:
        print(f"no runs in {printable(root)}")
        return 0
    for path in found:
        if (holder := holder_of(path)) is not None:
            print(f"error: {printable(path)} is in use by {holder}. Stop it first.", file=sys.stderr)
            return 3
    for path in found:
        print(f"{_size(path) / 2**20:9.1f} MiB  {printable(path)}")
    if not sys.stdin.isatty():
        print("error: this is asked on a terminal only, and there is none. Nothing was removed.", file=sys.stderr)
        return 2
    if input(f"Remove these {len(found)} folders for good? Type yes: ").strip() != "yes":
        print("Nothing was removed.")
        return 1
    for path in found:
        try:
            with Lock(path):  # a run may have begun while the question stood
                shutil.rmtree(path)
        except Held as error:
            print(f"error: {printable(error)}", file=sys.stderr)
            return 3
    for folder in {path.parent for path in found} - {root}:
        if not any(folder.iterdir()):
            folder.rmdir()
    return 0


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for at, _, names in os.walk(folder) for file in map(Path(at).joinpath, names))


if __name__ == "__main__":
    sys.exit(main())
