"""Every method trains, its own parts too, in its stages; what it needs and lacks is named beforehand."""

import pytest
import torch
from safetensors import safe_open
from torch import nn
from train_cases import SAME_WIDTH, Fixture, asks, assert_same_weights

from kdcache import jobs
from kdcache.errors import CacheError, TeacherError, UsageError
from kdcache.jobs import Student, taught_by
from kdcache.methods import METHODS, build
from kdcache.models import build as build_network
from kdcache.models.weights import load
from kdcache.runs import Run
from kdcache.train import Settings, trainer
from kdcache.train.trainer import stages

EVERY = [*METHODS, "fitnet/paper", "ab/rep", "st+at", "st+vid+fsp", "at+dml", "none+kdsvd/rep"]


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("same"), "resnet8", [name for name in METHODS if asks(name)])


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    texts = [name for name in METHODS if asks(name) and name not in SAME_WIDTH]
    return Fixture(tmp_path_factory.mktemp("wider"), "wrn-16-2", texts)


@pytest.fixture
def spied(monkeypatch):
    """The methods that are built, each with its parameters as they were drawn, and the optimisers."""
    methods, optimisers = [], []
    build_student, build_optimiser = Student.built, trainer.make_optimizer

    def built(self, network):
        method = build_student(self, network)
        methods.append((method, {name: p.detach().clone() for name, p in method.named_parameters()}))
        return method

    def optimiser(*arguments):
        optimisers.append(build_optimiser(*arguments))
        return optimisers[-1]

    monkeypatch.setattr(Student, "built", built)
    monkeypatch.setattr(trainer, "make_optimizer", optimiser)
    return methods, optimisers


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def needs_same_width(text):
    return any(part.partition("/")[0] in SAME_WIDTH for part in text.split("+"))


@pytest.mark.parametrize(
    "text", [*EVERY[::4], *(pytest.param(one, marks=pytest.mark.slow) for one in EVERY if one not in EVERY[::4])]
)
def test_every_method_trains_its_own_parts_too(same, wider, spied, tmp_path, text):
    fixture = same if needs_same_width(text) else wider
    live = text == "reviewkd"  # which no cache holds
    networks, records = fixture.student(text, live=live).train(Run(tmp_path / "run", {}))
    [(method, drawn)], optimisers = spied
    assert len(networks) == method.students
    trained = {id(p) for group in optimisers[-1].param_groups for p in group["params"]}
    assert trained == {id(p) for module in (*networks, method) for p in module.parameters()}
    assert [name for name, p in method.named_parameters() if torch.equal(p, drawn[name])] == []
    for number, network in enumerate(networks):
        fresh = fixture.data.network("resnet8", number)
        pairs = zip(
            network.parameters(), fresh.parameters(), strict=network.arch.get("heads") != 2
        )  # its own come first
        assert all(not torch.equal(a, b) for a, b in pairs)
        assert hooks(network) == 0
    with safe_open(tmp_path / "run" / "last.safetensors", "pt") as file:
        assert set(file.keys()) == networks[0].state_dict().keys()
    assert_same_weights(load(tmp_path / "run" / "last.safetensors"), networks[0])
    assert all({"top1", "agreement", "lr", "total", "images_per_second", "seconds"} <= r.keys() for r in records)


@pytest.mark.parametrize(
    ("text", "epochs", "init"),
    [("ab", 2, 1), ("ab", 10, 3), ("ab/rep", 16, 2), ("fsp", 2, 1), ("fsp/tf1", 10, 3), ("fitnet/paper", 4, 1),
     ("st+ab+fsp", 10, 3), ("ab:init_share=1", 4, 3), ("ab:init_share=0", 4, 0), ("st", 4, 0)],
)  # fmt: skip
def test_an_initialisation_has_its_share_of_the_epochs(text, epochs, init):
    shapes = {f"f{i}.{v}": (4, 4, 4) for i in range(4) for v in ("raw", "pre", "post")} | {"logits": (3,)}
    found = stages(build(text, shapes, shapes), epochs)
    expected = [("init", 1, init)] * (init > 0) + [("main", init + 1, epochs - init)]
    assert [(s.name, s.first, s.epochs) for s in found] == expected


def test_one_epoch_is_too_few_for_two_stages(same, tmp_path):
    with pytest.raises(UsageError, match="`epochs`: expected 2 or more"):
        same.student("fsp", epochs=1).train(Run(tmp_path / "run", {}))
    assert not (tmp_path / "run").exists()


