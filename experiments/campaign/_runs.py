"""Small runs in processes of their own, for the letters that kill, signal, damage and starve them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OPTIONS = (
    "--data.name synthetic --model.encoder identity --model.features 16 --model.inner 16 --train.epochs 12 "
    "--train.batch-size 64 --train.learning-rate 0.05 --train.measurements 12 --train.checkpoint-seconds 0"
).split()
PATIENCE = 300.0  # seconds; what takes longer hangs


def start(folder: Path, *more: str, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """`deq-nc train` of a tiny run into `folder`, its programs kept beside it so that only the first call compiles."""
    own = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONWARNINGS": "ignore",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / ".compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, "-m", "deq_nc", "train", "digits", *OPTIONS, "--workdir", str(folder), *more]
    every = {**os.environ, **own, **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=every)


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and output; a process that hangs is killed and has exit code -1."""
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return -1, process.communicate()[0] + "\n(hung)"
    return process.returncode, out


def wait_for_lines(folder: Path, count: int, processes: Sequence[subprocess.Popen]) -> None:
    """Until the history has `count` lines, or a process ended."""
    path, until = folder / "history.jsonl", time.monotonic() + PATIENCE
    while time.monotonic() < until and all(process.poll() is None for process in processes):
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The history without clocks."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def wrong(code: int, out: str, folder: Path, whole: Path, expected: int = 0) -> str | None:
    """What does not hold of a run that ended, None if all does: exit code, no traceback, the undisturbed history."""
    if code != expected:
        return f"exit code {code}: {' '.join(out.split()[-25:])}"
    if "Traceback" in out:
        return f"traceback: {out[out.index('Traceback') :][-300:]}"
    if numbers(folder) != numbers(whole):
        return f"{len(numbers(folder))} lines against {len(numbers(whole))}, or other numbers"
    return None
