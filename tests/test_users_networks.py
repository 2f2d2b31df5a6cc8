"""A factory of the user's is as good as a model of ours."""

import hashlib

import pytest
import torch
from model_cases import MEAN, STD, hooks, make, refusal

from kdcache.errors import UsageError
from kdcache.models import weights
from kdcache.models.network import check_output, shapes

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


@pytest.mark.parametrize("factory", ["make", "named", "fixed", "Net"])
def test_a_factory_of_the_users(nets, factory):
    before = torch.get_rng_state()
    network = make(f"{nets}:{factory}", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights.fingerprint(network) == weights.fingerprint(make(f"{nets}:{factory}", seed=5))
    check_output(network, (3, 16, 16))
    assert shapes(network, ["f1.post"], (3, 16, 16)) == {"f1.post": (4, 14, 14)}


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
        ("{nets}:fails", "RuntimeError: first line"),
    ],
)
def test_a_factory_that_fails_is_told_so(nets, name, found):
    error = refusal(make, name.format(nets=nets))
    assert isinstance(error, UsageError)
    assert (error.place, error.found) == (name.format(nets=nets), found.format(nets=nets))


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
