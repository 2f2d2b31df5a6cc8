"""What `Method.loss` asks of its tensors, and what it says of itself; for every method and variant, from its birth."""

import dataclasses
import inspect
import math
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from test_methods import (
    ALL,
    CLASSES,
    SHAPES,
    Teacher,
    batch_of,
    draw,
    every_method,
    made,
    passed,
    shown,
    stages_of,
    taught,
)

from kdcache.errors import UsageError
from kdcache.methods import METHODS, build, described, parse
from kdcache.methods.base import cross_entropy
from kdcache.methods.options import with_option

F64 = torch.float64
ONE_LABEL = [text for text in ALL if build(text, SHAPES, SHAPES).one_label]


def sides(text, n=4):
    """A method with its student and the knowledge of its teacher, in f64."""
    method = made(text).to(F64)
    return method, shown(method, draw(1, n, F64)), known_to(method, draw(2, n, F64))


def known_to(method, look):
    """What this method reads: peers are of networks that learn together."""
    peers = ("peers",) if method.students > 1 else ()
    return {name: value for name, value in taught(method, look).items() if name != "peers" or name in peers}


def gradients(terms, look):
    total = sum(terms.values())
    return torch.autograd.grad(total, list(look.values()), allow_unused=True) if total.requires_grad else []


def mixed(batch, others, shares):
    return dataclasses.replace(batch, others=torch.tensor(others), shares=torch.tensor(shares))


@every_method
def test_rows_that_differ_are_refused_with_both_shapes(text):
    method, look, knowledge = sides(text)
    for rows in (1, 3, 5):
        for name, value in known_to(method, draw(2, rows, F64)).items():
            both = f"student's logits 4x{CLASSES} and teacher's {name} {'x'.join(map(str, value.shape))}"
            for stage in stages_of(method):
                with pytest.raises(UsageError, match=re.escape(both)):
                    method.loss(look, {**knowledge, name: value}, batch_of(), stage)
        with pytest.raises(UsageError, match=f"4x{CLASSES} and batch's targets {rows}"):
            method.loss(look, knowledge, batch_of(rows))


@every_method
def test_classes_that_differ_are_refused_with_both_shapes(text):
    method, look, knowledge = sides(text)
    for name in {"logits", *knowledge} & {"logits", "peers"}:
        more = torch.zeros(4, *[1] * (name == "peers"), CLASSES + 1, dtype=F64)
        both = f"4x{CLASSES} and teacher's {name} {'x'.join(map(str, more.shape))}"
        with pytest.raises(UsageError, match=both):
            method.loss(look, {**knowledge, name: more}, batch_of())


@every_method
def test_nothing_and_one_class_are_refused(text):
    method, look, knowledge = sides(text)
    nothing = [{name: value[:0] for name, value in side.items()} for side in (look, knowledge)]
    with pytest.raises(UsageError, match=f"one row or more, .* found student's logits 0x{CLASSES}"):
        method.loss(*nothing, batch_of(0))
    one = [{**side, "logits": draw(1, 4, F64)["logits"][:, :1]} for side in (look, knowledge)]
    with pytest.raises(UsageError, match="two classes or more, found student's logits 4x1"):
        method.loss(*one, batch_of())


@every_method
def test_labels_of_any_whole_type_are_the_same_labels(text):
    method, look, knowledge = sides(text)
    for stage in stages_of(method):
        want = method.loss(look, knowledge, batch_of(), stage)
        for dtype in (torch.int32, torch.uint8, torch.int8, torch.int16):
            batch = dataclasses.replace(batch_of(), targets=batch_of().targets.to(dtype))
            assert method.loss(look, knowledge, batch, stage) == want
            assert batch.targets.dtype == dtype


@every_method
def test_labels_that_are_no_whole_numbers_are_refused(text):
    method, look, knowledge = sides(text)
    for dtype in (torch.float32, torch.float16, torch.bool):
        batch = dataclasses.replace(batch_of(), targets=batch_of().targets.to(dtype))
        with pytest.raises(UsageError, match=f"batch.targets: expected whole numbers, .* found {dtype}"):
            method.loss(look, knowledge, batch)


def test_one_hot_labels_are_refused():
    method, look, knowledge = sides("st")
    batch = dataclasses.replace(batch_of(), targets=F.one_hot(batch_of().targets, CLASSES))
    with pytest.raises(UsageError, match=f"one label for each row, found shape 4x{CLASSES}"):
        method.loss(look, knowledge, batch)


