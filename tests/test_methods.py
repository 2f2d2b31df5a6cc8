"""What holds for every method in the table, and so for the next one from its birth."""

import copy
import functools
import inspect

import pytest
import torch
from torch import nn

from kdcache.errors import UsageError
from kdcache.methods import METHODS, Method, build
from kdcache.types import Batch

CLASSES, ROWS = 6, 4
STAGES = {"f0": (4, 8, 8), "f1": (4, 8, 8), "f2": (6, 4, 4), "f3": (8, 2, 2)}
MAPS = {f"{stage}.{version}": shape for stage, shape in STAGES.items() for version in ("raw", "pre", "post")}
SHAPES = {"logits": (CLASSES,), "logits.dist": (CLASSES,), "emb": (8,), **MAPS, "cam": (CLASSES, 2, 2)}
ALL = [name + v for name, method in METHODS.items() for v in ("", *(f"/{variant}" for variant in method.variants))]
every_method = pytest.mark.parametrize("text", ALL)


class Teacher(nn.Module):
    """Enough of a network for `prepare`."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(8, CLASSES)
        self.classifier.weight.data = draw(9, CLASSES)["emb"]

    def bn_before_relu(self, tap):
        return nn.BatchNorm2d(MAPS[tap][0])


def draw(seed, n=ROWS, dtype=torch.float32):
    """What a ResNet might show: `raw` is `post`, which is the ReLU of `pre`."""
    generator = torch.Generator().manual_seed(seed)
    look = {name: torch.randn(n, *shape, generator=generator) for name, shape in SHAPES.items()}
    for stage in STAGES:
        look[f"{stage}.post"] = look[f"{stage}.raw"] = look[f"{stage}.pre"].relu()
    return {name: value.to(dtype) for name, value in look.items()}


def passed():
    """One pass over images, with their labels."""
    return [{**draw(seed, 2 * CLASSES), "targets": torch.arange(2 * CLASSES) % CLASSES} for seed in (7, 8)]


def batch_of(n=ROWS, epoch=None):
    rows = torch.arange(n)
    return Batch(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), rows % CLASSES, rows.numpy(), n, epoch)


def made(text):
    return copy.deepcopy(made_once(text))


@functools.cache
def made_once(text):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        method = build(text, SHAPES, SHAPES)
    if hasattr(method, "passes"):
        method.passes = 1
    method.use(method.prepare(Teacher(), passed))
    method.meet(torch.arange(8) % CLASSES)
    return method


def taught(method, look):
    return {**method.project({tap: look[tap] for tap in method.taps}), "peers": look["logits"][:, None]}


def stages_of(method):
    return ["init", "main"] if method.init_share else ["main"]


def shown(method, look):
    """Only what the method says it looks at, ready for a gradient."""
    second = ("logits.dist",) if method.two_heads else ()
    wanted = ("logits", *method.taps, *method.student_taps, *second)
    return {name: look[name].clone().requires_grad_() for name in dict.fromkeys(wanted)}


@pytest.mark.parametrize("name", METHODS)
def test_a_leaf_says_what_it_is(name):
    method = METHODS[name]
    assert issubclass(method, Method)
    assert method.__bases__ == (Method,)
    assert method.paper
    assert method.__doc__
    options = [p for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert "ce" in [p.name for p in options]
    assert name == "none" or "weight" in [p.name for p in options]


@every_method
def test_loss_is_named_terms_that_sum_to_a_scalar_with_a_gradient(text):
    method = made(text)
    assert set(method.taps) <= set(SHAPES)
    projected = method.project(draw(2))
    assert method.stores(SHAPES) == {name: tuple(value.shape[1:]) for name, value in projected.items()}
    for stage in stages_of(method):
        look = shown(method, draw(1))
        terms = method.loss(look, taught(method, draw(2)), batch_of(epoch=30), stage)
        assert ("ce" in terms) == (stage == "main" and method.ce > 0)
        assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
        assert method.clips_to_ce == bool(method.clipped)
        assert method.clipped <= set(terms)
        sum(terms.values()).backward()
        assert any(value.grad is not None and value.grad.norm() > 0 for value in look.values())


@every_method
def test_a_loss_depends_on_the_stored_knowledge_alone(text):
    method, look, stored = made(text), draw(1), taught(made(text), draw(2))
    for stage in stages_of(method):
        live = method.loss(look, taught(method, draw(2)), batch_of(), stage)
        cached = method.loss(look, copy.deepcopy(stored), batch_of(), stage)
        assert {k: v.item() for k, v in live.items()} == {k: v.item() for k, v in cached.items()}


@every_method
def test_half_inputs_are_raised_to_f32_with_autocast_off(text):
    method = made(text)
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = draw(1, dtype=dtype), draw(2, dtype=dtype)
        full = [{k: v.float() for k, v in look.items()} for look in (student, teacher)]
        for stage in stages_of(method):
            want = method.loss(full[0], taught(method, full[1]), batch_of(), stage)
            with torch.autocast("cpu", torch.bfloat16):
                knowledge = taught(method, teacher)
                got = [method.loss(look, knowledge, batch_of(), stage) for look in (student, full[0])]
            assert all(term.dtype == torch.float32 for term in got[0].values())
            torch.testing.assert_close(got, [want, want], rtol=1e-5, atol=1e-6)


@every_method
def test_constants_carry_the_name_of_their_method(text):
    method = build(text, SHAPES, SHAPES)
    if hasattr(method, "passes"):
        method.passes = 1
    constants = method.prepare(Teacher(), passed)
    assert all(name.startswith(text.partition("/")[0] + ".") for name in constants)
    assert all(not value.requires_grad for value in constants.values())


def same_rows():
    return [{k: v[:1].expand_as(v) for k, v in draw(seed).items()} for seed in (1, 2)]


def same_pixels():
    """Constant images: every map is flat."""
    return [{k: v[..., :1, :1].expand_as(v) if k in MAPS else v for k, v in draw(seed).items()} for seed in (1, 2)]


def zeros():
    return [{k: torch.zeros_like(v) for k, v in draw(1).items()}, draw(2)]


def taught_zeros():
    return zeros()[::-1]


def saturated():
    return [{k: v if k in MAPS else 1e4 * v.sign() for k, v in draw(seed).items()} for seed in (1, 2)]


def huge():
    return [{k: 1e3 * v for k, v in draw(seed).items()} for seed in (1, 2)]


def dead_row():
    """One image shows nothing, to either network."""
    looks = [draw(seed) for seed in (1, 2)]
    for look in looks:
        for value in look.values():
            value[0] = 0
    return looks


def partly_equal():
    """The student's rows coincide where the teacher's do not."""
    return [{k: v[[0, 0, 1, 2]] for k, v in draw(1).items()}, draw(2)]


def single():
    return [draw(1, 1), draw(2, 1)]


AWKWARD = [same_rows, same_pixels, zeros, taught_zeros, saturated, huge, dead_row, partly_equal, single]


PRECISIONS = [*((text, torch.float32) for text in ALL), *((name, torch.float64) for name in METHODS)]


@pytest.mark.parametrize(("text", "dtype"), PRECISIONS, ids=str)
def test_awkward_inputs_give_finite_values_and_gradients(text, dtype):
    for inputs in AWKWARD:  # in one test: to begin and report one takes longer than all of them
        method = made(text).to(dtype)
        student, teacher = ({k: v.to(dtype) for k, v in look.items()} for look in inputs())
        for stage in stages_of(method):
            look = shown(method, student)
            try:
                terms = method.loss(look, taught(method, teacher), batch_of(len(look["logits"])), stage)
            except UsageError:
                assert inputs is single, inputs  # a method may refuse a batch of one, with its reason
                continue
            for name, term in terms.items():
                assert torch.isfinite(term), (inputs, name)
                inputs_of = [*look.values(), *method.parameters()]
                for gradient in torch.autograd.grad(term, inputs_of, retain_graph=True, allow_unused=True):
                    assert gradient is None or torch.isfinite(gradient).all(), (inputs, name)


@every_method
def test_what_is_left_without_labels(text):
    """Something, unless the method says that it needs them."""
    method, look = made(text), shown(made(text), draw(1))
    batch = batch_of()
    batch.targets = torch.full((ROWS,), -1)
    terms = [
        value
        for stage in stages_of(method)
        for value in method.loss(look, taught(method, draw(2)), batch, stage).values()
    ]
    assert method.needs_labels == (not any(bool(value) for value in terms))


def losses_of(method, stage, rows, whole):
    """The terms of rows of one batch, in f64; two of the eight have no label."""
    labels = torch.tensor([0, 1, -1, 3, 4, 5, 0, -1])
    batch = Batch(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), labels, torch.arange(8).numpy(), 8, 3, epochs=30)
    batch.whole = whole
    part = [
        {name: value[rows] for name, value in side.items()}
        for side in (draw(1, 8, torch.float64), taught(method, draw(2, 8, torch.float64)))
    ]
    return method.loss(*part, batch.part(rows), stage)


@every_method
def test_a_loss_says_whether_it_is_the_mean_of_those_of_its_parts(text):
    """By their rows, labelled or not. Batch statistics of connectors are left out: those of evaluation are taken."""
    method = made(text).double().eval()
    parts = (slice(0, 3), slice(3, 4), slice(4, 8)) if method.views == 1 else (slice(0, 2), slice(2, 4), slice(4, 8))
    equal = []
    for stage in stages_of(method):
        expected = losses_of(method, stage, slice(0, 8), None)
        found = dict.fromkeys(expected, 0.0)
        for rows in parts:
            for name, value in losses_of(method, stage, rows, (torch.tensor(6), 8)).items():
                found[name] = found[name] + (rows.stop - rows.start) / 8 * value
        equal += [torch.allclose(found[name], value, rtol=1e-5, atol=1e-9) for name, value in expected.items()]
    assert all(equal) is not method.batch_matters


@every_method
def test_a_method_says_whether_it_remembers_rows(text):
    """Processes that train together show it all of them."""
    method = made(text)
    assert method.remembers is (type(method).stepped is not Method.stepped)


@pytest.mark.parametrize("text", ["fitnet:tap=emb", "ft:tap=emb", "wkd/f:tap=emb", "srrl:tap=emb", "uskd:tap=emb"])
def test_a_vector_where_a_map_is_wanted_is_refused(text):
    shapes = {"emb": (64,), "logits": (10,), "f2.raw": (32, 8, 8), "f3.raw": (64, 4, 4)}
    with pytest.raises(UsageError, match=r"name a stage, such as f2\.raw"):
        build(text, shapes, shapes)
