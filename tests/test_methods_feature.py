"""The methods that read feature maps: exact values, knowledge row by row, awkward inputs, shapes that do not fit."""

import pytest
import reference_feature as ref
import torch
from feature_cases import (
    AB,
    AT,
    CASES,
    CO,
    EVERY,
    FSP,
    FT,
    LARGE,
    NST,
    PLAIN,
    SP,
    VID,
    WIDE,
    Case,
    FitNet,
    assert_close,
    batch_of,
    flows,
    frozen,
    gradients,
    look,
    nothing,
    run,
    shapes,
)
from torch import nn

from kdcache.errors import UsageError
from kdcache.methods.factor import paraphraser


@EVERY
@pytest.mark.parametrize("n", [2, 5])
def test_terms_and_gradients_are_those_of_the_formula(case, n):
    method = case.build()
    student, teacher = case.looks(n)
    terms, grads = run(case, method, student, teacher)
    expected = case.reference(method, student, teacher)
    assert terms.keys() == expected.keys()
    assert_close(list(terms.values()), list(expected.values()), 1e-9)
    assert_close(grads, gradients(expected, student, method), 1e-9)

    single = {name: value.detach().float().requires_grad_() for name, value in student.items()}
    rough, rough_grads = run(case, method.float(), single, {name: value.float() for name, value in teacher.items()})
    assert_close(list(rough.values()), [value.detach() for value in expected.values()], 1e-4)
    assert_close(rough_grads, grads, 1e-4)


@EVERY
def test_cross_entropy_belongs_to_the_main_stage(case):
    method = case.build()
    student, teacher = case.looks(3)
    loss = method.loss(student, method.project(teacher), batch_of(3), case.stage)
    weight = 0.0 if case.stage == "init" or (case.method is AB and not case.variant) else 1.0
    assert ("ce" in loss) == bool(weight)
    if weight:
        plain = nn.functional.cross_entropy(student["logits"], batch_of(3).targets)
        torch.testing.assert_close(loss["ce"], plain)
    assert (method.init_share > 0) == (case.method in (AB, FSP) or (case.variant == "paper" and case.method is FitNet))


FLOWS = ("fsp.f0f1", "fsp.f1f2", "fsp.f2f3")
EXPECTED_KNOWLEDGE = {
    "at": lambda m, t: {f"at.{f}": ref.attention(t[f"{f}.raw"]) for f in ("f1", "f2", "f3")},
    "at grid": lambda m, t: {f"at.{f}@2x2": ref.attention(ref.pool(t[f"{f}.raw"], (2, 2))) for f in ("f1", "f2", "f3")},
    "at post": lambda m, t: {f"at.{f}.post": ref.attention(t[f"{f}.post"]) for f in ("f1", "f2", "f3")},
    "fitnet": lambda m, t: {"f2.raw": t["f2.raw"]},
    "fitnet zoo": lambda m, t: {"f3.post": t["f3.post"]},
    "fitnet paper": lambda m, t: {"f2.raw": t["f2.raw"], "logits": t["logits"]},
    "vid": lambda m, t: {f"{f}.raw": t[f"{f}.raw"] for f in ("f1", "f2", "f3")},
    "ft": lambda m, t: {"ft.factor": ref.factor(ref.encoder(t["f3.post"], frozen(m)))},
    "ft wide": lambda m, t: {"ft.factor@k0.25": ref.factor(ref.encoder(t["f3.post"], frozen(m)))},
    "ft zoo": lambda m, t: {"ft.factor@mse-passes1": ref.factor(ref.encoder(t["f3.post"], frozen(m)))},
    "ft rep": lambda m, t: {"ft.map@f3.raw-mse-passes1": ref.attention(ref.encoder(t["f3.raw"], frozen(m)))},
    "ab": lambda m, t: {f"ab.{f}": (t[f"{f}.pre"] > 0) * 1.0 for f in ("f1", "f2", "f3")} | {"logits": t["logits"]},
    "ab rep": lambda m, t: {f"ab.{f}": (t[f"{f}.pre"] > 0) * 1.0 for f in ("f1", "f2", "f3")},
    "co": lambda m, t: {f"co.{f}": t[f"{f}.pre"].maximum(getattr(m, f"margin_{f}")) for f in ("f1", "f2", "f3")},
    "fsp init": lambda m, t: dict(zip(FLOWS, flows(t, "raw", 0, "avg"), strict=True)),
    "fsp max init": lambda m, t: dict(zip([f"{f}@max" for f in FLOWS], flows(t, "raw", 0, "max"), strict=True)),
    "fsp tf1 init": lambda m, t: dict(
        zip(("fsp.f1f2.post@max", "fsp.f2f3.post@max"), flows(t, "post", 1, "max"), strict=True)
    ),
    "sp": lambda m, t: {"f3.raw": t["f3.raw"]},
    "nst": lambda m, t: {f"{f}.raw": t[f"{f}.raw"] for f in ("f1", "f2", "f3")},
    "nst f3": lambda m, t: {"f3.raw": t["f3.raw"]},
}


