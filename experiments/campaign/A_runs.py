"""A run that is killed, signalled, raced, damaged, or starved of its disk ends with the undisturbed run's history."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from deq_nc.data import load
from deq_nc.runs import RunFolder
from deq_nc.training.checkpoint import restore, steps
from deq_nc.training.mesh import data_mesh
from deq_nc.training.program import program
from experiments.campaign import Case
from experiments.campaign._runs import end, start, wait_for_lines, wrong

DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "garbage": lambda lines: [*lines[:2], b"garbage", *lines[3:]],
    "zeros": lambda lines: [*lines[:2], b"\0" * 40, *lines[3:]],
    "a line is gone": lambda lines: [*lines[:2], *lines[3:]],
    "a line twice": lambda lines: [*lines[:3], *lines[2:]],
    "two lines swapped": lambda lines: [lines[1], lines[0], *lines[2:]],
    "a list": lambda lines: [*lines[:2], b"[]", *lines[3:]],
    "a number": lambda lines: [*lines[:2], b"7", *lines[3:]],
    "no step": lambda lines: [*lines[:2], b'{"epoch": 3}', *lines[3:]],
    "a digit changed": lambda lines: [*lines[:2], lines[2].replace(b"1", b"2"), *lines[3:]],
    "cut in the middle": lambda lines: [*lines[:2], lines[2][:9], *lines[3:]],
    "not UTF-8": lambda lines: [*lines[:2], b"\xff" + lines[2], *lines[3:]],
    "empty file": lambda lines: [],
}

# open() of a file below a folder called "checkpoints" fails `FAILS` times, with the number in `ERRNO`.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
static int left = -1, number = 5;
static int fails(const char *path, int flags) {
  if (left < 0) { left = atoi(getenv("FAILS")); number = atoi(getenv("ERRNO")); }
  if (left > 0 && strstr(path, "/checkpoints/") && (flags & O_ACCMODE) == O_RDONLY && !(flags & O_DIRECTORY)) {
    left--; errno = number; return 1;
  }
  return 0;
}
#define WRAP(name) int name(const char *path, int flags, ...) { \
  va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list); \
  if (fails(path, flags)) return -1; \
  return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); }
WRAP(open) WRAP(open64)
#define WRAPAT(name) int name(int at, const char *path, int flags, ...) { \
  va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list); \
  if (fails(path, flags)) return -1; \
  return ((int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name))(at, path, flags, mode); }
WRAPAT(openat) WRAPAT(openat64)
"""


def run(quick: bool, seed: int) -> list[Case]:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        whole = root / "whole"
        code, out = end(start(whole))
        assert code == 0, out
        stopped = root / "stopped"  # a run with 6 to 9 of 12 lines, copied for each case
        process = start(stopped)
        wait_for_lines(stopped, 6, [process])
        process.send_signal(signal.SIGTERM)
        assert end(process)[0] == 0
        cases = [
            _flips(whole, draw, 20 if quick else 400),
            *_signals(root, whole, draw, 1 if quick else 7),
            _writers(root, whole, 1 if quick else 5),
            _histories(root, whole, stopped, list(DAMAGE)[:2] if quick else list(DAMAGE)),
            *_disks(root, whole, stopped, quick),
            _full(root, whole),
            *_processes(root, whole),
        ]
    return [case for case in cases if case is not None]


def _flips(whole: Path, draw: random.Random, count: int) -> Case:
    """Single flipped bits in the newest checkpoint: restored bit for bit, or named and the one before it taken."""
    folder, mesh = RunFolder(whole), data_mesh(jax.devices()[:1])
    experiment = folder.experiment()
    like = program(experiment, load(experiment.data), mesh).init(0)
    sound = {}
    newest, before = steps(folder)[:2]
    for step in (newest, before):
        copy = RunFolder(whole.parent / f"only-{step}")
        shutil.copytree(folder.checkpoints / str(step), copy.checkpoints / str(step))
        sound[step] = jax.tree.leaves(jax.device_get(restore(copy, like, mesh, print, write=False).state))
    files = [path for path in (folder.checkpoints / str(newest)).rglob("*") if path.is_file() and path.stat().st_size]
    faults, fell_back = [], 0
    for _ in range(count):
        path = draw.choice(files)
        data = path.read_bytes()
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        said: list[str] = []
        found = restore(folder, like, mesh, said.append, write=False)
        path.write_bytes(data)
        leaves = jax.tree.leaves(jax.device_get(found.state))
        step = int(found.state.step)
        fell_back += step == before
        equal = step in sound and all(np.array_equal(one, other) for one, other in zip(leaves, sound[step]))
        if not equal or (step == before) != bool(said):
            faults.append(f"bit {bit} of byte {place} of {path.name}: step {step}, {said}")
    return Case(f"flipped bits in a checkpoint ({fell_back} named)", count, count - len(faults), tuple(faults))


def _signals(root: Path, whole: Path, draw: random.Random, count: int) -> list[Case]:
    """SIGKILL, SIGTERM, SIGINT, SIGHUP at random moments, up to three in a row; then to the end."""
    cases = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        faults = []
        for attempt in range(count):
            folder = root / f"{number.name}-{attempt}"
            for lines in sorted(draw.sample(range(12), min(3, 1 + attempt))):
                process = start(folder)
                wait_for_lines(folder, lines, [process])
                process.send_signal(number)
                code, out = end(process)
                if code not in ((0,) if number != signal.SIGKILL else (0, -9)) or "Traceback" in out:
                    # before jax has been imported no handler can save, and nothing has begun
                    if lines or code != -number:
                        faults.append(f"{number.name} at {lines} lines: exit code {code}: {out[-200:]}")
            if fault := wrong(*end(start(folder)), folder, whole):
                faults.append(fault)
        held = count - min(len(faults), count)
        cases.append(Case(f"{number.name} at random moments, gone on", count, held, tuple(faults)))
    return cases


