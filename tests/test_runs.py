"""A run's folder: nothing is lost, nothing is mixed, and nothing half-written carries a final name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache import runs
from kdcache.checks import replace
from kdcache.errors import KdcacheError, UsageError
from kdcache.runs import Run, folder_name, keyed_name, read_metrics

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


def left_after(folder, done, epochs, facts=FACTS):
    """A run that was to have some epochs, left after some of them."""
    run, _ = begun(folder, facts | {"settings": FACTS["settings"] | {"epochs": epochs}})
    for epoch in range(1, done + 1):
        run.log({"epoch": epoch})
    for name in ("last", "best", "state"):
        run.path(f"{name}.safetensors").write_bytes(b"weights")
    return run


def test_a_finished_run_is_moved_aside_and_that_is_said(tmp_path):
    for number in (1, 2):
        run, told = left_after(tmp_path / "a", 3, 3), []
        before = files(tmp_path / "a")
        assert not Run(tmp_path / "a", run.facts).begin(told.append)
        assert told == [f"{tmp_path}/a: the run that was there is now {tmp_path}/a~{number}"]
        assert files(tmp_path / "a").keys() == {"run.json"}
        assert files(tmp_path / f"a~{number}") == before


def test_an_unfinished_run_is_not_moved_unless_restart_is_said(tmp_path):
    run = left_after(tmp_path / "a", 2, 3)
    before = files(tmp_path / "a")
    with pytest.raises(UsageError, match=r"one that was left after epoch 2 of 3; go on with it by `resume`, or start"):
        Run(tmp_path / "a", run.facts)
    with pytest.raises(
        UsageError, match=r"epoch 2 of 3, begun with model tiny; name another folder for this one, or start over"
    ):
        Run(tmp_path / "a", run.facts | {"model": "other"})
    assert files(tmp_path / "a") == before
    assert Run(tmp_path / "a", run.facts, resume=True).begin()
    assert not Run(tmp_path / "a", run.facts, restart=True).begin()
    assert files(tmp_path / "a~1") == before
    with pytest.raises(UsageError, match="expected resume or restart, found both"):
        Run(tmp_path / "a", run.facts, resume=True, restart=True)


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"restart": True}], ids=str)
@pytest.mark.parametrize("name", ["logits.h5", "notes.txt", "data/", ".hidden"])
def test_a_folder_with_what_no_run_wrote_is_refused(tmp_path, name, how):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("mine")
    with pytest.raises(
        UsageError, match=rf"results: expected .* nothing but a run in it, found {name.strip('/')}; name"
    ):
        Run(folder, FACTS, **how)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert [path.name for path in folder.iterdir()] == [name.strip("/")]


def test_a_file_beside_a_run_keeps_it_from_being_moved_but_not_from_going_on(tmp_path):
    run = left_after(tmp_path / "a", 3, 3)
    (tmp_path / "a" / "logits.h5").write_text("mine")
    with pytest.raises(UsageError, match=r"found logits\.h5"):
        Run(tmp_path / "a", run.facts)
    assert Run(tmp_path / "a", run.facts, resume=True).begin()
    assert (tmp_path / "a" / "logits.h5").read_text() == "mine"


def test_what_a_run_came_to_stands_beside_what_it_was_asked(tmp_path):
    run = with_a_state(tmp_path / "a")
    run.finish({"top1": 0.5})
    assert json.loads(run.path("run.json").read_text()) == run.facts | {"result": {"top1": 0.5}}
    assert Run(tmp_path / "a", FACTS, resume=True).begin()


@pytest.mark.parametrize("facts", [{"mix": "labels"}, {"views": 3}, {"cache": {"joined": ["a", "b"]}}], ids=str)
def test_runs_that_differ_have_names_of_their_own(facts):
    base, plain = Path("runs/student-digits"), {"mix": None, "views": None, "live": False}
    names = [keyed_name(base, {}, plain | more).name for more in ({}, facts)]
    assert names[0] != names[1]
    assert all(re.fullmatch(r"student-digits-[0-9a-f]{6}", name) for name in names)
    assert keyed_name(base, {}, {}).name == names[0]  # what is new with a version does not change old names


def test_changed_settings_can_be_read_in_the_name():
    name = keyed_name(Path("s"), {"epochs": 5, "lr": 0.05, "betas": [0.5, 0.9]}, {}).name
    assert re.fullmatch(r"s-epochs5-lr0\.05-[0-9a-f]{6}", name)
    assert keyed_name(Path("s"), {"epochs": 5, "lr": 0.05}, {}).name != name
    assert len(keyed_name(Path("s" * 300), {}, {}).name) < 130


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
        with pytest.raises(KdcacheError, match="expected a folder that no other process trains in"):
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


@pytest.mark.parametrize("damage", [b"\xa0\xb2\n", b"{\n", b"7\n", b'{"epoch": "1"}\n'])
def test_records_end_where_they_are_damaged(tmp_path, damage):
    run, _ = begun(tmp_path / "a")
    run.log({"epoch": 1})
    with open(run.path("metrics.jsonl"), "ab") as file:
        file.write(damage)
    run.log({"epoch": 3})
    assert list(read_metrics(tmp_path / "a")) == [{"epoch": 1}]
