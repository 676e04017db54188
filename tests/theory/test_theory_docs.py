"""The example of docs/theory.md runs as printed."""

import doctest
from pathlib import Path


def test_example_of_the_page():
    page = Path(__file__).parents[2] / "docs" / "theory.md"
    text = page.read_text().replace("```python\n", "").replace("```\n", "\n")
    test = doctest.DocTestParser().get_doctest(text, {}, "theory.md", str(page), 0)
    assert test.examples
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0
