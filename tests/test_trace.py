"""Every number of README.md and docs/results.md has its file, and the script that says so notices what is wrong."""

import json

import pytest

from experiments.trace import ROOT, main, trace

TABLE = """table,arm,quantity,mean,half_width_95,seeds
Result,explicit,nc1,0.006808938613782327,0.0014622160755740946,3
Result,deq,nc1,0.025375961015621822,0.00998912383801534,3
Result,deq,test_accuracy_minority,0.8007054673721341,0.032417884513033624,3
Result,explicit,parameters,127082.0,0.0,3
Result,deq,seconds,196.3,12.2,3
Result,deq,difference,-0.0637,0.02,3
Result,deq,solver_residual,0.0000998,0.0000003,3
"""
SOURCE = "experiments/results/x/balanced/tables.csv"


@pytest.fixture
def errors(tmp_path):
    folder = tmp_path / "experiments/results/x/balanced"
    folder.mkdir(parents=True)
    (folder / "tables.csv").write_text(TABLE)
    cells = [
        {"cell": "conv48", "ours": {"ratio": 0.7068, "bytes": 20361792}},
        {"cell": "dense", "ours": {"ratio": 0.5}},
    ]
    (folder / "b.json").write_text(
        json.dumps({"cells": cells, "wall": "3 min 20 s", "runs": 2, "list": [1.25, None, True]})
    )
    (folder / "h.jsonl").write_text('{"epoch": 1, "nc1": 0.51}\n{"epoch": 2, "nc1": 0.25}\n')
    (tmp_path / "experiments/results/page.md").write_text("0.5")
    return lambda text, source=SOURCE: trace(f"<!-- from: {source} -->\n{text}\n", "p.md", tmp_path)[0]


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_pages_of_the_project(page, capsys):
    status = main([page])
    assert status == 0, capsys.readouterr().out
    assert trace((ROOT / page).read_text())[1] >= 20, "hardly a number was found: are the blocks still read?"


@pytest.mark.parametrize(
    "text",
    [
        "0.801 or .801 or 80.1 % or 80.07 points",
        "between 0.801 ± 0.032 and 80.1 ± 3.2 %, that is **0.80** (_0.80_)",
        "7e-03, 6.81e-03, 6.809E-3, -0.064 and −0.06",
        "127,082 parameters, (1.00 ± <0.01)e-04, 3 min 16 s, 3 min, 196.3 s",
        "NC1 <= 0.03, residual <0.0001, accuracy > 0.80",
        "3 seeds, 10 classes, KA=3, R = 100, 2024, NC1, conv48, v0.7",
        "Python 3.11 to 3.13, jax 0.10.2, 1.2.3, `--tol 1e-7`, ![a](x-0.55.png), Apache-2.0, ± 95 % interval",
        "| | explicit | deq |\n|---|---|---|\n| balanced: NC1 | 0.0068 ± 0.0015 | 0.025 ± 0.010 |",
        "```\n[deq] NC1 2.54e-02 │ 127,082 │\n\nunder an empty line 0.801\n```",
        "```python\ntol = 1e-7\n```",
    ],
)
def test_what_is_traced_or_exempt(errors, text):
    found = errors(text)
    assert not found, found


@pytest.mark.parametrize(
    ("text", "wrong", "nearest"),
    [
        ("0.802", "0.802", "0.800705"),
        ("first line\nsecond 0.81", "0.81", "0.800705"),
        ("0.064", "0.064", "0.0253"),  # the file has -0.0637
        ("81 %", "81 %", "0.800705"),
        ("6.82e-03", "6.82e-03", "0.00680"),
        ("127,083", "127,083", "127082"),
        ("3 min 17 s", "3 min 17 s", "196.3"),
        ("NC1 <= 0.02", "<= 0.02", "0.00680"),
        ("0.0068 ± 0.0100", "0.0068 ± 0.0100", "0.00680894 ± 0.00146222 (Result explicit nc1 mean)"),
        ("0.801 ± 0.031", "0.801 ± 0.031", "0.800705 ± 0.0324179"),
        ("```\nNC1 2.55e-02\n```", "2.55e-02", "0.0253"),
        ("| | explicit | deq |\n|---|---|---|\n| NC1 | 0.0068 | 0.0068 |", "0.0068", "0.025376 (Result deq nc1 mean)"),
        ("| | deq |\n|---|---|\n| NC1 | 0.801 |", "0.801", "deq nc1"),
    ],
)
def test_a_wrong_number_is_named_with_the_nearest(errors, text, wrong, nearest):
    found = errors(text)
    line = 2 + text[: text.rindex(wrong)].count("\n")
    assert len(found) == 1 and found[0].startswith(f"p.md:{line}: {wrong}: no "), found
    assert nearest in found[0]


