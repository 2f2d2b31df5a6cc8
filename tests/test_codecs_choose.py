"""What codecs cost on logits, real and made, and which one `auto` takes."""

import math

import numpy as np
import pytest
import torch
from reference_codecs import DATA, check, synthetic

from kdcache.codecs import F16, F32, Int8, Logp8, TopK
from kdcache.codecs.choose import auto, candidates, kl_error, kl_rows, measure, measure_values


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
        for temperature in (1, 2, 4, 10):
            assert kl_error(codec, values, temperature).mean() <= kl_rows(values, theirs, temperature).mean()


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
    assert kl_error(F16.fit(values), values, 2).shape == (300,)
    features = torch.rand(30, 4, 5, 5)
    assert measure_values(F32.fit(features), features) == {"bytes": 400, "rms": 0.0, "clipped": 0}
    assert 1e-4 < measure_values(Int8.fit(features), features)["rms"] < 1 / 255
    assert measure_values(F32.fit(features * 0), features * 0)["rms"] == 0


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
