"""Sweeps: two at once, processes killed and signalled at any moment, folders damaged; their runs learn nothing.

What holds: exit codes 0, 1 or 3 and no traceback; no run has a line twice, out of order, or of two writers in turn; a
run that nobody touched is finished; the same command, given again, finishes all of them.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from deq_nc.runs import RunFolder
from experiments.campaign import Case

EPOCHS, SEEDS = 6, 2
OPTIONS = "digits --data.name synthetic --model.encoder identity --arms explicit deq".split()
COMMAND = [sys.executable, "-m", "experiments.campaign._fake_run", "sweep", *OPTIONS]
COMMAND += ["--seeds", str(SEEDS), "--train.epochs", str(EPOCHS)]
Trial = Callable[[Path, random.Random], list[str]]


def run(quick: bool, seed: int) -> list[Case]:
    """`quick`: a try or two of each kind, under two minutes on two idle cores."""
    chance = random.Random(seed)
    plan: list[tuple[str, Trial, int, int]] = [
        ("two sweeps of one root at once", _two, 1, 20),
        ("two shards, each twice", _shards, 0, 5),
        ("a worker process killed (SIGKILL)", _killed_worker, 1, 20),
        ("the sweep killed (SIGKILL)", _killed, 1, 20),
        *((f"{number.name} to every process", _signalled(number), 1, 15) for number in SIGNALS),
        ("a reader that leaves", _unheard, 1, 10),
        ("summary.json damaged", _bad_summary, 10, 200),
        ("config.json damaged", _bad_config, 5, 100),
    ]
    return [_case(name, trial, few if quick else many, chance) for name, trial, few, many in plan if not quick or few]


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _case(name: str, trial: Trial, count: int, chance: random.Random) -> Case:
    faults: list[str] = []
    held = 0
    for number in range(count):
        with tempfile.TemporaryDirectory() as room:
            found = trial(Path(room), chance)
        held += not found
        faults += [f"try {number}: {fault}" for fault in found]
    return Case(name, count, held, tuple(faults))


# -- Trials ------------------------------------------------------------------------------------------------------------


def _two(root: Path, chance: random.Random) -> list[str]:
    first = _start(root)
    time.sleep(chance.uniform(0, 6))
    second = _start(root)
    return [*_end(first, 0, 3), *_end(second, 0, 3), *_spoiled(root), *_again(root)]


def _shards(root: Path, chance: random.Random) -> list[str]:
    processes = [_start(root, "--shard", f"{part}/2") for part in (1, 2, 1, 2)]
    return [*(fault for process in processes for fault in _end(process, 0, 3)), *_spoiled(root), *_again(root)]


def _killed_worker(root: Path, chance: random.Random) -> list[str]:
    process = _start(root)
    writers = _wait_for_writers(root, process)
    time.sleep(chance.uniform(0, 1))
    victim = chance.choice(writers)
    if victim == process.pid:
        return ["no worker process was found", *_end(process, 0)]
    _kill(victim, signal.SIGKILL)
    faults = _end(process, 0, 1)
    failed = [path.parent for path in root.rglob("failed.txt")]
    lost = [folder.path for folder in _folders(root) if folder.summary() is None and folder.path not in failed]
    faults += [f"{path}: neither finished nor failed" for path in lost]
    faults += [f"{len(failed)} runs failed by one kill"] if len(failed) > 1 else []
    faults += [] if len(_folders(root)) == 2 * SEEDS else ["a seed was not tried"]
    return [*faults, *_spoiled(root), *_again(root)]


def _killed(root: Path, chance: random.Random) -> list[str]:
    process = _start(root)
    _wait_for_writers(root, process)
    time.sleep(chance.uniform(0, 1))
    _kill(process.pid, signal.SIGKILL)
    process.communicate()
    return _again(root)  # at once: the workers may not have noticed yet


def _signalled(number: signal.Signals) -> Trial:
    def trial(root: Path, chance: random.Random) -> list[str]:
        process = _start(root)
        _wait_for_writers(root, process)
        time.sleep(chance.uniform(0, 2))
        os.killpg(process.pid, number)
        faults = _end(process, 0)
        return [*faults, *([f"{number.name}: a run is called failed"] if list(root.rglob("failed.txt")) else []),
                *_spoiled(root), *_again(root)]  # fmt: skip

    return trial


def _unheard(root: Path, chance: random.Random) -> list[str]:
    process = _start(root)
    for _ in range(chance.randrange(4)):
        process.stdout.readline()
    process.stdout.close()
    faults = [] if process.wait(300) == 1 else [f"exit code {process.returncode}"]
    return [*faults, *(["a run is called failed"] if list(root.rglob("failed.txt")) else []), *_again(root)]


def _bad_summary(root: Path, chance: random.Random) -> list[str]:
    return _damaged(root, chance, "summary.json")


def _bad_config(root: Path, chance: random.Random) -> list[str]:
    return _damaged(root, chance, "config.json")


def _damaged(root: Path, chance: random.Random, name: str) -> list[str]:
    """One file of one finished run is damaged: a damaged summary is made again, a damaged configuration is named."""
    import deq_nc.sweep.job as module
    from deq_nc.config import ConfigError, DataConfig, Experiment, TrainConfig
    from deq_nc.sweep import check, execute, sweep
    from experiments.campaign import _fake_run

    module.train = _fake_run.train
    experiment = Experiment(data=DataConfig(name="synthetic"), train=TrainConfig(epochs=EPOCHS))
    cells = sweep([experiment], ("explicit", "deq"), 1, root)
    with contextlib.redirect_stdout(io.StringIO()):
        execute(cells, root, 1, quiet=True)
    victim = chance.choice([path for path in root.rglob(name)])
    text = victim.read_bytes()
    cut, place = chance.randrange(len(text)), chance.randrange(len(text))
    flipped = text[:place] + bytes([text[place] ^ 1 << chance.randrange(8)]) + text[place + 1 :]
    victim.write_bytes(
        chance.choice([b"", text[:cut], b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"[" * 100_000, flipped])
    )
    try:
        check(cells)
        with contextlib.redirect_stdout(io.StringIO()):
            outcome = execute(cells, root, 1, quiet=True)
    except ConfigError as error:  # a flip that is another configuration or version, named
        return [] if "\n" in str(error) or "versions" in str(error) or "config.json" in str(error) else [str(error)]
    except Exception as error:
        return [f"{name}: {type(error).__name__}: {error}"]
    other = next(folder for folder in _folders(root) if folder.path != victim.parent)
    faults = [] if _whole(other) else [f"{other.path} is not finished"]
    if name == "config.json":
        readable = True
        try:
            RunFolder(victim.parent).experiment()
        except ConfigError:
            readable = False
        return faults + ([] if readable or list(outcome.failed) == [victim.parent] else ["the failure is not named"])
    return faults + ([] if _whole(RunFolder(victim.parent)) else [f"{victim} was not made again"])


# -- Processes and what they leave -------------------------------------------------------------------------------------


def _start(root: Path, *more: str) -> subprocess.Popen:
    environment = os.environ | {"DEQ_NC_FAKE_SECONDS": "0.2", "JAX_PLATFORMS": "cpu"}
    command = [*COMMAND, "--workdir", str(root), "--jobs", "2", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def _end(process: subprocess.Popen, *codes: int) -> list[str]:
    try:
        out, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return ["hangs: " + process.communicate()[0][-300:]]
    if process.returncode in codes and "Traceback" not in out:
        return []
    return [f"exit code {process.returncode}: {out[-500:]}"]


def _again(root: Path) -> list[str]:
    """The same command finishes everything."""
    faults = _end(_start(root, "--wait"), 0) + _spoiled(root)
    missing = 2 * SEEDS - sum(_whole(folder) for folder in _folders(root))
    return faults + ([f"{missing} runs are not finished by the next call"] if missing else [])


def _folders(root: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(root.rglob("config.json"))]


def _whole(folder: RunFolder) -> bool:
    lines = [line["epoch"] for line in folder.history().lines]
    return folder.summary() is not None and lines == [*range(1, EPOCHS + 1)] and not folder.failure_path.exists()


def _spoiled(root: Path) -> list[str]:
    """Runs with damaged lines, lines out of order, or lines of writers in turn."""
    faults = []
    for folder in _folders(root):
        history = folder.history()
        writers = [writer for writer, _ in groupby(line["writer"] for line in history.lines)]
        if history.damage or len(set(writers)) < len(writers):
            faults.append(f"{folder.path}: {history.damage or 'lines of two writers in turn'}")
    return faults


def _wait_for_writers(root: Path, process: subprocess.Popen) -> list[int]:
    """Processes that wrote a line, once there is one."""
    while process.poll() is None:
        if found := {line["writer"] for folder in _folders(root) for line in folder.history().lines}:
            return sorted(found)
        time.sleep(0.05)
    return [process.pid]


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was done
