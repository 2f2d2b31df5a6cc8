"""Rows that no teacher has answered are learnt from their labels alone, the others as ever: for every method."""

import dataclasses

import numpy as np
import pytest
import torch
from test_methods import ALL, SHAPES, batch_of, draw, made, shown, stages_of, taught

from kdcache.methods import METHODS, build
from kdcache.train import ONE_PROCESS
from kdcache.train.cut import Cut

ROWS = 8
F64 = torch.float64
ASKING = [text for text in ALL if build(text, SHAPES, SHAPES).taps]
every_asking_method = pytest.mark.parametrize(
    "text", [text if text in METHODS else pytest.param(text, marks=pytest.mark.slow) for text in ASKING]
)


def situation(text, known):
    """A method, what its student shows and the teacher says in f64, and a batch with answers to some rows."""
    method = made(text).to(F64)
    look = shown(method, draw(1, ROWS, F64))
    knowledge = {k: v for k, v in taught(method, draw(2, ROWS, F64)).items() if k != "peers" or method.students > 1}
    known = np.tile(np.array(known, dtype=bool), method.views)
    return method, look, knowledge, dataclasses.replace(batch_of(ROWS), known=np.resize(known, ROWS))


def pick(side, rows):
    return {name: value[rows] for name, value in side.items()}


def with_gradients(terms, look):
    total = sum(terms.values())
    found = torch.autograd.grad(total, list(look.values()), allow_unused=True)
    return [
        total,
        *(torch.zeros_like(at) if one is None else one for one, at in zip(found, look.values(), strict=True)),
    ]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@every_asking_method
def test_without_any_answer_it_is_the_plain_loss(text):
    """One row with an answer is none: batch norm has no statistics of it."""
    for known in ([False] * 4, [True, False, False, False] * (made(text).views == 1) + [False] * 4):
        method, look, knowledge, batch = situation(text, known[:4])
        batch.known[4:] = False
        plain = METHODS["none"]().loss({"logits": look["logits"]}, {}, batch)
        found = method.loss(look, knowledge, batch)
        assert found.keys() == plain.keys()
        for one, other in zip(with_gradients(found, look), with_gradients(plain, look), strict=True):
            assert torch.equal(one, other)


@every_asking_method
def test_with_all_answers_it_is_the_loss(text):
    method, look, knowledge, batch = situation(text, [True] * 4)
    for stage in stages_of(method):
        found = method.loss(look, knowledge, batch, stage)
        again = made(text).to(F64).loss(look, knowledge, dataclasses.replace(batch, known=None), stage)
        assert found.keys() == again.keys()
        assert all(torch.equal(found[name], again[name]) for name in found)


@every_asking_method
def test_with_some_answers_each_row_has_the_weight_of_one(text):
    method, look, knowledge, batch = situation(text, [True, False, True, True])
    known = np.flatnonzero(batch.known)
    rest = np.flatnonzero(~batch.known)
    for stage in stages_of(method):
        found = with_gradients(method.loss(look, knowledge, batch, stage), look)
        part = dataclasses.replace(batch.part(known), known=None)
        answered = made(text).to(F64).loss(pick(look, known), pick(knowledge, known), part, stage)
        total = len(known) / ROWS * sum(answered.values())
        if stage == "main":
            plain = torch.nn.functional.cross_entropy(look["logits"][rest], batch.targets[rest])
            total = total + len(rest) / ROWS * plain
        assert_close(found, with_gradients({"all": total}, look))


@every_asking_method
def test_what_is_said_of_rows_without_answers_does_not_matter(text):
    method, look, knowledge, batch = situation(text, [True, False, True, True])
    other = {name: value.clone() for name, value in knowledge.items()}
    for name, value in other.items():
        if name != "peers":
            value[~batch.known] = torch.nan
    for stage in stages_of(method):
        found, again = (made(text).to(F64).loss(look, said, batch, stage) for said in (knowledge, other))
        assert_close(with_gradients(found, look), with_gradients(again, look))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5, 0, 1], [0, -1, 2, -1, -1, 5, 0, 1], [-1] * 8])
@pytest.mark.parametrize("count", [1, 2])
def test_parts_of_a_batch_sum_up_to_it(labels, count):
    method, look, knowledge, batch = situation("st", [True, False, False, True])
    batch = dataclasses.replace(batch, targets=torch.tensor(labels), known=np.array([1, 1, 0, 0, 0, 1, 0, 1], bool))
    total = torch.zeros((), dtype=F64)
    cut = Cut(ONE_PROCESS, batch.items, 1, count)
    whole = cut.counted(batch, bool((batch.targets < 0).any()))
    for part, knows in (cut.part(whole, knowledge, number) for number in range(cut.count)):
        total = total + len(part) / ROWS * sum(method.loss(pick(look, part.items), knows, part).values())
    rows = np.flatnonzero(batch.known)
    labelled = max(1, int((batch.targets >= 0).sum()))
    each = torch.nn.functional.cross_entropy(look["logits"], batch.targets, ignore_index=-1, reduction="none")
    weight = torch.where(torch.from_numpy(batch.known), method.ce, 1.0)
    bare = dataclasses.replace(batch.part(rows), known=None)
    distilled = method.loss(pick(look, rows), pick(knowledge, rows), bare)["st"] * (len(rows) / ROWS)
    assert torch.allclose(total, (weight * each).sum() / labelled + distilled, rtol=1e-10)


def test_methods_that_ask_no_teacher_do_not_care():
    for text in set(ALL) - set(ASKING):
        method = made(text)
        if method.students == 1:
            look = shown(method, draw(1, ROWS))
            batch = batch_of(ROWS)
            masked = dataclasses.replace(batch, known=np.zeros(ROWS, bool))
            assert method.loss(look, {}, batch) == made(text).loss(look, {}, masked)
