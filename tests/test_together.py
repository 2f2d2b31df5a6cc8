"""Several students in one pipeline: each ends as it would alone, whatever becomes of the others."""

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_cases import CPU, DATA, SHORT, STUDENT, good, kdcache, refused
from test_loop import Dropping
from test_resume import Stopped, files, until
from torch import nn
from train_cases import Fixture, asks, assert_same_weights, measured, metrics_of

from kdcache import jobs
from kdcache.batches import Loader
from kdcache.jobs import Data, pipeline
from kdcache.jobs.together import pipelines
from kdcache.methods import METHODS
from kdcache.runs import Run
from kdcache.teachers import ALONE, LiveTeacher
from kdcache.train import Settings
from kdcache.train.trainer import Trainer

DRAWING = f"{__name__}:Noisy"  # a network that draws from torch's generator in every step
FEW = ["none", "st", "st:T=2", "at+st", "vid", "ab", "fitnet/paper", "kdsvd", "dml"]


class Noisy(Dropping):
    """With dropout, and with a layer that some rows skip."""

    def __init__(self, classes):
        super().__init__(classes)
        self.skipped = nn.Linear(classes, classes)

    def forward(self, x):
        out = super().forward(x)
        keep = torch.rand(len(x), 1) < 0.7 if self.training else 1.0
        return out + keep * self.skipped(out)


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("same"), "resnet8", ["st", "at", "vid", "ab", "fitnet/paper", "kdsvd"])


def together(students, folder=None, progress=lambda items, **_: items, resume=False, remark=lambda line: None):
    """Their courses, each in a run of its own below the folder."""
    names = [f"{number}" for number in range(len(students))]
    runs = [Run(folder / name, {}, resume) if folder else None for name in names]
    return pipeline.train(students, runs, names, progress, remark)


def assert_as_alone(courses, students, folder=None):
    for course, student in zip(courses, students, strict=True):
        networks, records = student.train(folder and Run(folder / "alone", {}, restart=True))
        assert course.error is None
        assert measured(course.records) == measured(records)
        for mine, theirs in zip(course.trainer.students, networks, strict=True):
            assert_same_weights(mine, theirs)
        if folder:
            assert files(course.run.folder) == files(folder / "alone")


def test_students_of_several_methods_end_as_they_would_alone(same):
    students = [same.student(text) for text in FEW]
    assert_as_alone(together(students), students)


@pytest.mark.slow
@pytest.mark.parametrize("live", [False, True])
def test_every_method_ends_as_it_would_alone(tmp_path, live):
    fixture = Fixture(tmp_path, "resnet8", [name for name in METHODS if asks(name)])
    texts = [name for name in METHODS if live or not METHODS[name].live_only]
    students = [fixture.student(text, live=live) for text in [*texts, "st", "none"]]
    students = [dataclasses.replace(student, teacher=students[0].teacher) for student in students]
    for numbers in pipelines(students):
        group = [students[number] for number in numbers]
        assert_as_alone(together(group), group)


@pytest.mark.parametrize("settings", [{}, {"mix": "labels:mixup+cutmix"}, {"live": True}], ids=str)
def test_each_draws_its_own_random_numbers(same, settings):
    live = settings.get("live", False)
    students = [same.student(text, DRAWING, live) for text in ("st", "none", "st/zoo", "st:T=2")]
    students = [dataclasses.replace(student, mix=settings.get("mix")) for student in students]
    students.insert(1, dataclasses.replace(students[0], model="resnet8"))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    courses = together(students)
    assert torch.equal(torch.get_rng_state(), before)
    assert_as_alone(courses, students)


def test_other_settings_of_an_optimiser_do_not_part_students(same):
    given = [{}, {"optimizer": "adamw", "lr": 1e-3}, {"schedule": "step", "clip": 0.1}, {"eval_every": 2}]
    students = [same.student("st", epochs=3, **settings) for settings in given]
    assert_as_alone(together(students), students)


