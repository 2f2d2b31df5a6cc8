"""Methods of the last layer and the map before it, against slow references and at their edges."""

import copy

import pytest
import reference_maps as ref
import torch
from embedding_cases import CLASSES, assert_same, batch_of, differing, draw, made
from reference_relation import cross_entropy
from torch import nn

from kdcache.errors import UsageError
from kdcache.methods import METHODS, build


def stages(width, *sizes):
    grids = {f"f{i}": (width, *size) for i, size in enumerate(sizes, 1)}
    return {f"{stage}.{version}": shape for version in ("post", "pre") for stage, shape in grids.items()}


STUDENT = {"logits": (CLASSES,), "emb": (3,), **stages(3, (6, 6), (4, 4), (7, 5)), "cam": (CLASSES, 7, 5)}
TEACHER = {"logits": (CLASSES,), "emb": (4,), **stages(4, (6, 6), (2, 2), (6, 6)), "cam": (CLASSES, 6, 6)}


def cat(weight, grid, unit=False):
    return lambda m, s, t, y: {"cat": weight * ref.cat(s["cam"], t["cam"], grid, unit)}


def sdd(scales=(1, 2, 4), weight=1, dkd=(1, 8)):
    def terms(m, s, t, y):
        mine, theirs = ((side["cam"], side["logits"]) for side in (s, t))
        return {"sdd": weight * ref.sdd(mine, theirs, y, scales, 4, dkd)}

    return terms


def srrl(beta):
    def terms(m, s, t, y):
        own, logits = ref.srrl(m.connector, m.layer, s["f3.post"], t["emb"])
        return {"srrl": own, "srrl.logits": beta * logits}

    return terms


def review(weight, version="post"):
    def terms(m, s, t, y):
        mine, theirs = (
            [*(side[f"f{i}.{name}"] for i in (1, 2, 3)), side["emb"][:, :, None, None]]
            for side, name in ((s, version), (t, "pre"))
        )
        return {"reviewkd": weight * ref.reviewed(m, mine, theirs)}

    return terms


EXPECTED = {
    "cat": cat(0.7, 2),
    "cat/unit": cat(15, 2, unit=True),
    "cat/imagenet": cat(0.5, 4),
    "cat/only": cat(0.7, 2),
    "sdd": sdd(),
    "sdd/quadrants": sdd((1, 2)),
    "sdd/st": sdd(weight=0.9, dkd=None),
    "srrl": srrl(1),
    "srrl/cifar": srrl(5),
    "reviewkd": review(0.6),
    "reviewkd/wide": review(5),
    "reviewkd/imagenet": review(1, "pre"),
}


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)
        self.fc.weight.data = draw({"w": (4,)}, 5, CLASSES, torch.float32)["w"]


def taught(text, student=STUDENT, teacher=TEACHER):
    method = made(text, student, teacher)
    method.use(method.prepare(Teacher(), lambda: []))
    return method.double()


def test_expected_names_every_method_and_variant():
    names = ["cat", "sdd", "srrl", "reviewkd"]
    texts = [name + v for name in names for v in ("", *(f"/{variant}" for variant in METHODS[name].variants))]
    assert sorted(EXPECTED) == sorted(texts)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("text", EXPECTED)
def test_terms_and_gradients_are_those_of_the_reference(text, dtype, close):
    slow, batch = taught(text), batch_of()
    batch.targets[2] = -1
    fast = copy.deepcopy(slow).to(dtype)
    student, teacher, mine = differing(draw(STUDENT, 1)), draw(TEACHER, 2), differing(draw(STUDENT, 1, dtype=dtype))
    want = EXPECTED[text](slow, student, teacher, batch.targets)
    if slow.ce:
        want = {"ce": slow.ce * cross_entropy(student["logits"], batch.targets), **want}
    got = fast.loss(mine, fast.project(draw(TEACHER, 2, dtype=dtype)), batch)
    assert_same(got, [*mine.values(), *fast.parameters()], want, [*student.values(), *slow.parameters()], close)


def test_a_region_that_decides_otherwise_than_the_whole_counts_twice():
    """Four quadrants say class 0, 1, 1, 1 and the whole says 1, where the label is 0."""
    method, look = build("sdd/st:grid=2:T=1:weight=1", STUDENT, TEACHER), {"logits": torch.zeros(1, CLASSES)}
    look["cam"] = torch.zeros(1, CLASSES, 4, 4)
    theirs = {"cam": look["cam"].clone(), "logits": look["logits"].clone()}
    theirs["cam"][:, 1], theirs["cam"][:, 0, :2, :2] = 1, 2
    theirs["logits"] = theirs["cam"].mean((2, 3))
    knowledge, batch = method.project(theirs), batch_of(1)
    alone = [divergence(knowledge["sdd.regions-2"][0, :, region]) for region in range(5)]
    want = (alone[0] + 2 * alone[1] + sum(alone[2:])) / 5
    assert method.terms(look, knowledge, batch)["sdd"].item() == pytest.approx(want.item(), rel=1e-5)


def divergence(logits):
    """From the uniform distribution."""
    p = logits.softmax(0)
    return (p * (p * CLASSES).log()).sum()


def test_the_whole_is_the_networks_own_logits_where_four_divide_the_map():
    look = {"cam": torch.randn(2, CLASSES, 8, 8), "logits": torch.randn(2, CLASSES)}
    regions = METHODS["sdd"]().project(look)["sdd.regions-4"]
    torch.testing.assert_close(regions[:, :, 0], look["logits"])
    torch.testing.assert_close(regions[:, :, 5:].mean(2), look["logits"])


@pytest.mark.parametrize("text", ["sdd:grid=3", "cat:grid=0", "sdd:of=at"])
def test_options_that_mean_nothing_are_refused(text):
    with pytest.raises(UsageError, match="method option"):
        build(text, STUDENT, TEACHER)


def test_srrl_refuses_a_last_layer_that_does_not_read_the_embedding():
    method = build("srrl", STUDENT, TEACHER | {"emb": (6,)})
    with pytest.raises(UsageError, match="reads its embedding of 6"):
        method.use(method.prepare(Teacher(), lambda: []))


def test_the_first_epochs_of_reviewkd_ramp_up():
    method, look = taught("reviewkd"), draw(STUDENT, 1)
    knowledge = method.project(draw(TEACHER, 2))
    found = [method.terms(look, knowledge, batch_of(epoch=epoch))["reviewkd"].item() for epoch in (1, 10, 20, 40)]
    assert found == pytest.approx([found[2] / 20, found[2] / 2, found[2], found[2]], rel=1e-9)


def test_what_is_too_large_to_keep_is_refused_with_its_bytes():
    method = build("st+reviewkd", STUDENT, TEACHER)
    numbers = CLASSES + 4 * (36 + 4 + 36 + 1)
    with pytest.raises(UsageError, match=f"{2 * numbers} bytes of every sample-view"):
        method.require_cacheable(TEACHER, "st+reviewkd")
    build("st+wkdf", STUDENT, TEACHER).require_cacheable(TEACHER, "st+wkdf")
