"""Smoothed, one-hot and mixed targets: what the loss takes, and what a data set hands out, against torch's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli_cases import STUDENT, TEACHER, good, refused
from recipe_cases import write
from relation_cases import CLASSES, SHAPES, batch_of, draw

import kdcache
from kdcache.errors import UsageError
from kdcache.methods import build
from kdcache.recipe import Recipe
from kdcache.recipe.plan import Plan
from kdcache.runs import Run

EPSILONS = [0.0, 0.1, 0.7]
LABELS = [2, -1, 0, 4]


def smoothed(text: str, share: float):
    method = build(text, SHAPES, SHAPES)
    method.smooth(share)
    return method


@pytest.mark.parametrize("share", EPSILONS)
@pytest.mark.parametrize("text", ["none", "st:0.9:ce=0.4", "st+rkd:ce=2"])
def test_the_cross_entropy_of_any_method_is_smoothed_as_torch_does(text, share):
    look, batch = draw(1), batch_of(4, targets=LABELS)
    look = {tap: value[:4] for tap, value in look.items()}
    method = smoothed(text, share)
    found = method.loss(look, method.project(look), batch)
    wanted = F.cross_entropy(look["logits"], batch.targets, ignore_index=-1, label_smoothing=share)
    torch.testing.assert_close(found["ce"], method.ce * wanted, rtol=1e-12, atol=0)
    plain = smoothed(text, 0.0).loss(look, method.project(look), batch)
    assert all(torch.equal(found[term], plain[term]) for term in plain if term != "ce")


@pytest.mark.parametrize("share", EPSILONS)
def test_mixed_targets_are_smoothed_as_torch_does(share):
    logits, batch = draw(1)["logits"][:4], batch_of(4, targets=[2, 1, 0, 4])
    batch.others, batch.shares = torch.tensor([0, 1, 3, 2]), torch.tensor([0.25, 0.5, 0.875, 1.0])
    own, other = (F.one_hot(labels, CLASSES).double() for labels in (batch.targets, batch.others))
    target = batch.shares[:, None] * own + (1 - batch.shares[:, None]) * other
    wanted = F.cross_entropy(logits, target, label_smoothing=share)
    torch.testing.assert_close(
        smoothed("none", share).loss({"logits": logits}, {}, batch)["ce"], wanted, rtol=1e-7, atol=0
    )


def test_smoothing_is_told_and_refused_where_nothing_would_be_smoothed():
    assert smoothed("st", 0.1).described() == "0.1 ce (label_smoothing=0.1) + 0.9 st (T=4)"
    assert smoothed("st", 0.0).described() == "0.1 ce + 0.9 st (T=4)"
    with pytest.raises(UsageError, match=r"`label_smoothing`: expected a loss with cross-entropy, found 1 st"):
        smoothed("st:1:ce=0", 0.1)


# in a training


def test_a_student_is_trained_with_it(in_tmp):
    plain = "--data synthetic:64,4,16 --method none"
    said = good(f"{STUDENT} {plain} --label-smoothing 0.1 --out a")
    assert "loss: 1 ce (label_smoothing=0.1)" in said.err
    assert json.loads(Path("a/run.json").read_text())["label_smoothing"] == 0.1
    refused(f"{STUDENT} {plain} --out a --resume", 2, "label_smoothing")
    refused(f"{STUDENT} {plain} --label-smoothing 1", 2, "--label-smoothing")
    refused(f"{STUDENT} {plain}:ce=0 --label-smoothing 0.1", 2, "a loss with cross-entropy")
    distiller = kdcache.Distiller("tiny-2", method="none", data="synthetic:64,4,16", device="cpu", label_smoothing=0.1)
    distiller.compile(batch=16).fit(1, verbose=0)
    assert distiller.history[0]["loss"] == records("a")[0]["loss"]
    good(f"{STUDENT} {plain} --out b")
    assert records("b")[0]["loss"] != records("a")[0]["loss"]


def records(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_before_goes_on_without_it(tmp_path):
    """Its facts say nothing of an option that was not there yet, nor of what is None."""
    (tmp_path / "run.json").write_text('{"kind": "student", "settings": {"epochs": 3}, "gone": 1}')
    (tmp_path / "state.safetensors").touch()
    facts = {"kind": "student", "settings": {"epochs": 3}, "label_smoothing": None}
    assert Run(tmp_path, facts, resume=True).goes_on()
    with pytest.raises(UsageError, match="label_smoothing"):
        Run(tmp_path, facts | {"label_smoothing": 0.1}, resume=True)


def test_a_recipe_has_it_for_each_student(in_tmp):
    students = Plan(Recipe.load(write('name = "plain"', 'name = "plain"\nlabel_smoothing = [0, 0.1]')), "runs").students
    plain = [student for student in students if student.method == "none"]
    assert [student.smoothing for student in plain] == [0, 0, 0.1, 0.1]
    before = Plan(Recipe.load(write()), "runs").students
    assert before[0].folder.name.split("-")[-1] == plain[0].folder.name.split("-")[-1]
    assert len({student.folder for student in plain}) == 4


def test_a_teacher_that_mixes_learns_the_shares(in_tmp):
    good(f"{TEACHER} --augment crop-flip+mixup --label-smoothing 0.1 --out a")
    assert json.loads(Path("a/run.json").read_text())["view"]["mixup"] == 1


# in a data set


@pytest.mark.parametrize("share", EPSILONS)
def test_a_data_set_hands_out_the_targets_that_torch_means(cache_file, share):
    plain = kdcache.CachedDataset(cache_file)
    soft = kdcache.CachedDataset(cache_file, one_hot=True, label_smoothing=share)
    rows = range(0, 60, 3)
    labels = torch.tensor([label for _, label, _ in plain.__getitems__(rows)])
    targets = torch.stack([target for _, target, _ in soft.__getitems__(rows)])
    assert targets.dtype == torch.float32
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    wanted = F.cross_entropy(logits, labels, label_smoothing=share)
    torch.testing.assert_close(F.cross_entropy(logits, targets), wanted)
    assert torch.equal(targets.argmax(1), labels)
    assert isinstance(plain[0][1], int)


def test_smoothing_alone_makes_targets_and_what_has_no_label_has_zeros(cache_file):
    data = kdcache.CachedDataset(cache_file, label_smoothing=0.2)
    assert data[0][1].tolist() == pytest.approx([0.82 if c == data.cache.labels[0] else 0.02 for c in range(10)])
    data.loader.targets = torch.full_like(data.loader.targets, -1)
    assert not data[0][1].any()
    with pytest.raises(UsageError, match="`label_smoothing`"):
        kdcache.CachedDataset(cache_file, label_smoothing=1)


def test_mixed_images_have_smoothed_shares(dump, tmp_path):
    data = kdcache.jobs.Data.open("synthetic:1300,10,8", "crop-flip+mixup")
    path = dump(tmp_path / "mixed.h5", data=data, views=1)
    plain, soft = (kdcache.CachedDataset(path, label_smoothing=share) for share in (0.0, 0.1))
    for row in (0, 7):
        np.testing.assert_allclose(soft[row][1], 0.9 * plain[row][1] + 0.01, atol=1e-6)
