"""One job: the runs of a setting and an arm, one after another; what ends one does not end the others."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from deq_nc.config import ConfigError
from deq_nc.runs import Held, Lock, RunFolder, folder_of
from deq_nc.sweep.plan import Job, Note
from deq_nc.training import is_leader, train


def run_job(job: Job, quiet: bool, wait: bool, stop: Any, note: Note) -> bool:
    """The runs of a job one after another; True if a signal stopped them, in a run or between two.

    `note(folder, kind, text)` hears of each: began, then ended, failed or held.
    """
    for experiment in job.runs:
        folder = folder_of(experiment)
        note(folder, "began", "")
        status = None
        try:
            status = train(experiment, quiet=quiet, wait=wait, stop=stop)[1]
        except Held as error:
            note(folder, "held", str(error))
        except BrokenPipeError:
            raise  # nobody reads what the others would say
        except Exception as error:  # whatever ends one run may not end the others
            sentence = f"{type(error).__name__}: {' '.join(str(error).split())}"
            note(folder, "failed", sentence + record(folder, f"{traceback.format_exc()}\n{sentence}\n"))
        else:
            note(folder, "ended", "")
        if status == "stopped" or stop.now():
            return True
    return False


def record(folder: Path, text: str) -> str:
    """Leave `text` as failed.txt, under the run's lock; "" or why that was not possible."""
    if not is_leader():
        return ""
    try:
        with Lock(folder):
            RunFolder(folder).record_failure(text)
    except Held:
        return ""  # somebody began it anew: this failure is history
    except (OSError, ConfigError) as error:
        return f" (failed.txt could not be written: {error})"
    return ""
