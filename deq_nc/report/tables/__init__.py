"""A study -> its tables, each made once.

`quantities` names what is shown, `intervals` averages over seeds, `table` is the one type (Markdown, CSV; `latex`),
`contents` says which tables a page has.
"""

from deq_nc.report.tables.contents import Tables, summary, tables
from deq_nc.report.tables.table import Table

__all__ = ["Table", "Tables", "summary", "tables"]
