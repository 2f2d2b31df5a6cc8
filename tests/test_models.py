"""Networks: their shapes and counts are the papers', their taps show what they say, their files hold what they were."""

import argparse
import copy
import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from kdcache.errors import KdcacheError, TeacherError, UsageError
from kdcache.models import MODELS, build, weights
from kdcache.models.network import Network, Normalize, check_output, shapes, watch

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
STAGES = ("f1", "f2", "f3")


def make(name, classes=10, **options) -> Network:
    return build(name, classes, MEAN, STD, **options)


@pytest.fixture
def images():
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stirred(network: Network, images) -> Network:
    """With running statistics and BatchNorm weights that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    network.train()(images)
    return network.eval()


def see(network, names, images):
    with torch.no_grad(), watch(network, names) as look:
        return look(images)


def refusal(function, *args, **kwargs) -> KdcacheError:
    with pytest.raises(KdcacheError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value


# names and sizes


@pytest.mark.parametrize("name", MODELS)
def test_one_logit_per_class(name):
    network = make(name, classes=7)
    check_output(network, (3, 32, 32))
    assert network.arch == {"model": name, "classes": 7, "options": {}}
    assert json.loads(json.dumps(network.arch)) == network.arch


def conv_bn(inputs, outputs, kernel=3):
    return inputs * outputs * kernel**2 + 2 * outputs


@pytest.mark.parametrize(
    ("name", "count"),  # the papers say 0.27M, 0.85M, 1.7M and 8.9M, 36.5M
    [
        ("resnet20", 269_722),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("wrn-40-4", 8_949_210),
        ("wrn-28-10", 36_479_194),
        ("tiny-3", 811),
        ("tiny", 4_306),
    ],
)
def test_number_of_weights(name, count):
    assert sum(p.numel() for p in make(name).parameters()) == count


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("resnet")])
@pytest.mark.parametrize("shortcut", ["identity", "projection"])
def test_number_of_weights_follows_he(name, shortcut):
    n = (int(name[6:]) - 2) // 6
    expected = conv_bn(3, 16) + 64 * 10 + 10 + 2 * n * conv_bn(16, 16)
    for c in (32, 64):
        expected += conv_bn(c // 2, c) + (2 * n - 1) * conv_bn(c, c)
        expected += conv_bn(c // 2, c, kernel=1) if shortcut == "projection" else 0
    assert sum(p.numel() for p in make(name, shortcut=shortcut).parameters()) == expected


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-22-3", "tiny-5"])
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
        ("resnet21", {}, ["resnet32", "wrn-D-K", "MODULE:FACTORY"]),
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
    assert set(network.taps) == set(expected)
    assert shapes(network, expected, (3, 32, 32)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_signs_of_the_taps(name, images):
    network = stirred(make(name), images)
    taps = sorted({tap[:2] for tap in network.taps if tap[0] == "f"})
    assert taps[-3:] == ["f1", "f2", "f3"]
    seen = see(network, network.taps, images)
    for tap in taps:
        raw, pre, post = (seen[f"{tap}.{version}"] for version in ("raw", "pre", "post"))
        assert (pre < 0).any()
        assert torch.equal(pre.relu(), post)
        if name.startswith("wrn"):
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


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


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


# files


@pytest.mark.parametrize(
    ("name", "options"), [("resnet8", {"shortcut": "projection"}), ("wrn-10-2", {}), ("tiny-3", {})]
)
def test_round_trip(name, options, images, tmp_path):
    network = stirred(make(name, **options).to(memory_format=torch.channels_last), images)
    path = tmp_path / "net.safetensors"
    weights.save(network, path, accuracy=0.93, epochs=[1, 2])
    before = torch.get_rng_state()
    again = weights.load(path, classes=10)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.to(memory_format=torch.channels_last)(images), network(images))
    assert weights.fingerprint(again) == weights.fingerprint(network)
    assert (again.arch, again.facts) == (network.arch, {"accuracy": 0.93, "epochs": [1, 2]})
    assert (again.assumed_normalisation, again.training) == (False, False)
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_same_network_same_bytes(tmp_path):
    for name in "ab":
        weights.save(make("tiny-3"), tmp_path / name, accuracy=1, seed=0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    weights.save(make("tiny-3"), path)
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in refusal(weights.save, make("tiny-3", seed=1), path).found
    assert (os.listdir(tmp_path), path.read_bytes()) == (["net.safetensors"], old)


def test_fingerprint_is_of_the_weights(images):
    network = make("resnet8")
    first = weights.fingerprint(network)
    assert len(first) == 32
    assert weights.fingerprint(copy.deepcopy(network).to(memory_format=torch.channels_last)) == first
    network.body.bn1.num_batches_tracked += 1
    assert weights.fingerprint(network) == first
    assert weights.fingerprint(copy.deepcopy(network).half()) != first
    network.body.fc.bias.data[0] += 1
    assert weights.fingerprint(network) != first


def test_fingerprint_of_a_known_network():
    """Golden: caches hold such fingerprints."""
    network = Network(nn.Linear(1, 1, bias=False), [0.5], [0.25], {"model": "golden", "classes": 1, "options": {}})
    network.body.weight.data.fill_(2)
    lines = [("body.weight", [1, 1], 2), ("normalize.mean", [1], 0.5), ("normalize.std", [1], 0.25)]
    expected = hashlib.blake2b(digest_size=16)
    for name, shape, value in lines:
        expected.update(f"{name} torch.float32 {shape}\n".encode() + np.float32(value).tobytes())
    assert weights.fingerprint(network) == expected.hexdigest()


def training_script(state):
    """A dict as RepDistiller leaves it: options as a Namespace, NumPy numbers, the optimiser."""
    numbers = {"accuracy": np.float64(93.5), "best": torch.tensor(1.0), "epoch": np.int64(3), "history": np.zeros(2)}
    return {"model": state, "opt": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}, **numbers}


WRAPPINGS = {
    "plain": lambda state: state,
    "DataParallel": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.module.{key}": tensor for key, tensor in state.items()},
    "body": lambda state: {f"body.{key}": tensor for key, tensor in state.items()},
    "net": lambda state: {"net": {f"module.{key}": tensor for key, tensor in state.items()}, "acc": 93.5, "epoch": 3},
    "lightning": lambda state: {"state_dict": state, "epoch": 3},
    "script": training_script,
    "nested": lambda state: {"state_dict": {"model": state}},
    "half": lambda state: {key: t.half() if t.is_floating_point() else t for key, t in state.items()},
    "old": lambda state: {key: t for key, t in state.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1"])
def test_checkpoints_from_elsewhere(name, wrapping, images, tmp_path):
    network = make(name)
    if wrapping == "half":
        network.body.half().float()
    torch.save(WRAPPINGS[wrapping](network.body.state_dict()), tmp_path / "net.pth")
    again = weights.load(tmp_path / "net.pth", name, None, MEAN, STD)
    assert again.assumed_normalisation
    assert again.arch == network.arch
    assert weights.fingerprint(again) == weights.fingerprint(network)
    assert torch.equal(again(images), network.eval()(images))


def test_a_saved_state_dict_of_ours_brings_its_normalisation(tmp_path):
    network = make("tiny")
    torch.save({"model": network.state_dict()}, tmp_path / "net.pt")
    again = weights.load(tmp_path / "net.pt", "tiny")
    assert not again.assumed_normalisation
    assert weights.fingerprint(again) == weights.fingerprint(network)


def test_safetensors_without_our_header(tmp_path):
    network = make("tiny")
    safetensors.torch.save_file(network.body.state_dict(), tmp_path / "net.safetensors", {"format": "pt"})
    again = weights.load(tmp_path / "net.safetensors", "tiny", 10, MEAN, STD)
    assert weights.fingerprint(again) == weights.fingerprint(network)


@pytest.mark.parametrize("key", ["shortcut", "downsample"])
def test_projection_shortcuts_are_recognised(key, tmp_path):
    network = make("resnet14", shortcut="projection")
    state = {name.replace("downsample", key): tensor for name, tensor in network.body.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "net.th")
    again = weights.load(tmp_path / "net.th", "resnet14", 10, MEAN, STD)
    assert again.arch["options"] == {"shortcut": "projection"}
    assert weights.fingerprint(again) == weights.fingerprint(network)


def akamaster(state, x):
    """The network whose checkpoints have `linear`, written out: zeros go to both sides of the channels."""

    def bn(x, name):
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = F.relu(bn(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    for layer in (1, 2, 3):
        stride = 1 if layer == 1 else 2
        name = f"layer{layer}.0"
        out = F.relu(bn(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
        out = bn(F.conv2d(out, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        if stride == 2:
            quarter = torch.zeros_like(out[:, : out.shape[1] // 4])
            x = torch.cat([quarter, x[:, :, ::2, ::2], quarter], 1)
        x = F.relu(out + x)
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_akamaster_checkpoints_answer_as_they_did(images, tmp_path):
    network = stirred(make("resnet8"), images)
    state = {f"module.{key.replace('fc.', 'linear.')}": tensor for key, tensor in network.body.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "resnet8.th")
    again = weights.load(tmp_path / "resnet8.th", "resnet8", mean=MEAN, std=STD)
    expected = akamaster({k.removeprefix("module."): v for k, v in state.items()}, again.normalize(images))
    torch.testing.assert_close(again(images), expected)


# files that are no such thing


class Whatever:
    def __reduce__(self):
        return os.getcwd, ()


def cut(content):
    return lambda path: path.write_bytes(content(path)[: len(content(path)) // 2])


def saved(path):
    weights.save(make("tiny"), path)
    return path.read_bytes()


def pickled(path):
    torch.save(make("tiny").body.state_dict(), path)
    return path.read_bytes()


def header(**arch):
    text = json.dumps({"arch": arch, "facts": {}})
    return lambda path: safetensors.torch.save_file(make("tiny").state_dict(), path, {"kdcache": text})


BAD_FILES = {
    "missing.pth": lambda path: None,
    "folder.pth": lambda path: path.mkdir(),
    "empty.pth": lambda path: path.touch(),
    "empty.safetensors": lambda path: path.touch(),
    "text.pth": lambda path: path.write_text("hello, this is no checkpoint"),
    "text.safetensors": lambda path: path.write_text("hello, this is no checkpoint"),
    "cut.safetensors": cut(saved),
    "cut.pth": cut(pickled),
    "module.pth": lambda path: torch.save(make("tiny"), path),
    "code.pth": lambda path: torch.save({"state_dict": Whatever()}, path),
    "bare.pth": lambda path: path.write_bytes(pickle.dumps({"state_dict": Whatever()})),
    "list.pth": lambda path: torch.save([1, 2], path),
    "tensor.pth": lambda path: torch.save(torch.zeros(3), path),
    "numbers.pth": lambda path: torch.save({"model": {"a": 1}}, path),
    "no-arch.safetensors": header(),
    "unknown.safetensors": header(model="vit", classes=10, options={}),
    "option.safetensors": header(model="tiny", classes=10, options={"depth": 3}),
    "other.safetensors": header(model="tiny-3", classes=10, options={}),
    "huge.safetensors": header(model="wrn-994-999", classes=10, options={}),
    "minus.safetensors": header(model="tiny", classes=-1, options={}),
    "text-classes.safetensors": header(model="tiny", classes="ten", options={}),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_no_checkpoint_is_refused_in_one_line(name, tmp_path):
    BAD_FILES[name](tmp_path / name)
    error = refusal(weights.load, tmp_path / name, "tiny", None, MEAN, STD)
    assert isinstance(error, TeacherError)
    assert error.place == str(tmp_path / name)
    assert error.found


def test_a_header_runs_no_code(in_tmp):
    (in_tmp / "evil.py").write_text("open('ran', 'w').close()\ndef make(classes): return None\n")
    header(model="evil:make", classes=10, options={})(in_tmp / "net.safetensors")
    error = refusal(weights.load, "net.safetensors")
    assert "evil:make" in str(error)
    assert not (in_tmp / "ran").exists()


def test_misfits_are_counted(tmp_path):
    torch.save(make("wrn-10-1").body.state_dict(), tmp_path / "net.pth")
    error = refusal(weights.load, tmp_path / "net.pth", "resnet8", 10, MEAN, STD)
    assert "missing (first: layer1.0.conv1.weight)" in error.found
    assert "unexpected (first: block1.layer.0.bn1.weight)" in error.found
    assert "of another shape (first: bn1.weight [64] instead of [16])" in error.found
    error = refusal(weights.load, tmp_path / "net.pth", "wrn-10-2", 10, MEAN, STD)
    assert "[16, 16, 3, 3] instead of [32, 16, 3, 3]" in error.found


def test_wrong_number_of_classes(tmp_path):
    network = make("resnet8", classes=100)
    torch.save(network.body.state_dict(), tmp_path / "net.pth")
    weights.save(network, tmp_path / "net.safetensors")
    error = refusal(weights.load, tmp_path / "net.pth", "resnet8", 10, MEAN, STD)
    assert (error.expected, error.found) == ("a network of 10 classes", "fc of 100")
    error = refusal(weights.load, tmp_path / "net.safetensors", classes=10)
    assert (error.expected, error.found) == ("a network of 10 classes", "one of 100")


def test_what_a_checkpoint_cannot_tell_is_asked_for(tmp_path):
    torch.save(make("tiny").body.state_dict(), tmp_path / "net.pth")
    torch.save({"weight": torch.zeros(3, 3)}, tmp_path / "headless.pth")
    assert "name of its model" in refusal(weights.load, tmp_path / "net.pth").expected
    assert "a mean and a std" in refusal(weights.load, tmp_path / "net.pth", "tiny").expected
    assert "classes" in refusal(weights.load, tmp_path / "headless.pth", "tiny").expected


# networks of the user's

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
