"""`check-model` says what a dump or a training would find out, of any network."""

import hashlib

import pytest
import torch
from cli_cases import good, refused

from kdcache.methods import METHODS
from kdcache.models import build

RESNET18 = "torchvision.models:resnet18"
DATA = "--data synthetic:64,4,32"
TAPS = "f1=layer1,f2=layer2,f3=layer3,emb=avgpool"


def check(model: str, options: str = DATA) -> dict:
    return good(f"check-model {model} {options} --json --device cpu").json()


@pytest.fixture(scope="module")
def bare() -> dict:
    return check(RESNET18)


def test_how_it_is_called_and_what_it_shows(bare):
    assert bare["signature"] == "resnet18(*, weights=None, progress=True, **kwargs)"
    assert bare["call"] == "resnet18(num_classes=4)"
    network = build(RESNET18, 4, (0.5,) * 3, (0.25,) * 3)
    assert bare["weights"] == sum(parameter.numel() for parameter in network.body.parameters())
    assert (bare["image"], bare["logits"]) == ([3, 32, 32], [4])
    assert bare["evaluation"] == {"data": "synthetic:64,4,32", "rows": 12, "view": "none", "size": [32, 32]}


def test_modules_that_could_be_taps(bare):
    modules = {one["path"]: one for one in bare["modules"]}
    assert modules["layer2"] == {"path": "layer2", "type": "Sequential", "shape": [128, 4, 4]}
    assert modules["layer1.1.bn2"]["shape"] == [64, 8, 8]
    assert bare["suggested_taps"] == "f1=layer1,f2=layer2,f3=layer3,emb=fc:in"
    assert check(RESNET18, f"{DATA} --taps {bare['suggested_taps']}")["taps"]["emb"]["shape"] == [512]


def test_methods_that_it_can_serve(bare):
    good_for = {
        role: {name for name, one in bare["methods"].items() if not one[role]} for role in ("teacher", "student")
    }
    assert good_for["teacher"] == {name for name in METHODS if METHODS[name].taps == ("logits",)}
    assert bare["methods"]["at"]["student"] == "needs f1.raw, f2.raw, f3.raw"
    named = check(RESNET18, f"{DATA} --taps {TAPS}")["methods"]
    assert named["at"] == named["ab"] == {"teacher": "", "student": ""}
    assert named["co"] == {"teacher": "needs f1.bn, f2.bn, f3.bn", "student": ""}
    assert named["none"]["teacher"] == "asks no teacher"
    assert set(named) == set(METHODS)


def test_our_own_models_serve_every_method():
    found = check("resnet8")
    assert found["call"] is None
    assert not any(one["student"] for one in found["methods"].values())
    assert {one["teacher"] for one in found["methods"].values()} == {"", "asks no teacher"}
    assert found["taps"]["f2.pre"] == {"path": "layer2.0.relu2", "side": "in", "shape": [32, 16, 16]}


def test_the_cost_of_a_forward():
    """A convolution of 3x3 over 3 to 4 channels, and a layer of 4 to 4: by hand."""
    found = check("tiny-4")
    convolutions = 3 * 4 * 25 * 8 * 8 + 4 * 8 * 9 * 8 * 8 + 8 * 8 * 9 * 4 * 4
    assert found["forward"]["multiply_adds"] == convolutions + 8 * 4
    assert found["forward"]["images_per_second"] > 0


def test_where_the_normalisation_comes_from(in_tmp):
    assert check("tiny-2")["normalisation"] == "of synthetic:64,4,32"
    given = "--mean 0.4,0.4,0.4 --std 0.2,0.2,0.2"
    assert check("tiny-2", f"{DATA} {given}")["normalisation"] == "as given"
    torch.save(build("tiny-2", 4, (0.5,) * 3, (0.25,) * 3).body.state_dict(), "bare.pt")
    assert "there are none in the weights" in check("tiny-2", f"{DATA} --weights bare.pt")["normalisation"]
    good(f"train-teacher --model tiny-2 {DATA} --epochs 1 --out run {given}")
    found = check("tiny-2", f"{DATA} --weights run/last.safetensors")
    assert (found["normalisation"], found["mean"]) == ("in the weights", [0.4] * 3)


def test_the_page_fits_a_terminal():
    for options in ("", f"--taps {TAPS}"):
        page = good(f"check-model {RESNET18} {DATA} {options} --device cpu").out
        assert max(map(len, page.splitlines())) <= 120
        assert "evaluated on" in page
        assert "49 inside these" in page


def test_what_makes_a_network_unusable_is_said(in_tmp):
    name = f"nets_{hashlib.md5(str(in_tmp).encode()).hexdigest()}"
    lines = ["from torch import nn", "def width(width=3): return nn.Linear(3, width)", "def broken(classes):"]
    (in_tmp / f"{name}.py").write_text("\n".join([*lines, "    return nn.Linear(5, classes)", ""]))
    refused(f"check-model {name}:width {DATA}", 2, "a parameter for the number of classes")
    refused(f"check-model {name}:broken {DATA}", 1, "a network for images of [3, 32, 32]")
    refused(f"check-model {RESNET18} {DATA} --taps f1=layr1", 2, "did you mean layer1?")
    refused(f"check-model resnt20 {DATA}", 2, "did you mean")


def test_evaluate_says_what_it_evaluates(home):
    said = good("evaluate runs/teacher-synthetic-64-4-16-tiny-3 --device cpu")
    assert "12 images of synthetic:64,4,16, as they are: 16x16" in said.out
    found = good("evaluate runs/teacher-synthetic-64-4-16-tiny-3 --device cpu --json").json()
    assert (found["rows"], found["view"], found["size"]) == (12, "none", [16, 16])
