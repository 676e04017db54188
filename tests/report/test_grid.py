"""The page of a grid of settings: numbers against SciPy, honest about what is missing, the same after every resume."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from deq_nc.report import ReportError, read, report, summary, tables
from deq_nc.report.pages.remarks import remarks, title
from deq_nc.report.pages.texts import texts
from deq_nc.report.tables.intervals import Interval, interval
from deq_nc.report.tables.latex import escape, number
from deq_nc.report.tables.table import Entry

from .folders import make_run
from .grids import SETTINGS, edit, make_cell

CELLS = [  # arms x seeds x settings, with one setting absent, one seed absent and one run unfinished
    (setting, arm, seed)
    for setting in ("balanced", "step-KA3-R10", "step-KA3-R100", "step-KA5-R10")
    for arm in ("explicit", "deq")
    for seed in range(3)
    if (setting, arm, seed) != ("step-KA5-R10", "deq", 2)
]
UNFINISHED = ("step-KA3-R100", "explicit", 1)
EXACT = ("tables.md", "tables.csv", "tables.tex", "runs.csv")


def build(root, cells=CELLS):
    return {cell: make_cell(root, *cell, finished=cell != UNFINISHED, tests=40) for cell in cells}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Run folders by cell, the page, and its folder."""
    root = tmp_path_factory.mktemp("grid")
    runs = build(root)
    page = report(sorted(root.glob("digits-*")))
    return runs, page, page.parent


def last(run):
    return json.loads((run / "history.jsonl").read_text().splitlines()[-1])


def value_of(runs, setting, arm, seed, key):
    return last(runs[setting, arm, seed])[key]


def rows(folder, name="tables.csv"):
    return list(csv.DictReader(io.StringIO((folder / name).read_text())))


def row_of(folder, place, key, column):
    kind, majority, ratio = place
    found = [
        row for row in rows(folder)
        if (row["imbalance"], row["majority"], row["ratio"], row["quantity"], row["column"])
        == (kind, majority, ratio, key, column)
    ]  # fmt: skip
    assert len(found) == 1
    return found[0]


def test_page_goes_beside_the_settings_and_loads_nothing(grid):
    runs, page, folder = grid
    assert folder.name == "digits-grid" and folder.parent == runs["balanced", "deq", 0].parents[1]
    links, html = [], page.read_text(encoding="utf-8")

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "iframe", "object")
            links.extend(value for name, value in attrs if name in ("src", "href", "srcset", "data"))

    Links().feed(html)
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert {link[1:] for link in links if link[0] == "#"} <= set(re.findall(r'id="([^"]+)"', html))
    assert "url(" not in html and "@import" not in html
    files = {str(path.relative_to(folder / "figures").with_suffix("")) for path in folder.rglob("*.png")}
    assert {"forest", "minority", "overall", "angles", "amplification", "cost"} <= files
    details = {"accuracy", "collapse", "side", "along"}
    assert {f"{setting}/{name}" for setting in {cell[0] for cell in runs} for name in details} <= files
    assert html.count("data:image/png;base64,") == len(files)
    order = [html.index(f'<h2 id="{name}"') for name in ("runs", "answer", "collapse", "why", "cost", "settings")]
    assert order == sorted(order) and html.index("differences in accuracy") < html.index("<img")


def test_incomplete_cells_are_listed_first(grid):
    html = grid[1].read_text(encoding="utf-8")
    top = html[: html.index("<table>")]
    assert "<li>KA = 3, R = 100: explicit seed 1 unfinished, epoch 100 of 100.</li>" in top
    assert "<li>KA = 5, R = 10: deq seed 2 missing.</li>" in top
    assert "<li>KA = 5, R = 100: no run yet.</li>" in top  # a KA and an R that occur, never together
    assert "balanced:" not in top
    assert "KA = 5, R = 100: no run yet." in (grid[2] / "tables.md").read_text()


def test_planned_runs_are_missing_until_they_are_there(tmp_path):
    run = make_cell(tmp_path, "step-KA3-R10", "deq", 0, tests=40)
    planned = [run, tmp_path / "digits-balanced" / "explicit-seed1", tmp_path / "digits-longtail-R100" / "deq-seed0"]
    found = read([run], planned)
    assert [setting.name for setting in found.settings] == ["balanced", "step-KA3-R10", "longtail-R100"]
    assert found.arms == ["explicit", "deq"] and found.seeds == [0, 1]
    assert found.missing()[0] == "balanced: no run yet."
    assert found.many and not read([run]).many
    with pytest.raises(ReportError, match="expected RECIPE-SETTING/ARM-seedN for a planned run"):
        read([run], [tmp_path / "elsewhere" / "deq-seed0"])


