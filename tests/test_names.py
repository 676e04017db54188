"""Names are data: for each target, no character of them acts, and harmless names stay as they are."""

import csv
import io
import re

import pytest

from deq_nc import names

HARMLESS = (
    "explicit",
    "deq",
    "airplane",
    "digits (scikit-learn)",
    "z_0",
    "step KA = 3, R = 10",
    "Käse",
    "日本語",
    "−1/(K−1)",
)
HOSTILE = (
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "$x$", r"$\frac{", r"\$", "_hidden", "[/red]", "\x1b[31mred",
    "\x9b31m", "\u202ereversed", "a\x00b", "a\nb", "a|b", "`code`", "<script>", r"\input{/etc/passwd}", "%", "&amp;",
    "*x*", "[x](http://y)", "\ud800", "../../x", "/etc/passwd", "..", "", "x" * 300,
)  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_name_is_not_changed(name):
    assert names.printable(name) == names.markdown(name) == names.csv_cell(name) == name
    assert names.figure(name) == name and "\\text" not in names.latex(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_target_sees_a_character_that_acts(name):
    for escaped in (names.printable(name), names.markdown(name), names.csv_cell(name), names.latex(name)):
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e]", escaped)
        escaped.encode("utf-8")
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`<\[\]*]", names.markdown(name))
    assert not re.match(r"\s*[=+\-@]", names.csv_cell(name))
    assert not re.search(r"(?<!\\)[%&#$_~^]", re.sub(r"\\[a-z]+\{\}", "", names.latex(name)))
    file = names.file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,79}", file) and file not in (".", "..")


@pytest.mark.parametrize("name", HOSTILE)
def test_matplotlib_draws_the_characters_themselves(name):
    from matplotlib.text import Text

    shown = names.figure(name)
    text, math = Text()._preprocess_math(shown)
    assert math is False and len(text) <= names.FIGURE_LENGTH + 1 and not shown.startswith("_")
    assert text.strip().startswith(names.printable(name)[:20].strip())


def test_csv_is_read_back_and_numbers_stay_numbers():
    out = io.StringIO()
    csv.writer(out).writerow(map(names.csv_cell, ('=1,"2', -1.5, None, "a\rb")))
    assert next(csv.reader(io.StringIO(out.getvalue()))) == ["'=1,\"2", "-1.5", "", r"a\rb"]


def test_clean_reaches_keys_and_what_is_nested():
    assert names.clean({"a\x1b": ["\x07", {"b": "\ud800"}], "n": 1}) == {r"a\x1b": [r"\x07", {"b": r"\ud800"}], "n": 1}
