"""Looks that are only random tensors, and every method of embeddings with its terms as the formulas have them."""

import pytest
import reference_embedding as ref
import torch

from kdcache.methods import METHODS, build
from kdcache.types import Batch

CLASSES, ROWS = 5, 4
STUDENT = {"logits": (CLASSES,), "emb": (4,)}
TEACHER = {"logits": (CLASSES,), "emb": (6,)}
LABELS = [0, 1, 2, 3, 0, 1, -1, 0]  # of all rows of the data
MINE = ["pkt", "cc", "feat", "vkd", "srd", "crd", "queue"]
ALL = [m + v for m in MINE for v in ("", *(f"/{variant}" for variant in METHODS[m].variants))]


def draw(shapes, seed, n=ROWS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    look = {k: torch.randn(n, *s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}
    return {k: v.to(dtype) for k, v in look.items()}


def batch_of(n=ROWS, epoch=None):
    rows = torch.arange(n)
    return Batch(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), rows % CLASSES, rows.numpy(), 8, epoch)


def made(text, student=STUDENT, teacher=TEACHER):
    """A method in f64, whose connectors differ from fresh ones: their biases, too, have some part in it."""
    method = build(text, student, teacher).double()
    if hasattr(method, "negatives"):
        method.negatives = 6  # the reference goes through them one by one
    method.meet(torch.tensor(LABELS))
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, value in method.named_parameters():
            if name.endswith("bias"):
                value.copy_(torch.randn(value.shape, generator=generator))
    return method


def gradients(term, inputs):
    """Of one term, over all that is trained."""
    parts = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
    zeros = [torch.zeros_like(x) if part is None else part for x, part in zip(inputs, parts, strict=True)]
    return torch.cat([part.double().flatten() for part in zeros])


def assert_same(got, trained, want, expected, close):
    """Terms by name, and the gradient of each over all that is trained, are those of the reference."""
    assert list(got) == list(want)
    for name in want:
        assert got[name].item() == pytest.approx(want[name].item(), rel=close)
        right = gradients(want[name], expected)
        assert (gradients(got[name], trained) - right).norm() <= close * right.norm(), name


def differing(look):
    return {name: value.clone().requires_grad_() for name, value in look.items()}


def crd(m, s, t):
    chosen = [[own, *others] for own, others in enumerate(m.drawn(batch_of()).tolist())]
    return {"crd": 0.8 * ref.crd(m.mine, m.theirs, m.mine_kept, m.theirs_kept, s["emb"], t["emb"], chosen)}


EXPECTED = {  # text: terms beside cross-entropy of weight 1, of (method, student's look, teacher's look)
    "pkt": lambda m, s, t: {"pkt": 30000 * ref.pkt(s["emb"], t["emb"])},
    "cc": lambda m, s, t: {"cc": 0.02 * ref.cc(m.mine, m.theirs, s["emb"], t["emb"])},
    "feat": lambda m, s, t: {"feat": ref.squares(ref.linear(m.connector, s["emb"]), t["emb"])},
    "vkd": lambda m, s, t: {"vkd": ref.vkd(m.connector.weight, s["emb"], t["emb"])},
    "crd": crd,
    "crd/nolabel": crd,
    "queue": lambda m, s, t: {"queue": ref.queue(m.connector, s["emb"], t["emb"], m.kept)},
    "srd": lambda m, s, t: {
        "srd": ref.srd(m.connector, s["emb"], t["emb"]),
        "srd.kd": ref.soft_targets(s["logits"], t["logits"]),
    },
}
