"""Sweeps beside other processes, over damaged folders, on full disks, under signals; their runs learn nothing."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import deq_nc.cli.sweep
import deq_nc.sweep.job
import deq_nc.sweep.workers
import deq_nc.training.leader
from deq_nc.cli import main
from deq_nc.runs import Lock, RunFolder
from deq_nc.sweep import execute, sweep
from deq_nc.sweep.live import Live
from deq_nc.sweep.status import Watch
from experiments.campaign import _fake_run as fake

from .tiny import TINY

OPTIONS = "digits --data.name synthetic --model.encoder identity --train.batch-size 128 --train.epochs 4".split()


@pytest.fixture(autouse=True)
def runs_that_learn_nothing(monkeypatch):
    monkeypatch.setattr(deq_nc.sweep.job, "train", fake.train)
    monkeypatch.setattr(deq_nc.sweep.workers, "_start", fake.start)
    monkeypatch.setattr(deq_nc.cli.sweep, "make_page", lambda runs, *rest: print(f"page: {len(runs)} runs") or 0)


def folders(root: Path) -> dict[str, RunFolder]:
    return {path.parent.name: RunFolder(path.parent) for path in root.rglob("config.json")}


def whole(folder: RunFolder, epochs: int = 4) -> bool:
    """Finished, with every line once."""
    return folder.summary() is not None and [line["epoch"] for line in folder.history().lines] == [
        *range(1, epochs + 1)
    ]


@contextmanager
def other(code: str, *arguments: object) -> Iterator[subprocess.Popen]:
    """Another process that has said a line; it ends with its input."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process