@pytest.mark.parametrize("name", EXPECTED_KNOWLEDGE)
def test_knowledge_is_that_of_the_formula(name):
    case = CASES[name]
    method, teacher = case.build(), case.looks(3)[1]
    found, expected = method.project(teacher), EXPECTED_KNOWLEDGE[name](method, teacher)
    assert found.keys() == expected.keys()
    assert_close(list(found.values()), [value.double() for value in expected.values()], 1e-12)
    assert not any(value.requires_grad for value in found.values())


def spoil(tensors, how):
    """The same tensors, hard to live with."""
    spoiled = {}
    for name, values in tensors.items():
        values = values.detach().clone()
        if how == "zero" and name != "logits":
            values = values * 0
        if how == "constant":
            values = torch.ones_like(values)
        if how == "dead row":
            values[0] = 0
        if how == "same rows":
            values = values[:1].expand_as(values).clone()
        if how == "saturated":
            values = values.sign() * 1e4
        spoiled[name] = values
    return spoiled


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.beyond_texts])
def test_awkward_inputs_give_finite_losses_and_gradients(name):
    """Of other shapes and options than the table of methods, whose own awkward inputs `test_methods.py` has."""
    case = CASES[name]
    for how in ("zero", "constant", "dead row", "same rows", "saturated", "one row"):
        n = 1 if how == "one row" else 3
        method = case.build(torch.float32)
        student, teacher = (spoil(tensors, how) for tensors in case.looks(n, torch.float32))
        for theirs in (teacher, case.looks(n, torch.float32)[1]):
            mine = {name: values.clone().requires_grad_() for name, values in student.items()}
            terms, grads = run(case, method, mine, theirs)
            assert all(torch.isfinite(value) for value in [*terms.values()]), how
            assert all(torch.isfinite(grad).all() and grad.abs().max() < 1e11 for grad in grads), how


@EVERY
def test_the_teacher_is_a_constant_of_any_precision(case):
    method = case.build()
    student, teacher = case.looks(3)
    knowledge = {name: values.requires_grad_() for name, values in method.project(teacher).items()}
    loss = method.loss(student, knowledge, batch_of(3), case.stage)
    if loss:
        sum(loss.values()).backward()
    assert all(values.grad is None for values in knowledge.values())
    rough = {name: values.detach().half() for name, values in knowledge.items()}
    for name, value in method.loss(student, rough, batch_of(3), case.stage).items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, loss[name], rtol=5e-3, atol=1e-4)


@EVERY
def test_every_connector_learns(case):
    method = case.build()
    student, teacher = case.looks(4)
    loss = method.loss(student, method.project(teacher), batch_of(4), case.stage)
    reaches = case.variant != "paper" or case.stage == "init"
    if reaches and list(method.parameters()) and (case.method not in (AB, FSP) or case.stage == "init"):
        sum(loss.values()).backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())
    assert all(p.requires_grad for p in method.parameters())
    assert not any("paraphraser" in name or "margin" in name for name in method.state_dict())


@EVERY
def test_memory_layout_changes_nothing(case):
    method = case.build()
    student, teacher = case.looks(3)
    plain = method.loss(student, method.project(teacher), batch_of(3), case.stage)
    student, teacher = (
        {name: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for name, x in tensors.items()}
        for tensors in (student, teacher)
    )
    torch.testing.assert_close(method.loss(student, method.project(teacher), batch_of(3), case.stage), plain)


COUNTS = {
    "resnet": {"f0": (16, 32, 32), "f1": (16, 32, 32), "f2": (32, 16, 16), "f3": (64, 8, 8)},
    "wrn": {"f0": (16, 32, 32), "f1": (64, 32, 32), "f2": (128, 16, 16), "f3": (256, 8, 8)},
}


@pytest.mark.parametrize(
    ("method", "resnet", "wrn"),
    [
        (AT, 0, 0),
        (FitNet, 1120, 16768),
        (FT, 64640, 1032704),
        (AB, 0, 0),
        (CO, 5600, 86912),
        (VID, 16240, 258496),
        (FSP, 0, 0),
        (SP, 0, 0),
        (NST, 0, 0),
    ],
)
def test_parameter_counts(method, resnet, wrn):
    for stages, count in ((COUNTS["resnet"], resnet), (COUNTS["wrn"], wrn)):
        built = method(shapes(stages), shapes(stages))
        assert sum(p.numel() for p in built.parameters()) == count


