"""Methods from text, alone and added up."""

import re

import pytest
import torch
import torch.nn.functional as F
from relation_cases import CLASSES, ROWS, SHAPES, STAGES, batch_of, draw
from torch import nn

from kdcache.errors import UsageError
from kdcache.methods import METHODS, Method, Part, Sum, build, parse
from kdcache.methods.sums import merged

RAW = {f"f{i}.raw": shape for i, shape in enumerate([(3, 3, 3), *STAGES.values()])}


def look_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return {**draw(seed), **{tap: torch.randn(ROWS, *s, generator=generator).double() for tap, s in RAW.items()}}


def losses(text, stage="main", epoch=None):
    method = build(text, {**SHAPES, **RAW}, {**SHAPES, **RAW}).double()
    return method.loss(look_of(1), method.project(look_of(2)), batch_of(epoch=epoch), stage)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("st", [Part("st")]),
        ("st:0.9+at:1000", [Part("st", None, {"weight": 0.9}), Part("at", None, {"weight": 1000.0})]),
        ("at/zoo", [Part("at", "zoo", {"mean": True})]),
        ("st/zoo:0.2:T=6", [Part("st", "zoo", {"weight": 0.2, "ce": 1.0, "T": 6.0})]),
        ("st:T=2:weight=.5 + rkd", [Part("st", None, {"T": 2.0, "weight": 0.5}), Part("rkd")]),
        ("at:1e+3+st:1e-1", [Part("at", None, {"weight": 1000.0}), Part("st", None, {"weight": 0.1})]),
        ("dkd:warmup=5:beta=2", [Part("dkd", None, {"warmup": 5, "beta": 2.0})]),
        ("st:squared=no", [Part("st", None, {"squared": False})]),
        ("logits:over=sum", [Part("logits", None, {"over": "sum"})]),
        ("at:grid=8x8", [Part("at", None, {"grid": (8, 8)})]),
        ("at:grid=9x9,8x8,4x4", [Part("at", None, {"grid": ((9, 9), (8, 8), (4, 4))})]),
        ("nst:taps=f2.raw,f3.raw", [Part("nst", None, {"taps": ("f2.raw", "f3.raw")})]),
    ],
)
def test_text_becomes_parts(text, parts):
    assert parse(text) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ts", "expected a method out of none, st, .*, found 'ts'; did you mean st?"),
        ("kd-svd", "did you mean kdsvd?"),
        ("ST", "did you mean st?"),
        ("at:zoo", "a weight or an option after a colon, found 'zoo'; write at/zoo"),
        ("wholly-other", "`kdcache list methods` explains them"),
        ("", "a method out of"),
        ("st+", "method 'st+': expected a method out of"),
        ("st++at", "a method out of"),
        ("st/zo", "expected a variant of st out of .*, found 'zo'; did you mean zoo?"),
        ("sp/zoo", "expected a variant of sp .it has none., found 'zoo'; leave it out"),
        ("st/", "a variant of st"),
        (
            "st:wieght=3",
            "expected an option of st out of weight, T, squared, std, ce, found 'wieght'; did you mean weight?",
        ),
        ("st:T=", "T as a number that is not negative, found ''"),
        ("st:abc", "weight as a number that is not negative, found 'abc'; write it like weight=0.5"),
        ("st:nan", "found 'nan'"),
        ("st:1e999", "found '1e999'"),
        ("st:-1", "found '-1'"),
        ("st:1_0", "found '1_0'"),
        ("dkd:warmup=1.5", "warmup as a whole number"),
        ("st:0.5:0.6", "option=value after the weight, found '0.6'"),
        ("st:0.5:weight=0.6", "one weight, found two"),
        ("st:squared=maybe", "a truth for squared"),
        ("none:0.5", "an option of none out of ce, found 'weight'"),
        ("at:grid=8xx8", "grid as a whole number"),
    ],
)
def test_what_a_text_cannot_mean(text, message):
    with pytest.raises(UsageError, match=message.replace("+", r"\+").replace("?", r"\?")) as caught:
        parse(text)
    assert caught.value.place == f"method {text!r}"


@pytest.mark.parametrize(
    "text",
    [
        "st:T=0",
        "dkd:T=0",
        "tfkd:T=0",
        "dml:T=0",
        "ls:1.5",
        "tfkd:2",
        "logits:over=x",
        "rkd:normalise=x",
        "dml:students=1",
    ],
)
def test_options_that_make_no_sense_are_refused_when_built(text):
    with pytest.raises(UsageError):
        build(text)