def test_mean_and_half_width_of_different_rows(errors):
    assert not errors("0.0068 with an interval of ± 0.0100") and errors("0.0100") and errors("± 0.0068")
    assert "no row of the sources has both" in errors("0.0068 ± 0.0100")[0]
    assert "no column *half_width*" in errors("0.5 ± 0.7", "experiments/results/x/balanced/b.json")[0]


def test_blocks_without_a_source(errors, tmp_path):
    assert trace("0.5 and 7 %", "p.md", tmp_path)[0][1].startswith("p.md:1: 7 %: no source: the block needs a comment")
    assert len(errors("0.801\n\nthe comment holds for one block: 0.801")) == 1
    assert not errors("target 0.5", "none, a target") and errors("target 0.5", "none")
    assert not errors("\n0.801\n\n<!-- a note -->\nnothing measured")
    assert errors("<!-- a note --> 0.9") and not errors("<!-- a note --> 0.801")
    assert not errors("<!-- from: experiments/results/x/balanced/b.json -->\n0.71 of one, 0.801 of the other")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("experiments/results/x/none.csv", "no such file"),
        ("experiments/results/page.md", "expected a .csv, .json or .jsonl file under experiments/results"),
        ("experiments/results/../../README.csv", "under experiments/results"),
        (f"{SOURCE}?arm=nobody", "nothing is left after arm=nobody"),
        (f"{SOURCE}, experiments/results/gone.json", "no such file"),
    ],
)
def test_a_bad_source_is_one_error(errors, source, reason):
    found = errors("0.801 and 0.9", source)
    assert len(found) == 1 and found[0].startswith("p.md:2: experiments/results/") and reason in found[0]


def test_filters(errors):
    json_file = "experiments/results/x/balanced/b.json"
    assert errors("0.801", f"{SOURCE}?arm=explicit") and not errors(
        "0.801", f"{SOURCE}?arm=deq&quantity=nc1|test_accuracy_minority"
    )
    assert not errors("0.71, 19.4 MiB", f"{json_file}?at=cells.0.ours") and errors("0.71", f"{json_file}?at=cells.1")
    assert not errors("0.71", f"{json_file}?cell=conv48") and errors("0.50", f"{json_file}?cell=conv48")
    assert not errors("3 min 20 s, 1.25", json_file)
    assert not errors("0.25", "experiments/results/x/balanced/h.jsonl?epoch=2")
    assert errors("0.51", "experiments/results/x/balanced/h.jsonl?epoch=2")
    assert errors("80.07 ± 3.24") and not errors("80.07 ± 3.24", f"{SOURCE}?as=%")


GRID = """table,imbalance,majority,ratio,quantity,column,mean,half_width_95
accuracy-KA3,step,3,10,test_accuracy_minority,explicit,0.81,0.03
accuracy-KA3,step,3,10,test_accuracy_minority,deq - explicit,0.06,0.02
accuracy-KA3,step,3,100,test_accuracy_minority,explicit,0.62,0.05
accuracy-KA5,step,5,100,test_accuracy_minority,explicit,0.57,0.04
accuracy-KA3,step,3,100,test_accuracy_majority,explicit,0.99,0.01
"""


@pytest.mark.parametrize(
    "table",
    [
        "| setting | explicit | deq − explicit |\n|---|---|---|\n| KA = 3, R = 10 | {} | +0.06 ± 0.02 * |",
        "| R | classes | explicit |\n|---|---|---|\n| 10 | minority | {} |",
        "| | explicit |\n|---|---|\n| KA=3, R=10: minority accuracy | {} |",
    ],
)
def test_rows_and_columns_of_a_table_narrow_the_search(tmp_path, table):
    (tmp_path / "experiments/results").mkdir(parents=True)
    (tmp_path / "experiments/results/grid.csv").write_text(GRID)
    page = "<!-- from: experiments/results/grid.csv -->\n" + table
    assert not trace(page.format("0.81 ± 0.03"), "p.md", tmp_path)[0]
    for other in ("0.62 ± 0.05", "0.57 ± 0.04", "0.99 ± 0.01", "0.06 ± 0.02"):
        found = trace(page.format(other), "p.md", tmp_path)[0]
        assert len(found) == 1 and "nearest 0.81 ± 0.03" in found[0], found


def test_exit_code(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("0.5\n")
    assert main([str(page)]) == 1 and "1 errors" in capsys.readouterr().out
    page.write_text("5\n")
    assert main([str(page)]) == 0
    assert main([str(tmp_path / "none.md")]) == 2 and "none.md: no such page" in capsys.readouterr().out