def test_paraphraser_counts():
    assert sum(w.numel() for w in paraphraser(64, 32, 0, "cpu")) == 129312
    assert sum(w.numel() for w in paraphraser(256, 128, 0, "cpu")) == 2065536


@pytest.mark.parametrize("method", [AT, AB, FSP, SP, NST])
def test_without_connectors_no_shapes_are_needed(method):
    built = method()
    student, teacher = look(PLAIN, 2, 1, grad=True), look(PLAIN, 2, 2)
    assert built.loss(student, built.project(teacher), batch_of(2), "init" if built.init_share else "main")


@pytest.mark.parametrize("method", [FitNet, VID, FT, CO])
@pytest.mark.parametrize("given", [{}, {"student": shapes(PLAIN)}, {"teacher": shapes(PLAIN)}])
def test_with_connectors_both_shapes_are_needed(method, given):
    with pytest.raises(UsageError, match=r"shape of (f|co|ft)"):
        method(**given)


@pytest.mark.parametrize("name", ["co wide", "ab init wide", "ft wide"])
def test_the_rows_of_a_cache_tell_enough_of_the_teacher(name):
    case = CASES[name]
    full = case.build()
    cached = {key: tuple(values.shape[1:]) for key, values in full.project(case.looks(2)[1]).items()}
    lean = case.method(shapes(case.student), cached, **case.options)
    assert [p.shape for p in lean.parameters()] == [p.shape for p in full.parameters()]


REFUSED = [
    (AT, PLAIN, LARGE, {}, "student 6x6 and teacher 12x12"),
    (AT, PLAIN, LARGE, {"grid": (8, 8)}, "student 6x6 and teacher 8x8"),
    (AT, PLAIN, PLAIN, {"grid": (8, 8, 8)}, "state it like"),
    (FitNet, PLAIN | {"f2": (4, 3, 3)}, PLAIN, {}, "student 4x3x3 and teacher 4x4x4"),
    (FT, PLAIN, PLAIN, {"fit": "l2"}, "fit l2"),
    (AB, LARGE, PLAIN, {}, "student 3x12x12 and teacher 3x6x6"),
    (CO, LARGE, PLAIN, {}, "student 3x12x12 and teacher 3x6x6"),
    (FSP, PLAIN, WIDE, {}, "student 3x6x6 and teacher 5x6x6"),
    (FSP, PLAIN, PLAIN, {"pool": "min"}, "min"),
    (VID, PLAIN, PLAIN, {"variance": 0.0}, "variance"),
]


@pytest.mark.parametrize(("method", "student", "teacher", "options", "says"), REFUSED)
def test_shapes_and_options_that_do_not_fit_are_refused_at_once(method, student, teacher, options, says):
    with pytest.raises(UsageError, match=says):
        method(shapes(student), shapes(teacher), **options)


@pytest.mark.parametrize(
    ("method", "student", "teacher", "says"),
    [
        (AT(), PLAIN, LARGE, "student 6x6 and teacher 12x12"),
        (AB(), PLAIN, WIDE, "student 3x6x6 and teacher 5x6x6"),
        (FSP(), PLAIN, WIDE, "student 3x3 and teacher 5x5"),
        (FitNet(connector=False), PLAIN, WIDE, "student 4x4x4 and teacher 6x4x4"),
    ],
)
def test_shapes_that_come_as_a_surprise_are_refused_too(method, student, teacher, says):
    knowledge = method.project(look(teacher, 2, 2))
    with pytest.raises(UsageError, match=says):
        method.loss(look(student, 2, 1), knowledge, batch_of(2), "init" if method.init_share else "main")


def test_factors_of_other_sizes_are_refused():
    for variant, student, teacher in (("", LARGE, PLAIN), ("rep", PLAIN, LARGE)):
        case = Case(FT, nothing, variant, student, teacher, options={"passes": 1})
        with pytest.raises(UsageError, match=r"student .* and teacher"):
            run(case, case.build(), *case.looks(2))


def test_knowledge_that_is_missing_is_named():
    for method in (AT(), AB(), FSP()):
        stage = "init" if method.init_share else "main"
        with pytest.raises(UsageError, match="found something"):
            method.loss(look(PLAIN, 2, 1), {"something": torch.zeros(2, 1)}, batch_of(2), stage)
