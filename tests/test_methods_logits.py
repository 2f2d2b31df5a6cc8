"""The traps of the methods that read logits: what a codec loses, rows that are constant, rows without a label."""

import dataclasses
import math

import numpy as np
import pytest
import reference_logits as ref
import torch
from relation_cases import ROWS, batch_of, draw, known, made
from train_cases import teacher_of

from kdcache.cache import open_cache
from kdcache.codecs import TopK, named
from kdcache.codecs.choose import auto
from kdcache.errors import CacheError, UsageError
from kdcache.jobs import Data, DumpOptions, Student, make_dump, taught_by
from kdcache.methods import METHODS, build
from kdcache.methods.response import standardised
from kdcache.methods.transport import between_images
from kdcache.train import Settings
from kdcache.types import Batch

FULL = ["st/std", "dkd/std", "dist", "ttm", "wttm", "ctkd", "rld", "wkd", "bkd"]


@pytest.mark.parametrize("text", FULL)
def test_codecs_that_model_the_tail_are_refused_where_it_matters(text):
    assert build(text).tail_matters
    assert build(f"st+{text}").tail_matters
    with pytest.raises(UsageError, match="every class"):
        named("topk:2", torch.randn(8, 10), tail_matters=True)


def test_auto_keeps_every_class_where_the_tail_matters():
    logits = 9 * torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    assert auto(logits, {1: 1.0}, shift_matters=False)[0].name == "topk"
    assert auto(logits, {1: 1.0}, shift_matters=False, tail_matters=True)[0].keeps_all


def test_a_cache_of_few_classes_is_refused_before_training(tmp_path):
    data = Data.open("synthetic:20,4,8", "crop-flip")
    network = teacher_of("tiny-3", data)
    with (
        pytest.raises(UsageError, match="every class"),
        make_dump(network, data, DumpOptions(tmp_path / "a.h5", 1, method="st/std", codec="topk:2")) as dump,
    ):
        dump.run()
    with make_dump(network, data, DumpOptions(tmp_path / "b.h5", 1, method="st", codec="topk:2")) as dump:
        dump.run()
    with open_cache(tmp_path / "b.h5") as cache:
        Student(data, "tiny-2", "st", Settings(epochs=1, batch=10), taught_by(cache)).train()
        with pytest.raises(CacheError, match=r"codec topk:2 in .*b\.h5"):
            Student(data, "tiny-2", "st/std", Settings(epochs=1, batch=10), taught_by(cache)).train()


def sparse(logits, k):
    codec = TopK.fit(logits, k)
    return codec.decode(codec.encode(logits))


def test_the_student_is_asked_about_the_outcomes_that_a_short_cache_has():
    """Against the teacher's k classes with the student's all, even the best student would be far away."""
    generator = torch.Generator().manual_seed(1)
    teacher = 3 * torch.randn(64, 100, generator=generator)
    short = sparse(teacher, 10)
    method = METHODS["st"](T=4.0, weight=1.0, ce=0.0)
    batch = Batch(torch.zeros(64, 3, 1, 1, dtype=torch.uint8), torch.full((64,), -1), np.arange(64), 64)
    loss = [method.loss({"logits": z}, {"logits": short}, batch)["st"] for z in (short, teacher)]
    ids = teacher.topk(10, 1).indices
    few = (teacher.gather(1, ids) / 4).log_softmax(1)
    wrong = 16 * (few.exp() * (few - (teacher / 4).log_softmax(1).gather(1, ids))).sum(1).mean()
    assert loss[0].abs() < 1e-5
    assert loss[1] < wrong / 4


def test_a_constant_row_learns_from_no_rounding_error():
    rows = torch.tensor([[0.1, 0.1, 0.1], [3.3e5, 3.3e5, 3.3e5], [1.0, 2.0, 4.0]], requires_grad=True)
    found = standardised(rows)
    assert torch.equal(found[:2], torch.zeros(2, 3))
    torch.testing.assert_close(found[2:].double(), ref.standardised(rows[2:].double()))
    found.square().mul(torch.arange(1.0, 4)).sum().backward()
    assert torch.equal(rows.grad[:2], torch.zeros(2, 3))
    assert rows.grad[2].norm() > 0


def test_a_student_that_says_the_same_of_all_gets_no_exploding_gradient_from_dist():
    look, method = {"logits": torch.zeros(ROWS, 5, requires_grad=True)}, build("dist")
    terms = method.terms(look, {"logits": draw(2, dtype=torch.float32)["logits"]}, batch_of())
    assert torch.autograd.grad(sum(terms.values()), look["logits"])[0].norm() < 1


@pytest.mark.parametrize("text", ["dkd/std", "nkd", "wsld", "rld", "rld/std", "wkd"])
def test_rows_without_a_label_are_left_out(text):
    method, student, teacher = made(text), draw(1), draw(2)
    part = method.loss(student, known(method, teacher), batch_of(targets=[3, -1, 0, -1]))
    few = [{k: v[[0, 2]] for k, v in look.items()} for look in (student, teacher)]
    torch.testing.assert_close(part, method.loss(few[0], known(method, few[1]), batch_of(2, targets=[3, 0])))


