"""Start over without deleting: the old run folder gets another name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deq_nc.runs.lock import NAME, Lock


def put_aside(folder: Path, wait: bool = False, sleep: Callable[[float], Any] = time.sleep) -> Path | None:
    """Rename `folder` to FOLDER-old-1 (2, ...), under its lock; None where it holds no run.

    Raises Held where another process is at work in it (with `wait`, waits), ConfigError where it cannot be written.
    """
    folder = Path(os.path.normpath(folder.absolute()))
    if not _holds_run(folder):
        return None  # whatever it is, it is not ours to rename
    with Lock(folder, wait, sleep=sleep):
        if not _holds_run(folder):
            return None  # who held it has renamed it
        number = 1
        while (place := folder.with_name(f"{folder.name}-old-{number}")).exists():
            number += 1
        folder.rename(place)
        (place / NAME).unlink(missing_ok=True)
    print(f"--fresh: {folder} is now {place}")
    return place


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.json", "history.jsonl"))
