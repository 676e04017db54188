"""Run folders of strangers, and damaged ones: named, escaped, left out; the page stands and nothing else is touched."""

import csv
import errno
import hashlib
import io
import json
import re

import numpy as np
import pytest

from deq_nc.cli import main
from deq_nc.report import NotWrittenError, ReportError, make_report, read, report
from deq_nc.report.figures.tsne import embed, unfit
from deq_nc.report.files import write as write_files
from deq_nc.runs import Held, Lock

from .folders import EPOCHS, make_run
from .grids import along, edit

ARM = "=cmd|$x$[/red]\x1b[31m<b>`\ud800"
NAMES = ["$\\frac{", "[/red]", "<script>", "a|b", "\x1b]0;t\x07", "_x", "\u202eabc", "x" * 256, "=1", "{% x %}"]


def rewrite(run, change):
    path = run / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[-1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prints(root):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A root of runs: hostile names everywhere, a solve whose record is cut, arrays that are not there, bad folders."""
    base = tmp_path_factory.mktemp("strange")
    root = base / "runs"
    setting = root / "digits-balanced"
    deq, odd, cut = (make_run(setting, arm, 0) for arm in ("deq", "explicit", "unrolled"))
    (setting / "explicit-seed0").rename(setting / ARM[:6])
    odd = setting / ARM[:6]
    for run in (deq, odd, cut):
        edit(run / "config.json", lambda config: config.update(recipe=str(base / "elsewhere")))
    for name in ("config.json", "summary.json"):
        edit(odd / name, lambda value: value.update(arm=ARM))
    edit(deq / "summary.json", lambda s: s.update(class_names=NAMES, dataset="\x1b[2J<img src=x>|`", notes=[NAMES[1]]))
    with np.load(deq / "analysis.npz") as archive:
        arrays = dict(archive)
    np.savez(deq / "analysis.npz", **arrays | {"features_test": np.ones_like(arrays["features_test"])})
    steps = along("deq", 0)
    for row in steps["by_step"]:
        row["residual"] = max(row["residual"], 6e-4)
    (deq / "along.json").write_text(json.dumps(steps))
    rewrite(deq, lambda row: row.update(condition=7e3, spectral_radius=0.977, spectral_radius_error=0.07))
    (cut / "analysis.npz").write_bytes(b"")
    for name, file, text in (
        ("a", "config.json", "[]"), ("b", "config.json", '{"arm": "deq", "seed": "0"}'), ("c", "summary.json", ""),
        ("d", "history.jsonl", "{}\n"), ("e", "config.json", "[" * 100_000),
    ):  # fmt: skip
        make_run(base / "made", "residual", ord(name)).rename(setting / name)
        (setting / name / file).write_text(text)
    before = prints(root)
    found = make_report([root], base / "page")
    assert prints(root) == before
    return base, found


def test_a_root_is_accepted_and_bad_folders_are_named(strange):
    base, found = strange
    text = found.page.read_text(encoding="utf-8")
    assert [len(part) for part in (found.damaged, read([base / "runs"]).left_out)] == [6, 5]
    for name, why in {
        "a/config.json": "expected a JSON object, got list", "b/config.json": "expected seed as int, got str",
        "c/summary.json": "expected JSON", "d/history.jsonl": "line 1", "e/config.json": "expected JSON",
    }.items():  # fmt: skip
        assert re.search(f"Left out: .*{name}.*{why}", text), name
    assert "unrolled seed 0 lacks its arrays" in text and "not an .npz archive but an empty file" in text
    assert {path.name for path in base.iterdir()} == {"runs", "made", "page"}  # the recipe is an absolute path


def test_a_page_says_what_its_numbers_do_not_show(strange):
    _, found = strange
    text = found.page.read_text(encoding="utf-8")
    assert "deq seed 0: no t-SNE, since the test features do not vary." in text
    assert "the class means have a condition number of 100 or more" in text
    assert "nearer to 1 than the error of its estimate: it may be above 1" in text
    assert "the record along the solve stops at iterate 8, before the solve did" in text
    assert "deq gives the z* that solves z* = x + g(z*)" in text
    assert re.findall(r'<a href="#([^"]+)"', text) == re.findall(r'<h2 id="([^"]+)"', text)


def test_names_are_data_in_every_file(strange):
    folder = strange[1].page.parent
    for path in folder.iterdir():
        if path.suffix in (".html", ".md", ".csv"):
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", path.read_text(encoding="utf-8")), path.name
    html = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script" not in html and "<b>`" not in html and "&lt;script&gt;" in html and "<img src=x>" not in html
    assert r"=cmd\|$x$\[/red\]\\x1b\[31m\<b\>\`\\ud800" in (folder / "tables.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO((folder / "runs.csv").read_text(encoding="utf-8"))))
    assert [row["arm"] for row in rows] == ["deq", "unrolled", r"'=cmd|$x$[/red]\x1b[31m<b>`\ud800"]


def test_the_terminal_prints_names_as_they_are(strange, capsys, tmp_path, monkeypatch):
    base, found = strange
    monkeypatch.setattr("deq_nc.report.make_report", lambda *given: found)
    assert main(["report", str(base / "runs")]) == 1  # something was left out
    out, err = capsys.readouterr()
    assert "[/red]" in out and "\x1b" not in out + err and len(err.splitlines()) == len(found.damaged)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(seed=2**70), "expected seed"),
        (lambda c: c["data"].update(imbalance="=x"), "expected data.imbalance"),
        (lambda c: c["data"].update(imbalance="step", majority="../x"), "expected data.majority as int"),
        (lambda c: c["data"].update(imbalance="step", ratio=float("inf")), "expected data.ratio finite"),
        (lambda c: c.update(train=[]), "expected train as an object"),
        (lambda c: c["solver"].update(tol=None), "expected solver.tol as float"),
    ],
)
def test_a_configuration_is_checked_before_it_is_used(tmp_path, change, words):
    run = make_run(tmp_path, finished=False, epochs=EPOCHS[:1])
    edit(run / "config.json", change)
    with pytest.raises(ReportError, match=words):
        read([run])


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("summary.json", lambda s: s.update(class_names=["a"]), "one entry a class"),
        ("summary.json", lambda s: s.update(seconds="=1"), "expected seconds as float"),
        ("summary.json", lambda s: s.update(checksums={"history.jsonl": "0"}), "other bytes than the run wrote"),
    ],
)
def test_a_summary_is_checked_before_it_is_used(tmp_path, file, change, words):
    run = make_run(tmp_path, epochs=EPOCHS[:1])
    edit(run / file, change)
    with pytest.raises(ReportError, match=words):
        read([run])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("weights"), "expected weights too"),
        (lambda a: a.update(weights=np.array([{}], dtype=object)), "pickle"),
        (lambda a: a.update(bias=a["bias"][:3]), r"expected bias of shape \[K = 10\], got \[3\]"),
        (lambda a: a.update(labels_test=a["labels_test"].astype(str)), "plain numbers"),
        (lambda a: a.update(labels_test=a["labels_test"] + 0.5), "expected labels_test as integers"),
        (lambda a: a.update(class_squares=np.ones(3)), r"expected class_squares of shape \[K = 10\], got \[3\]"),
        (lambda a: a.update(class_squares=np.array(["a"] * 10)), "plain numbers"),
    ],
)
def test_incomplete_arrays_are_a_sentence(tmp_path, change, words):
    run = make_run(tmp_path, epochs=EPOCHS[:1])
    with np.load(run / "analysis.npz") as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(run / "analysis.npz", **arrays)
    (found,) = read([run]).all
    assert not found.analysis and re.search(words, found.damaged[0])


def test_arrays_of_other_bytes_are_not_shown(tmp_path):
    run = make_run(tmp_path, epochs=EPOCHS[:1])
    edit(run / "summary.json", lambda summary: summary.update(checksums={"analysis.npz": "0"}))
    (found,) = read([run]).all
    assert not found.analysis and "checksum" in found.damaged[0]


def test_features_that_do_not_vary_never_reach_scikit_learn():
    rng = np.random.default_rng(0)
    for x in (np.zeros((60, 4)), np.full((60, 4), 7.0), 1 + 1e-9 * rng.normal(size=(60, 4))):
        assert unfit(x) == "the test features do not vary"
        with pytest.raises(ValueError, match="do not vary"):
            embed(x)
    assert "NaN" in unfit(np.full((60, 4), np.nan)) and "fewer" in unfit(np.eye(4))
    for x in (rng.normal(size=(20, 1)), 1e-40 * rng.normal(size=(20, 3)), 1e200 * rng.normal(size=(20, 3))):
        assert np.isfinite(embed(x)).all()


def test_a_full_disk_leaves_the_old_page_whole(tmp_path, monkeypatch):
    write_files(tmp_path, {"figures/a.png": b"old", "index.html": b"old"})
    before = prints(tmp_path)

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(NotWrittenError, match="No space left on device.*The page that was there is as it was"):
            write_files(tmp_path, {"figures/a.png": b"new", "index.html": b"new"})
    assert prints(tmp_path) == before and {path.name for path in tmp_path.iterdir()} == {"figures", "index.html"}
    with pytest.raises(NotWrittenError, match="There is no page yet"):
        write_files(tmp_path / ("x" * 300), {"index.html": b""})


def test_a_file_that_cannot_be_renamed_leaves_the_old_page_and_says_what_is_new(tmp_path):
    write_files(tmp_path, {"a.csv": b"old", "c.csv": b"old", "index.html": b"old"})
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(
        NotWrittenError, match=r"page that was there is as it was, but .* new, those from b\.csv on are"
    ):
        write_files(tmp_path, {"index.html": b"new", "a.csv": b"new", "b.csv": b"new", "c.csv": b"new"})
    assert [(tmp_path / name).read_bytes() for name in ("a.csv", "c.csv", "index.html")] == [b"new", b"old", b"old"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "b.csv", "c.csv", "index.html"}


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    outside, page = tmp_path / "outside", tmp_path / "page"
    outside.mkdir()
    page.mkdir()
    for name in ("/abs/index.html", "../outside/x"):
        with pytest.raises(ReportError, match="expected files below it"):
            write_files(page, {name: b""})
    (page / "figures").symlink_to(outside)
    with pytest.raises(ReportError, match="got a link"):
        write_files(page, {"figures/a.png": b""})
    (outside / "file").write_text("kept")
    (page / "index.html").symlink_to(outside / "file")
    write_files(page, {"index.html": b"page"})  # the link is replaced, not followed
    assert (outside / "file").read_text() == "kept" and (page / "index.html").read_bytes() == b"page"
    run = make_run(tmp_path, epochs=EPOCHS[:1])
    (run / "report").symlink_to(outside)
    with pytest.raises(ReportError, match="got a link"):
        report([run])


def test_a_page_goes_beside_what_was_named_not_where_a_link_points(tmp_path, monkeypatch):
    run = make_run(tmp_path / "far", epochs=EPOCHS[:1])
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "deq-seed0").symlink_to(run)
    monkeypatch.setattr("deq_nc.report.write.figures", lambda study: {})
    assert report([tmp_path / "near"]) == tmp_path / "near" / "deq-seed0" / "report" / "index.html"


def test_what_fresh_has_renamed_is_left_out_unless_it_is_named(tmp_path, caplog):
    run = make_run(tmp_path / "setting", epochs=EPOCHS[:1])
    old = run.rename(run.with_name(f"{run.name}-old-1"))
    run = make_run(tmp_path / "setting", epochs=EPOCHS[:1])
    with caplog.at_level("INFO"):
        for given in (run.parent, tmp_path):
            assert [each.path for each in read([given]).all] == [run]
        assert [each.path for each in read([old]).all] == [old]
    assert caplog.messages == [f"left out, renamed by --fresh: {old}"] * 2


def test_two_reports_in_one_folder(tmp_path):
    run = make_run(tmp_path, epochs=EPOCHS[:1])
    with Lock(tmp_path / "page"), pytest.raises(Held, match="is in use by"):
        report([run], tmp_path / "page")


@pytest.mark.parametrize("values", [{"nc1": None}, {"nc1": 0.0}, {"nc2_means": 1e300, "nc1": 1e-300}])
def test_degenerate_curves_are_drawn(tmp_path, values):
    from deq_nc.report.figures.epochs import pictures

    run = make_run(tmp_path, finished=False, epochs=EPOCHS[:1])
    rewrite(run, lambda row: row.update(values))
    assert pictures(read([run]).all, 1, ["collapse"])