@every_method
def test_the_teacher_gets_no_gradient(text):
    method, look, knowledge = sides(text)
    knowledge = {name: value.clone().requires_grad_() for name, value in knowledge.items()}
    for stage in stages_of(method):
        terms = method.loss(look, knowledge, batch_of(), stage)
        if terms:
            sum(terms.values()).backward()
        assert all(value.grad is None for value in knowledge.values())


@every_method
def test_what_was_made_in_inference_mode_can_be_learnt_from(text):
    method, look, knowledge = sides(text)
    plain = made(text).to(F64)
    with torch.inference_mode():
        constants = plain.prepare(Teacher(), passed)
        method.use({name: value.to(F64) for name, value in constants.items()})
        stored = {name: value.clone() for name, value in knowledge.items()}
        batch = dataclasses.replace(batch_of(), targets=batch_of().targets.clone())
    assert all(value.is_inference() for value in (batch.targets, *stored.values()))
    for stage in stages_of(method):
        want = method.loss(look, knowledge, batch_of(), stage)
        got = method.loss(look, stored, batch, stage)
        assert {name: term.item() for name, term in got.items()} == {name: term.item() for name, term in want.items()}
        for a, b in zip(gradients(got, look), gradients(want, look), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("text", [*ONE_LABEL, "dkd+at", "st+ls/tfkd"])
def test_methods_of_one_label_refuse_mixed_images(text):
    method, look, knowledge = sides(text)
    with pytest.raises(UsageError, match=r"images of one class each, .* found mixed images; take a method such as st"):
        method.loss(look, knowledge, mixed(batch_of(), [1, 2, 3, 4], [0.5] * 4))


@pytest.mark.parametrize("text", [text for text in ALL if text not in ONE_LABEL])
def test_an_image_mixed_with_itself_is_that_image(text):
    method, look, knowledge = sides(text)
    batch = batch_of()
    for stage in stages_of(method):
        want = method.loss(look, knowledge, batch, stage)
        got = method.loss(look, knowledge, mixed(batch, batch.targets.tolist(), [0.2, 0.4, 0.6, 1.0]), stage)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_a_missing_label_of_two_leaves_the_other_with_its_share():
    logits = torch.tensor([[0.1, -0.4, 0.9, 0.3]], dtype=F64)
    alone = F.cross_entropy(logits, torch.tensor([3]))
    one = mixed(dataclasses.replace(batch_of(1), targets=torch.tensor([-1])), [3], [0.7])
    assert cross_entropy(logits, one).item() == pytest.approx(alone.item(), rel=1e-6)
    none = mixed(dataclasses.replace(batch_of(1), targets=torch.tensor([-1])), [-1], [0.7])
    assert cross_entropy(logits, none) == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_mixed_cross_entropy_is_the_mean_over_labelled_shares(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, CLASSES, generator=generator, dtype=F64)
    own, other = (torch.randint(-1, CLASSES, (6,), generator=generator).tolist() for _ in range(2))
    shares = torch.rand(6, generator=generator).tolist()
    total = weight = 0.0
    for row, labels in enumerate(zip(own, other, strict=True)):
        share = float(torch.tensor(shares[row]))  # as f32 holds it
        for label, part in zip(labels, (share, 1 - share), strict=True):
            if label >= 0:
                total -= part * logits[row].log_softmax(0)[label].item()
                weight += part
    batch = mixed(dataclasses.replace(batch_of(6), targets=torch.tensor(own)), other, shares)
    assert cross_entropy(logits, batch).item() == pytest.approx(total / weight, rel=1e-6)
    smoothed = build("ls").loss({"logits": logits}, {}, batch)["ls"].item()
    labelled = [(a >= 0) * s + (b >= 0) * (1 - s) for a, b, s in zip(own, other, shares, strict=True)]
    spread = -logits.log_softmax(1).mean(1)
    want = sum(w * v for w, v in zip(labelled, spread.tolist(), strict=True)) / sum(labelled)
    assert smoothed == pytest.approx(0.1 * want, rel=1e-6)


@every_method
def test_the_weights_name_the_terms_of_every_stage(text):
    method, look, knowledge = sides(text)
    for stage in ("init", "main"):
        if stage in stages_of(method):
            terms = method.loss(look, knowledge, batch_of(), stage)
            assert list(method.weights(stage)) == [name for name in terms if name != "ce"]
            assert all(f" {name}" in f" {method.described()}" for name in terms)
    assert described(text) == build(text, SHAPES, SHAPES).described()


@pytest.mark.parametrize(
    "text", [text for text in ALL if "weight" in build(text, SHAPES, SHAPES).__init__.__kwdefaults__]
)
def test_a_doubled_weight_is_told_doubled_and_doubles_the_terms(text):
    weight = build(text, SHAPES, SHAPES).weight
    factor = 0.5 if weight <= 1 else 2.0  # some are shares
    _, look, knowledge = sides(text)
    found = []
    for stated in (weight, factor * weight):
        method = sides(f"{text}:weight={stated}:ce=0.5")[0]
        stage = stages_of(method)[0]
        found.append((method.weights(stage), method.loss(look, knowledge, batch_of(epoch=30), stage)))
    if text.startswith("fitnet/paper") or not found[0][0]:
        return
    for name, was in found[0][0].items():
        assert found[1][0][name] == pytest.approx(factor * was)
        assert found[1][1][name].item() == pytest.approx(factor * found[0][1][name].item(), rel=1e-9)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("st", "0.1 ce + 0.9 st (T=4)"),
        ("none", "1 ce"),
        ("none:ce=0", "nothing, without cross-entropy"),
        ("st/tf1", "0.7 ce + 0.3 st (T=4, squared=no)"),
        ("st:0.9+at/zoo:500", "0.1 ce + 0.9 st (T=4) + 500 at (mean=yes)"),
        ("st/funmatch", "1 st (T=1), without cross-entropy"),
        ("dkd/res", "1 ce + 1 tckd + 2 nckd (beta=2, T=4)"),
        ("rkd", "1 ce + 25 rkd.distance + 50 rkd.angle"),
        ("fsp", "1 fsp for the first 12.5 % of the epochs, then 1 ce"),
        ("ab+at", "0.003 ab for the first 30 % of the epochs, then 1 ab.kl (T=3) + 1000 at, without cross-entropy"),
        ("fitnet", "1 ce + 100 fitnet"),
        ("fitnet:5:tap=blocks.7", "1 ce + 5 fitnet (tap=blocks.7)"),
        ("at:grid=640x480", "1 ce + 1000 at"),
        ("kdeid", "1 ce + 1 kdeid (vectors=eid)"),
    ],
)
def test_a_loss_says_what_it_is(text, line):
    assert described(text) == line


