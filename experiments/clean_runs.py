"""Remove the runs of a folder, and only these, after asking: `make clean-runs`, `python -m experiments.clean_runs`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deq_nc.names import printable
from deq_nc.runs import Held, Lock
from deq_nc.runs.lock import holder_of

USAGE = "usage: python -m experiments.clean_runs WORKDIR"


def parts(root: Path) -> list[Path]:
    """What runs and pages left below `root`: ROOT/SETTING/RUN with a config.json, pages and the compilation cache."""
    runs = [path.parent for path in root.glob("*/*/config.json")]
    pages = {run.parent / "report" for run in runs} | set(root.glob("*-grid"))
    pages = [page for page in pages if (page / "index.html").is_file()]
    return sorted([*runs, *pages, *root.glob(".compiled")])


def main(arguments: list[str] | None = None) -> int:
    """0 removed or nothing there, 1 not confirmed, 2 nobody to ask, 3 a run is in use."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    root = Path(arguments[0]).expanduser()
    found = parts(root)
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
