"""Between the first look at a run folder and its lock another process may have been there."""

import dataclasses
from pathlib import Path

import pytest

from deq_nc.config import ConfigError
from deq_nc.data import load
from deq_nc.runs import Lock, RunFolder
from deq_nc.training import loop, train


def taken_first(monkeypatch, act):
    """`act` happens just before `train` has the lock."""

    class Late(Lock):
        def __enter__(self):
            act()
            return super().__enter__()

    monkeypatch.setattr(loop, "Lock", Late)


def test_a_folder_claimed_meanwhile_by_another_configuration_is_refused(tiny, tmp_path, monkeypatch):
    ours = dataclasses.replace(tiny, workdir=str(tmp_path / "run"))
    theirs, folder = dataclasses.replace(ours, seed=7), RunFolder(Path(ours.workdir))
    taken_first(monkeypatch, lambda: folder.claim(theirs, load(theirs.data).checksums()))
    with pytest.raises(ConfigError, match="seed: 7 in the folder"):
        train(ours, quiet=True, wait=True)
    assert folder.experiment() == theirs and not folder.checkpoints.exists()


def test_a_run_finished_meanwhile_is_left_alone(tiny, tmp_path, monkeypatch):
    ours = dataclasses.replace(tiny, workdir=str(tmp_path / "run"))
    folder = RunFolder(Path(ours.workdir))

    def finish():
        folder.claim(ours, load(ours.data).checksums())
        folder.finish({"arm": ours.arm})

    taken_first(monkeypatch, finish)
    assert train(ours, quiet=True)[1] == "already finished"