@pytest.mark.parametrize("name", METHODS)
def test_variants_that_differ_are_described_differently(name):
    method = METHODS[name]
    lines = {described(f"{name}/{variant}"): options for variant, options in method.variants.items() if options}
    distinct = {repr(options) for options in method.variants.values() if options}
    assert len(lines) == len(distinct)
    assert described(name) not in [line for line, options in lines.items() if not as_by_default(method, options)]


def as_by_default(method, options):
    parameters = inspect.signature(method).parameters
    return all(parameters[option].default == value for option, value in options.items())


@pytest.mark.parametrize(
    "text", ["st", "st/watson21", "dkd", "ttm", "wttm", "tfkd/self", "dml", "nkd", "wsld", "bkd", "dist"]
)
def test_a_class_that_the_teacher_rules_out_counts_nothing(text):
    """A live teacher may have masked classes with -inf; the limit of a very low logit is meant."""
    method, look, knowledge = sides(text)
    values = []
    for lowest in (-1e4, -math.inf):
        ruled_out = {name: value.clone() for name, value in knowledge.items()}
        for value in ruled_out.values():
            value[..., -1] = lowest
        terms = method.terms(look, ruled_out, batch_of(4))
        values.append([sum(terms.values()), *gradients(terms, look)])
    for expected, found in zip(*values, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("text", "ce"),
    [
        ("st+at", 0.1),  # (1 - α) CE beside α ST, as in the author's code of AT
        ("dkd+st", 1.0),  # the formula of DKD has all of it
        ("st+dkd+logits/paper", 1.0),
        ("dkd:ce=0.2+st", 0.2),
        ("dkd+st:ce=0.2", 0.2),
        ("st+at:ce=1", 1.0),  # what the text states goes before what a method takes by itself
        ("ab+at", 0.0),
        ("ab+at:ce=1", 1.0),
        ("ab/rep+at", 1.0),
        ("st:ce=0.7+at:ce=0.3", 0.3),
    ],
)
def test_cross_entropy_in_a_sum(text, ce):
    assert build(text, SHAPES, SHAPES).ce == ce


def test_a_sum_begins_with_the_parts_that_have_a_beginning():
    method, look, knowledge = sides("ab+at+fitnet")
    assert list(method.loss(look, knowledge, batch_of(), "init")) == ["ab"]
    assert list(method.loss(look, knowledge, batch_of())) == ["ab.kl", "at", "fitnet"]


def test_the_bare_regressor_is_drawn_small():
    weight = build("fitnet/bare", SHAPES, SHAPES).connector.weight
    assert 0.004 < weight.abs().max() <= 0.005


