"""Run folders -> tables, figures, one self-contained page; reads files only, and needs no accelerator.

`read` makes a `Study` of the folders, `tables` and `figures` show it, `pages` lays them out, `write` does all of it and
`files` puts the result on the disk. Each imports those before it alone.
A new figure or table belongs here; a new number belongs to the run that measures it.
"""

from deq_nc.report.files import NotWrittenError
from deq_nc.report.read import ReportError, Study, read
from deq_nc.report.tables import summary, tables
from deq_nc.report.write import Report, make_report, report

__all__ = ["NotWrittenError", "Report", "ReportError", "Study", "make_report", "read", "report", "summary", "tables"]
