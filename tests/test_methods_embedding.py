"""The methods of embeddings against slow references, and at their edges."""

import copy

import pytest
import torch
from embedding_cases import ALL, EXPECTED, STUDENT, TEACHER, assert_same, batch_of, differing, draw, gradients, made
from reference_relation import cross_entropy

from kdcache.errors import UsageError
from kdcache.methods import build

F64 = torch.float64


def test_expected_names_every_method_and_variant():
    assert sorted(EXPECTED) == sorted(ALL)


@pytest.mark.parametrize(("dtype", "close"), [(F64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("text", ALL)
def test_terms_and_gradients_are_those_of_the_reference(text, dtype, close):
    slow, batch = made(text), batch_of()
    fast = copy.deepcopy(slow).to(dtype)
    student, teacher, mine = differing(draw(STUDENT, 1)), draw(TEACHER, 2), differing(draw(STUDENT, 1, dtype=dtype))
    want = {"ce": cross_entropy(student["logits"], batch.targets), **EXPECTED[text](slow, student, teacher)}
    got = fast.loss(mine, fast.project(draw(TEACHER, 2, dtype=dtype)), batch)
    assert_same(got, [*mine.values(), *fast.parameters()], want, [*student.values(), *slow.parameters()], close)


def test_equal_embeddings_are_compared_without_a_connector_and_others_with_one():
    assert not list(build("feat", STUDENT, STUDENT).parameters())
    assert build("feat", STUDENT, TEACHER).connector.weight.shape == (6, 4)


@pytest.mark.parametrize("shapes", [(STUDENT, TEACHER), (TEACHER, STUDENT)], ids=["wider", "narrower"])
def test_the_projection_of_vkd_stays_orthogonal_while_it_is_trained(shapes):
    method = made("vkd", *shapes)
    optimizer = torch.optim.SGD(method.parameters(), 0.5)
    before = method.connector.weight.detach().clone()
    for _ in range(3):
        look = draw(shapes[0], 1)
        optimizer.zero_grad()
        method.terms(look, draw(shapes[1], 2), batch_of())["vkd"].backward()
        optimizer.step()
    weight = method.connector.weight.detach()
    narrow = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
    torch.testing.assert_close(narrow, torch.eye(4, dtype=F64), rtol=0, atol=1e-6)  # it begins in f32
    assert (weight - before).norm() > 0.01


def test_pkt_of_a_network_with_itself_is_nothing_and_a_row_of_zeros_gets_no_gradient():
    method, look = made("pkt"), draw(STUDENT, 1)
    assert method.terms(look, look, batch_of())["pkt"].abs() < 1e-9
    look["emb"][1] = 0
    look = differing(look)
    method.terms(look, draw(STUDENT, 2), batch_of())["pkt"].backward()
    gradient = look["emb"].grad
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2, 3]] != 0).any(1).all()


@pytest.mark.parametrize("text", ["pkt", "cc", "srd"])
def test_one_row_alone_teaches_nothing(text):
    method, look = made(text), differing(draw(STUDENT, 1, 1))
    term = method.terms(look, draw(TEACHER, 2, 1), batch_of(1))[text]
    assert not gradients(term, [look["emb"]]).any() if term.requires_grad else True


@pytest.mark.parametrize("text", ["cc", "feat", "vkd", "srd"])
def test_a_connector_needs_both_widths(text):
    with pytest.raises(UsageError, match="the teacher's shape of emb"):
        build(text, STUDENT, {"logits": (5,)})
