"""Two views of each row in a step: which they are, what sees them, and that nothing else of a training changes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import reference_logits as ref
import torch
from test_resume import Stopped, files, until
from torch import nn
from train_cases import SPEC, Fixture, assert_same_weights, dumped, measured, teacher_of

from kdcache.batches import training_plan
from kdcache.cache import open_cache
from kdcache.cache.joined import join
from kdcache.errors import UsageError
from kdcache.jobs import Data, DumpOptions, Student, make_dump, pipeline, taught_by
from kdcache.jobs.together import pipelines
from kdcache.methods import METHODS, build, together
from kdcache.runs import Run
from kdcache.teachers import Forward
from kdcache.train import Settings
from kdcache.train.trainer import by_views
from kdcache.types import Batch
from kdcache.views import open_view


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    """Two views, which one epoch shows."""
    return Fixture(tmp_path_factory.mktemp("same"), "tiny-3", ["st"])


@pytest.fixture(scope="module")
def several(tmp_path_factory, same):
    return dumped(tmp_path_factory.mktemp("several") / "cache.h5", same.data, same.network, "st", 5, batch=24)


def test_an_epoch_shows_the_next_two_views_of_each_row():
    for epoch, first in ((1, 0), (2, 2), (3, 0)):  # the last of five has no other
        plan = training_plan(9, 5, epoch, 4, 7, together=2)
        alone = training_plan(9, 1, epoch, 4, 7)
        assert [len(items) for items in plan] == [8, 8]
        for items, rows in zip(plan, alone, strict=True):
            assert items.tolist() == [*(first * 9 + rows), *((first + 1) * 9 + rows)]


@pytest.mark.parametrize("rows", [3, 5, 6])
@pytest.mark.parametrize(("masked", "text"), [(False, "mlkd:ce=0"), (True, "mlkd/paper:ce=0")])
def test_any_number_of_rows_and_classes_has_a_median(rows, masked, text):
    generator = torch.Generator().manual_seed(rows)
    student, teacher = (3 * torch.randn(2 * rows, 7, generator=generator).double() for _ in range(2))
    images, labels = torch.zeros(2 * rows, 3, 1, 1, dtype=torch.uint8), torch.zeros(2 * rows).long()
    batch = Batch(images, labels, np.arange(2 * rows), rows)
    found = build(text).loss({"logits": student}, {"logits": teacher}, batch)
    expected = ref.levels(student, teacher, [4, 3, 5, 2, 6], masked, False)
    torch.testing.assert_close(torch.stack([*found.values()]), 0.9 * torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_half_of_a_pair_is_refused():
    look = {"logits": torch.randn(3, 5)}
    batch = Batch(torch.zeros(3, 3, 1, 1, dtype=torch.uint8), torch.zeros(3).long(), np.arange(3), 3)
    with pytest.raises(UsageError, match="two views of each row in a batch, found 3 rows"):
        build("mlkd").loss(look, look, batch)


def test_batch_norm_sees_one_view_at_a_time():
    layer, images = nn.BatchNorm1d(4), torch.arange(24.0).view(6, 4)
    found = by_views(lambda some: {"logits": layer(some)}, images, 2)["logits"]
    torch.testing.assert_close(found[:3], found[3:])
    assert layer.num_batches_tracked == 2


@pytest.fixture
def shown(monkeypatch):
    """The batches that a method of pairs is shown."""
    batches, loss = [], METHODS["mlkd"].loss

    def noted(self, look, knowledge, batch, stage="main"):
        batches.append((batch, knowledge["logits"]))
        return loss(self, look, knowledge, batch, stage)

    monkeypatch.setattr(METHODS["mlkd"], "loss", noted)
    return batches


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"mix": "labels:mixup"}], ids=str)
def test_a_step_shows_the_same_rows_twice(same, several, shown, options):
    student = Student(same.data, "tiny-3", "mlkd", Settings(epochs=3, batch=16), taught_by(several), **options)
    student.train()
    assert [tuple(np.unique(batch.views)) for batch, _ in shown] == [(0, 1)] * 3 + [(2, 3)] * 3 + [(0, 1)] * 3
    for batch, knowledge in shown:
        first, second = np.split(batch.rows, 2)
        assert np.array_equal(first, second)
        assert not torch.equal(*batch.images.tensor_split(2))
        if "mix" not in options:
            assert torch.equal(knowledge, several.gather(batch.items, ["logits"])["logits"])
            assert torch.equal(batch.targets, torch.from_numpy(several.labels[batch.rows]).long())


@pytest.fixture(scope="module")
def turns(tmp_path_factory):
    """Files of weak and strong views by turns, by their views and the number of the first."""
    data = Data.open(SPEC, "crop-flip+strong+erasing:p=1")
    network, folder = teacher_of("tiny-3", data), tmp_path_factory.mktemp("turns")

    def made(views: int, first: int = 0) -> Path:
        path = folder / f"{views}-{first}.h5"
        options = DumpOptions(path, views, "st", codec="f32", first_view=first, forward=Forward(24))
        with make_dump(network, data, options) as dump:
            return dump.run()

    return data, network, made


def test_a_weak_view_and_a_strong_one_of_each_row_replay(turns, shown):
    data, network, made = turns
    with open_cache(made(4)) as cache:
        outcomes = [
            Student(data, "tiny-3", "mlkd", Settings(epochs=2, batch=16), taught_by(cache, live)).train()[0]
            for live in (None, network)
        ]
        assert_same_weights(*(networks[0] for networks in outcomes))
        weak = open_view("crop-flip", data.train.size)
        for batch, _ in shown:
            half = len(batch) // 2
            as_weak = weak.render(data.train.read(batch.rows), torch.from_numpy(batch.seeds))
            assert torch.equal(batch.images[:half], as_weak[:half])
            assert (batch.images[half:] != as_weak[half:]).flatten(1).any(1).all()


def test_pairs_that_are_none_are_refused(turns):
    data, _, made = turns

    def student(*paths):
        cache = join([open_cache(path) for path in paths])
        return Student(data, "tiny-3", "mlkd", Settings(epochs=1, batch=16), taught_by(cache))

    with pytest.raises(UsageError, match=r"weak and strong views by turns, found a weak one as view 3; join"):
        student(made(3), made(4, 4)).train()
    with pytest.raises(UsageError, match="found a strong one as view 0"):
        student(made(3, 1)).train()
    student(made(3), made(3, 3)).train()  # they go on where the others ended


@pytest.mark.parametrize("text", ["mlkd/paper", "mlkd+st"])
def test_cached_and_live_train_the_same_student(same, text):
    [cached], [live] = (same.student(text, "tiny-3", live).train()[0] for live in (False, True))
    assert_same_weights(cached, live)


def test_a_loss_is_told_as_the_mean_over_both_views(same):
    _, [record] = same.student("mlkd", "tiny-3", epochs=1, lr=1e-12, batch=48).train()
    with same.student("mlkd", "tiny-3", epochs=1, lr=1e-12, batch=48).ready() as ([trainer], feed, _):
        trainer.begin(1)
        with trainer.watching():
            plan = training_plan(49, 2, 1, 48, 0, 2)
            [batch] = feed.loader.run(plan, 1)
            terms = trainer.learn(batch, feed.answers(batch), 0.0)
    assert len(batch) == 96
    assert record["loss"] == pytest.approx({name: float(value) for name, value in terms.items()}, rel=1e-6)


def test_a_pair_of_views_that_is_stopped_ends_in_the_same_bytes(same, several, tmp_path):
    def trained(folder, progress=lambda items, **_: items):
        student = Student(same.data, "tiny-3", "mlkd", Settings(epochs=3, batch=16), taught_by(several))
        return student.train(Run(tmp_path / folder, {}, resume=True), progress)

    whole = trained("whole")[1]
    with pytest.raises(Stopped):
        trained("parts", until(3, 1))
    assert measured(trained("parts")[1]) == measured(whole)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_parts_of_a_batch_have_both_views_of_their_rows(same, several, shown):
    settings = Settings(epochs=1, batch=15, accumulate=3, warmup=0)
    Student(same.data, "tiny-3", "mlkd", settings, taught_by(several)).train()
    assert [len(batch) for batch, _ in shown] == [10, 10, 10] * 3 + [4, 4]
    for batch, knowledge in shown:
        assert np.array_equal(*np.split(batch.rows, 2))
        assert torch.equal(knowledge, several.gather(batch.items, ["logits"])["logits"])


def test_drawn_views_are_twice_as_many_as_epochs(same, shown):
    student = Student(same.data, "tiny-3", "mlkd", Settings(epochs=2, batch=48), taught_by(None, same.network))
    student.train()
    assert [tuple(np.unique(batch.views)) for batch, _ in shown] == [(0, 1), (2, 3)]


def test_one_view_is_too_few(same):
    student = Student(same.data, "tiny-3", "st+mlkd", Settings(epochs=1), taught_by(None, same.network), 1)
    with pytest.raises(UsageError, match="2 views or more, for a step shows 2 of each row, found 1 view"):
        student.train()


def test_students_of_one_view_and_of_two_have_a_pipeline_each(same):
    students = [same.student(text, "tiny-3", epochs=1) for text in ("mlkd", "st", "mlkd/paper", "st+mlkd")]
    students = [dataclasses.replace(student, teacher=students[0].teacher) for student in students]
    assert pipelines(students) == [[0, 2, 3], [1]]
    courses = pipeline.train([students[0], students[2]], [None, None], ["a", "b"])
    for course, student in zip(courses, (students[0], students[2]), strict=True):
        assert_same_weights(course.trainer.students[0], student.train()[0][0])


def test_a_sum_shows_as_many_as_its_parts_want():
    assert [together(text) for text in ("st", "mlkd", "st+mlkd")] == [1, 2, 2]
    assert build("st+mlkd").views == 2