HOLD = """
import pathlib, sys
from deq_nc.runs import Lock
with Lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_in_use_is_named_before_anything_begins_and_waited_for_if_asked(tmp_path, capsys, monkeypatch):
    path = tmp_path / "digits-balanced" / "deq-seed0"
    command = ["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1"]
    with other(HOLD, path) as holder:
        assert main(command) == 3
        message = capsys.readouterr().err
        assert f"{path}: process {holder.pid} on" in message and "since" in message and "--wait" in message
        assert list(tmp_path.rglob("*.*")) == [path / ".lock"]  # the other arm did not begin either
        assert main([*command, "--fresh"]) == 3
        end = SimpleNamespace(sleep=lambda seconds: holder.communicate(""))  # it ends while the sweep waits
        monkeypatch.setattr(deq_nc.training.leader, "time", end)
        assert main([*command, "--wait"]) == 0
    assert "waiting" in capsys.readouterr().out
    assert all(map(whole, folders(tmp_path).values())) and len(folders(tmp_path)) == 2
    assert not list(tmp_path.rglob("failed.txt"))


def test_a_run_taken_in_the_middle_is_left_alone_and_named_and_never_called_failed(tmp_path, monkeypatch, capsys):
    real, taken = fake.train, tmp_path / "digits-balanced" / "deq-seed0"

    def train(experiment, **kwargs):
        if Path(experiment.workdir) != taken:
            return real(experiment, **kwargs)
        with Lock(taken):
            return real(experiment, **kwargs)

    monkeypatch.setattr(deq_nc.sweep.job, "train", train)
    (tmp_path / "digits-balanced").mkdir()
    assert main(["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1", "--seeds", "2"]) == 3
    said = capsys.readouterr()
    assert f"{taken} is in use by process {os.getpid()}" in said.err and "1 in use by others" in said.out
    assert not list(tmp_path.rglob("failed.txt")) and "page: 3 runs" in said.out
    finished = sorted(name for name, folder in folders(tmp_path).items() if whole(folder))
    assert finished == ["deq-seed1", "explicit-seed0", "explicit-seed1"]


@pytest.mark.parametrize("text", ["", '{"versions": {"jax"', "[]", "null", "\udcff", '{"versions": 3}'])
def test_a_damaged_summary_is_that_runs_matter_and_is_made_again(tmp_path, text):
    jobs = sweep([TINY], ("explicit", "deq"), 1, tmp_path)
    assert execute(jobs, tmp_path, 1, quiet=True) == (False, {}, {})
    good, bad = (tmp_path / "tiny-balanced" / f"{arm}-seed0" for arm in ("explicit", "deq"))
    before = (good / "summary.json").read_bytes()
    (bad / "summary.json").write_bytes(text.encode(errors="surrogateescape"))
    deq_nc.sweep.check(jobs)
    assert execute(jobs, tmp_path, 1, quiet=True) == (False, {}, {})
    assert whole(RunFolder(bad), 2) or "3" in text
    assert (good / "summary.json").read_bytes() == before


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_that_cannot_be_read_is_one_failure_and_the_others_go_on(tmp_path, capsys, finished):
    bad = tmp_path / "digits-balanced" / "explicit-seed0"
    bad.mkdir(parents=True)
    if finished:
        assert main(["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1", "--arms", "explicit"]) == 0
    (bad / "config.json").write_text('{"arm": \x1b[31m')
    assert main(["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1", "--seeds", "2"]) == 1
    said = capsys.readouterr()  # of both calls
    assert said.err.count("error:") == 1 and f"{bad}: RunError:" in said.err and "page: 3 runs" in said.out
    assert "\x1b" not in said.err + said.out
    assert "RunError" in RunFolder(bad).failure_path.read_text()


def test_a_full_disk_while_recording_a_failure_is_a_sentence_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def full(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("DEQ_NC_FAKE_FAIL", "explicit-seed0")
    monkeypatch.setattr(RunFolder, "record_failure", full)
    assert main(["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1", "--seeds", "2"]) == 1
    said = capsys.readouterr()
    assert "this run was told to fail (failed.txt could not be written: [Errno 28] No space" in said.err
    assert sum(whole(folder) for folder in folders(tmp_path).values()) == 3


def test_a_killed_worker_blames_the_run_it_was_at_and_the_next_seeds_are_tried(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEQ_NC_FAKE_KILL", "explicit-seed1")
    monkeypatch.setenv("DEQ_NC_FAKE_EXIT", "explicit-seed3")
    jobs = sweep([TINY], ("explicit",), 4, tmp_path)
    outcome = execute(jobs, tmp_path, 2, quiet=True)
    bad, worse = (tmp_path / "tiny-balanced" / f"explicit-seed{seed}" for seed in (1, 3))
    killed = "the process ended with exit code -9, killed from outside"
    ended = "the process ended with exit code 1, by an error of its own, which it printed"
    assert outcome == (False, {bad: killed, worse: ended}, {})
    assert RunFolder(bad).failure_path.read_text() == outcome.failed[bad] + "\n"
    assert [name for name, folder in sorted(folders(tmp_path).items()) if whole(folder, 2)] == [
        "explicit-seed0",
        "explicit-seed2",
    ]
    assert not (bad / ".lock").exists()


def test_a_signal_after_the_last_epoch_of_a_run_stops_the_sweep_before_the_next(tmp_path, monkeypatch):
    real, begun = fake.train, []

    def train(experiment, **kwargs):
        begun.append(experiment.seed)
        done = real(experiment, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)  # while it is still writing its results
        return done

    monkeypatch.setattr(deq_nc.sweep.job, "train", train)
    jobs = sweep([TINY], ("explicit", "deq"), 2, tmp_path)
    assert execute(jobs, tmp_path, 1, quiet=True).stopped and begun == [0]
    assert whole(folders(tmp_path)["explicit-seed0"], 2)


def test_a_sweep_that_is_stopped_still_says_that_a_run_failed(tmp_path, monkeypatch, capsys):
    real = fake.train

    def train(experiment, **kwargs):
        if experiment.seed:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(experiment, **kwargs)

    monkeypatch.setenv("DEQ_NC_FAKE_FAIL", "explicit-seed0")
    monkeypatch.setattr(deq_nc.sweep.job, "train", train)
    command = ["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1", "--seeds", "2", "--arms", "explicit"]
    assert main(command) == 1
    assert "the same command goes on from here" in capsys.readouterr().out


def test_ctrl_c_reaches_every_process_and_each_saves_once_and_the_next_call_goes_on(tmp_path):
    command = [sys.executable, "-m", "experiments.campaign._fake_run", "sweep", *OPTIONS, "--workdir", str(tmp_path)]
    command += ["--jobs", "2", "--seeds", "2"]
    environment = {**os.environ, "DEQ_NC_FAKE_SECONDS": "0.3", "XLA_FLAGS": os.environ["ONE_DEVICE_FLAGS"]}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A suite in the background of a shell ignores SIGINT, and what it starts would too.
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    signal.signal(signal.SIGINT, heeded)
    until = time.monotonic() + 200
    while not list(tmp_path.rglob("history.jsonl")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "the same command goes on from here" in out and "Traceback" not in out, out
    assert not list(tmp_path.rglob("failed.txt")) and not all(folder.finished for folder in folders(tmp_path).values())
    assert main(["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1", "--seeds", "2"]) == 0
    assert len(folders(tmp_path)) == 4 and all(map(whole, folders(tmp_path).values()))


def test_the_last_shard_makes_the_page(tmp_path, capsys):
    command = ["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1"]
    assert main([*command, "--shard", "1/2"]) == 0
    first = capsys.readouterr().out
    assert main([*command, "--shard", "2/2"]) == 0
    second = capsys.readouterr().out
    assert "1 of 1 runs done" in first and "left to the others" in first and "page:" not in first
    assert "1 of 1 runs done" in second and "page: 2 runs" in second and all(map(whole, folders(tmp_path).values()))


def test_fresh_renames_what_is_there_and_starts_over(tmp_path, capsys):
    command = ["sweep", *OPTIONS, "--workdir", str(tmp_path), "--jobs", "1", "--arms", "deq"]
    assert main(command) == 0
    assert main([*command, "--train.epochs", "2"]) == 2 and "--fresh" in capsys.readouterr().err
    for number in (1, 2):
        assert main([*command, "--train.epochs", "2", "--fresh"]) == 0
        assert f"deq-seed0-old-{number}" in capsys.readouterr().out
    found = folders(tmp_path)
    assert whole(found["deq-seed0-old-1"], 4) and whole(found["deq-seed0-old-2"], 2) and whole(found["deq-seed0"], 2)
    assert not list(tmp_path.rglob(".lock"))


def test_the_table_shows_names_as_they_are_and_an_eta_that_forgets_the_slow_start(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    (job,) = sweep([TINY], ("explicit",), 2, tmp_path)
    job = dataclasses.replace(job, setting="[/red]\x1b[31m", steps=100)
    watch = Watch([job])
    folder = RunFolder(Path(job.runs[0].workdir))
    folder.path.mkdir(parents=True)
    watch.note(folder.path, "began", "")
    assert "1 at work (tiny-balanced/explicit-seed0 starting), 1 left" in Live(watch, True, False).line()
    for seconds, step in ((40, 1), (50, 2), (60, 20), (70, 40), (80, 60)):  # compiling, then early measurements
        clock[0] = seconds
        folder.append({"epoch": step, "step": step})
        watch.look()
    assert watch.eta() == "0:01:10"  # 140 steps at 2 a second; by the time since the start it would be 0:03:06
    table = Live(watch, False, True)._table()
    assert [entry.plain for entry in table.columns[0]._cells] == ["[/red]\\x1b[31m"]
    assert list(table.columns[1]._cells) == ["0/2 +60%"]
    watch.note(Path(job.runs[1].workdir), "failed", "no")
    assert watch.eta() == "0:00:20" and "1 failed" in Live(watch, True, False).line()
