"""A run's folder: nothing is lost, nothing is mixed, and nothing half-written carries a final name."""

import os
import subprocess
import sys

import pytest

from kdcache import runs
from kdcache.errors import KdcacheError, UsageError
from kdcache.runs import Run, folder_name, read_metrics, replace

FACTS = {"model": "tiny", "settings": {"lr": 0.1, "betas": (0.9, 0.999), "seed": 0}}


def begun(folder, facts=FACTS, resume=False):
    run = Run(folder, facts, resume)
    return run, run.begin()


def with_a_state(folder):
    """A run that was left after two epochs."""
    run, _ = begun(folder)
    for epoch in (1, 2):
        run.log({"epoch": epoch})
    run.path("state.safetensors").write_bytes(b"state")
    return run


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_nothing_is_touched_before_begin(tmp_path):
    with_a_state(tmp_path / "a")
    before = files(tmp_path / "a")
    Run(tmp_path / "a", {"model": "other"})
    Run(tmp_path / "b", FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert files(tmp_path / "a") == before


def test_a_run_goes_on_with_the_same_facts(tmp_path):
    with_a_state(tmp_path / "a")
    run, goes_on = begun(tmp_path / "a", resume=True)
    assert goes_on
    assert list(run.records()) == [{"epoch": 1}, {"epoch": 2}]


def test_without_resume_what_lies_there_is_moved_aside(tmp_path):
    for number in (1, 2):
        with_a_state(tmp_path / "a")
        before = files(tmp_path / "a")
        assert not begun(tmp_path / "a")[1]
        assert files(tmp_path / "a").keys() == {"run.json"}
        assert files(tmp_path / f"a~{number}") == before


@pytest.mark.parametrize("name", runs.RESULTS)
def test_any_result_is_moved_aside(tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_text("hours")
    begun(tmp_path / "a")
    assert (tmp_path / "a~1" / name).read_text() == "hours"


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_never_saved_anything_makes_room(tmp_path, resume):
    begun(tmp_path / "a", {"model": "other"})
    _, goes_on = begun(tmp_path / "a", resume=resume)
    assert not goes_on
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model": "resnet8"}, "expected model tiny, as it was begun, found resnet8"),
        ({"settings": FACTS["settings"] | {"lr": 0.2}}, "expected settings.lr 0.1, as it was begun, found 0.2"),
        ({"extra": 1}, "expected extra None, as it was begun, found 1"),
    ],
)
def test_resuming_with_other_facts_is_refused_by_name(tmp_path, changed, named):
    with_a_state(tmp_path / "a")
    before = files(tmp_path / "a")
    with pytest.raises(UsageError, match=named):
        Run(tmp_path / "a", FACTS | changed, resume=True)
    assert files(tmp_path / "a") == before


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_resuming_with_a_damaged_description_is_refused(tmp_path, content):
    run = with_a_state(tmp_path / "a")
    run.path("run.json").unlink()
    if content is not None:
        run.path("run.json").write_bytes(content)
    with pytest.raises(KdcacheError, match=r"run\.json: expected what the run was begun with"):
        Run(tmp_path / "a", FACTS, resume=True)


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    run, _ = begun(tmp_path / "a")
    run.log({"epoch": 1})
    with open(run.path("metrics.jsonl"), "a") as file:
        file.write('{"epoch": 2, "lo')
    assert list(read_metrics(tmp_path / "a")) == [{"epoch": 1}]


def test_records_beyond_the_saved_epoch_are_dropped(tmp_path):
    run = with_a_state(tmp_path / "a")
    assert run.forget_after(1) == [{"epoch": 1}]
    run.log({"epoch": 2, "again": True})
    assert list(run.records()) == [{"epoch": 1}, {"epoch": 2, "again": True}]


@pytest.mark.parametrize("content", ["", '{"epoch": 2}\n', '{"epoch": 1}\n{"epoch": 1}\n', "no json\n"])
def test_missing_records_are_told(tmp_path, content):
    run = with_a_state(tmp_path / "a")
    run.path("metrics.jsonl").write_text(content)
    with pytest.raises(KdcacheError, match="the records of 2 epochs"):
        run.forget_after(2)


HOLD = """
import sys, time
from kdcache.runs import Run
run = Run(sys.argv[1], {})
run.begin()
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("resume", [True, False])
def test_two_processes_cannot_train_in_one_folder(tmp_path, resume):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "a"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(KdcacheError, match="one that another process trains"):
            begun(tmp_path / "a", {}, resume)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    begun(tmp_path / "a", {}, resume)


def test_what_a_kill_left_half_written_is_swept(tmp_path):
    with_a_state(tmp_path / "a")
    (tmp_path / "a" / ".last.safetensors.0a1b2c3d").write_bytes(b"half")
    (tmp_path / "a" / ".notes").write_text("the user's")
    begun(tmp_path / "a", resume=True)
    assert ".last.safetensors.0a1b2c3d" not in files(tmp_path / "a")
    assert ".notes" in files(tmp_path / "a")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a.json"
    replace(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, call, full)
    with pytest.raises(OSError, match="No space"):
        replace(path, "new")
    assert files(tmp_path) == {"a.json": b"old"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KdcacheError, match=r"file: expected a folder to write to, found File exists"):
        begun(tmp_path / "file")
    with pytest.raises(KdcacheError, match="expected a folder to write to, found Not a directory"):
        begun(tmp_path / "file" / "below")
    if os.getuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(KdcacheError, match="Permission denied"):
            begun(tmp_path / "closed" / "a")


def test_folder_names_have_no_slashes_and_no_colons():
    assert str(folder_name("runs", "student", "folder:/a/b", "st:0.9+at")) == "runs/student-folder--a-b-st-0.9+at"