def test_images_and_answers_are_read_once_a_step(same, monkeypatch):
    counts = {"images": 0, "answers": 0}

    def counting(cls, name, what):
        plain = getattr(cls, name)

        def call(self, *arguments):
            counts[what] += 1
            return plain(self, *arguments)

        monkeypatch.setattr(cls, name, call)

    students = [same.student(text, live=True, epochs=1) for text in ("st", "at", "st:T=2")]
    students = [dataclasses.replace(student, teacher=students[0].teacher) for student in students]
    with pipeline.ready(students) as ready:
        counting(Loader, "show", "images")
        counting(LiveTeacher, "__call__", "answers")
        courses = [pipeline.Course(trainer) for trainer in ready.trainers]
        pipeline.fit_together(courses, ready.feed)
    assert counts == {"images": 3, "answers": 3}


@pytest.mark.parametrize("stops", [[(1, 1)], [(2, 2), (3, 0)]], ids=str)
def test_a_pipeline_that_was_stopped_ends_in_the_same_bytes(same, tmp_path, stops):
    students = [same.student(text, model, epochs=3) for text, model in (("st", DRAWING), ("ab", "resnet8"))]
    for stop in stops:
        with pytest.raises(Stopped):
            together(students, tmp_path, until(*stop), resume=True)
    assert_as_alone(together(students, tmp_path, resume=True), students, tmp_path)


def test_a_student_that_was_an_epoch_behind_catches_up(same, tmp_path, monkeypatch):
    """As after a kill between two of them, both of which had ended their epoch."""
    students = [same.student("st", DRAWING, epochs=3), same.student("none", epochs=3)]
    with pytest.raises(Stopped):
        students[0].train(Run(tmp_path / "0", {}), until(3, 1))
    with pytest.raises(Stopped):
        students[1].train(Run(tmp_path / "1", {}), until(2, 1))
    courses = together(students, tmp_path, resume=True)
    assert_as_alone(courses, students, tmp_path)


def test_one_that_fails_ends_alone_and_goes_on_later(same, tmp_path, monkeypatch):
    def learning(self, *arguments):
        learn(self, *arguments)
        if self.students[0] is lost and self.epoch == 2:
            with torch.no_grad():
                self.students[0].body.fc.bias.fill_(torch.nan)

    learn = Trainer.learn
    students = [same.student(text, epochs=3) for text in ("st", "none", "at")]
    lines, lost = [], None
    with monkeypatch.context() as patch, pipeline.ready(students) as (trainers, feed, _):
        patch.setattr(Trainer, "learn", learning)
        lost = trainers[1].students[0]
        runs = [Run(tmp_path / str(number), {}) for number in range(3)]
        courses = [pipeline.Course(one, None, run, lines.append) for one, run in zip(trainers, runs, strict=True)]
        pipeline.fit_together(courses, feed)
    assert [len(course.records) for course in courses] == [3, 1, 3]
    assert str(courses[1].error).startswith("training: expected a finite loss, found nan in epoch 2")
    assert [line for line in lines if line.startswith("ends early: training: expected a finite loss")]
    assert len(metrics_of(tmp_path / "1")) == 1
    for number, text in ((0, "st"), (2, "at")):
        networks, _ = same.student(text, epochs=3).train()
        assert_same_weights(courses[number].trainer.students[0], networks[0])
    networks, _ = same.student("none", epochs=3).train(Run(tmp_path / "1", {}, resume=True))
    assert_same_weights(networks[0], same.student("none", epochs=3).train()[0][0])


def test_the_time_of_all_is_shared_out(same):
    started = time.perf_counter()
    courses = together([same.student(text) for text in ("st", "none")])
    records = [record for course in courses for record in course.records]
    assert sum(record["seconds"] for record in records) <= time.perf_counter() - started
    for record in records:
        assert 0 < record["train_seconds"] <= record["seconds"]
        assert record["images_per_second"] * record["train_seconds"] == pytest.approx(48, rel=0.3)  # of rounded figures