def test_one_method_is_a_leaf_and_several_are_a_sum():
    assert type(build("st")) is METHODS["st"]
    assert type(build("st+at")) is Sum
    assert Sum.__bases__ == (Method,)


def test_a_sum_has_all_terms_and_cross_entropy_once_with_the_smallest_weight():
    total, st, at = losses("st:0.5+at:7"), losses("st:0.5"), losses("at:7")
    assert list(total) == ["ce", "st", "at"]
    torch.testing.assert_close(total, {"ce": st["ce"], "st": st["st"], "at": at["at"]})
    assert build("st+at").ce == 0.1
    assert build("st:ce=0.7+at:ce=0.3").ce == 0.3
    assert build("st+logits/paper").ce == 0
    assert "ce" not in losses("st+logits/paper")
    assert build("none+rkd").ce == 1


def test_weights_scale_their_terms():
    one, three = losses("rkd:1+st:1:T=2"), losses("rkd:3+st:0.5:T=2")
    factors = {name: (three[name] / one[name]).item() for name in one}
    assert factors == pytest.approx({"ce": 1.0, "rkd.distance": 3.0, "rkd.angle": 3.0, "st": 0.5})


def test_terms_of_one_name_are_numbered():
    total = losses("st+st/zoo+st/tf1+kdsvd/rep+kdsvd")
    assert list(total) == ["ce", "st", "st2", "st3", "kdsvd", "kdsvd2"]
    torch.testing.assert_close(total["st3"], losses("st/tf1")["st"])
    torch.testing.assert_close(total["kdsvd2"], ROWS * total["kdsvd"])


def test_only_the_terms_of_clipping_methods_are_clipped():
    method = build("st+kdsvd/rep+kdsvd+rkd+mhgd")
    assert method.clips_to_ce
    assert (build("kdsvd").clipped, build("kdsvd/rep").clipped) == ({"kdsvd"}, frozenset())
    mixed = build("st+kdsvd/rep+kdsvd+rkd")
    mixed.loss(look_of(1), mixed.project(look_of(2)), batch_of())
    assert mixed.clipped == {"kdsvd2"}
    assert not build("st+kdsvd/rep").clips_to_ce


def test_a_sum_knows_what_its_parts_need():
    shapes = {**SHAPES, **RAW, **{f"f{i}.pre": RAW[f"f{i}.raw"] for i in (1, 2, 3)}}
    method = build("st+fsp+ab+rkd+co", shapes, shapes)
    assert method.taps[:5] == ("logits", "f0.raw", "f1.raw", "f2.raw", "f3.raw")
    assert len(set(method.taps)) == len(method.taps)
    assert method.init_share == build("ab", shapes, shapes).init_share
    assert method.codecs == {f"ab.f{i}": "bits" for i in (1, 2, 3)}
    assert not method.shift_matters
    assert build("st+logits").shift_matters
    assert build("st+dml:students=3").students == 3
    alone = build("co", shapes, shapes)
    assert sum(p.numel() for p in method.parameters()) == sum(p.numel() for p in alone.parameters()) > 0


def test_the_initialisation_holds_the_terms_of_the_methods_that_have_one():
    assert list(losses("st+fsp", "init")) == ["fsp"]
    assert list(losses("st+fsp")) == ["ce", "st"]
    torch.testing.assert_close(
        losses("fsp+at+fsp/zoo", "init"), {**losses("fsp", "init"), "fsp2": losses("fsp/zoo", "init")["fsp"]}
    )


def test_a_sum_caches_shared_knowledge_once():
    shapes = {"logits": (3,), **{f"f{i}.{kind}": (4, 8, 8) for i in (1, 2, 3) for kind in ("raw", "post")}}
    stored = build("st+dkd+kdsvd+kdeid+at", shapes, shapes).stores(shapes)
    assert tuple(stored) == ("logits", "svd.f1", "svd.f2", "svd.f3", "at.f1", "at.f2", "at.f3")


def test_a_teacher_without_its_taps_is_refused():
    with pytest.raises(UsageError, match=re.escape("expected a teacher with taps f1.raw, f2.raw, f3.raw, found none")):
        build("at").stores({"logits": (3,), "emb": (5,)})


