"""Odd command lines and surroundings: each ends with an exit code of 0 to 3 and a sentence, never in a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from experiments.campaign import Case

TRAIN = [
    *("--arm deqq", "--epochs 3", "--seed 2147483648", "--seed -1", "--seed nan", "--seed 1e3", "--seed", "--fly"),
    *("--train.epochs 2.5", "--train.epochs 0", "--train.epochs 99999999999", "--train.learning-rate nan"),
    *("--train.learning-rate inf", "--train.learning-rate 1e39", "--train.learning-rate -1", "--train.momentum 1"),
    *("--train.loss hinge", "--train.batch-size 9999", "--train.checkpoint-seconds nan", "--train.weight-decay -inf"),
    *("--recipe ../x", "--recipe [/red]", "--recipe ''", f"--recipe {'x' * 256}", "--solver.tol 0", "--solver.tol nan"),
    *("--solver.max-steps 2.5", "--solver.max-steps 4294967296", "--solver.history 1", "--solver.ridge inf"),
    *("--model.gain 1", "--model.gain nan", "--model.depth 1000", "--model.features 3000000000", "--model.dropout 1"),
    *("--model.dtype float64", "--model.cell conv --model.features 12", "--workdir=/proc/x", f"--workdir={'x' * 300}"),
    *(
        "--workdir=~nobody_of_this_name/x",
        "--workdir=a_file",
        "--workdir=a_file/below",
        "--data.dir=~nobody_of_this_name",
    ),
    *("--workdir=half", "--workdir=list", "--workdir=other", "--workdir=garbage", "--workdir=text"),
    *(
        "--data.name folder",
        "--data.name folder --data.dir=/dev/null",
        "--data.name folder --data.dir=.",
        "--data.name ''",
    ),
    *("--data.name ../../etc", "--data.name no_such_set", "--data.image-size 0", "--data.ratio nan", "--data.ratio 0"),
    *("--data.imbalance step --data.majority 11", "--data.imbalance step --data.ratio 500", "--data.per-class 0"),
    *("--data.order-seed -1", "--data.subset-seed 4294967296", "--data.name synthetic --data.synthetic-classes 0"),
    *("--data.allow-single True", "--wait True", "--data.name synthetic --data.synthetic-noise nan"),
]
SWEEP = [
    *(
        "--arm deq",
        "--seed=3",
        "--seeds 0",
        "--seeds 99999999999",
        "--seeds 1.5",
        "--jobs 0",
        "--jobs -1",
        "--updates 0",
    ),
    *(
        "--updates 999999999999",
        "--shard 0/2",
        "--shard 1",
        "--shard 3/2",
        "--shard 1/99999999999999999999",
        "--shard ²/³",
    ),
    *(
        "--grid --majorities 0",
        "--grid --majorities 11",
        "--grid --ratios nan",
        "--grid --ratios inf",
        "--grid --ratios 0",
    ),
    *("--workdir=/proc/x", "--workdir=a_file", f"--workdir={'x' * 300}", "--workdir=~nobody_of_this_name/x", "--fly"),
    *("--arms", "--arms fly", "--recipe ../x"),
]
OTHERS = [
    *("", "-h", "--help", "--version", "fly", "\x1b[31m", "-", "--", "train", "train -h", "train nothing", "train ''"),
    *("sweep", "sweep -h", "sweep nothing", "train --wait", "report -h", "measure -h", "data -h", "theory -h"),
    *("report", "report nothing", "report /dev/null", "report .", "report half", "report list", "report garbage"),
    *("report [/red] --out /proc/x", f"report {'x' * 300}", "report ~nobody_of_this_name", "report --out x"),
    *("measure", "measure nothing", "measure /dev/null", "measure .", "measure half", "measure list", "measure text"),
    *(
        "measure a_file",
        "measure a_file.npz",
        f"measure {'x' * 300}",
        "measure garbage",
        "measure ~nobody_of_this_name",
    ),
    *(
        "data",
        "data fly",
        "data list",
        "data list --data-dir=/proc/1/x",
        "data list --data-dir a_file",
        "data list --fly",
    ),
    *("data show", "data show digits --data.ratio 0", "data show digits --fly", "data show nothing", "data prepare"),
    *("data prepare no_such_set", "data prepare ../..", "data prepare ''", "data prepare cifar10 --archive nothing"),
    *("data prepare cifar10 --archive a_file --data-dir=~nobody_of_this_name", "data show digits --data.order-seed 5"),
    *("theory --majority 0", "theory --majority -1", "theory --majority 1.5", "theory --ratio nan", "theory --ratio 0"),
    *(
        "theory --gain 0",
        "theory --gain 1",
        "theory --gain nan",
        "theory --scale inf",
        "theory --scale 0",
        "theory --fly",
    ),
    *("theory --counts 1", "theory --counts 0 0", "theory --counts -1 2", "theory --dim 0", "theory --arm fly"),
]
# (what it is, environment, a shell line); `d` is the command.
SURROUNDINGS = [
    ("a reader that leaves", {}, "{ d data show digits; echo $? >&3; } 3>&1 1>&4 | head -1"),
    ("a reader that leaves at once", {}, "d --help | true"),
    ("no output", {}, "d --version >&- 2>&-"),
    ("a full device", {}, "d --version >/dev/full"),
    ("a full device, a table", {}, "d data show digits >/dev/full"),
    ("no home", {"HOME": None}, "d data list"),
    ("no home, a user without a name", {"HOME": None}, "setpriv --reuid 54321 --clear-groups d data list"),
    ("an ASCII terminal", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}, "d theory"),
    ("an ASCII locale", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "d data show digits"),
    ("bytes that are not UTF-8", {}, "d measure $'\\xff\\x1b[31m'"),
    ("20 open files", {}, "ulimit -n 20; d data list"),
    ("make in front", {"MAKELEVEL": "1"}, "d train digits --workdir=other"),
]


def run(quick: bool, seed: int) -> list[Case]:
    """`quick` leaves out a part of the surroundings, each of which starts a process."""
    lines = [*OTHERS, *(f"train digits {line}" for line in TRAIN), *(f"sweep digits {line}" for line in SWEEP)]
    with tempfile.TemporaryDirectory() as room, contextlib.chdir(room):
        _furnish()
        faults = [fault for line in lines if (fault := _line(line))]
        chosen = SURROUNDINGS[::3] if quick else SURROUNDINGS
        odd = [fault for item in chosen if (fault := _surrounding(*item))]
    return [
        Case("odd command lines", len(lines), len(lines) - len(faults), tuple(faults)),
        Case("odd surroundings", len(chosen), len(chosen) - len(odd), tuple(odd)),
    ]


def _furnish() -> None:
    """What the lines refer to: files where folders are expected, and damaged run folders."""
    os.environ["TFDS_DATA_DIR"] = str(Path("tfds").absolute())
    Path("a_file").write_text("text\n")
    Path("a_file.npz").write_bytes(b"PK\x03\x04 no")
    configs = {"half": '{"arm": ', "list": "[]", "other": '{"recipe": "other"}', "garbage": "\x00\xff", "text": '"x"'}
    for name, text in configs.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(text)
        Path(name, "history.jsonl").write_text("{}\n[\n")


def _line(line: str) -> str | None:
    """What went wrong with a command line, run in this process; None if nothing did."""
    from deq_nc.cli import main

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(shlex.split(line))
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        return f"{line[:80]}: {traceback.format_exc(limit=-1)}"
    said = out.getvalue()
    if code not in (0, 1, 2, 3) or "Traceback" in said or "\x1b[31m" in said.replace("\x1b[31m╭", ""):
        return f"{line[:80]}: exit code {code}, {said[-200:]}"
    return None if said.strip() else f"{line[:80]}: exit code {code} without a word"


def _surrounding(name: str, changes: dict[str, str | None], line: str) -> str | None:
    environment = {k: v for k, v in (os.environ | changes).items() if v is not None}
    command = f'd() {{ "{sys.executable}" -m deq_nc "$@"; }}; exec 4>&1; {line}'
    command = command.replace("clear-groups d ", f'clear-groups "{sys.executable}" -m deq_nc ')
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, timeout=300)
    said = (done.stdout + done.stderr).decode(errors="replace")
    bad = done.returncode not in (0, 1, 2, 3) or any(
        word in said for word in ("Traceback", "Exception ignored", "\x1b[31m")
    )
    return f"{name}: exit code {done.returncode}, {said[-300:]}" if bad else None
