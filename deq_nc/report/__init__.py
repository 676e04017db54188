"""Run folders -> tables, figures, one self-contained page; reads files only, and needs no accelerator and no jax.

`runs` reads and checks the folders, `quantities` names what is shown, `statistics` averages over seeds, `tables` and
the figures (`style`, `curves`, `geometry`) show it, `page` writes it down. A new figure or table belongs here; a new
number belongs to the run that measures it. `report` and `summary_rows` are what others call.
"""

from deq_nc.report.page import report
from deq_nc.report.runs import ReportError
from deq_nc.report.tables import summary_rows

__all__ = ["ReportError", "report", "summary_rows"]
