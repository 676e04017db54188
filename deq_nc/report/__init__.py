"""Run folders -> tables, figures, one self-contained page; reads files only, and needs no accelerator.

`runs` reads the folders and `checks` what they hold, `quantities` names what is shown, `statistics` averages over
seeds. One setting: `tables` and the figures (`style`, `curves`, `geometry`, `along`; on `classes`, `tsne`) show it,
`theory` lays the optimum beside it, `page` writes it down. A grid of settings: `grid` groups the runs, `controls` has
the numbers of each, `grid_tables` (on `grid_table`, `latex`) and `grid_figures`, `grid_controls`, `side` show it,
`grid_page` writes it down. `remarks` heads both pages; `write` chooses, `files` puts them on the disk.
A new figure or table belongs here; a new number belongs to the run that measures it.
"""

from deq_nc.report.files import NotWrittenError
from deq_nc.report.grid_tables import grid_summary
from deq_nc.report.runs import ReportError
from deq_nc.report.tables import summary_rows
from deq_nc.report.write import is_grid, make_report, report

__all__ = ["NotWrittenError", "ReportError", "grid_summary", "is_grid", "make_report", "report", "summary_rows"]
