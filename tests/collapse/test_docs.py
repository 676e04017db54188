"""The examples of docs/collapse.md and of the docstrings print what they say."""

import doctest
from pathlib import Path

import pytest

from deq_nc import geometry

DOC = Path(__file__).parents[2] / "docs" / "collapse.md"


def test_docs_collapse():
    result = doctest.testfile(str(DOC), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 15 and result.failed == 0


@pytest.mark.parametrize("module", [geometry])
def test_docstrings(module):
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 2 and result.failed == 0
