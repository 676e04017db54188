"""Runs from beginning to end: what they write, how they resume, what stops them."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_type_hints

import jax
import numpy as np
import pytest
from beartype import BeartypeConf
from beartype.door import is_bearable

from deq_nc.collapse import measure
from deq_nc.config import ConfigError
from deq_nc.runs import Along, Held, Iterate, Layer, Line, Lock, Summary
from deq_nc.training import TrainingError, train
from deq_nc.training.loop import measured_epochs
from deq_nc.training.measure import Measurer
from deq_nc.training.progress import Display
from deq_nc.training.remeasure import remeasure
from deq_nc.training.stop import Stop

CONTRACT = (
    "epoch step seconds train_loss train_accuracy test_loss test_accuracy "
    "test_accuracy_majority test_accuracy_minority nc1 nc2_means nc2_weights nc3 nc4 "
    "solver_steps solver_residual unconverged adjoint_residual"
).split()

TOWER = BeartypeConf(is_pep484_tower=True)  # JSON writes a whole float as an integer


def history(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]


def numbers(folder) -> list[dict]:
    """The history without clocks."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history(folder)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny):
    experiment = dataclasses.replace(tiny, workdir=str(tmp_path_factory.mktemp("finished") / "run"))
    folder, status = train(experiment, devices=jax.devices()[:1], quiet=True)
    assert status == "finished"
    return experiment, folder


def test_history_has_the_contract_and_the_evidence(finished):
    experiment, folder = finished
    lines = history(folder)
    assert all(key in line for key in CONTRACT for line in lines)
    last = lines[-1]
    assert last["epoch"] == experiment.train.epochs and last["step"] == 4 * 8
    assert last["train_loss"] < lines[0]["train_loss"]
    assert last["unconverged"] == 0 and last["adjoint_unconverged"] == 0
    assert 0 < last["solver_residual"] <= experiment.solver.tol
    assert 0 < last["adjoint_residual"] <= experiment.solver.adjoint_tol
    assert 0 < last["spectral_radius"] <= experiment.model.gain + 1e-4
    assert last["test_accuracy_majority"] is None


def test_files_hold_what_their_records_say(finished):
    """Every key of a file is one of its record's, with a value of its type; a balanced run lacks those by block."""
    _, folder = finished
    along, summary = (json.loads((folder / name).read_text()) for name in ("along.json", "summary.json"))
    rows = {Line: history(folder), Summary: [summary], Along: [along], Layer: along["layers"]}
    rows[Iterate] = along["by_step"] + along["by_tolerance"]
    for record, found in rows.items():
        hints = get_type_hints(record)
        for row in found:
            assert row.keys() <= hints.keys()
            assert all(is_bearable(value, hints[key], conf=TOWER) for key, value in row.items())
    by_block = {key for key in get_type_hints(Line) if re.search("_majority|_minority|_cross", key)}
    assert get_type_hints(Line).keys() - rows[Line][-1].keys() == by_block - {
        "test_accuracy_majority", "test_accuracy_minority"
    }  # fmt: skip
    assert rows[Summary][0].keys() == get_type_hints(Summary).keys()


def test_a_line_without_collapse_is_said(tiny, tmp_path, capsys):
    """Features that do not differ have no NC1: the line says so and the run goes on."""
    line = dict.fromkeys(get_type_hints(Line), 0.0) | dict.fromkeys(("nc1", "nc2_means", "nc3", "solver_steps"))
    Display(tiny, 8, tmp_path).measured({**line, "epoch": 1, "step": 8})
    assert "NC1 nan  NC2 nan  NC3 nan" in capsys.readouterr().out


def test_measured_collapse_is_that_of_the_saved_features(finished):
    _, folder = finished
    saved = np.load(folder / "analysis.npz")
    again = measure(saved["features_train"], saved["labels_train"], saved["weights"], saved["bias"], num_classes=4)
    last = history(folder)[-1]
    for name in ("nc1", "nc2_means", "nc3", "nc4"):
        np.testing.assert_allclose(last[name], float(getattr(again, name)), rtol=1e-4, atol=1e-6)
    accuracy = (saved["features_test"] @ saved["weights"].T + saved["bias"]).argmax(1) == saved["labels_test"]
    np.testing.assert_allclose(last["test_accuracy"], accuracy.mean(), atol=1e-6)


