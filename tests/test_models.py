"""Networks: their shapes and counts are the papers', and their taps show what they say."""

import copy
import json
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from model_cases import MEAN, NETWORKS, STAGES, STD, hooks, make, refusal, see, stirred

from kdcache.errors import UsageError
from kdcache.models import build, weights
from kdcache.models.figures import figures
from kdcache.models.network import check_output, shapes, watch
from kdcache.models.normalize import Normalize
from kdcache.models.outline import outline
from kdcache.models.resnet import Subsample

# names and sizes


@pytest.mark.parametrize("name", NETWORKS)
def test_one_logit_per_class(name):
    network = make(name, classes=7)
    check_output(network, (3, 32, 32))
    assert network.arch == {"model": name, "classes": 7, "options": {}}
    assert json.loads(json.dumps(network.arch)) == network.arch


def conv_bn(inputs, outputs, kernel=3):
    return inputs * outputs * kernel**2 + 2 * outputs


@pytest.mark.parametrize(
    ("name", "count"),  # the papers say 0.27M, 0.85M, 1.7M and 8.9M, 36.5M; 0.8M of DenseNet-BC-100
    [
        ("resnet20", 269_722),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet8x4", 1_210_410),
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("preact-resnet18", 11_171_146),
        ("wrn-40-4", 8_949_210),
        ("wrn-28-10", 36_479_194),
        ("googlenet", 6_166_250),
        ("densenet121", 6_956_298),
        ("densenetbc-100-12", 769_162),
        ("mobilenetv1", 3_217_226),
        ("mobilenetv2", 2_296_922),
        ("mobilenetv2-half", 697_546),
        ("tiny-3", 811),
        ("tiny", 4_306),
    ],
)
def test_number_of_weights(name, count):
    assert sum(p.numel() for p in outline(name, 10).parameters()) == count


@pytest.mark.parametrize(
    ("name", "weights", "multiply_adds"),  # of 10 classes, in millions, as chenyaofo states them
    [
        ("vgg11-chenyaofo", 9.76, 153.29),
        ("vgg13-chenyaofo", 9.94, 228.79),
        ("vgg16-chenyaofo", 15.25, 313.73),
        ("vgg19-chenyaofo", 20.57, 398.66),
        ("mobilenetv2-x50", 0.70, 27.97),
        ("mobilenetv2-x75", 1.37, 59.31),
        ("mobilenetv2-x100", 2.24, 87.98),
        ("mobilenetv2-x140", 4.33, 170.07),
        ("shufflenetv2-x50", 0.35, 10.90),
        ("shufflenetv2-x100", 1.26, 45.00),
        ("shufflenetv2-x150", 2.49, 94.26),
        ("shufflenetv2-x200", 5.37, 187.81),
    ],
)
def test_sizes_that_were_published(name, weights, multiply_adds):
    size = figures(name)
    assert round(size.weights / 1e6, 2) == weights
    assert round(size.multiply_adds / 1e6, 2) == multiply_adds


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_number_of_weights_of_vgg(depth):
    """Convolutions with a bias and BatchNorm, then a linear layer; where it is pooled makes no difference."""
    counts = {8: "11111", 11: "11222", 13: "22222", 16: "22333", 19: "22444"}[depth]
    widths = [width for width, n in zip((64, 128, 256, 512, 512), counts, strict=True) for _ in range(int(n))]
    expected = sum(9 * a * b + 3 * b for a, b in pairwise([3, *widths])) + 512 * 10 + 10
    assert {figures(name).weights for name in (f"vgg{depth}", f"vgg{depth}-kuangliu")} == {expected}


CIFAR_RESNETS = [f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)]


@pytest.mark.parametrize("name", CIFAR_RESNETS)
@pytest.mark.parametrize("shortcut", ["identity", "projection"])
def test_number_of_weights_follows_he(name, shortcut):
    n = (int(name[6:]) - 2) // 6
    expected = conv_bn(3, 16) + 64 * 10 + 10 + 2 * n * conv_bn(16, 16)
    for c in (32, 64):
        expected += conv_bn(c // 2, c) + (2 * n - 1) * conv_bn(c, c)
        expected += conv_bn(c // 2, c, kernel=1) if shortcut == "projection" else 0
    assert sum(p.numel() for p in make(name, shortcut=shortcut).parameters()) == expected


@pytest.mark.parametrize("name", ["resnet26", "wrn-10-1", "wrn-22-3", "tiny-5"])
def test_families_take_other_numbers(name):
    check_output(make(name), (3, 32, 32))


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 31), (64, 64)])
@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "tiny"])
def test_other_image_sizes(name, size):
    check_output(make(name), (3, *size))