def test_stages_show_in_the_records_with_an_optimiser_and_a_schedule_each(same, spied):
    labels = []

    def progress(items, total, desc):
        labels.append(desc)
        return items

    _, records = same.student("ab", epochs=5).train(progress=progress)
    assert [record["stage"] for record in records] == ["init"] * 2 + ["main"] * 3
    assert [set(record["loss"]) for record in records] == [{"ab"}] * 2 + [{"ab.kl"}] * 3
    assert labels == [f"epoch {n}/5{' (init)' if n < 3 else ''}" for n in range(1, 6)]
    rates = [record["lr"] for record in records]
    assert rates[0] > rates[1] < rates[2] > rates[3] > rates[4]
    assert len(spied[1]) == 2


def test_mutual_learning_trains_two_different_students(same):
    networks, records = same.student("dml").train()
    assert len(networks) == 2
    assert not torch.equal(networks[0].body.fc.weight, networks[1].body.fc.weight)
    assert records[-1]["loss"].keys() == {"ce", "dml", "ce.1", "dml.1"}


def test_mutual_learning_beside_a_teacher_asks_the_teacher_for_both(same):
    _, records = same.student("st+dml:students=3", epochs=1).train()
    assert records[0]["loss"].keys() == {f"{name}{n}" for name in ("ce", "st", "dml") for n in ("", ".1", ".2")}


def test_connectors_cannot_serve_several_students(same):
    with pytest.raises(UsageError, match="connectors belong to one student"):
        same.student("vid+dml").train()


class Bare(nn.Module):
    """A body that shows nothing but its logits."""

    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, classes)

    def forward(self, x):
        return self.fc(x.flatten(1))


REFUSED = [
    ("same", "test_train:Bare", "st+at", "Bare: expected one of its taps logits, found f1.raw"),
    ("same", "test_train:Bare", "fitnet", "the student's shape of f2.raw, found logits"),
    ("same", "tiny", "fsp", "student 8x4x4 and teacher 16x16x16"),
    ("same", "tiny", "at", "student 2x2 and teacher 4x4|student 4x4 and teacher 16x16"),
    ("same", "tiny", "co", "student 8x4x4 and teacher 16x16x16"),
    ("same", "tiny", "ab", "student 8x4x4 and teacher 16x16x16"),
    ("wider", "resnet8", "kdsvd", "student 16x16x16 and teacher 32x16x16"),
    ("wider", "resnet8", "mhgd", "student 16x16x16 and teacher 32x16x16"),
    ("wider", "resnet8", "fsp", "student 16x16x16 and teacher 32x16x16"),
    ("wider", "resnet8", "fitnet/zoo", "student 64x4x4 and teacher 128x4x4"),
]


@pytest.mark.parametrize("live", [False, True], ids=["cached", "live"])
@pytest.mark.parametrize(("which", "model", "text", "message"), REFUSED)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(request, tmp_path, which, model, text, message, live):
    fixture = request.getfixturevalue(which)
    with pytest.raises(UsageError, match=message):
        fixture.student(text, model, live).train(Run(tmp_path / "run", {}))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def only_logits(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("logits"), "resnet8", ["st"])


LACKING = [
    ("at", "knowledge 'at.f1'"), ("fitnet", "knowledge 'f2.raw'"), ("rkd", "knowledge 'emb'"),
    ("ft", r"the constant ft\.factor\.0"), ("mhgd", r"the constant mhgd\.f2"), ("co", r"the constant co\.f1\.margin"),
    ("st+at", "knowledge 'at.f1'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), LACKING)
def test_a_cache_without_the_knowledge_says_what_to_dump(only_logits, text, message):
    with pytest.raises(CacheError, match=message) as refused:
        only_logits.student(text).train()
    assert refused.value.remedy == f"dump again with `method` {text}"


def test_a_map_of_another_grid_is_not_taken_for_the_right_one(same):
    with pytest.raises(CacheError, match=r"knowledge 'at\.f1@2x2'"):
        same.student("at:grid=2x2").train()


def test_without_any_teacher_a_method_that_asks_one_is_refused(same):
    student = Student(same.data, "resnet8", "st", Settings())
    with pytest.raises(UsageError, match="neither a cache nor `live`"):
        student.train()


def test_a_teacher_of_other_classes_is_refused(same):
    other = build_network("resnet8", 7, same.data.train.mean, same.data.train.std)
    with pytest.raises(TeacherError, match="expected 4 logits, as the student has, found 7"):
        Student(same.data, "resnet8", "st", Settings(), taught_by(None, other)).train()


def test_a_pseudo_teacher_has_logits_alone(same):
    teacher = jobs.pseudo_teacher(same.data, 2, 0, {"accuracy": "0.9"})
    with pytest.raises(UsageError, match="pseudo teacher, who has logits alone"):
        Student(same.data, "resnet8", "st+at", Settings(), taught_by(same.cache, None, teacher)).train()
