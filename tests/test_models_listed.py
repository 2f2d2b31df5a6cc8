"""What is known of every listed network: its size, its shapes without values, and taps that every method reads."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from model_cases import NETWORKS, STAGES, make

from kdcache.models import listed
from kdcache.models.figures import KEPT, figures, found
from kdcache.models.network import shapes, watch
from kdcache.models.outline import outline, runnable


def test_figures_are_kept_of_what_is_listed():
    assert set(KEPT) <= set(listed())


@pytest.mark.parametrize("name", NETWORKS)
def test_figures_are_right(name):
    assert figures(name) == found(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_outline_has_the_shapes_of_the_network(name):
    real, without = make(name), outline(name, 10)
    assert without.arch == real.arch
    assert [(n, t.shape, t.dtype) for n, t in without.state_dict().items()] == [
        (n, t.shape, t.dtype) for n, t in real.state_dict().items()
    ]
    assert shapes(without, without.taps, (3, 32, 32)) == shapes(real, real.taps, (3, 32, 32))


def test_outlines_do_without_torchs_compiler():
    """And so do networks whose shapes are found by running them, where that is quicker than the import."""
    code = (
        "import sys; from kdcache.models import listed; from kdcache.models.outline import *\n"
        "for name in listed(): outline(name, 10)\n"
        "from kdcache.models.network import shapes; net = runnable('resnet8', 10, (3, 32, 32))\n"
        "shapes(net, net.taps, (3, 32, 32)); print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(("name", "image", "device"), [
    ("tiny-3", (3, 32, 32), "cpu"), ("wrn-28-10", (3, 32, 32), "cpu"), ("resnet18", (3, 224, 224), "meta"),
])  # fmt: skip
def test_what_takes_long_to_run_is_an_outline(name, image, device):
    assert {parameter.device.type for parameter in runnable(name, 10, image).parameters()} == {device}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_gets_a_gradient(name, images):
    network = make(name).train()
    F.cross_entropy(network(images), torch.arange(4)).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_taps_that_every_method_reads(name, images):
    """A margin of each channel of `pre`, and gradients back to the first layer from all that is seen."""
    network = make(name)
    for tap in STAGES:
        norm = network.bn_before_relu(f"{tap}.pre")
        assert norm.num_features == shapes(network, [f"{tap}.pre"], images)[f"{tap}.pre"][0]
    first = next(iter(network.parameters()))
    with watch(network, network.taps) as look:
        seen = look(images)
    for tap in network.taps:
        first.grad = None
        seen[tap].float().square().sum().backward(retain_graph=True)
        assert first.grad.abs().sum() > 0, tap
