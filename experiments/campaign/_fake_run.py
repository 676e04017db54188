"""A run that learns nothing: the folder, lock, history and signals of `training.train` without a model.

`python -m experiments.campaign._fake_run ARGUMENTS` is `deq-nc ARGUMENTS` with it, in worker processes too. The
environment says how it behaves: DEQ_NC_FAKE_SECONDS an epoch; DEQ_NC_FAKE_FAIL, a part of the path of runs that fail;
DEQ_NC_FAKE_KILL and DEQ_NC_FAKE_EXIT, of runs whose process is killed, or ends by itself, after an epoch.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deq_nc.config import Experiment
from deq_nc.runs import Lock, RunFolder
from deq_nc.training.leader import led
from deq_nc.training.stop import Stopped
from deq_nc.training.versions import versions

STEPS = 5  # an epoch


def train(experiment: Experiment, quiet: bool = False, wait: bool = False, stop: Any = None) -> tuple[Path, str]:
    """A line an epoch that names its writer; goes on after the lines that are there."""
    folder = RunFolder(Path(experiment.workdir or "."))
    folder.check(experiment)
    if folder.finished and not folder.damaged():
        return folder.path, "already finished"
    with ExitStack() as held:
        try:
            led(lambda sleep: held.enter_context(Lock(folder.path, wait, sleep=sleep)), stop)
        except Stopped:
            return folder.path, "stopped"
        folder.claim(experiment)
        if folder.finished:
            folder.set_aside(folder.summary_path)
        done = len(folder.history().lines)
        folder.write_history(folder.history().lines)
        for epoch in range(done + 1, experiment.train.epochs + 1):
            time.sleep(float(os.environ.get("DEQ_NC_FAKE_SECONDS", "0")))
            if stop is not None and stop.is_set:
                return folder.path, "stopped"
            if (part := os.environ.get("DEQ_NC_FAKE_FAIL")) and part in str(folder.path):
                raise RuntimeError("this run\nwas told to fail")
            folder.append({"epoch": epoch, "step": epoch * STEPS, "writer": os.getpid()})
            if not quiet:
                print(f"[{folder.path.name}] epoch {epoch}", flush=True)
            if (part := os.environ.get("DEQ_NC_FAKE_KILL")) and part in str(folder.path):
                os.kill(os.getpid(), signal.SIGKILL)
            if (part := os.environ.get("DEQ_NC_FAKE_EXIT")) and part in str(folder.path):
                os._exit(1)
        folder.finish({"versions": versions()})
    return folder.path, "finished"


def start(*arguments: Any) -> None:
    """`workers._start` with the run above; what a worker process begins with."""
    import deq_nc.sweep.job as job
    import deq_nc.sweep.workers as workers

    job.train = train
    workers._start(*arguments)


def main() -> int:
    import deq_nc.cli
    import deq_nc.cli.sweep as command
    import deq_nc.sweep.job as job
    import deq_nc.sweep.workers as workers
    from experiments.campaign import _fake_run as fake

    job.train, workers._start = fake.train, fake.start  # by the name that a worker process finds
    command.make_page = lambda runs, *rest: print(f"page: {len(runs)} runs") or 0
    return deq_nc.cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