def test_names_of_the_weights_are_the_references():
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "fc.bias"} <= set(
        make("resnet20").body.state_dict()
    )
    projected = make("resnet20", shortcut="projection").body.state_dict()
    assert {"layer2.0.downsample.0.weight", "layer3.0.downsample.1.running_mean"} <= set(projected)
    wide = make("wrn-16-2").body.state_dict()
    assert {"block1.layer.0.convShortcut.weight", "block3.layer.1.bn2.weight", "bn1.weight", "fc.weight"} <= set(wide)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet21", {}, ["resnet32", "resnetDx4", "MODULE:FACTORY"]),
        ("wnr-16-4", {}, ["`kdcache list models`", "did you mean wrn-16-4?"]),
        ("vgg12", {}, ["D = 8, 11, 13, 16, 19"]),
        ("resnet9x4", {}, ["resnetDx4"]),
        ("mobilenetv2-x60", {}, ["P = 50, 75, 100, 140"]),
        ("resnet18", {"shortcut": "identity"}, ["no options", "shortcut"]),
        ("resnet111", {}, ["did you mean resnet110?"]),
        ("wrn-17-2", {}, ["16, 22"]),
        ("wrn-16-0", {}, ["K = 1"]),
        ("tiny-0", {}, ["tiny-W"]),
        ("tiny", {"width": 0}, ["width"]),
        ("resnet20", {"shortcut": "none"}, ["identity", "projection"]),
        ("resnet20", {"width": 2}, ["shortcut", "width"]),
        ("wrn-16-1", {"dropout": 0.1}, ["no options", "dropout"]),
    ],
)
def test_wrong_names_and_options_are_told_what_there_is(name, options, words):
    error = refusal(make, name, **options)
    assert isinstance(error, UsageError)
    assert all(word in str(error) for word in words)


# the start


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-2", "tiny"])
def test_weights_depend_on_the_seed_alone(name):
    first = weights.fingerprint(make(name, seed=3))
    torch.rand(5)
    assert weights.fingerprint(make(name, seed=3)) == first
    assert weights.fingerprint(make(name, seed=4)) != first


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-2", "tiny"])
def test_the_global_generator_is_left_alone(name):
    before = torch.get_rng_state()
    make(name, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_convolutions_start_as_he_says():
    spread = make("resnet110").body.layer3[5].conv1.weight.std().item()
    assert spread == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_shortcut_without_weights_takes_every_second_pixel_and_keeps_the_layout_of_gradients():
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    gradients, shortcut = [], Subsample(16, 32)
    x.register_hook(gradients.append)
    out, plain = shortcut(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(out, plain)
    given = torch.randn(out.shape).to(memory_format=torch.channels_last)
    out.backward(given)
    plain.backward(given)
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*gradients)


# normalisation


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize(images, memory_format):
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    given = images.to(memory_format=memory_format)
    out = Normalize(MEAN, STD)(given)
    torch.testing.assert_close(out, (images / 255 - mean) / std)
    assert out.stride() == given.stride()
    assert torch.equal(given, images)


def test_normalize_gives_the_same_bits_in_any_layout(images):
    normalize = Normalize(MEAN, STD)
    plain = normalize(images)
    assert torch.equal(normalize(images.to(memory_format=torch.channels_last)), plain)
    assert torch.equal(normalize(images[::2, :, 3:-1, ::3]), plain[::2, :, 3:-1, ::3])


def test_normalize_takes_bytes_only(images):
    with pytest.raises(AssertionError):
        Normalize(MEAN, STD)(images.float())


def test_normalisation_is_loaded_with_the_weights(images):
    other = build("tiny", 10, (0, 0, 0), (1, 1, 1))
    twin = copy.deepcopy(other)
    twin.load_state_dict(make("tiny").state_dict())
    assert torch.equal(twin.normalize(images), Normalize(MEAN, STD)(images))
    assert torch.equal(other.normalize(images), Normalize((0, 0, 0), (1, 1, 1))(images))


# taps


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet20", (16, 16, 32, 64)),
        ("resnet110", (16, 16, 32, 64)),
        ("wrn-16-4", (16, 64, 128, 256)),
        ("wrn-40-4", (16, 64, 128, 256)),
    ],
)
def test_shapes_of_the_taps(name, widths):
    network = make(name, classes=100)
    expected = {"logits": (100,), "emb": (widths[3],)}
    for tap, width, size in zip(("f0", *STAGES), widths, (32, 32, 16, 8), strict=True):
        expected |= {f"{tap}.{version}": (width, size, size) for version in ("raw", "pre", "post")}
    expected["cam"] = (100, 8, 8)
    assert set(network.taps) == set(expected)
    assert shapes(network, expected, (3, 32, 32)) == expected


