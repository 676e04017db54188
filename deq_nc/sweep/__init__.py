"""Many runs: which ones (`plan`), what stands on disk (`status`), and how they are carried out (`execute`, `workers`).

A run's folder is the only record: a sweep that is killed at any moment reads the folders and goes on. Nothing here
knows a model or a number of a run; `training.train` does one run, `report` reads what is left.
"""

from deq_nc.sweep.execute import Outcome, execute
from deq_nc.sweep.plan import Job, check, grid, holders, sweep

__all__ = ["Job", "Outcome", "check", "execute", "grid", "holders", "sweep"]
