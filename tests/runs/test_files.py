"""Reading and writing run folders: what is damage, what may pass, and that reading leaves everything as it is."""

import errno
import json
from pathlib import Path

import pytest

from deq_nc.config import ConfigError, Experiment
from deq_nc.disk import disk_full, patiently
from deq_nc.runs import RunError, RunFolder, read_json
from deq_nc.runs.history import dump, read_history

LINES = [{"epoch": epoch, "step": 10 * epoch, "nc1": 0.5 / epoch} for epoch in range(1, 6)]


def write(path: Path, edit) -> Path:
    path.write_bytes(edit(dump(LINES).encode()))
    return path


def test_a_cut_last_line_is_dropped(tmp_path):
    path = write(tmp_path / "history.jsonl", lambda data: data[:-20])
    assert read_history(path) == (LINES[:-1], None) and read_history(path).step == 40
    assert read_history(tmp_path / "none.jsonl") == ([], None)


DAMAGE = {
    "garbage": lambda lines: [*lines[:2], b"garbage", *lines[3:]],
    "zeros": lambda lines: [*lines[:2], b"\0" * 30, *lines[3:]],
    "list": lambda lines: [*lines[:2], b"[1, 2]", *lines[3:]],
    "number": lambda lines: [*lines[:2], b"3", *lines[3:]],
    "no step": lambda lines: [*lines[:2], b'{"epoch": 3}', *lines[3:]],
    "step of a float": lambda lines: [*lines[:2], b'{"epoch": 3, "step": 30.5}', *lines[3:]],
    "empty line": lambda lines: [*lines[:2], b"", *lines[3:]],
    "two writers": lambda lines: [*lines[:2], lines[1], *lines[2:]],
    "out of order": lambda lines: [*lines[:2], lines[3], lines[2], lines[4]],
    "not UTF-8": lambda lines: [*lines[:2], b"\xff\xfe", *lines[3:]],
    "half a line": lambda lines: [*lines[:2], lines[2][:15], *lines[3:]],
    "deeper than our functions walk": lambda lines: [
        *lines[:2],
        b'{"epoch": 3, "step": 30, "a": ' + b"[" * 600 + b"]" * 600 + b"}",
        *lines[3:],
    ],
    "deep": lambda lines: [*lines[:2], b"[" * 100_000, *lines[3:]],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_in_the_middle_is_named_and_what_follows_is_not_trusted(tmp_path, kind):
    path = write(tmp_path / "history.jsonl", lambda data: b"\n".join(DAMAGE[kind](data.splitlines())) + b"\n")
    lines, damage = read_history(path)
    assert lines[:2] == LINES[:2] and 2 <= len(lines) <= 3 and damage.startswith(f"line {len(lines) + 1} of ")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"a"', b'"\xed\xa0\x80"', b"[" * 10**5, b'{"a":' + b"[" * 600 + b"]" * 600 + b"}"],
)
def test_a_json_file_that_is_damaged_is_named(tmp_path, data):
    path = tmp_path / "summary.json"
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"summary.json: expected .* damaged"):
        read_json(path)
    assert RunFolder(tmp_path).damaged()


def test_what_is_not_a_file_is_not_opened(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(RunError, match="a directory, not a regular file"):
        read_json(tmp_path / "summary.json")


def test_an_error_that_may_pass_is_waited_for_and_another_is_not(monkeypatch):
    monkeypatch.setattr("deq_nc.disk.PAUSES", (0, 0, 0))
    left = [errno.ESTALE, errno.EIO]

    def read():
        if left:
            raise OSError(left.pop(), "no")
        return 7

    assert patiently(read) == 7
    left += [errno.ENOENT, errno.EIO]
    with pytest.raises(OSError) as error:
        patiently(read)
    assert error.value.errno == errno.ENOENT


def test_a_full_disk_is_known_through_what_libraries_make_of_it():
    inner = OSError(errno.ENOSPC, "no")
    try:
        try:
            raise inner
        except OSError as error:
            raise ValueError("orbax") from error
    except ValueError as outer:
        assert disk_full(outer)
    assert disk_full(ValueError("RESOURCE_EXHAUSTED: write")) and disk_full(OSError(errno.EDQUOT, ""))
    assert not disk_full(OSError(errno.EIO, "no")) and not disk_full(None)


def test_results_are_known_by_their_checksums(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_history(LINES)
    folder.write_json("along.json", {"layers": [float("nan")]})
    assert json.loads((tmp_path / "along.json").read_text()) == {"layers": [None]}
    folder.record_failure("ValueError: no\n")
    folder.finish({"arm": "deq"})
    assert folder.damaged() == [] and not folder.failure_path.exists()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("history.jsonl", "along.json"):
        data = before[tmp_path / name]
        (tmp_path / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
        assert name in folder.damaged()[0]
        (tmp_path / name).write_bytes(data)
    (tmp_path / "along.json").unlink()
    assert "is not there" in folder.damaged()[0]


def test_a_folder_is_claimed_once_and_checked_by_field(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.check(Experiment(), {"train": "1"}) is False and not folder.path.exists()
    folder.claim(Experiment(), {"train": "1"})
    assert folder.check(Experiment(workdir="elsewhere"), {"train": "1"}) is True
    with pytest.raises(ConfigError, match="arm: 'deq' in the folder, 'explicit' asked"):
        folder.check(Experiment(arm="explicit"))
    with pytest.raises(ConfigError, match="checksum of the images, train: '1' in the folder, '2' asked"):
        folder.check(Experiment(), {"train": "2"})
    folder.config_path.write_text('{"arm":')
    with pytest.raises(RunError, match="config.json: expected JSON"):
        folder.check(Experiment())


def test_a_full_disk_is_not_left_with_half_a_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        RunFolder(tmp_path).write_json("along.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_line_goes_through_no_link(tmp_path):
    folder, outside = RunFolder(tmp_path / "run"), tmp_path / "mine"
    folder.path.mkdir()
    outside.write_text("mine")
    folder.history_path.symlink_to(outside)
    with pytest.raises(OSError):
        folder.append(LINES[0])
    assert outside.read_text() == "mine"
    folder.write_history(LINES[:1])  # takes the place of the link
    folder.append(LINES[1])
    assert outside.read_text() == "mine" and folder.history() == (LINES[:2], None)


def test_what_is_set_aside_keeps_its_bytes_and_takes_no_place(tmp_path):
    folder = RunFolder(tmp_path)
    for text in ("one", "two"):
        folder.summary_path.write_text(text)
        folder.set_aside(folder.summary_path)
    assert [path.read_text() for path in sorted((tmp_path / "damaged").iterdir())] == ["one", "two"]
