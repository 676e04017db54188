"""Neural collapse in deep equilibrium models.

`equilibrium` solves z = f(z, x, theta) and differentiates through it, `collapse` measures NC1-NC4, `theory` holds the
layer-peeled models, `models`, `data` and `training` are the experiment, `report` shows it. Submodules are imported by
name (`import deq_nc.collapse`): none is loaded before it is asked for.
"""

__version__ = "0.1.0"