@pytest.mark.parametrize("options", ["--cache a.h5", "--method none --workers 1", "--teacher pseudo:0.8"])
def test_the_command_trains_each_as_it_would_alone(home, tmp_path, options):
    data = "" if "a.h5" in options else DATA
    two = f"{options} {data} --seeds 2 {SHORT} {CPU} --json"
    found = good(f"train-student --student tiny-2 --student {DRAWING} {two} --runs {tmp_path}").json()["students"]
    assert [(one["student"], one["seed"]) for one in found] == [
        ("tiny-2", 0),
        (DRAWING, 0),
        ("tiny-2", 1),
        (DRAWING, 1),
    ]
    for one in found:
        lone = f"train-student --student {one['student']} --seed {one['seed']} {options} {data} {SHORT} {CPU}"
        alone = good(f"{lone} --out {tmp_path / 'alone'} --restart --json").json()
        assert untimed(alone) == untimed(one)
        assert files(Path(one["run"])) == files(tmp_path / "alone")


def untimed(found):
    clock = ("seconds", "train_seconds", "images_per_second", "peak_bytes", "run", "weights")
    return {name: value for name, value in found.items() if name not in clock}


def test_the_command_says_which_students_share_a_pipeline(home, tmp_path):
    said = good(f"{STUDENT} --cache a.h5 --method st --method none --seeds 2 --runs {tmp_path}")
    lines = said.err.splitlines()
    assert "4 students in 2 pipelines, one after the other: students share batches where seed, data, view" in lines[0]
    assert sum("2 students in one pipeline" in line for line in lines) == 2
    for name in ("st, seed 0", "none, seed 0", "st, seed 1", "none, seed 1"):
        assert sum(re.match(rf"{name}: +epoch 1/1: loss ", line) is not None for line in lines) == 1
    table = said.out.splitlines()
    assert table[0].split() == ["student", "method", "seed", "top1", "agreement", "seconds", "run"]
    assert [row.split()[:3] for row in table[1:]] == [["tiny-2", m, s] for s in "01" for m in ("st", "none")]


def test_a_student_whose_loss_is_lost_is_named_and_fails_the_command(home, tmp_path):
    line = f"{STUDENT} --cache a.h5 --method st:weight=1e38 --method none --runs {tmp_path}"
    for text in ("", " --json"):
        said = kdcache(line + text)
        assert said.code == 1
        assert "st:weight=1e38: ends early: training: expected a finite loss, found" in said.err
        assert "try a smaller --lr" in said.err
    lost, kept = said.json()["students"]
    assert "expected a finite loss" in lost["error"]
    assert kept.keys() >= {"top1", "weights"}
    assert (Path(kept["run"]) / "last.safetensors").exists()


def test_what_several_cannot_have_is_refused_before_a_step(home, tmp_path):
    several = f"{STUDENT} --cache a.h5 --method st --method none --runs {tmp_path}"
    refused(f"{several} --out {tmp_path / 'run'}", 2, "--out: expected one training, found 2", "--runs")
    refused(f"{several} --method st", 2, "--method: expected each once, found st twice", "--seeds")
    refused(f"{several} --student tiny-2", 2, "--student: expected each once")
    refused(f"{several} --method at:grid=1x1", 1, "dump again with --method st+at:grid=1x1")
    assert not any(tmp_path.iterdir())


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_together import train_four, torch
torch.set_num_threads(1)
train_four(sys.argv[2])
"""


def four_students():
    data = Data.open("synthetic:65,4,16", "crop-flip")
    settings = Settings(epochs=6, batch=16, optimizer="adam")
    return jobs.students_of(data, ["resnet8", DRAWING], ["none"], [ALONE, ALONE], settings)


def train_four(folder):
    return jobs.train_students(four_students(), root=folder, resume=True)


@pytest.mark.parametrize("records", [pytest.param(3, marks=pytest.mark.slow), 15])
def test_a_pipeline_that_was_killed_ends_in_the_same_bytes(tmp_path, records):
    command = [sys.executable, "-c", KILLED, Path(__file__).parent, tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while process.poll() is None and sum(len(p.read_bytes().splitlines()) for p in logs(tmp_path)) < records:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    found = train_four(tmp_path)
    for one, student in zip(found, four_students(), strict=True):
        student.train(Run(tmp_path / "alone", {}, restart=True))
        assert files(Path(one["run"])) == files(tmp_path / "alone")
        assert metrics_of(Path(one["run"])) == metrics_of(tmp_path / "alone")


def logs(folder):
    return list(folder.glob("student-*/metrics.jsonl"))
