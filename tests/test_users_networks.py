"""A factory of the user's is as good as a model of ours."""

import hashlib

import pytest
import torch
from model_cases import MEAN, STD, hooks, make, refusal
from torch import nn

from kdcache.errors import UsageError
from kdcache.models import CLASSES, checkpoints, weights
from kdcache.models.network import check_output, shapes, wrapped

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    taps = {"f1.pre": ("0.1", "in"), "f1.post": ("0.1", "out")}
    taps |= {"lost": ("9", "in"), "odd": "0.1", "unused": ("2", "in")}

    def __init__(self, classes):
        super().__init__()
        self.add_module("0", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
        self.add_module("1", nn.Linear(4, classes))
        self.add_module("2", nn.Identity())

    def forward(self, x):
        return self.get_submodule("1")(self.get_submodule("0")(x).mean((2, 3)))

def make(classes, scale=1):
    return Net(scale * classes)

def named(*, num_classes):
    return Net(num_classes)

def fixed():
    return Net(10)

def tuples(classes):
    class Two(Net):
        def forward(self, x):
            return super().forward(x), x
    return Two(classes)

def fails(classes):
    raise RuntimeError("first line\\nsecond line")

def fails_below(classes):
    return Net("ten")

def small(width=16):
    return Net(width)

def behind(width, n_classes=10):
    return Net(n_classes)

def keywords(width=16, **options):
    return Net(options["num_classes"])

def positional(classes, /):
    return Net(classes)

def number(classes):
    return classes

constant = 3
"""


@pytest.fixture
def nets(in_tmp, monkeypatch):
    """A fresh module in the current folder."""
    name = f"nets_{hashlib.md5(str(in_tmp).encode()).hexdigest()}"
    (in_tmp / f"{name}.py").write_text(NETS)
    return name


@pytest.mark.parametrize("factory", ["make", "named", "fixed", "Net", "keywords"])
def test_a_factory_of_the_users(nets, factory):
    before = torch.get_rng_state()
    network = make(f"{nets}:{factory}", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights.fingerprint(network) == weights.fingerprint(make(f"{nets}:{factory}", seed=5))
    check_output(network, (3, 16, 16))
    assert shapes(network, ["f1.post"], (3, 16, 16)) == {"f1.post": (4, 14, 14)}


@pytest.mark.parametrize("spelling", CLASSES)
def test_the_number_of_classes_goes_by_name(in_tmp, spelling):
    name = f"spelt_{spelling}_{hashlib.md5(str(in_tmp).encode()).hexdigest()}"
    made = f"    return nn.Sequential(nn.Flatten(), nn.Linear(width, {spelling}))"
    (in_tmp / f"{name}.py").write_text(f"from torch import nn\ndef make(width=48, *, {spelling}=3):\n{made}\n")
    check_output(make(f"{name}:make", classes=7), (3, 4, 4))


@pytest.mark.parametrize("factory", ["torchvision.models:resnet18", "torchvision.models.resnet:resnet18"])
def test_networks_of_others_get_it_among_their_keywords(factory):
    assert make(factory, classes=7).body.fc.out_features == 7


def test_no_other_parameter_is_given_the_number_of_classes(nets):
    for factory, shown in {"small": "small(width=16)", "positional": "positional(classes, /)"}.items():
        error = refusal(make, f"{nets}:{factory}")
        assert (error.place, error.found) == (f"{nets}:{factory}", shown)
        assert "called classes or num_classes" in error.expected
        assert f"`def make(num_classes): return {factory}(...)`" in error.remedy


def test_a_factory_gets_its_options(nets):
    assert make(f"{nets}:make", scale=2).body.get_submodule("1").out_features == 20


def test_a_users_network_is_saved_and_loaded_by_name(nets, images):
    network = make(f"{nets}:make").eval()
    weights.save(network, "net.safetensors")
    again = weights.load("net.safetensors", f"{nets}:make")
    assert torch.equal(again(images), network(images))
    torch.save(network.body.state_dict(), "net.pth")
    assert torch.equal(weights.load("net.pth", f"{nets}:make", 10, MEAN, STD)(images), network(images))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("{nets}:absent", "AttributeError: module '{nets}' has no attribute 'absent'"),
        ("{nets}:", "AttributeError: module '{nets}' has no attribute ''"),
        (":make", "ValueError: Empty module name"),
        ("{nets}:constant", "int"),
        ("{nets}:number", "int"),
    ],
)
def test_a_factory_that_fails_is_told_so(nets, name, found):
    error = refusal(make, name.format(nets=nets))
    assert isinstance(error, UsageError)
    assert (error.place, error.found) == (name.format(nets=nets), found.format(nets=nets))


def test_an_error_inside_a_factory_says_where(nets, in_tmp):
    source = (in_tmp / f"{nets}.py").read_text().splitlines()
    lines = {
        "fails": ('    raise RuntimeError("first line\\nsecond line")', "RuntimeError: first line"),
        "fails_below": (
            '        self.add_module("1", nn.Linear(4, classes))',
            "TypeError: ",
        ),
        "behind": ("", "TypeError: behind() missing 1 required positional argument: 'width'"),
    }
    for factory, (line, said) in lines.items():
        error = refusal(make, f"{nets}:{factory}")
        assert error.found.startswith(said)
        if line:
            assert error.found.endswith(f", in {in_tmp / nets}.py:{source.index(line) + 1}")
        assert "KDCACHE_DEBUG=1 shows the whole traceback" in error.remedy
        assert "number of classes" not in str(error)
    (in_tmp / f"{nets}_import.py").write_text("import math\nmath.no_such_name\n")
    error = refusal(make, f"{nets}_import:make")
    assert error.found.endswith(f"in {in_tmp / nets}_import.py:2")
    assert "spelling" not in error.remedy
    inside = next(n for n, line in enumerate(source, 1) if "mean((2, 3))" in line)
    assert f"{nets}.py:{inside}" in refusal(check_output, make(f"{nets}:make"), (3, 2, 2)).found


def test_wrong_answers_of_a_users_network(nets):
    assert refusal(check_output, make(f"{nets}:fixed", classes=7), (3, 16, 16)).found == "[2, 10]"
    assert refusal(check_output, make(f"{nets}:tuples"), (3, 16, 16)).found == "tuple"
    assert refusal(shapes, make(f"{nets}:tuples"), ["logits"], (3, 16, 16)).found == "tuple"
    assert "RuntimeError" in refusal(check_output, make(f"{nets}:make"), (3, 2, 2)).found


def test_wrong_taps_of_a_users_network(nets):
    network = make(f"{nets}:make")
    for tap, found in {"lost": "none of that name", "odd": "'0.1'", "unused": "NoneType"}.items():
        assert refusal(shapes, network, [tap], (3, 16, 16)).found == found
    assert "this network names none" in str(refusal(network.bn_before_relu, "f1.pre"))
    assert hooks(network) == 0


def test_a_network_with_a_normalize_of_its_own_takes_its_own_names(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalize = nn.BatchNorm2d(3)
            self.fc = nn.Linear(3, 4)

        def forward(self, images):
            return self.fc(self.normalize(images).mean((2, 3)))

    network = wrapped(Own(), 4, (0.5,) * 3, (0.25,) * 3)
    state, _ = checkpoints.renamed(Own().state_dict(), network)
    assert {name for name in state if not name.startswith("body.")} == set()