@pytest.mark.parametrize("key", ["test_accuracy", "test_accuracy_minority", "nc1", "feature_norm"])
@pytest.mark.parametrize("arm", ["explicit", "deq"])
def test_means_and_intervals_are_scipys(grid, key, arm):
    runs, _, folder = grid
    values = [value_of(runs, "step-KA3-R10", arm, seed, key) for seed in range(3)]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    row = row_of(folder, ("step", "3", "10"), key, arm)
    assert float(row["mean"]) == pytest.approx(np.mean(values), rel=1e-12)
    assert float(row["half_width_95"]) == pytest.approx((high - low) / 2, rel=1e-9)
    assert row["seeds"] == "3" and row["excludes_0"] == ""


def paired_test(runs, setting, key, seeds):
    sides = [[value_of(runs, setting, arm, seed, key) for seed in seeds] for arm in ("deq", "explicit")]
    return stats.ttest_rel(*sides), np.subtract(*sides)


@pytest.mark.parametrize("setting", ["balanced", "step-KA3-R10", "step-KA3-R100", "step-KA5-R10"])
@pytest.mark.parametrize("key", ["test_accuracy", "test_accuracy_minority"])
def test_differences_are_paired_by_seed(grid, setting, key):
    """The seeds that both arms have finished; the mark is the verdict of the paired t-test at 5 %."""
    runs, _, folder = grid
    if setting == "balanced" and key != "test_accuracy":
        return
    seeds = {"step-KA3-R100": (0, 2), "step-KA5-R10": (0, 1)}.get(setting, (0, 1, 2))
    test, differences = paired_test(runs, setting, key, seeds)
    place = SETTINGS[setting]
    row = row_of(folder, ("step", str(place[0]), f"{place[1]:g}") if place else ("none", "", ""), key, "deq - explicit")
    assert float(row["mean"]) == pytest.approx(differences.mean(), rel=1e-9)
    low, high = test.confidence_interval(0.95)
    assert float(row["half_width_95"]) == pytest.approx((high - low) / 2, rel=1e-9)
    assert row["seeds"] == str(len(seeds)) and row["excludes_0"] == str(int(test.pvalue < 0.05))


def test_note_counts_the_comparisons(grid):
    runs, page, folder = grid
    marks = [row["excludes_0"] for row in rows(folder) if row["table"].startswith("accuracy") and row["excludes_0"]]
    pvalues = [
        paired_test(runs, setting, key, seeds)[0].pvalue
        for setting, seeds in (("balanced", (0, 1, 2)), ("step-KA3-R10", (0, 1, 2)), ("step-KA3-R100", (0, 2)),
                               ("step-KA5-R10", (0, 1)))
        for key in ("test_accuracy", "test_accuracy_majority", "test_accuracy_minority")
        if setting != "balanced" or key == "test_accuracy"
    ]  # fmt: skip
    assert len(marks) == len(pvalues) == 10 and marks.count("1") == sum(p < 0.05 for p in pvalues)
    html = page.read_text(encoding="utf-8")
    found = re.search(
        r"not corrected for multiple comparisons: of (\d+) paired .*? (\d+) excludes? 0.*?; (\d+) rem", html
    )
    assert found.groups() == ("10", str(marks.count("1")), str(sum(p < 0.05 / 10 for p in pvalues)))


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.15], [1e-3, 2e-3], [0.1, 0.1, 0.1], [-0.5, 0.1, 0.2, 0.05]])
@pytest.mark.parametrize("comparisons", [1, 90])
def test_excludes_zero_is_the_t_test(values, comparisons):
    spread = np.ptp(values) > 0
    wanted = spread and stats.ttest_1samp(values, 0).pvalue < 0.05 / comparisons
    assert interval(values).excludes_zero(comparisons) == wanted
    assert not Interval(0.3, None, 1).excludes_zero()


def test_controls_are_those_of_the_run(grid):
    runs, _, folder = grid
    place = ("step", "3", "10")
    cells = [runs["step-KA3-R10", "deq", seed] for seed in range(3)]
    arrays = [dict(np.load(run / "analysis.npz")) for run in cells]
    amplification = np.mean([a["amplification"].astype(np.float64).mean() for a in arrays])
    assert float(row_of(folder, place, "amplification", "deq")["mean"]) == pytest.approx(amplification, rel=1e-6)
    gain = np.mean([last(run)["feature_norm"] / 3.0 for run in cells])
    assert float(row_of(folder, place, "norm_gain", "deq")["mean"]) == pytest.approx(gain, rel=1e-12)

    def to_etf(x):  # distance of normalised centred Grams, written out
        x = x - x.mean(0)
        gram, etf = x @ x.T, np.eye(10) - 0.1
        return np.linalg.norm(gram / np.linalg.norm(gram) - etf / np.linalg.norm(etf))

    for what, name in (("weights", "weights"), ("means", "class_means")):
        wanted = np.mean([to_etf(a[name].astype(np.float64)) for a in arrays])
        assert float(row_of(folder, place, f"{what}_to_etf", "deq")["mean"]) == pytest.approx(wanted, rel=1e-9)
        optimum = float(row_of(folder, place, f"{what}_to_optimum", "deq")["mean"])
        assert optimum > 0 and optimum != pytest.approx(wanted, rel=1e-3)
    ratio = np.mean([last(run)["norm_minority_means"] / last(run)["norm_majority_means"] for run in cells])
    assert float(row_of(folder, place, "norm_ratio_means", "deq")["mean"]) == pytest.approx(ratio, rel=1e-12)


