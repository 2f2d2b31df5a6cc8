"""A search tries settings by ordinary trainings, judges by rows that it holds out, and goes on where it was."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import optuna
import pytest
from cli_cases import CPU, good, kdcache, refused

from kdcache import jobs
from kdcache.errors import SourceError, UsageError
from kdcache.jobs import space, tuning
from kdcache.methods import options
from kdcache.runs import finished
from kdcache.train import Settings

CACHE = "pseudo-teacher --data synthetic:120,4,8 --views 2 -o p.h5"
SET = "--epochs 2 --batch 16 --schedule step --milestones 0.8,0.9 --data synthetic:120,4,8"
TUNE = f"tune --cache p.h5 --student tiny-2 {SET} --space T=1..16:log,lr=0.01|0.1 --study s {CPU}"


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(CACHE)


def children(process: int) -> list[int]:
    """The processes that it has begun, once there are some."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if found := Path(f"/proc/{process}/task/{process}/children").read_text().split():
            return [int(number) for number in found]
        time.sleep(0.1)
    return []


def search(**changes) -> jobs.Search:
    given = {
        "space": space.read("T=1..16:log,lr=0.01|0.1"),
        "student": "tiny-2",
        "settings": Settings(epochs=2, batch=16),
    }
    return jobs.Search(*jobs.open_data("p.h5"), **(given | changes))


def test_it_goes_on_where_it_was_and_prints_what_to_type():
    first = good(f"{TUNE} --trials 3 --json").json()
    assert (first["trials"], first["pruned"], len(first["best"])) == (3, 0, 3)
    folders = sorted(Path("runs").glob("tune-s/student-*"))
    assert {one["folder"] for one in first["best"]} <= {str(folder) for folder in folders}
    said = good(f"{TUNE} --trials 6 --plot what.png")
    assert said.err.count("accuracy") == 3
    assert Path("what.png").is_file()
    assert "24 of 120 training rows, held out" in said.out
    *_, typed = said.out.strip().partition("train it on all rows: ")
    assert kdcache(shlex.join(shlex.split(typed)[1:]) + f" --out best {CPU}").code == 0
    best = good(f"{TUNE} --trials 6 --json").json()["best"][0]
    facts = json.loads(Path(best["folder"], "run.json").read_text())
    trained = json.loads(Path("best/run.json").read_text())
    assert (facts["method"], facts["settings"]) == (trained["method"], trained["settings"])
    assert (facts["data"]["rows"], trained["data"]["rows"]) == (96, 120)
    refused(f"{TUNE} --trials 6".replace("1..16", "1..8"), 2, "--study s", "name another study")


def test_it_is_judged_by_rows_that_it_does_not_train_on_and_never_by_evaluation_images():
    found = search(share=0.25)
    whole = found.data.train.digests(range(120)).tolist()
    trained, judged = (one.digests(range(len(one))).tolist() for one in (found.part.train, found.part.held_out))
    assert sorted(trained + judged) == sorted(whole)
    assert len(judged) == 30
    assert np.bincount(found.part.held_out.labels).tolist() == pytest.approx([7.5] * 4, abs=0.5)
    evaluated = found.data.held_out.digests(range(len(found.data.held_out)))
    assert not {*evaluated.tolist()} & {*trained, *judged}
    assert not found.seen.has_eval("logits")
    assert (
        found.seen.read(1, [3])["logits"].tolist() == found.store.read(1, [int(found.seen.rows[3])])["logits"].tolist()
    )


def test_trials_that_are_behind_are_given_up():
    study = jobs.open_study(Path("runs/s"), None, search(), "s")
    study.pruner = optuna.pruners.ThresholdPruner(lower=2)
    jobs.run_trials(study, search(), 1, Path("runs/s"))
    (trial,) = study.get_trials()
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert list(trial.intermediate_values) == [1]
    assert finished(Path(trial.user_attrs["folder"])) is None


def test_a_loss_that_is_lost_is_a_bad_trial_and_no_end():
    tried = search(space=space.read("lr=1e29..1e30"))
    study = jobs.open_study(Path("runs/s"), None, tried, "s")
    jobs.run_trials(study, tried, 2, Path("runs/s"))
    assert [trial.intermediate_values for trial in study.get_trials()] == [{2: 0.0}] * 2


def test_a_trial_whose_process_is_gone_is_tried_again():
    study = jobs.open_study(Path("runs/s"), None, search(), "s")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lost = study.ask()
    lost.set_user_attr("process", tuning.here().rpartition(":")[0] + f":{gone.pid}")
    wanted = {"T": lost.suggest_float("T", 1, 16, log=True), "lr": lost.suggest_categorical("lr", (0.01, 0.1))}
    said = []
    jobs.run_trials(study, search(), 1, Path("runs/s"), said.append)
    assert "its process is gone" in said[0]
    assert [(trial.state.name, trial.params) for trial in study.get_trials()] == [
        ("FAIL", wanted),
        ("COMPLETE", wanted),
    ]


def test_a_database_serves_as_well_and_the_same_settings_are_trained_once():
    one = TUNE.replace("T=1..16:log,lr=0.01|0.1", "lr=0.1|0.1") + " --storage sqlite:///trials.db --trials 2 --json"
    found = good(one).json()
    assert found["best"][0]["top1"] == found["best"][1]["top1"]
    assert len(list(Path("runs/tune-s").glob("student-*"))) == 1


