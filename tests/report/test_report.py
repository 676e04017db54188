"""The page and its files: self-contained, complete, and honest about what is missing."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from deq_nc.report import ReportError, read, report, summary, tables
from deq_nc.report.pages.remarks import FLAGS
from deq_nc.report.tables.contents import BLOCKS
from deq_nc.report.tables.quantities import COSINES, NORMS

from .folders import EPOCHS, K, make_run
from .grids import edit


def summary_rows(run_dirs):
    study = read(run_dirs)
    return summary(study, tables(study))


class Links(HTMLParser):
    """Every address a browser would follow or load, and every tag that could load something."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]


@pytest.fixture(scope="module")
def imbalanced(tmp_path_factory):
    """Both arms, three seeds of the DEQ and two of the explicit arm, step imbalance; with the page."""
    root = tmp_path_factory.mktemp("imbalanced")
    runs = [make_run(root, arm, seed, imbalanced=True) for arm, n in (("deq", 3), ("explicit", 2)) for seed in range(n)]
    return runs, report(runs)


def test_page_is_one_file_that_loads_nothing_else(imbalanced):
    html = imbalanced[1].read_text(encoding="utf-8")
    links = Links()
    links.feed(html)
    assert links.found and all(link.startswith(("data:image/png;base64,", "#")) for link in links.found)
    assert not {"script", "link", "iframe", "object"} & set(links.tags)
    assert "url(" not in html and "@import" not in html
    anchors = {link[1:] for link in links.found if link.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', html))


def test_default_folder_and_files(imbalanced):
    runs, page = imbalanced
    assert page == runs[0].parent / "report" / "index.html"
    figures = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert figures == {"accuracy", "collapse", "blocks", "solver", "norms", "gram", "tsne", "per_class"}
    for path in (page.parent / "figures").glob("*.png"):
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 200 and pixels[..., :3].std() > 0.01, path.name
    assert page.read_text(encoding="utf-8").count("data:image/png;base64,") == len(figures)


def test_title_names_data_imbalance_arms_and_seeds(imbalanced):
    html = imbalanced[1].read_text(encoding="utf-8")
    assert "<h1>digits (scikit-learn), step imbalance KA = 3, R = 10: explicit, deq, 3 seeds</h1>" in html
    assert "jax 0.10.2" in html and "cpu x1" in html
    assert re.search(r"<td>data.imbalance</td><td>step</td><td>none</td>", html)


def last_rows(runs):
    return [json.loads((run / "history.jsonl").read_text().splitlines()[-1]) for run in runs]


# Student's t at .975 from printed tables, so that the oracle shares no code with the report.
T_975 = {2: 12.7062, 3: 4.30265}


@pytest.mark.parametrize("key", ["test_accuracy", "nc1", "nc2_means", "cosine_minority_weights", "solver_residual"])
def test_csv_holds_mean_and_t_interval(imbalanced, key):
    runs, page = imbalanced
    table = list(csv.DictReader(io.StringIO((page.parent / "tables.csv").read_text())))
    values = [row[key] for row in last_rows(runs[:3])]
    (row,) = [row for row in table if row["arm"] == "deq" and row["quantity"] == key]
    mean = sum(values) / 3
    half = T_975[3] * (sum((value - mean) ** 2 for value in values) / 2) ** 0.5 / 3**0.5
    assert float(row["mean"]) == pytest.approx(mean, rel=1e-12)
    assert float(row["half_width_95"]) == pytest.approx(half, rel=1e-5)
    assert row["seeds"] == "3"


def test_markdown_and_summary_rows_print_the_same_numbers(imbalanced):
    runs, page = imbalanced
    rows = summary_rows(runs)
    assert [row["arm"] for row in rows] == ["explicit", "deq"]
    assert [row["seeds"] for row in rows] == ["2", "3"]
    assert all(row.keys() == rows[0].keys() for row in rows)
    values = [row["test_accuracy_minority"] for row in last_rows(runs[3:])]
    mean, half = np.mean(values), T_975[2] * abs(values[0] - values[1]) / 2
    assert rows[0]["test accuracy, minority"] == f"{mean:.4f} ± {half:.4f}"
    assert rows[0]["solver steps"] == rows[0]["unconverged (fraction)"] == "–"
    assert rows[1]["unconverged (fraction)"] == "0"  # equal in every seed: no interval
    assert rows[1]["parameters"] == "28,000"
    markdown = (page.parent / "tables.md").read_text(encoding="utf-8")
    line = next(line for line in markdown.splitlines() if line.startswith("| test accuracy, minority"))
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == [row["test accuracy, minority"] for row in rows]


def test_runs_csv_has_a_line_per_run(imbalanced):
    runs, page = imbalanced
    table = list(csv.DictReader(io.StringIO((page.parent / "runs.csv").read_text())))
    assert [(row["arm"], row["seed"]) for row in table] == [("explicit", "0"), ("explicit", "1")] + [
        ("deq", str(seed)) for seed in range(3)
    ]
    assert float(table[2]["nc1"]) == last_rows(runs)[0]["nc1"]


def test_classes_show_counts_and_blocks(imbalanced):
    html = imbalanced[1].read_text(encoding="utf-8")
    assert html.count("<td>majority</td><td>120</td>") == 3
    assert html.count("<td>minority</td><td>12</td>") == K - 3


def test_balanced_page_has_no_imbalance(tmp_path):
    page = report([make_run(tmp_path, "explicit")])
    assert page == tmp_path / "explicit-seed0" / "report" / "index.html"
    html = page.read_text(encoding="utf-8")
    assert "balanced: explicit, 1 seed</h1>" in html and "minority" not in html
    figures = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert "blocks" not in figures and "solver" not in figures  # nothing was solved, nothing divided
    assert " ± " not in summary_rows([tmp_path])[0]["test accuracy"]


def test_unfinished_run_is_shown_and_said(tmp_path):
    page = report([make_run(tmp_path, finished=False, epochs=EPOCHS[:6])], tmp_path / "elsewhere")
    assert page == tmp_path / "elsewhere" / "index.html"
    assert "unfinished, epoch 12 of 100" in page.read_text(encoding="utf-8")
    figures = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert figures == {"accuracy", "collapse", "solver", "norms"}
    assert summary_rows([tmp_path / "deq-seed0"])[0]["terminal epoch"] == "not reached"


def test_a_mean_leaves_unfinished_seeds_out(tmp_path):
    finished = make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1, finished=False, epochs=EPOCHS[:3])
    (row,) = summary_rows([tmp_path])
    assert (row["seeds"], row["epochs"]) == ("1", "100")
    assert row["test accuracy"] == f"{last_rows([finished])[0]['test_accuracy']:.4f}"