def test_kdeid_is_a_variant_and_a_name():
    assert parse("kdeid:2:ce=0.5") == [dataclasses.replace(parse("kdsvd/eid:2:ce=0.5")[0])]
    assert build("st, kdeid").taps == build("st+kdeid").taps
    assert build("kdeid+kdsvd").clipped == {"kdeid", "kdsvd"}
    with pytest.raises(UsageError, match=r"a variant of kdeid .it has none., found 'rep'"):
        build("kdeid/rep")


def test_wkdf_is_another_name_of_a_name_with_a_slash():
    for other, text in (("wkdf", "wkd/f"), ("wkdf/wrn:2:grid=2", "wkd/f/wrn:2:grid=2")):
        assert parse(other) == parse(text)
        assert parse(text)[0].name == "wkd/f"
    assert with_option("st+wkdf", "wkdf.weight", 2) == "st+wkdf:weight=2"
    assert [part.name for part in parse("wkd/f, wkd/fc, st+wkd/f")] == ["wkd/f", "wkd", "st", "wkd/f"]
    with pytest.raises(UsageError, match=r"a variant of wkd out of wrn, imagenet, fc, f, found 'x'"):
        build("wkd/x")
    with pytest.raises(UsageError, match=r"a variant of wkd/f out of wrn, imagenet, found 'x'"):
        build("wkd/f/x")


def remedy_of(build_it):
    with pytest.raises(UsageError) as caught:
        build_it()
    return caught.value.remedy


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("at:zoo", "at/zoo"),
        ("st:T=2,weight=0.5", "st:T=2:weight=0.5"),
        ("st:0.5,T=2", "st:0.5:T=2"),
        ("st/tf1,T=2", "st/tf1:T=2"),
        ("nst:taps=f1.raw,f3.raw,weight=2", "nst:taps=f1.raw,f3.raw:weight=2"),
        ("st:alpha=0.9", "st:weight=0.9:ce=0.1"),
        ("st:tau=2", "st:T=2"),
        ("st:temperature=2", "st:T=2"),
        ("at:lambda=5", "at:weight=5"),
        ("st:T=abc", "st:T=0.5"),
        ("dkd:warmup=x", "dkd:warmup=2"),
        ("at:grid=8xx8", "at:grid=8x8"),
        ("at:grid=8", "at:grid=8x8"),
        ("st:0.5:0.6", "st:0.5:ce=0.5"),
    ],
)
def test_remedies_of_a_text_work_when_typed(typed, meant):
    remedy = remedy_of(lambda: build(typed))
    name = typed.partition(":")[0]
    advice = [part for part in (meant, meant.removeprefix(f"{name}:"), meant.rpartition(":")[2]) if part in remedy]
    assert advice, remedy
    build(meant)


HALF = {name: (shape[0], *(math.ceil(side / 2) for side in shape[1:])) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("text", ["at", "at/zoo", "at:5:ce=0.5", "at/post", "at/paper"])
def test_the_grid_that_at_advises_works(text):
    """For a student whose maps are smaller."""
    remedy = remedy_of(lambda: build(text, HALF, SHAPES))
    option = re.search(r"grid=\S+", remedy)[0]
    method = build(f"{text}:{option}", HALF, SHAPES)
    teacher, other = draw(2), draw(1)
    look = {name: other[name][tuple(slice(side) for side in (None, *shape))] for name, shape in HALF.items()}
    look["logits"] = other["logits"]
    assert method.loss(look, method.project(teacher), batch_of())["at"] > 0
    plain = build(text)
    assert option in remedy_of(lambda: plain.loss(look, plain.project(teacher), batch_of()))


@pytest.mark.parametrize("text", ["fitnet/zoo", "fsp", "kdsvd", "mhgd"])
def test_what_is_advised_for_other_widths_works(text):
    wide = {name: (2 * shape[0], *shape[1:]) if "." in name else shape for name, shape in SHAPES.items()}
    remedy = remedy_of(lambda: build(text, wide, SHAPES))
    option = re.search(r"option (\S+)", remedy)
    advised = [f"{text}:{option[1]}"] if option else [name for name in re.findall(r"[\w/]+", remedy) if named(name)]
    assert advised
    for other in advised:
        assert build(other, wide, SHAPES).described()


def named(text):
    return text.partition("/")[0] in METHODS


@pytest.mark.slow
def test_live_numerics_leave_the_switches_of_tf32_as_they_were():
    code = "import torch; torch.backends.cuda.matmul.fp32_precision = 'tf32'; from kdcache.teachers.live import tf32"
    code += "\nwith tf32(False): assert torch.backends.cuda.matmul.fp32_precision == 'ieee'"
    code += "\nassert torch.backends.cuda.matmul.fp32_precision == 'tf32'"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
