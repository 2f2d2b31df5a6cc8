"""Networks for tests: fresh ones, ones with statistics of their own, and what they show or refuse."""

import numpy as np
import pytest
import torch
from torch import nn

from kdcache.errors import KdcacheError
from kdcache.models import build, listed
from kdcache.models.figures import figures
from kdcache.models.network import Network, watch

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
STAGES = ("f1", "f2", "f3")
QUICK = 30_000_000  # multiplications of a network that the quick tests take
NETWORKS = [
    name if figures(name).multiply_adds <= QUICK else pytest.param(name, marks=pytest.mark.slow) for name in listed()
]


def make(name, classes=10, **options) -> Network:
    return build(name, classes, MEAN, STD, **options)


def stirred(network: Network, images) -> Network:
    """With running statistics and BatchNorm weights that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    network.train()(images)
    return network.eval()


def by_onnx(network: Network, images, folder) -> tuple[np.ndarray, np.ndarray]:
    """What a network answers to the first image, by ONNX's own reference and by itself."""
    reference = pytest.importorskip("onnx.reference", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    normalised = network.normalize(images)[:1]
    torch.onnx.export(network.body, (normalised,), folder / "net.onnx", dynamo=True, verbose=False)
    session = reference.ReferenceEvaluator(str(folder / "net.onnx"))
    found = session.run(None, {session.input_names[0]: normalised.numpy()})[0]
    return found, network.body(normalised).detach().numpy()


def see(network, names, images):
    with torch.no_grad(), watch(network, names) as look:
        return look(images)


def refusal(function, *args, **kwargs) -> KdcacheError:
    with pytest.raises(KdcacheError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
