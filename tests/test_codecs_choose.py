"""What codecs cost on logits, real and made, and which one `auto` takes."""

import math

import numpy as np
import pytest
import torch
from reference_codecs import DATA, check, synthetic

from kdcache.codecs import F16, F32, Int8, Logp8, TopK
from kdcache.codecs.choose import auto, auto_values, candidates, kl_rows, measure, measure_values


@pytest.fixture(params=["preact_resnet18", "vgg19"])
def teacher(request):
    path = DATA / f"{request.param}_train_logits.npy"
    if not path.exists():
        pytest.skip(f"needs the teachers' logits in {DATA}")
    return torch.from_numpy(np.load(path))


@pytest.mark.parametrize(
    ("fit", "most", "at_1", "at_4"),
    [
        (F16.fit, 20, 1e-8, 1e-7),
        (Int8.fit, 14, 2e-7, 3e-6),
        (Logp8.fit, 10, 1e-6, 1e-5),
        (lambda x: TopK.fit(x, 5), 11, 1.5e-5, 2e-3),
    ],
    ids=["f16", "int8", "logp8", "topk:5"],
)
def test_error_on_real_logits(teacher, fit, most, at_1, at_4):
    codec = fit(teacher[::12])  # some 4 000 rows of all classes, as a dump would
    found = measure(codec, teacher)
    assert found["bytes"] <= most
    assert found["kl"][1]["mean"] <= at_1
    assert found["kl"][4]["mean"] <= at_4
    assert found["flips"] <= 5
    assert found["clipped"] <= 5
    check(codec, teacher[1::10])


def half_precision_top(values, k, probabilities):
    """Two ways to keep the top k in f16: probabilities whose rest is shared, or logits beside the log of that rest."""
    x = torch.softmax(values, 1) if probabilities else values
    best, ids = x.double().topk(k, 1)
    if probabilities:
        best = best.half().double()
        rest = (1 - best.sum(1, keepdim=True)).clamp(min=1e-9) / (x.shape[1] - k)
        return rest.log().expand_as(x).scatter(1, ids, best.clamp(min=1e-9).log())
    rest = x.double().scatter(1, ids, -math.inf).logsumexp(1, keepdim=True).half().double()
    return (rest - math.log(x.shape[1] - k)).expand_as(x).scatter(1, ids, best.half().double())


@pytest.mark.parametrize("sharp", [1.0, 2.0])
def test_top_100_of_1000_is_no_worse_than_half_precision(sharp):
    values = synthetic(400, 1000, sharp=sharp)
    codec = TopK.fit(values, 100)
    assert codec.size <= 232
    for probabilities in (False, True):
        theirs = half_precision_top(values, 100, probabilities)
        for temperature, ours in measure(codec, values)["kl"].items():
            assert ours["mean"] <= kl_rows(values, theirs, temperature).mean()


def test_measures():
    values = synthetic(300, 10)
    assert measure(F32.fit(values), values, (1,)) == {
        "bytes": 40,
        "kl": {1: {"mean": 0.0, "worst": 0.0}},
        "flips": 0,
        "clipped": 0,
    }
    found = measure(Logp8.fit(values / 4), values)
    assert found["clipped"] == int(Logp8.fit(values / 4).clipped(values).sum()) > 0
    assert 0 < found["kl"][1]["mean"] < found["kl"][1]["worst"]


def test_the_error_of_embeddings_is_a_share_of_what_tells_rows_apart():
    features = torch.rand(30, 4, 5, 5)
    assert measure_values(F32.fit(features), features) == {"bytes": 400, "error": 0.0}
    codec = Int8.fit(features)
    wrong = (codec.decode(codec.encode(features)).double() - features).pow(2).mean()
    expected = (wrong / features.double().var(0, correction=0).mean()).sqrt()
    assert measure_values(codec, features)["error"] == pytest.approx(expected.item())
    alike = features + torch.linspace(0, 9, 100).view(4, 5, 5)  # the same differences, small within a row
    assert measure_values(Int8.fit(alike), alike)["error"] > 5 * expected


def test_auto_of_embeddings_takes_eight_bits_where_they_tell_rows_apart():
    wide = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).relu()
    narrow = torch.linspace(0, 1, 32) + wide / 10
    huge = wide * 1e5
    for values, expected in ((wide, "int8"), (narrow, "f16"), (wide * 0, "int8"), (wide[:1] / 3, "f32")):
        codec, table = auto_values(values)
        assert codec.name == expected
        assert [row["codec"] for row in table] == ["int8", "f16", "f32"]
        assert next(row["codec"] for row in table if not row["refused"]) == expected
    assert "65504" in auto_values(huge)[1][1]["refused"]


def test_auto_takes_the_smallest_that_is_good_enough():
    values = synthetic(500, 10, sharp=2.0)
    codec, table = auto(values, shift_matters=False)
    assert codec == Logp8.fit(values)
    assert [row["bytes"] for row in table] == sorted(c.size for c in candidates(values))
    codec, table = auto(values)
    assert codec == Int8.fit(values)
    assert {row["codec"]: row["refused"] for row in table} == {
        "logp8": "loses the level of a row's logits",
        "topk:5": "loses the single logits of some classes",
        "int8": "",
        "f16": "",
        "f32": "",
    }
    assert auto(values, {1: 0.01}, shift_matters=False)[0].name == "logp8"
    assert auto(values, {1: 1e-8})[0].name == "f16"
    assert auto(values, {1: 0})[0].name == "f32"
    codec, table = auto(values * 1e6, {1e6: 1e-12})
    assert codec.name == "f32"
    assert "takes values up to 65504" in next(row["refused"] for row in table if row["codec"] == "f16")


def test_auto_on_many_classes_keeps_few_of_them():
    codec, table = auto(synthetic(64, 1000, sharp=6.0), {1: 1e-3}, shift_matters=False)
    assert codec.name == "topk"
    assert codec.size < 100
    assert table[-1]["codec"] == "f32"
