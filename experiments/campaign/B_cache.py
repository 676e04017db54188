"""B6: the cache of decoded images, damaged, unreadable, and written by processes that are killed or many."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from deq_nc.data.cache import ARRAYS, cached
from deq_nc.data.source import Source
from experiments.campaign import Case

WRITER = """
import sys
from pathlib import Path
from experiments.campaign.B_cache import same, source, take
assert same(take(Path(sys.argv[1])), source())
"""


def run(quick: bool, seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [
        _damaged(20 if quick else 500, rng),
        _killed(2 if quick else 10, rng),
        _together(2 if quick else 6),
    ]


def source() -> Source:
    """64 + 16 images; large enough that a writer can be met at work."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8) for count in (64, 16)]
    labels = [np.arange(count, dtype=np.int32) % 4 for count in (64, 16)]
    return Source("set", ("ant", "bee", "cat", "dog"), images[0], labels[0], images[1], labels[1], ("a note",))


def take(root: Path) -> Source:
    return cached("set", "f" * 64, [root], source)


def same(a: Source, b: Source) -> bool:
    """Pixels, labels and names; a note of a cache made anew may have come."""
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)
    return arrays and (a.name, a.class_names, a.notes[0]) == (b.name, b.class_names, b.notes[0])


def _entry(root: Path) -> Path:
    return next(path for path in root.iterdir() if not path.name.startswith("."))


def _damaged(tries: int, rng: np.random.Generator) -> Case:
    """Bits, cuts, deletions, files swapped and texts of another kind, in each file of the entry."""
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        take(root)
        names = sorted(path.name for path in _entry(root).iterdir())
        for i in range(tries):
            file = _entry(root) / names[i % len(names)]
            data = bytearray(file.read_bytes())
            kind = ("head", "bit", "cut", "gone", "swap", "text", "empty")[i // len(names) % 7]
            if kind in ("head", "bit"):
                data[rng.integers(min(len(data), 128) if kind == "head" else len(data))] ^= 1 << rng.integers(8)
            elif kind == "cut":
                del data[rng.integers(len(data)) :]
            elif kind == "swap":
                data = bytearray((_entry(root) / names[(i + 1) % len(names)]).read_bytes())
            elif kind in ("text", "empty"):
                data = bytearray(rng.choice([b"[]", b"{}", b"null", b"PK\x03\x04"]) if kind == "text" else b"")
            file.unlink()
            if kind != "gone":
                file.write_bytes(data)
            try:
                if not same(take(root), source()):
                    faults.append(f"{kind} of {file.name}: other data, silently")
                elif len(take(root).notes) != 1:
                    faults.append(f"{kind} of {file.name}: not healed")
            except Exception as error:
                faults.append(f"{kind} of {file.name}: {type(error).__name__}: {error}")
    return Case("damaged entries", tries, tries - len(faults), tuple(faults))


def _start(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stderr=subprocess.PIPE)


def _killed(tries: int, rng: np.random.Generator) -> Case:
    """kill -9 as soon as a draft is seen: the next writer finds no entry or a whole one, and leaves no draft."""
    faults = []
    for i in range(tries):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            writer = _start(root)
            while writer.poll() is None and not list(root.glob("*draft-*")):
                time.sleep(0.0005)
            time.sleep(float(rng.uniform(0, 0.004)))
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
            if not same(take(root), source()):
                faults.append(f"kill {i}: other data")
            (_entry(root) / "meta.json").unlink()
            take(root)  # a writer again
            if left := list(root.glob(".draft-*")):
                faults.append(f"kill {i}: {left[0].name} stays")
    return Case("writers killed", tries, tries - len(faults), tuple(faults))


def _together(tries: int) -> Case:
    """Four processes at once on an empty root, and on a damaged entry."""
    faults = []
    for i in range(tries):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            if i % 2:
                take(root)
                os.truncate(_entry(root) / "train_images.npy", 200)
            for writer in [_start(root) for _ in range(4)]:
                _, said = writer.communicate()
                if writer.returncode:
                    faults.append(f"round {i}: {said.decode()[-200:]}")
            if len(take(root).notes) != 1 or list(root.glob(".draft-*")):
                faults.append(f"round {i}: the entry is not whole, or a draft stays")
    return Case("writers together", tries, tries - len(faults), tuple(faults))