@pytest.mark.slow
def test_several_processes_share_a_study():
    command = [sys.executable, "-m", "kdcache", *shlex.split(TUNE), "--trials", "8", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        subprocess.run(command, check=True, capture_output=True)
        found = json.loads(other.communicate()[0])
    assert other.returncode == 0
    assert 8 <= found["trials"] <= 9  # the other one may have been at its last


def test_a_storage_that_is_none():
    Path("list.txt").write_text("[1, 2]\n")
    for where in ("list.txt", "nosql://here/db"):
        refused(f"{TUNE} --storage {where}", 2, "--storage", "name another")


def test_a_study_of_another_teacher_is_another_study():
    good(f"{TUNE} --trials 1")
    good("pseudo-teacher --data synthetic:120,4,8 --views 2 --accuracy 0.5 -o q.h5")
    refused(TUNE.replace("p.h5", "q.h5"), 2, "--study s", "name another study")
    good(f"{TUNE} --trials 1")


WRONG = [
    ("lr", "names with what to try", "'lr'"),
    ("lr=", "a range or choices for lr"),
    ("lr=0.2..0.1", "from a smaller to a larger number"),
    ("lr=0..1:log", "above 0"),
    ("lr=0.1..1:lag", ":log or not"),
    ("lr=a..b", "from a smaller to a larger number"),
    ("lr=-1..1", "lr", "a number above 0"),
    ("epochs=0..3", "a whole number from 1"),
    ("Tt=1..2", "a method with a Tt", "did you mean T?"),
    ("at.weight=1..2", "a method with a weight"),
    ("method=st|stt", "did you mean st?"),
    ("student=tiny|tinny", "did you mean tiny?"),
    ("none.toml", "No such file"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[0])
def test_wrong_spaces(case):
    text, *words = case
    refused(TUNE.replace("T=1..16:log,lr=0.01|0.1", text), 2, *words)
    assert not Path("runs").exists()


def test_the_last_trials_are_left_to_the_others_who_are_at_them(monkeypatch):
    found = search()
    study = tuning.open_study(Path("s"), None, found, "s")
    left = study.ask()  # as another process here would have begun it
    left.set_user_attr("process", f"{socket.gethostname()}:{os.getppid()}")
    monkeypatch.setattr(tuning.time, "sleep", lambda seconds: study.tell(left.number, 0.5))
    tuning.run_trials(study, found, 1, Path("s"))
    assert len(study.trials) == 1


@pytest.mark.slow
def test_side_by_side_one_of_which_dies():
    begun = subprocess.Popen(
        [sys.executable, "-m", "kdcache", *shlex.split(f"{TUNE} --trials 4 -j 2")],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    (other,) = children(begun.pid)
    os.kill(other, signal.SIGKILL)
    out, err = begun.communicate(timeout=300)
    assert begun.returncode == 1
    assert "4 trials" in out
    assert "processes that come to their end, found its process ended with signal SIGKILL" in err


def test_a_space_as_a_file():
    Path("space.toml").write_text('[space]\nT = "1..16:log"\nbatch = [16, 32]\nwarmup = "0..2"\nepochs = "2..4"\n')
    found = space.read("space.toml")
    assert {name: str(one) for name, one in found.items()} == {
        "T": "1..16:log", "batch": "16|32", "warmup": "0..2", "epochs": "2..4:whole",
    }  # fmt: skip
    method, _, settings = space.applied({"T": 2.5, "batch": 32}, "st+at:500", None, Settings())
    assert (method, settings.batch) == ("st:T=2.5+at:500", 32)


def test_options_of_one_part_and_of_all():
    assert options.with_option("st+dkd", "T", 2.0) == "st:T=2+dkd:T=2"
    assert options.with_option("st+at/zoo", "at.weight", 500) == "st+at/zoo:weight=500"


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = kdcache(f"{TUNE} --trials 1")
    assert said.code == 1
    assert "pip install 'kdcache[tune]'" in said.err


def test_what_says_nothing_of_the_settings_ends_the_search_and_is_tried_again(monkeypatch):
    study = jobs.open_study(Path("runs/s"), None, search(), "s")

    def broken(self, run):
        raise SourceError("a.jpg", "an image", "none", "put it back")

    with monkeypatch.context() as patched:
        patched.setattr(jobs.Student, "train", broken)
        with pytest.raises(SourceError):
            jobs.run_trials(study, search(), 1, Path("runs/s"))
    jobs.run_trials(study, search(), 1, Path("runs/s"))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params


def test_values_that_are_wrong_together_are_given_up(monkeypatch):
    def wrong(self, chosen):
        raise UsageError("`clip`", "0 with `optimizer` dot", "1", "leave one of them out")

    study, said = jobs.open_study(Path("runs/s"), None, search(), "s"), []
    monkeypatch.setattr(jobs.Search, "trained", wrong)
    jobs.run_trials(study, search(), 1, Path("runs/s"), said.append)
    assert "cannot be: `clip`" in said[-1]
    assert [trial.state.name for trial in study.trials] == ["PRUNED"]


def test_a_process_that_has_the_number_of_one_that_is_gone_is_another():
    trial = types.SimpleNamespace(user_attrs={"process": tuning.here()})
    assert tuning.is_of_here(trial)
    assert not tuning.is_worked_at(trial)  # it is this one
    trial.user_attrs = {"process": f"{socket.gethostname()}:1:{tuning.since(1)}"}
    assert tuning.is_worked_at(trial)
    trial.user_attrs = {"process": f"{socket.gethostname()}:1:another boot/7"}
    assert not tuning.is_worked_at(trial)


def test_images_without_labels_cannot_be_judged():
    data = jobs.Data.open("synthetic:120,4,8", None)
    data.train.labels[:] = -1
    with pytest.raises(UsageError, match="rows with labels to judge by"):
        tuning.parted(data, None, 0.2)