def _writers(root: Path, whole: Path, count: int) -> Case:
    """Two processes in one folder: one trains, the other leaves with exit code 3 and says for whom."""
    faults = []
    for attempt in range(count):
        folder = root / f"writers-{attempt}"
        both = [start(folder), start(folder)]
        ends = sorted((end(process) for process in both), key=lambda pair: pair[0])
        if [code for code, _ in ends] != [0, 3] or "is in use by process" not in ends[1][1]:
            faults.append(f"exit codes {[code for code, _ in ends]}: {ends[1][1][-200:]}")
        elif fault := wrong(*ends[0], folder, whole):
            faults.append(fault)
    return Case("two writers in one folder", count, count - len(faults), tuple(faults))


def _histories(root: Path, whole: Path, stopped: Path, kinds: list[str]) -> Case:
    faults = []
    for kind in kinds:
        folder = root / f"history-{kind.replace(' ', '-')}"
        shutil.copytree(stopped, folder)
        lines = (folder / "history.jsonl").read_bytes().splitlines()
        (folder / "history.jsonl").write_bytes(b"".join(line + b"\n" for line in DAMAGE[kind](lines)))
        if fault := wrong(*end(start(folder)), folder, whole):
            faults.append(f"{kind}: {fault}")
    return Case("history.jsonl damaged, gone on", len(kinds), len(kinds) - len(faults), tuple(faults))


def _disks(root: Path, whole: Path, stopped: Path, quick: bool) -> list[Case]:
    """The disk lets no checkpoint be opened, once (it passes) or always (nothing is touched). Needs a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return []
    source, shim = root / "shim.c", root / "shim.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    passing, lasting = [], []
    numbers = {"EIO": "5", "ESTALE": "116"}
    for name, number in list(numbers.items())[: 1 if quick else 2]:
        for fails, faults in (("1", passing), ("100000", lasting)):
            folder = root / f"disk-{name}-{fails}"
            shutil.copytree(stopped, folder)
            kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
            environment = {"LD_PRELOAD": str(shim), "FAILS": fails, "ERRNO": number}
            code, out = end(start(folder, environment=environment))
            if fails == "1":
                fault = wrong(code, out, folder, whole)
            elif code != 2 or "Traceback" in out or "Nothing was changed" not in out:
                fault = f"exit code {code}: {out[-200:]}"
            elif sorted(path.name for path in (folder / "checkpoints").iterdir()) != kept:
                fault = "checkpoints are gone"
            else:
                fault = wrong(*end(start(folder)), folder, whole)
            if fault:
                faults.append(f"{name}: {fault}")
    count = 1 if quick else 2
    return [
        Case("an error of the disk that passes", count, count - len(passing), tuple(passing)),
        Case("an error of the disk that stays, then is gone", count, count - len(lasting), tuple(lasting)),
    ]


def _full(root: Path, whole: Path) -> Case | None:
    """A disk that fills up in the middle; needs the right to mount a small one."""
    disk = root / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        return None
    try:
        folder = disk / "run"
        process = start(folder)
        wait_for_lines(folder, 4, [process])
        _fill(disk / "filler")
        code, out = end(process)
        fault = None
        if code != 1 or "Traceback" in out or "full" not in out:
            fault = f"exit code {code}: {out[-400:]}"
        (disk / "filler").unlink()
        fault = fault or wrong(*end(start(folder)), folder, whole)
    finally:
        subprocess.run(["umount", disk], check=True)
    return Case("a disk that fills up, then has room", 1, int(fault is None), (fault,) if fault else ())


def _fill(path: Path) -> None:
    """Until the disk takes no more."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(file, b"\0" * 2**16):
            pass
    except OSError:
        os.close(file)


def _processes(root: Path, whole: Path) -> list[Case]:
    """Two processes of one run; a signal to one stops both at one step; the history is that of an undisturbed pair."""

    def pair(folder: Path, number: int | None = None, target: int = 0) -> list[tuple[int, str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        both = [
            start(folder, environment={"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2",
                                       "JAX_PROCESS_ID": str(index)})
            for index in range(2)
        ]  # fmt: skip
        if number is not None:
            wait_for_lines(folder, 4, both)
            both[target].send_signal(number)
        return [end(process) for process in both]

    together = root / "pair"
    codes = [code for code, _ in pair(together)]
    cases = [Case("two processes, undisturbed", 1, int(codes == [0, 0]), (str(codes),) if codes != [0, 0] else ())]
    for number, target in ((signal.SIGTERM, 1), (signal.SIGINT, 0), (signal.SIGHUP, 1)):
        folder = root / f"pair-{number.name}"
        first, faults = pair(folder, number, target), []
        if [code for code, _ in first] != [0, 0] or any("Traceback" in out for _, out in first):
            faults.append(f"exit codes {[code for code, _ in first]}: {first[target][1][-300:]}")
        elif (folder / "summary.json").exists():
            faults.append("the signal came too late to stop anything")
        else:
            again = pair(folder)
            fault = wrong(max(code for code, _ in again), again[0][1], folder, together)
            faults += [fault] if fault else []
        cases.append(Case(f"two processes, {number.name} to one", 1, 1 - len(faults), tuple(faults)))
    return cases