def test_collapse_along_the_solve_ends_at_the_history_and_starts_at_the_encoder(finished):
    experiment, folder = finished
    along, last = json.loads((folder / "along.json").read_text()), history(folder)[-1]
    steps = along["by_step"]
    assert steps[0]["residual"] > 0.01 and steps[0]["distance"] > 0.01
    assert steps[-1]["residual"] < steps[3]["residual"] < steps[0]["residual"]
    for name in ("nc1", "nc2_means", "nc3"):
        np.testing.assert_allclose(steps[-1][name], last[name], rtol=1e-3)
    assert all(row["residual"] <= row["tol"] for row in along["by_tolerance"])
    layers = {(row["layer"], row["images"]): row for row in along["layers"]}
    np.testing.assert_allclose(layers["features", "train"]["nc1"], last["nc1"], rtol=1e-4)
    np.testing.assert_allclose(layers["H0", "train"]["nc1"], steps[0]["nc1"], rtol=1e-3)
    np.testing.assert_allclose(layers["features", "test"]["accuracy"], last["test_accuracy"], atol=1e-6)


def test_a_finished_run_does_nothing(finished):
    experiment, folder = finished
    before = (folder / "history.jsonl").stat().st_mtime_ns
    assert train(experiment, quiet=True)[1] == "already finished"
    assert (folder / "history.jsonl").stat().st_mtime_ns == before


def test_remeasure_repeats_the_last_line(finished):
    _, folder = finished
    last, again = history(folder)[-1], remeasure(folder)
    assert again["epoch"] == last["epoch"]
    for name in ("train_loss", "nc1", "nc3", "test_accuracy"):
        np.testing.assert_allclose(again[name], last[name], rtol=1e-4)


def test_another_configuration_is_refused_by_field(finished):
    experiment, _ = finished
    other = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, gain=0.5))
    with pytest.raises(ConfigError, match=r"model.gain: 0.8 in the folder, 0.5 asked"):
        train(other, quiet=True)


def test_data_may_move_but_not_change(finished):
    experiment, folder = finished
    moved = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, dir="elsewhere"))
    assert train(moved, quiet=True)[1] == "already finished"
    text = (folder / "data.json").read_text()
    checksums = json.loads(text)
    (folder / "data.json").write_text(json.dumps(checksums | {"train": "0123"}))
    with pytest.raises(
        ConfigError, match=f"checksum of the images, train: '0123' in the folder, '{checksums['train']}'"
    ):
        train(experiment, quiet=True)
    with pytest.raises(ConfigError, match="checksum of the images, train: '0123'"):
        remeasure(folder)
    (folder / "data.json").unlink()  # a folder from before the checksums
    with pytest.raises(ConfigError, match="data.dir: None in the folder, 'elsewhere' asked"):
        train(moved, quiet=True)
    assert train(experiment, quiet=True)[1] == "already finished"
    (folder / "data.json").write_text(text)


def test_a_folder_older_than_a_field_is_continued(finished):
    experiment, folder = finished
    text = (folder / "config.json").read_text()
    old = json.loads(text)
    del old["model"]["dtype"]
    (folder / "config.json").write_text(json.dumps(old))
    assert train(experiment, quiet=True)[1] == "already finished"
    (folder / "config.json").write_text(text)


def test_more_devices_give_the_same_run(finished, in_folder):
    _, folder = finished
    other, _ = train(in_folder(), devices=jax.devices()[:8], quiet=True)
    for one, many in zip(numbers(folder), numbers(other), strict=True):
        for key in ("train_loss", "nc1", "nc2_means", "nc3", "feature_norm"):
            np.testing.assert_allclose(many[key], one[key], rtol=2e-3, err_msg=key)


def test_the_jacobian_penalty_shrinks_the_jacobian(finished, in_folder):
    _, folder = finished
    with_penalty, _ = train(in_folder(train__jacobian_penalty=5.0), devices=jax.devices()[:1], quiet=True)
    assert history(with_penalty)[-1]["spectral_radius"] < 0.95 * history(folder)[-1]["spectral_radius"]
    with pytest.raises(ConfigError, match="jacobian_penalty"):
        in_folder(arm="explicit", train__jacobian_penalty=5.0)


def test_a_batch_that_devices_do_not_divide_is_padded_and_masked(finished, in_folder):
    experiment, _ = finished
    runs = []
    for devices in (1, 8):
        small = in_folder(f"d{devices}", train__batch_size=60, train__epochs=1)
        runs.append(numbers(train(small, devices=jax.devices()[:devices], quiet=True)[0])[-1])
    for key in ("train_loss", "nc1", "feature_norm"):
        np.testing.assert_allclose(runs[1][key], runs[0][key], rtol=2e-3, err_msg=key)


