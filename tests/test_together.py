"""Several students in one pipeline: each ends as it would alone, whatever becomes of the others."""

import dataclasses
import time

import pytest
import torch
from test_loop import Dropping
from test_resume import Stopped, files, until
from torch import nn
from train_cases import Fixture, asks, assert_same_weights, measured, metrics_of

from kdcache.batches import Loader
from kdcache.jobs import pipeline
from kdcache.methods import METHODS
from kdcache.runs import Run
from kdcache.teachers import LiveTeacher
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
    students = [fixture.student(text, live=live) for text in [*METHODS, "st", "none"]]
    assert_as_alone(together(students), students)


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
        assert record["images_per_second"] * record["train_seconds"] == pytest.approx(48, rel=0.05)
