"""Run folders -> one `Study`: each folder is read once, what cannot be shown is left out and said.

`folders` finds them and checks that they belong together, `run` reads one (`checks` says what its files may hold),
`numbers` has every number of a run, `study` groups the runs by setting, arm and seed.
"""

from deq_nc.report.read.run import ReportError, Run
from deq_nc.report.read.study import Study, read

__all__ = ["ReportError", "Run", "Study", "read"]
