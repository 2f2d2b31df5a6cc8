"""Checkpoints of other repositories are read by the names and shapes that they have, each into the network it is of."""

import pytest
import safetensors.torch
import torch
from foreign_names import CHECKPOINTS, tensors
from model_cases import MEAN, STD, make, refusal

from kdcache.errors import KdcacheWarning, TeacherError
from kdcache.jobs.data import Data
from kdcache.jobs.loading import load_normalised
from kdcache.models import weights
from kdcache.models.dialects import DIALECTS, Dialect, translated

QUICK = ("resnet20", "resnet8x4", "vgg8", "mobilenetv2-half", "mobilenetv2-x50", "shufflenetv1", "shufflenetv2-x50")
SOURCES = [
    pytest.param(*source, id="-".join(source), marks=() if source[0] in QUICK else pytest.mark.slow)
    for source in CHECKPOINTS
]


def written(path, state, wrapped=None):
    """What their training scripts write, or the same in safetensors, which sorts the names."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({wrapped: state} if wrapped else state, path)
    return path


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(("model", "source"), SOURCES)
def test_every_tensor_comes_to_its_place(model, source, file, tmp_path):
    """The order of the layers is the same everywhere, so that the tensors of ours are theirs, one after another."""
    state = tensors(CHECKPOINTS[model, source])
    path = written(
        tmp_path / file, state, {"RepDistiller": "model", "mdistiller": "model", "kuangliu": "net"}.get(source)
    )
    network = weights.load(path, model, None, MEAN, STD)
    assert network.arch["model"] == model
    assert network.arch["classes"] == CHECKPOINTS[model, source][-1][1][0]
    loaded = network.body.state_dict().values()
    for (name, theirs), ours in zip(state.items(), loaded, strict=True):
        assert torch.equal(theirs, ours), name


@pytest.mark.parametrize(
    ("model", "source", "named"),
    [
        ("vgg8", "RepDistiller", "vgg8-kuangliu"),
        ("mobilenetv2-half", "RepDistiller", "mobilenetv2"),
        ("mobilenetv2-x50", "chenyaofo", "mobilenetv2-half"),
        ("mobilenetv2-x50", "chenyaofo", "mobilenetv2"),
        ("shufflenetv2-x50", "kuangliu", "shufflenetv2"),
        ("shufflenetv1", "RepDistiller", "shufflenetv2"),
        ("vgg16-kuangliu", "kuangliu", "vgg16"),
        ("vgg11-chenyaofo", "chenyaofo", "vgg11-kuangliu"),
        ("resnet18", "kuangliu", "preact-resnet18"),
        ("preact-resnet18", "kuangliu", "resnet18"),
        ("resnet8x4", "RepDistiller", "resnet8"),
    ],
)
def test_what_computes_something_else_is_refused(model, source, named, tmp_path):
    path = written(tmp_path / "net.pth", tensors(CHECKPOINTS[model, source]))
    error = refusal(weights.load, path, named, None, MEAN, STD)
    assert isinstance(error, TeacherError)
    assert "missing" in error.found or "of another shape" in error.found
    if model != "resnet8x4":  # whose names are those of all ResNets
        assert model in error.remedy


def test_a_network_of_ours_is_not_read_as_one_of_other_arithmetic(tmp_path):
    """RepDistiller's VGG and kuangliu's have the same weights, and pool otherwise."""
    path = written(tmp_path / "net.pth", make("vgg8").body.state_dict())
    assert "missing" in refusal(weights.load, path, "vgg8-kuangliu", None, MEAN, STD).found
    assert weights.load(path, "vgg8", None, MEAN, STD).read_as == ""


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net", "ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "_orig_mod.module.", "net."])
def test_wrappers_and_prefixes(wrapper, prefix, tmp_path):
    named = CHECKPOINTS["resnet20", "akamaster"]
    state = {f"{prefix}{name}": tensor for name, tensor in tensors(named).items()}
    network = weights.load(written(tmp_path / "last.ckpt", state, wrapper), "resnet20", None, MEAN, STD)
    assert torch.equal(network.body.layer3[2].conv2.weight, tensors(named)["layer3.2.conv2.weight"])


def test_averaged_weights(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(make("tiny").body)
    network = weights.load(written(tmp_path / "net.pt", averaged.state_dict()), "tiny", None, MEAN, STD)
    assert torch.equal(network.body.fc.weight, make("tiny").body.fc.weight)


def test_what_was_read_by_other_names_is_said(tmp_path):
    data = Data.open("synthetic:20,10,32", None)
    path = written(tmp_path / "net.pth", tensors(CHECKPOINTS["mobilenetv2-half", "RepDistiller"][:-2]))
    state = torch.load(path) | {"classifier.0.weight": torch.zeros(10, 1280), "classifier.0.bias": torch.zeros(10)}
    written(path, state)
    with pytest.warns(KdcacheWarning, match="named as RepDistiller names them, read as mobilenetv2-half"):
        load_normalised(path, "mobilenetv2-half", data, (MEAN, STD))


def test_what_the_names_do_not_tell_is_said(tmp_path):
    path = written(tmp_path / "net.pth", tensors(CHECKPOINTS["resnet18", "torchvision"]))
    assert "without a pooling behind the first convolution" in weights.load(path, "resnet18", 10, MEAN, STD).read_as


def test_misfits_are_listed_by_name_and_shape(tmp_path):
    state = tensors(CHECKPOINTS["resnet20", "akamaster"])
    del state["layer1.0.bn1.bias"], state["layer1.0.bn2.bias"]
    state |= {"extra.weight": torch.zeros(2, 3), "bn1.weight": torch.zeros(5)}
    error = refusal(weights.load, written(tmp_path / "net.safetensors", state), "resnet20", None, MEAN, STD)
    assert error.found == (
        "2 missing (layer1.0.bn1.bias [16], layer1.0.bn2.bias [16]), 1 unexpected (extra.weight [2, 3]), "
        "1 of another shape (bn1.weight [5] instead of [16])"
    )


def test_no_tensor_is_lost_to_another_of_its_name():
    twice = Dialect("somebody", "tiny", (), ((r"^linear\.", "fc."),))
    state = {"fc.bias": torch.zeros(1), "linear.bias": torch.ones(1)}
    assert translated(state, twice, ["fc.bias"]) == state


def test_dialects_fit_networks_that_there_are():
    from kdcache.models import listed
    from kdcache.models.dialects import fitting

    assert all(any(fitting([dialect], name) for name in [*listed(), "a:b"]) for dialect in DIALECTS)
