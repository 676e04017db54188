"""The story of a run: mesh, state, step, measurement, checkpoints, progress; read `loop.py` from top to bottom.

`mesh` is the only place where shardings are written, `step` and `measure` hold the compiled functions, `folder` and
`checkpoint` what is on disk, `progress` what a person sees.
"""

from deq_nc.training.folder import default_workdir
from deq_nc.training.loop import TrainingError, train
from deq_nc.training.mesh import initialize_hosts

__all__ = ["TrainingError", "default_workdir", "initialize_hosts", "train"]