def test_cut_off_last_line_is_ignored(tmp_path):
    run = make_run(tmp_path, finished=False, epochs=EPOCHS[:4])
    history = run / "history.jsonl"
    lines = history.read_text().splitlines()
    history.write_text("\n".join(lines)[:-40])
    assert summary_rows([run])[0]["epochs"] == str(EPOCHS[2])
    history.write_text("\n".join([lines[0], lines[1][:40], lines[2]]))
    with pytest.raises(ReportError, match=r"history.jsonl: line 2 .*Only the last line may be cut off"):
        summary_rows([run])


def test_missing_and_unknown_keys_do_no_harm(tmp_path):
    run = make_run(tmp_path, finished=False, epochs=EPOCHS[:4])
    rows = [{"epoch": epoch, "step": epoch, "nc1": 1.0 / epoch, "novel": 3.0, "nc3": float("nan")} for epoch in (1, 2)]
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report([run])
    assert {path.stem for path in (page.parent / "figures").glob("*.png")} == {"collapse"}
    (row,) = summary_rows([run])
    assert row["NC1"] == "0.500" and row["NC3"] == "nan" and "test accuracy" not in row  # a NaN is shown, not dropped


def test_what_the_metrics_left_out_is_said(tmp_path):
    run = make_run(tmp_path, finished=False, epochs=EPOCHS[:2])
    rows = [
        json.loads(line) | {"single": 2.0, "empty": 0.0} for line in (run / "history.jsonl").read_text().splitlines()
    ]
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = report([run]).read_text(encoding="utf-8")
    assert "deq seed 0: 2 classes have one training image" in html and "without a training image" not in html


def test_keys_are_those_that_collapse_writes():
    from deq_nc.collapse import measure, scalars

    h = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    majority = np.array([True, False, True, False])
    found = scalars(measure(h, np.arange(12) % 4, h[:4], num_classes=4, majority=majority))
    assert {*COSINES, *NORMS, *FLAGS, "nc1", "nc2_means", "nc2_weights", "nc3", "nc3_product", "nc4", "cdnv"} <= set(
        found
    )
    assert {"equinorm_means", "equinorm_weights", "rank", "condition", "nc2_floor", *BLOCKS} <= set(found)


def test_unconverged_equilibria_are_said_aloud(tmp_path):
    run = make_run(tmp_path, finished=False, epochs=EPOCHS[:2])
    rows = [json.loads(line) | {"unconverged": 0.031} for line in (run / "history.jsonl").read_text().splitlines()]
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "deq seed 0: 3.10% of the equilibria did not reach" in report([run]).read_text(encoding="utf-8")


def test_runs_of_two_settings_are_refused_with_the_fields(tmp_path):
    one, two = make_run(tmp_path / "a", "deq", tol=1e-4), make_run(tmp_path / "b", "explicit", seed=4, tol=1e-3)
    with pytest.raises(ReportError, match=r"differ in solver.tol: 0.001 and 0.0001\."):
        report([one, two])
    with pytest.raises(ReportError, match="expected one run per arm and seed, got deq seed 0 twice"):
        report([one, make_run(tmp_path / "c", "deq", tol=1e-4)])


def test_where_the_data_lie_may_differ_and_what_they_are_may_not(tmp_path):
    runs = one, two = make_run(tmp_path, "deq", 0), make_run(tmp_path, "deq", 1)
    edit(two / "config.json", lambda config: config["data"].update(dir="elsewhere"))
    with pytest.raises(ReportError, match="differ in data.dir: None and 'elsewhere'"):  # of before the checksums
        read(runs)
    for run in runs:
        (run / "data.json").write_text(json.dumps({"train": "11", "test": "22"}))
    assert len(read(runs).all) == 2
    (two / "data.json").write_text(json.dumps({"train": "33", "test": "22"}))
    with pytest.raises(ReportError, match="differ in checksum of the train images: '11' and '33'"):
        read(runs)
    edit(two / "config.json", lambda config: config["data"].update(imbalance="step"))
    assert len(read(runs).settings) == 2  # settings keep other train images of one set


def test_nothing_to_report_is_a_clear_error(tmp_path):
    with pytest.raises(ReportError, match="at least one run folder, got none"):
        report([])
    with pytest.raises(ReportError, match="got no folder of that name"):
        report([tmp_path / "absent"])
    with pytest.raises(ReportError, match="a folder without either"):
        report([tmp_path])
    with pytest.raises(ReportError, match="got an empty history"):
        report([make_run(tmp_path, finished=False, epochs=())])
    (tmp_path / "deq-seed0" / "config.json").write_text("{")
    with pytest.raises(ReportError, match="config.json: expected JSON"):
        report([tmp_path])
