"""Every listed network teaches and learns, leaves as torch and ONNX have it, and comes back from its file."""

import numpy as np
import pytest
import torch
from model_cases import NETWORKS, STAGES, by_onnx, make, see, stirred
from train_cases import asks, assert_same_weights, dumped, measured, teacher_of

from kdcache.jobs import Data, Student, taught_by
from kdcache.methods import METHODS
from kdcache.methods.boundary import margins
from kdcache.models import weights
from kdcache.train import Settings

FAMILIES = [
    "resnet8x4", "resnet18", "resnet50", "preact-resnet18", "wrn-16-1", "vgg8", "vgg11-kuangliu", "vgg11-chenyaofo",
    "googlenet", "densenetbc-22-12", "mobilenetv1", "mobilenetv2", "mobilenetv2-half", "mobilenetv2-x50",
    "shufflenetv1", "shufflenetv2", "shufflenetv2-x50",
]  # fmt: skip
FEATURES = "+".join(name for name in METHODS if asks(name) and name not in ("mhgd", "kdeid", "kdsvd"))  # no SVD of each
STUDENTS = {"mobilenetv2-half": "st+at+ab+co", "shufflenetv2-x50": "st+at+fitnet+fsp"}


def assert_cached_equals_live(model, method, folder):
    """The teacher's own shape learns from it, from a cache and from the network itself."""
    data = Data.open("synthetic:25,4,32", "crop-flip")
    network = teacher_of(model, data)
    cache = dumped(folder / "cache.h5", data, network, method, views=1, batch=16)
    settings = Settings(epochs=2, batch=8, lr=0.01)
    outcomes = [Student(data, model, method, settings, taught_by(cache, live)).train() for live in (None, network)]
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "method"), STUDENTS.items())
def test_cached_equals_online(model, method, tmp_path):
    assert_cached_equals_live(model, method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_cached_equals_online_for_every_method(model, tmp_path):
    assert_cached_equals_live(model, FEATURES, tmp_path)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_comes_back_from_its_file(name, tmp_path):
    network = make(name)
    weights.save(network, tmp_path / "net.safetensors")
    again = weights.load(tmp_path / "net.safetensors")
    assert again.arch == network.arch
    assert weights.fingerprint(again) == weights.fingerprint(network)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_torch_export(name, images):
    network = stirred(make(name), images)
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(exported(images), network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", FAMILIES)
def test_onnx(name, images, tmp_path):
    found, own = by_onnx(stirred(make(name), images), images, tmp_path)
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-4)


def test_the_margins_of_parts_side_by_side(images):
    """Of GoogLeNet's four branches, one after another; of ShuffleNetV2, 0 for the half that was above 0 already."""
    network = stirred(make("googlenet"), images)
    joined = margins(network.bn_before_relu("f1.pre"))
    parts = [network.body.b3.b1[1], network.body.b3.b2[4], network.body.b3.b3[7], network.body.b3.b4[2]]
    assert torch.equal(joined, torch.cat([margins(part) for part in parts]))
    network = stirred(make("shufflenetv2-x50"), images)
    seen = see(network, [f"{tap}.pre" for tap in STAGES], images)
    for tap in STAGES:
        margin, half = margins(network.bn_before_relu(f"{tap}.pre")), seen[f"{tap}.pre"].shape[1] // 2
        assert (seen[f"{tap}.pre"][:, :half] >= 0).all()
        assert (margin[:half] == 0).all()
        assert (margin[half:] < 0).all()


@pytest.mark.parametrize("size", [32, 64])
def test_vgg_pools_where_repdistiller_does(size):
    """Three times, and once more the images of Tiny ImageNet."""
    network = make("vgg8").eval()
    grids = []
    for number in range(5):
        block = network.body.get_submodule(f"block{number}")
        block.register_forward_hook(lambda module, inputs, output: grids.append(output.shape[2]))
    network(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert grids == {32: [32, 16, 8, 4, 4], 64: [64, 32, 16, 8, 4]}[size]


def test_relu6_of_the_networks_of_torchvision_s_kind(images):
    network = stirred(make("mobilenetv2-x50"), images)
    torch.nn.init.constant_(network.body.bn1.bias, 5.0)
    with torch.no_grad():
        seen = network.body.relu1(network.body.bn1(network.body.conv1(network.normalize(images))))
    assert seen.max() == 6


def test_a_pooled_vgg_refuses_images_that_are_too_small():
    from kdcache.errors import TeacherError
    from kdcache.models.network import check_output

    with pytest.raises(TeacherError, match="a network for images of"):
        check_output(make("vgg11-kuangliu"), (3, 16, 16))