def test_parts_are_parsed_once_and_say_whether_they_ask():
    parts = parse("st:0.5+ls+dml+at/zoo")
    assert [part.text for part in parts if part.asks] == ["st:0.5", "at/zoo"]
    assert build(parts).described() == build("st:0.5+ls+dml+at/zoo").described()


def test_asking_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    assert all(part.asks for part in parse("ft+vid+mhgd"))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_name_for_two_things_is_refused():
    with pytest.raises(UsageError, match=re.escape("knowledge x: expected one meaning in a sum of methods")):
        merged("knowledge", [{"x": torch.ones(1)}, {"x": torch.zeros(1)}])
    with pytest.raises(UsageError):
        merged("knowledge", [{"x": torch.ones(1)}, {"x": torch.ones(2)}])


def test_constants_made_by_a_sum_serve_a_part_and_the_reverse():
    looks = [look_of(seed) for seed in (3, 4)]
    both, alone = build("mhgd:passes=2+st"), build("mhgd:passes=2")
    of_both, of_alone = both.prepare(nn.Identity(), lambda: looks), alone.prepare(nn.Identity(), lambda: looks)
    assert of_both.keys() == of_alone.keys()
    both.use(of_alone)
    alone.use(of_both)
    knowledge = both.project(look_of(2))
    mine, other = (m.loss(look_of(1), knowledge, batch_of())["mhgd"] for m in (both, alone))
    assert mine == other


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.35])
def test_label_smoothing_is_torchs(epsilon):
    logits, batch = look_of(1)["logits"], batch_of(targets=[2, -1, 0, 4])
    got = sum(build(f"ls:{epsilon}").loss({"logits": logits}, {}, batch).values())
    want = F.cross_entropy(logits, batch.targets, ignore_index=-1, label_smoothing=epsilon)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_tf_kd_is_the_authors_at_100_classes():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(8, 100, generator=generator).double(), torch.arange(8)
    u = torch.full((8, 100), 0.01 / 99, dtype=torch.float64).scatter(1, targets[:, None], 0.99)
    kl = nn.KLDivLoss(reduction="none")(F.log_softmax(logits, 1), F.softmax(u / 20, 1)).mean()
    want = 0.9 * F.cross_entropy(logits, targets) + 0.1 * 100 * kl
    got = sum(build("tfkd:multiplier=100").loss({"logits": logits}, {}, batch_of(8, targets=targets.tolist())).values())
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("left", "right", "factor"),
    [  # METHODS 5.2, where both sides are ours
        ("logits/paper:1", "logits:1", CLASSES),
        ("logits/paper", "logits:1", CLASSES / 2),
        ("logits/funmatch", "logits:1", CLASSES),
        ("at:1", "at/zoo:1", 3),
        ("vid", "vid/zoo:eps=1e-5", 3),
        ("kdsvd", "kdsvd/rep", ROWS),
        ("st:1", "st:1:squared=no", 16),
    ],
)
def test_reductions_convert_as_the_table_says(left, right, factor):
    with torch.random.fork_rng(devices=[]):
        terms = []
        for text in (left, right):
            torch.default_generator.manual_seed(0)  # connectors of VID
            found = losses(text)
            found.pop("ce", None)
            terms.append(sum(found.values()).item())
    assert terms[0] == pytest.approx(factor * terms[1], rel=1e-9)


def test_soft_targets_are_c_times_klds_mean():
    s, t = look_of(1)["logits"], look_of(2)["logits"]
    mean = nn.KLDivLoss(reduction="none")(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1)).mean()
    torch.testing.assert_close(losses("st:1")["st"], 16 * CLASSES * mean, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("tap", "stage"), [("f1.raw", 0), ("f3.raw", 2)])
def test_fsp_of_tf1_is_its_mean_times_half_a_thousandth_of_the_channels(tap, stage):
    looks = look_of(1), look_of(2)
    tf1, mean = (METHODS["fsp"](weight=w, pool="max", form=f) for w, f in ((1e-3, "sum"), (1.0, "mean")))
    found = []
    for method in (tf1, mean):
        method.pairs = dict([list(method.pairs.items())[stage]])
        found.append(method.init_terms(looks[0], method.project(looks[1]), batch_of())["fsp"].item())
    channels = [RAW[f"f{i}.raw"][0] for i in (stage, stage + 1)]
    assert found[0] == pytest.approx(5e-4 * channels[0] * channels[1] * found[1], rel=1e-9)