def test_solve_and_work(grid):
    runs, _, folder = grid
    place = ("step", "3", "10")
    along = [json.loads((runs["step-KA3-R10", "deq", seed] / "along.json").read_text())["by_step"] for seed in range(3)]
    for column, step in (("z_0", 0), ("z_1", 1), ("z_2", 2), ("z_T", 8)):
        row = row_of(folder, place, "solve_nc1", f"deq {column}")
        assert float(row["mean"]) == pytest.approx(np.mean([steps[step]["nc1"] for steps in along]), rel=1e-12)
    assert float(row_of(folder, place, "solve_distance", "deq z_0")["mean"]) == pytest.approx(0.7)
    deq = [last(runs["step-KA3-R10", "deq", seed]) for seed in range(3)]
    for key, steps in (("cell_forward", "solver_steps"), ("cell_backward", "adjoint_steps")):
        wanted = np.mean([row[steps] for row in deq]) + 1
        assert float(row_of(folder, place, key, "deq")["mean"]) == pytest.approx(wanted, rel=1e-12)
        assert float(row_of(folder, place, key, "explicit")["mean"]) == 1.0


def test_times_and_memory_have_files_of_their_own(grid, tmp_path):
    """Tables must come out the same from a sweep that was killed and resumed; times never do."""
    _, _, folder = grid
    shutil.copytree(folder.parent, tmp_path / "again", ignore=shutil.ignore_patterns("digits-grid"))
    for path in (tmp_path / "again").rglob("summary.json"):
        edit(path, lambda summary: summary.update(seconds=999.5, step_seconds=7.25, step_memory_bytes=123456))
    for path in (tmp_path / "again").rglob("history.jsonl"):
        path.write_text(re.sub(r'"seconds": [\d.]+', '"seconds": 999.5', path.read_text()))
    again = read(sorted((tmp_path / "again").glob("digits-*")))
    files = texts(again, tables(again), title(again), remarks(again))
    for name in EXACT:
        assert files[name] == (folder / name).read_text(encoding="utf-8"), name
        assert "seconds" not in files[name] and "memory_bytes" not in files[name]
    found = {row["quantity"]: float(row["mean"]) for row in csv.DictReader(io.StringIO(files["cost.csv"]))}
    assert found == {"seconds": 999.5, "step_seconds": 7.25, "step_memory_bytes": 123456}
    assert files["cost.csv"] != (folder / "cost.csv").read_text()


def test_latex_is_well_formed(grid):
    text = (grid[2] / "tables.tex").read_text()
    assert text.isascii()
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") > 10
    bare = re.sub(r"\\[\\{}%_&#$]", "", text.split("\n", 1)[1])  # without escaped characters and row ends
    depth = np.cumsum([(c == "{") - (c == "}") for c in bare])
    assert depth.min() == 0 and depth[-1] == 0
    outside = re.sub(r"\$[^$]*\$", "", re.sub(r"\\label\{[^}]*\}", "", bare))
    assert bare.count("$") % 2 == 0 and not set("%_#^~") & set(outside)
    for table in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.S):
        body = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert all(line.replace(r"\&", "").count("&") == len(table[0]) - 1 for line in body)
    assert re.search(r"\$\d\d\.\d\d \\pm \d+\.\d\d\$", text) and r"Test accuracy (\%)" in text