SIGNED = ("wrn", "preact", "densenet", "mobilenetv2")  # whose stages end in no ReLU


@pytest.mark.parametrize("name", NETWORKS)
def test_signs_of_the_taps(name, images):
    network = stirred(make(name), images)
    taps = sorted({tap[:2] for tap in network.taps if tap[0] == "f"})
    assert taps[-3:] == ["f1", "f2", "f3"]
    seen = see(network, network.taps, images)
    if "cam" in seen:
        torch.testing.assert_close(seen["cam"].mean((2, 3)) + network.body.fc.bias, seen["logits"])
    for tap in taps:
        raw, pre, post = (seen[f"{tap}.{version}"] for version in ("raw", "pre", "post"))
        assert (pre < 0).any()
        assert torch.equal(pre.relu(), post)
        if name.startswith(SIGNED):
            assert (raw < 0).any()
        else:
            assert torch.equal(raw, post)


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "tiny"])
@pytest.mark.parametrize("training", [True, False])
def test_watching_changes_nothing(name, training, images):
    network = stirred(make(name), images).train(training)
    plain = copy.deepcopy(network)(images)
    with watch(network, network.taps) as look:
        seen = look(images)
    assert torch.equal(seen["logits"], plain)
    assert torch.equal(network.body.fc(seen["emb"]), plain)
    f3 = F.adaptive_avg_pool2d(seen["f3.post"], 1).flatten(1)
    assert torch.equal(seen["emb"], f3)


def test_wrn_taps_sit_around_the_batchnorm_of_the_next_stage(images):
    network = stirred(make("wrn-10-2"), images)
    seen = see(network, network.taps, images)
    for tap in STAGES:
        assert torch.equal(network.bn_before_relu(f"{tap}.pre")(seen[f"{tap}.raw"]), seen[f"{tap}.pre"])


def test_taps_carry_gradients(images):
    network = make("wrn-10-1")
    with watch(network, ["f2.pre"]) as look:
        look(images)["f2.pre"].square().sum().backward()
    assert network.body.conv1.weight.grad.abs().sum() > 0
    assert network.body.fc.weight.grad is None


def test_a_look_has_the_names_that_were_asked_for(images):
    network = make("resnet8")
    assert list(see(network, ["emb", "f3.pre"], images)) == ["emb", "f3.pre"]
    assert list(see(network, ["logits"], images)) == ["logits"]


def test_hooks_are_few_and_go(images):
    network = make("resnet8")
    with watch(network, ["f1.raw", "f1.post", "f2.pre", "logits"]):
        assert hooks(network) == 2
    assert hooks(network) == 0
    with pytest.raises(ZeroDivisionError), watch(network, network.taps):
        1 / 0  # noqa: B018
    with pytest.raises(AssertionError), watch(network, network.taps) as look:
        look(images.float())
    assert hooks(network) == 0


def test_missing_taps_are_named():
    network = make("tiny")
    error = refusal(shapes, network, ["f1.pre", "f0.pre"], (3, 32, 32))
    assert (error.place, error.found) == ("tiny", "f0.pre")
    assert "f1.pre, f1.raw" in error.expected
    assert hooks(network) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"]),
        ("wrn-16-2", ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]),
        ("resnet18", ["layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"]),
        ("vgg8", ["block2.1", "block3.1", "block4.1"]),
        ("shufflenetv1", ["layer1.3.bn3", "layer2.7.bn3", "layer3.3.bn3"]),
        ("mobilenetv2-half", ["layers.3.0.bn1", "layers.5.0.bn1", "bn2"]),
        ("tiny", ["bn1", "bn2", "bn3"]),
    ],
)
def test_batchnorms_of_the_margins(name, expected):
    network = make(name)
    found = [network.bn_before_relu(f"{tap}.pre") for tap in STAGES]
    assert found == [network.body.get_submodule(path) for path in expected]
    assert "f1.pre" in str(refusal(network.bn_before_relu, "emb"))


def test_shapes_leave_no_trace(images):
    network = stirred(make("resnet8"), images)
    network.body.layer2.train()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert shapes(network, ["f2.raw"], images) == {"f2.raw": (32, 16, 16)}
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
