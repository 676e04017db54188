"""Sweeps: which runs, what refuses them, what a failure, a kill and a second call leave behind."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from deq_nc.cli import main
from deq_nc.config import ConfigError, Experiment
from deq_nc.data import DataError, load
from deq_nc.runs import RunFolder
from deq_nc.sweep import Outcome, check, execute, grid, sweep
from deq_nc.sweep.execute import CACHE
from deq_nc.sweep.status import Watch, read
from deq_nc.training.progress import Display

from .tiny import TINY


def with_data(**changes) -> Experiment:
    return dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, **changes))


def test_grid_is_balanced_and_every_pair_and_counts_majority_classes_of_ten():
    settings = grid(TINY, (3, 5, 7), (10, 50))
    assert settings[0].data.imbalance == "none"
    found = [(each.data.majority, each.data.ratio) for each in settings[1:]]
    assert found == [(majority, ratio) for majority in (3, 5, 7) for ratio in (10, 50)]
    with pytest.raises(ConfigError, match="K = 4 classes"):
        grid(with_data(synthetic_classes=4), (3,), (10,))


def test_a_hundred_classes_scale_the_majority(monkeypatch):
    import deq_nc.sweep.plan as module

    monkeypatch.setattr(module, "load", lambda config: SimpleNamespace(num_classes=100))
    assert [each.data.majority for each in grid(TINY, (3, 5, 7), (10,))[1:]] == [30, 50, 70]


def test_cells_share_a_program_and_have_a_folder_a_run():
    jobs = sweep(grid(TINY, (3,), (10,)), ("explicit", "deq"), 3, Path("root"))
    assert [(job.setting, job.arm) for job in jobs] == [
        (setting, arm) for setting in ("tiny-balanced", "tiny-step-KA3-R10") for arm in ("explicit", "deq")
    ]
    folders = [run.workdir for job in jobs for run in job.runs]
    assert len(set(folders)) == 12 and "root/tiny-step-KA3-R10/deq-seed2" in folders
    assert jobs[0].steps > jobs[2].steps > 0  # fewer images, fewer steps


def test_a_setting_with_fewer_updates_than_asked_gets_more_epochs(capsys):
    balanced, step = (jobs.steps for jobs in sweep(grid(TINY, (3,), (10,)), ("deq",), 1, Path("root")))
    jobs = sweep(grid(TINY, (3,), (10,)), ("deq",), 1, Path("root"), updates=balanced)
    assert [job.runs[0].train.epochs for job in jobs] == [2, -(-2 * balanced // step)]
    assert jobs[0].steps == balanced <= jobs[1].steps < balanced + step // 2
    assert main(["sweep", "digits", "--updates", "0"]) == 2
    assert "--updates: expected an integer >= 1, got 0" in capsys.readouterr().err


def test_a_grid_that_empties_a_class_is_refused_with_every_count_or_flagged():
    small = dataclasses.replace(with_data(per_class=40), train=dataclasses.replace(TINY.train, batch_size=32))
    with pytest.raises(DataError) as refusal:
        sweep(grid(small, (3, 5), (10, 50, 100)), ("deq",), 1, Path("root"))
    message = str(refusal.value)
    for words in ("KA=3, R=50", "KA=5, R=100", "[40, 40, 40, 0, 0, 0, 0, 0, 0, 0]", "allow_single"):
        assert words in message
    assert "R=10:" not in message
    kept = sweep(grid(dataclasses.replace(small, data=dataclasses.replace(small.data, allow_single=True)), (3,), (50,)),
                 ("deq",), 1, Path("root"))  # fmt: skip
    dataset = load(kept[1].runs[0].data)
    assert dataset.train_counts.min() == 1 and any("one" in note for note in dataset.notes), dataset.notes


def test_a_failed_run_is_recorded_the_others_go_on_and_the_next_call_tries_again(tmp_path, monkeypatch):
    import deq_nc.sweep.job as module

    real, calls = module.train, []

    def train(experiment, quiet, wait, stop):
        calls.append((experiment.arm, experiment.seed))
        if experiment.arm == "explicit" and experiment.seed == 0 and len(calls) < 3:
            raise RuntimeError("the loss\nwent away")
        return real(experiment, quiet=True, stop=stop)

    monkeypatch.setattr(module, "train", train)
    jobs = sweep([TINY], ("explicit",), 2, tmp_path)
    outcome = execute(jobs, tmp_path, 1, quiet=False)
    broken, good = (tmp_path / "tiny-balanced" / f"explicit-seed{seed}" for seed in (0, 1))
    assert outcome == (False, {broken: "RuntimeError: the loss went away"}, {})
    assert RunFolder(broken).failure_path.read_text().endswith("\nRuntimeError: the loss went away\n")
    assert "Traceback" in (broken / "failed.txt").read_text()
    assert read(good, jobs[0].steps).finished
    # The next call tries only what is not finished, and forgets the failure.
    assert execute(jobs, tmp_path, 1, quiet=False) == (False, {}, {})
    assert calls[-2:] == [("explicit", 0), ("explicit", 1)] and not (broken / "failed.txt").exists()

    watch = Watch(jobs)
    assert watch.done == watch.total == 2 and watch.steps == sum(2 * job.steps for job in jobs)
    assert watch.eta() == "-"

    summary = json.loads((good / "summary.json").read_text())
    assert summary["step_memory_bytes"] > 0 and summary["initial_norm"] > 0
    check(jobs)
    summary["versions"]["jax"] = "0.0.1"
    (good / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="jax 0.0.1 there"):
        check(jobs)
    other = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, learning_rate=0.5))
    with pytest.raises(ConfigError, match="train.learning_rate: 0.05 in the folder, 0.5 asked"):
        check(sweep([other], ("explicit",), 2, tmp_path))


def test_state_of_a_run_is_read_from_its_folder(tmp_path):
    assert read(tmp_path / "nothing", 100).step == 0
    lines = '{"epoch": 1, "step": 30}\n{"epoch": 2, "step": 60}\n{"epoch": 3, "st'  # killed while writing
    (tmp_path / "history.jsonl").write_text(lines)
    (tmp_path / "config.json").write_text(TINY.to_json())
    state = read(tmp_path, 100)
    assert state.step == 60 and not state.finished
    for text in ("", "[]", '{"a": 1', "null"):
        (tmp_path / "summary.json").write_text(text)
        assert read(tmp_path, 100) == state  # a damaged summary is no end
    (tmp_path / "summary.json").write_text("{}")
    assert read(tmp_path, 100) == dataclasses.replace(state, step=100, finished=True)
    (tmp_path / "config.json").write_text("{")
    assert not read(tmp_path, 100).finished  # `train` says what is wrong with it


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_shard_must_be_one_of_its_parts(shard, capsys):
    assert main(["sweep", "digits", "--grid", "--shard", shard]) == 2
    assert "1/4" in capsys.readouterr().err


@pytest.mark.parametrize("more, count, quiet", [([], 2, False), (["--grid", "--ratios", "10"], 16, True)])
def test_on_cpu_a_sweep_takes_every_core(tmp_path, monkeypatch, more, count, quiet):
    taken = []
    monkeypatch.setattr(
        "deq_nc.sweep.execute", lambda *args, **kwargs: taken.append((args, kwargs)) or Outcome(True, {}, {})
    )
    for cores in (3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: range(cores), raising=False)
        assert main(["sweep", "digits", "--workdir", str(tmp_path), *more]) == 0
        (mine, root, at_once), kwargs = taken.pop()
        assert len(mine) == count and at_once == min(cores, count) and kwargs == {"quiet": quiet, "wait": False}


def test_runs_in_worker_processes_say_lines_and_draw_no_bar(monkeypatch, tmp_path):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    assert Display(TINY, 10, tmp_path).live
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    assert not Display(TINY, 10, tmp_path).live


OPTIONS = (
    "digits --grid --majorities 3 --ratios 10 --arms explicit --jobs 2 --model.encoder identity --model.features 16 "
    "--model.inner 16 --train.epochs 12 --train.measurements 12 --train.checkpoint-seconds 0"
).split()


def start(root: Path, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "XLA_FLAGS": os.environ["ONE_DEVICE_FLAGS"], "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "deq_nc", "sweep", *OPTIONS, "--workdir", str(root), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    return out


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processes by /proc")
def test_a_grid_killed_in_the_middle_ends_with_identical_tables(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed)
    until = time.monotonic() + 200
    while not [h for h in killed.rglob("history.jsonl") if h.read_text().count("\n") >= 2]:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < until, "a worker outlives its sweep"
        time.sleep(0.05)
    assert not list(killed.rglob("tables.md"))

    assert "2 of 2 runs done" in finish(start(killed))
    shutil.copytree(killed / CACHE, whole / CACHE)  # compiling it all again takes a minute
    finish(start(whole))
    for name in ("tables.md", "tables.csv", "tables.tex", "runs.csv"):
        assert (killed / "digits-grid" / name).read_text() == (whole / "digits-grid" / name).read_text(), name
