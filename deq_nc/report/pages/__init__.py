"""A study, its tables and figures -> the files of its page.

`html` is what a page is made of, `remarks` heads it, `one` and `many` say what stands on the page of a setting and of a
grid, `configuration` ends it, `texts` are the files beside it.
"""

from deq_nc.report.figures import Figures
from deq_nc.report.pages.configuration import configuration
from deq_nc.report.pages.html import render
from deq_nc.report.pages.many import sections as sections_of_many
from deq_nc.report.pages.one import sections as sections_of_one
from deq_nc.report.pages.remarks import arms_text, remarks, title
from deq_nc.report.pages.texts import texts
from deq_nc.report.read import Study
from deq_nc.report.tables import Tables

__all__ = ["pages"]


def pages(study: Study, tables: Tables, figures: Figures) -> dict[str, bytes]:
    """Path below the page's folder -> bytes: tables.*, runs.csv, cost.*, figures/*.png, and index.html last."""
    head, said = title(study), remarks(study)
    files = {name: text.encode() for name, text in texts(study, tables, head, said).items()}
    files |= {f"figures/{name}.png": each.png for name, each in figures.items()}
    sections = (sections_of_many if study.many else sections_of_one)(study, tables, figures, said)
    sections += configuration(study)
    return files | {"index.html": render(head, arms_text(study.arms), sections).encode()}
