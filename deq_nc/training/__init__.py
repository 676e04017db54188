"""The story of a run: mesh, state, step, measurement, checkpoints, progress; read `loop.py` from top to bottom.

`opening` is what comes before the first step, `mesh` the only place where shardings are written; `step` and `evaluate`
hold the functions that `program` compiles, `measure` turns a state into numbers, `checkpoint` keeps states on disk,
`progress` is what a person sees. Of several processes one acts for all by `leader`.
"""

from deq_nc.training.checkpoint import TrainingError
from deq_nc.training.leader import led
from deq_nc.training.loop import train
from deq_nc.training.mesh import initialize_hosts, is_leader
from deq_nc.training.stop import stop_flag
from deq_nc.training.versions import versions

__all__ = ["TrainingError", "initialize_hosts", "is_leader", "led", "stop_flag", "train", "versions"]