def test_latex_of_numbers_and_words():
    assert number("+1.20 ± 0.40 *") == r"$+1.20 \pm 0.40^{*}$"
    assert number("(4.1 ± 0.4)e-05 (2/3)") == r"$(4.1 \pm 0.4) \times 10^{-5}$ (2/3)"
    assert number("0.203 ± <0.001") == r"$0.203 \pm <0.001$"
    assert number("28,001") == "$28{,}001$" and number("–") == "--" and number("nan") == "nan"
    assert escape("95 % of z_0 & more") == r"95 \% of z\_0 \& more"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Entry("test_accuracy", Interval(0.9731, 0.0052, 3), 3), "97.31 ± 0.52"),
        (Entry("test_accuracy", Interval(0.9731, 0.0052, 3), 5), "97.31 ± 0.52 (3/5)"),
        (Entry("test_accuracy", Interval(0.012, 0.004, 3), 3, paired=True), "+1.20 ± 0.40 *"),
        (Entry("nc1", Interval(-0.0012, 0.31, 3), 3, paired=True), "-0.00 ± 0.31"),
        (Entry("nc1", Interval(0.02, None, 1), 3), "0.0200 (1/3)"),
        (Entry("nc1", None, 3), "–"),
    ],
)
def test_texts_of_entries(entry, text):
    assert entry.text == text


def test_summary_of_the_command_line_prints_the_tables_numbers(grid):
    runs, _, folder = grid
    study = read(sorted(folder.parent.glob("digits-*")))  # the page's own folder among them is passed over
    found = summary(study, tables(study))
    assert [row["setting"] for row in found] == [
        "balanced", "KA = 3, R = 10", "KA = 3, R = 100", "KA = 5, R = 10", "KA = 5, R = 100",
    ]  # fmt: skip
    assert [row["runs"] for row in found] == ["6/6", "6/6", "5/6", "5/6", "0/6"]
    assert all(row.keys() == found[0].keys() for row in found)
    values = [100 * value_of(runs, "step-KA3-R10", "deq", seed, "test_accuracy_minority") for seed in range(3)]
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert found[1]["minority, deq"] == f"{np.mean(values):.2f} ± {half:.2f}"
    assert found[0]["minority, deq"] == found[4]["test, deq − explicit"] == "–"
    assert found[3]["test, deq − explicit"].endswith("(2/3)")
    assert found[1]["minority, deq"] in (folder / "tables.md").read_text(encoding="utf-8")


def test_what_a_grid_refuses(tmp_path):
    one, two = (make_cell(tmp_path, *cell, tests=20) for cell in (("balanced", "deq", 0), ("step-KA3-R10", "deq", 0)))
    edit(two / "config.json", lambda config: config["train"].update(batch_size=5))
    with pytest.raises(ReportError, match=r"only arm, seed, imbalance and its epochs.*differ in train.batch_size: "):
        report([one, two])
    edit(two / "config.json", lambda config: config["train"].update(batch_size=128))
    three = make_cell(tmp_path, "step-KA3-R10", "explicit", 0, tests=20)
    edit(three / "config.json", lambda config: config["train"].update(epochs=5))  # of another setting it would be right
    with pytest.raises(ReportError, match=r"only arm and seed may differ.*differ in train.epochs: "):
        report([one, two, three])
    edit(two / "summary.json", lambda summary: summary["versions"].update(jax="0.12.0"))
    with pytest.raises(ReportError, match=r"same packages.*differ in jax: '0.10.2' and '0.12.0'\."):
        report([one, two])
    edit(two / "summary.json", lambda summary: summary["versions"].update(jax="0.10.2"))
    copy = make_cell(tmp_path / "copy", "balanced", "deq", 0, tests=20)
    with pytest.raises(ReportError, match="expected one run per arm and seed, got deq seed 0 twice"):
        report([one, two, copy])
    assert not list(tmp_path.rglob("index.html"))


def test_one_setting_refuses_mixed_versions_too(tmp_path):
    one, two = make_run(tmp_path, "deq", 0), make_run(tmp_path, "deq", 1)
    edit(two / "summary.json", lambda summary: summary["versions"].update(jax="0.12.0"))
    with pytest.raises(ReportError, match=r"differ in jax: '0.10.2' and '0.12.0'\."):
        report([one, two])


def test_older_summaries_and_settings_of_names(tmp_path):
    """Runs without the younger keys leave their rows out; one seed has no interval; the longtail has a table."""
    runs = [make_cell(tmp_path, setting, "explicit", 0, tests=20) for setting in ("balanced", "step-KA3-R10")]
    for run in runs:
        edit(run / "summary.json", lambda summary: [summary.pop(key) for key in ("initial_norm", "step_memory_bytes")])
    edit(runs[1] / "config.json", lambda config: config["data"].update(imbalance="longtail"))
    folder = report(runs, tmp_path / "out").parent
    found = rows(folder)
    assert not {"norm_gain", "initial_norm", "amplification"} & {row["quantity"] for row in found}
    assert {row["half_width_95"] for row in found} == {""}
    assert "accuracy-long-tail" in {row["table"] for row in found}
    assert "longtail-R10" in (folder / "runs.csv").read_text()
    assert "No difference has two seeds or more" in (folder / "index.html").read_text(encoding="utf-8")
