"""WKD of features against a slow reference, and at its edges."""

import copy

import pytest
import reference_embedding as ref
import torch
from embedding_cases import CLASSES, batch_of, draw

from kdcache.methods import build
from kdcache.methods.gaussian import gaussians, windows

TAPS = ("f3.post", "f3.raw")
STUDENT = {"logits": (CLASSES,), **dict.fromkeys(TAPS, (3, 7, 5))}
TEACHER = {"logits": (CLASSES,), **dict.fromkeys(TAPS, (4, 6, 6))}
CASES = {
    "wkd/f": (0.08, 1, 4),
    "wkd/f:grid=3": (0.08, 3, 4),
    "wkd/f/wrn:grid=2": (0.3, 2, 3),
    "wkd/f/imagenet:grid=2": (0.02, 2, 2),
}


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("text", CASES)
def test_the_term_and_its_gradients_are_those_of_the_reference(text, dtype, close):
    weight, grid, ratio = CASES[text]
    slow = build(text, STUDENT, TEACHER).double()
    fast, tap = copy.deepcopy(slow).to(dtype), slow.taps[0]
    student, teacher = draw(STUDENT, 1), draw(TEACHER, 2)
    mine = student[tap].clone().requires_grad_(), student[tap].to(dtype).requires_grad_()
    want = weight * ref.wkdf(slow.projector(mine[0]), teacher[tap], grid, ratio)
    knowledge = fast.project({tap: teacher[tap].to(dtype)})
    if dtype == torch.float64:  # what is cached is of f32
        pairs = ref.gaussians(teacher[tap], grid)
        shape = (len(teacher[tap]), 4, grid, grid)
        exact = [torch.stack([pair[i] for pair in pairs]).reshape(shape) for i in range(2)]
        for name, values in zip(slow.names, exact, strict=True):
            torch.testing.assert_close(knowledge[name].double(), values, rtol=1e-5, atol=1e-5)
        knowledge = dict(zip(slow.names, exact, strict=True))
    got = fast.terms({tap: mine[1]}, knowledge, batch_of())["wkdf"]
    assert got.item() == pytest.approx(want.item(), rel=close)
    for term, inputs in ((want, [mine[0], *slow.parameters()]), (got, [mine[1], *fast.parameters()])):
        term.backward(inputs=inputs)
    expected, found = (
        torch.cat([x.grad.double().flatten() for x in (one, *method.parameters())])
        for one, method in zip(mine, (slow, fast), strict=True)
    )
    assert (found - expected).norm() <= close * expected.norm()


@pytest.mark.parametrize(("side", "grid"), [(7, 4), (8, 4), (5, 2), (6, 1), (14, 4)])
def test_cells_are_those_of_adaptive_pooling(side, grid):
    line = torch.randn(1, 1, side, dtype=torch.float64)
    want = torch.nn.functional.adaptive_avg_pool1d(line, grid)[0, 0]
    torch.testing.assert_close(torch.stack([line[0, 0, part].mean() for part in windows(side, grid)]), want)


def test_a_cell_of_one_pixel_is_that_pixel_and_deviates_by_nothing():
    maps = torch.randn(2, 4, 4, 4)
    means, deviations = gaussians(maps, 4)
    torch.testing.assert_close(means, maps)
    torch.testing.assert_close(deviations, torch.full_like(maps, 1e-5**0.5))


def test_its_weight_falls_to_nothing_in_the_last_epoch():
    method, look = build("wkd/f", STUDENT, STUDENT).double(), draw(STUDENT, 1)
    knowledge, found = method.project(draw(STUDENT, 2)), []
    for epoch in (1, 150, 195, 240):
        batch = batch_of(epoch=epoch)
        batch.epochs = 240
        found.append(method.terms(look, knowledge, batch)["wkdf"].item())
    assert found == pytest.approx([found[0], found[0], found[0] / 2, 0], abs=1e-12)