@pytest.mark.parametrize("text", ["st/std", "dkd/std", "dist", "nkd", "wsld", "ttm", "wttm", "ctkd", "rld", "wkd"])
def test_the_level_of_the_logits_does_not_matter(text):
    method, student, teacher = made(text), draw(1), draw(2)
    moved = {**teacher, "logits": teacher["logits"] + torch.arange(ROWS)[:, None]}
    torch.testing.assert_close(
        method.loss(student, known(method, moved), batch_of()),
        method.loss(student, known(method, teacher), batch_of()), rtol=1e-6, atol=1e-6,
    )  # fmt: skip


def test_binary_takes_the_labels_of_a_mixture_with_their_shares():
    method, student, teacher = made("bkd"), draw(1), draw(2)
    batch = batch_of(targets=[0, 1, -1, -1])
    batch.others, batch.shares = torch.tensor([2, -1, 3, -1]), torch.full((ROWS,), 0.75)
    wanted = torch.zeros(3, 5).double()
    for row, (classes, shares) in enumerate([((0, 2), (0.75, 0.25)), ((1,), (1.0,)), ((3,), (1.0,))]):
        wanted[row, list(classes)] = torch.tensor(shares).double()
    each = [ref.binary(student["logits"][row : row + 1], wanted[row : row + 1]) for row in range(3)]
    expected = (each[0] + 0.75 * each[1] + 0.25 * each[2]) / 2
    torch.testing.assert_close(method.loss(student, known(method, teacher), batch)["bce"], expected)


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.0244717), (5, 0.5), (10, 1), (200, 1), (None, 1)])
def test_the_temperature_of_ctkd_climbs_the_loss_more_and_more(epoch, share):
    method, student, teacher = made("ctkd"), draw(1), draw(2)
    method.terms(student, teacher, batch_of(epoch=epoch))["ctkd"].backward()
    place = torch.ones((), dtype=torch.float64, requires_grad=True)
    (0.9 * ref.learnt(student["logits"], teacher["logits"], place, 20)).backward()
    torch.testing.assert_close(method.place.grad, -share * place.grad, rtol=1e-3, atol=0)


def test_classes_are_as_far_apart_as_the_logits_of_their_images():
    generator = torch.Generator().manual_seed(3)
    rows, labels = torch.randn(40, 4, generator=generator), torch.arange(40) % 4
    labels[:6] = -1  # so that some classes have fewer images
    looks = [{"logits": rows[i : i + 7], "targets": labels[i : i + 7]} for i in range(0, 40, 7)]
    for most, count in ((100, 8), (5, 5)):
        of_class = [rows[labels == c][:count].double() for c in range(4)]
        expected = torch.stack([torch.stack([1 - ref.alike(a, b) for b in of_class]) for a in of_class])
        torch.testing.assert_close(between_images(looks, most), expected, rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="2 images of every class"):
        between_images(looks[:1], 5)


def test_the_rows_of_the_last_layer_say_how_far_classes_are_apart():
    layer = torch.nn.Linear(3, 4)
    found = build("wkd/fc").prepare(torch.nn.Sequential(torch.nn.Linear(2, 3), layer), list)
    assert list(found) == ["wkd.fc"]
    expected = 1 - torch.nn.functional.cosine_similarity(layer.weight[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(found["wkd.fc"], expected.detach())
    with pytest.raises(UsageError, match=r"wkd\.cka100"):
        build("wkd").use(found)  # another distance than the cache was made for


@pytest.mark.parametrize(("epoch", "share"), [(1, 1), (5, 1), (6, (1 + math.cos(math.pi / 3)) / 2), (8, 0), (None, 1)])
def test_the_transport_of_wkd_fades_out(epoch, share):
    method, student, teacher = made("wkd"), draw(1), draw(2)
    full = method.terms(student, teacher, batch_of())
    got = method.terms(student, teacher, dataclasses.replace(batch_of(epoch=epoch), epochs=8))
    assert got["wkd.others"].item() == pytest.approx(share * full["wkd.others"].item())
    assert got["wkd.right"] == full["wkd.right"]


def test_what_the_teacher_prefers_to_the_label_is_left_out_of_rld():
    """Its favourite may be anything above the label: only the sum of the others' masses counts."""
    method, student = made("rld"), draw(1)
    teacher = torch.tensor([[9.0, 1, 2, 0, -1]]).double().expand(ROWS, -1)
    swapped = torch.tensor([[2.0, 1, 9, 0, -1]]).double().expand(ROWS, -1)
    both = [method.terms(student, {"logits": z}, batch_of(targets=[1] * ROWS)) for z in (teacher, swapped)]
    torch.testing.assert_close(both[0], both[1])
    last = method.terms(student, {"logits": teacher}, batch_of(targets=[4] * ROWS))
    assert last["rld.others"] == 0  # no class is below the label