def test_one_trace_per_step_function_and_seeds_share_it(finished, in_folder):
    from deq_nc.data import load
    from deq_nc.training.mesh import data_mesh
    from deq_nc.training.program import program

    experiment, folder = finished
    other, _ = train(in_folder(seed=1), devices=jax.devices()[:1], quiet=True)
    compiled = program(experiment, load(experiment.data), data_mesh(jax.devices()[:1]))
    assert compiled.step._cache_size() == 1 and compiled.order._cache_size() == 1
    assert numbers(other)[0]["train_loss"] != numbers(folder)[0]["train_loss"]


def test_corrupt_checkpoint_falls_back_and_says_so(finished, in_folder, capsys):
    _, folder = finished
    experiment = in_folder()
    path = Path(experiment.workdir)
    monkey = dataclasses.replace(experiment)
    _run_until(monkey, epoch=3)
    newest = max((path / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1)
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(b"garbage")
    train(experiment, devices=jax.devices()[:1])
    assert "renamed into damaged/; trying the one before it" in capsys.readouterr().out
    assert (path / "damaged" / f"{newest.name}-0").is_dir() and numbers(path) == numbers(folder)


def test_a_damaged_history_is_written_again_from_the_checkpoint(finished, in_folder, capsys):
    _, folder = finished
    experiment = in_folder()
    path = Path(experiment.workdir)
    _run_until(experiment, epoch=3)
    lines = (path / "history.jsonl").read_text().splitlines()
    (path / "history.jsonl").write_text("\n".join(["garbage", *lines[1:]]) + "\n")
    train(experiment, devices=jax.devices()[:1])
    assert "history.jsonl is damaged (line 1 of" in capsys.readouterr().out
    assert numbers(path) == numbers(folder)


@pytest.mark.parametrize("name", ["summary.json", "history.jsonl", "analysis.npz", "along.json"])
def test_damaged_results_of_a_finished_run_are_made_again(finished, capsys, name):
    experiment, folder = finished
    before, sound = numbers(folder), json.loads((folder / "summary.json").read_text())
    (folder / name).write_bytes((folder / name).read_bytes()[:-30])
    assert train(experiment, devices=jax.devices()[:1])[1] == "finished"
    out = capsys.readouterr().out
    assert name in out and "results are made again" in out
    again = json.loads((folder / "summary.json").read_text())
    assert numbers(folder) == before and again["checksums"].keys() == sound["checksums"].keys()
    assert train(experiment, quiet=True)[1] == "already finished"


def test_a_run_at_work_is_left_alone(in_folder):
    experiment = in_folder()
    with Lock(Path(experiment.workdir)), pytest.raises(Held, match="is in use by process"):
        train(experiment, quiet=True)
    assert not (Path(experiment.workdir) / "config.json").exists()


def test_weights_that_overflow_are_never_saved(in_folder):
    """One step an epoch at rate 1e30: the loss before it is finite, the weights after it are not."""
    experiment = in_folder(train__learning_rate=1e30, train__batch_size=512, train__loss="mse")
    with pytest.raises(TrainingError, match=r"not finite after (step|epoch) 1"):
        train(experiment, devices=jax.devices()[:1], quiet=True)
    path = Path(experiment.workdir)
    assert not (path / "history.jsonl").read_text() and not list((path / "checkpoints").glob("[0-9]*"))


def test_a_signal_in_a_measurement_loses_no_line(finished, in_folder, monkeypatch):
    """The next call makes it, since its line is due; one at the end stops before the results."""
    _, folder = finished
    experiment, stop = in_folder(), Stop()
    collect, along, calls = Measurer.collect, Measurer.along, []

    def collecting(self, state, part):
        calls.append(int(state.step))
        stop.is_set = len(calls) in (3, 7)  # in the second measurement, and in the last
        return collect(self, state, part)

    def at_the_end(self, state):
        calls.append("along")
        stop.is_set = calls.count("along") == 1
        return along(self, state)

    monkeypatch.setattr(Measurer, "collect", collecting)
    monkeypatch.setattr(Measurer, "along", at_the_end)
    statuses = []
    while len(statuses) < 6 and (not statuses or statuses[-1] != "finished"):
        stop.is_set = False
        statuses.append(train(experiment, devices=jax.devices()[:1], quiet=True, stop=stop)[1])
    assert statuses == ["stopped"] * 3 + ["finished"], calls
    assert numbers(experiment.workdir) == numbers(folder)


def _run_until(experiment, epoch):
    """Stop the run as SIGTERM would, after `epoch` epochs."""
    from deq_nc.training import loop

    original = loop._epoch

    def stopping(run, state):
        result = original(run, state)
        run.stop.is_set = int(result[0].step) // run.program.steps >= epoch
        return result

    loop._epoch = stopping
    try:
        assert train(experiment, devices=jax.devices()[:1], quiet=True)[1] == "stopped"
    finally:
        loop._epoch = original


def test_checkpoints_restore_onto_another_mesh(finished, in_folder):
    _, folder = finished
    experiment = in_folder()
    _run_until(experiment, epoch=2)
    other, status = train(experiment, devices=jax.devices()[:8], quiet=True)
    assert status == "finished"
    for one, many in zip(numbers(folder), numbers(other), strict=True):
        np.testing.assert_allclose(many["train_loss"], one["train_loss"], rtol=2e-3)


COMMAND = """
import sys, time
import jax
from deq_nc.config import Experiment
from deq_nc.training import loop, train
original = loop._epoch
def slow(*args):
    time.sleep(0.25)  # room for a signal between epochs
    return original(*args)
loop._epoch = slow
print(train(Experiment.from_json(open(sys.argv[1]).read()), devices=jax.devices()[:1])[1], flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_runs_resume_to_the_same_history(in_folder, tmp_path, number):
    """Bitwise, line for line; the reference run was never interrupted."""
    experiment = in_folder(train__epochs=12, train__measurements=12)
    whole = in_folder("whole", train__epochs=12, train__measurements=12)
    train(whole, devices=jax.devices()[:1], quiet=True)
    (tmp_path / "experiment.json").write_text(experiment.to_json())
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, str(tmp_path / "experiment.json")]
    path = Path(experiment.workdir)

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    process = start()
    deadline = time.monotonic() + 120
    while not ((path / "history.jsonl").exists() and len(history_so_far(path)) >= 4):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (0 if number == signal.SIGTERM else -signal.SIGKILL), out
    assert not (path / "summary.json").exists()
    out, _ = start().communicate(timeout=120)
    assert "goes on at step" in out and out.strip().endswith("finished")
    assert numbers(path) == numbers(whole.workdir)


def history_so_far(path):
    return [line for line in (path / "history.jsonl").read_text().splitlines() if line.endswith("}")]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(in_folder, monkeypatch):
    import jax.numpy as jnp

    from deq_nc.losses import LOSSES

    experiment = in_folder(train__learning_rate=1e30, train__loss="mse")
    with pytest.raises(TrainingError, match=r"not finite at step \d+ \(epoch 1\)"):
        train(experiment, devices=jax.devices()[:1], quiet=True)
    assert not (Path(experiment.workdir) / "summary.json").exists()
    assert jnp.isfinite(LOSSES["mse"](jnp.ones((2, 3)), jnp.zeros(2, int), jnp.ones(3))).all()


def test_a_full_disk_is_said_and_nothing_is_lost(finished, in_folder, monkeypatch):
    import errno

    from deq_nc.runs import RunFolder

    _, folder = finished
    experiment = in_folder()
    append = RunFolder.append

    def full(self, line):
        if line["epoch"] == 3 or line["epoch"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", full)
        with pytest.raises(TrainingError, match="disk of .* is full.*same command"):
            train(experiment, devices=jax.devices()[:1], quiet=True)
    train(experiment, devices=jax.devices()[:1], quiet=True)
    assert numbers(experiment.workdir) == numbers(folder)


def test_too_little_space_is_refused_before_training(in_folder, monkeypatch):
    import shutil

    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ConfigError, match="MiB free"):
        train(in_folder(), quiet=True)


def test_measured_epochs_are_denser_early_and_include_the_last():
    epochs = sorted(measured_epochs(200, 25))
    assert epochs[0] == 1 and epochs[-1] == 200 and len(epochs) <= 25
    gaps = np.diff(epochs)
    assert gaps[0] == 1 and gaps[-1] == gaps.max() and gaps.max() > 20
    assert measured_epochs(1, 5) == {1}


def test_imbalanced_run_reports_blocks(in_folder):
    experiment = in_folder(data__imbalance="step", train__epochs=2, arm="explicit")
    experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, majority=2, ratio=4))
    folder, _ = train(experiment, devices=jax.devices()[:1], quiet=True)
    last = history(folder)[-1]
    assert last["test_accuracy_majority"] is not None and last["test_accuracy_minority"] is not None
    assert np.isclose((last["test_accuracy_majority"] + last["test_accuracy_minority"]) / 2, last["test_accuracy"])
    assert last["cosine_minority_means"] is not None
    assert last["solver_steps"] is None and last["adjoint_residual"] is None
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["train_counts"] == [128, 128, 32, 32] and summary["majority"] == [True, True, False, False]
