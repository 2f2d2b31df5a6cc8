"""Files of weights hold what the network was, and what is none is refused in one line."""

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
from model_cases import MEAN, STD, make, refusal, stirred
from torch import nn

from kdcache.errors import TeacherError
from kdcache.models import weights
from kdcache.models.network import Network


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


def test_a_flipped_bit_of_a_weight_is_found(tmp_path):
    path = tmp_path / "net.safetensors"
    weights.save(make("tiny-3"), path)
    data = bytearray(path.read_bytes())
    for place in (-1, -400, -len(data) // 3):
        data[place] ^= 4
        path.write_bytes(data)
        with pytest.raises(TeacherError, match="expected the weights that were saved, found a wrong checksum"):
            weights.load(path)
        data[place] ^= 4


def test_weights_of_before_there_were_checksums(tmp_path):
    network, path = make("tiny-3"), tmp_path / "net.safetensors"
    header = {"kdcache": json.dumps({"arch": network.arch, "facts": {}})}
    safetensors.torch.save_file(network.state_dict(), path, header)
    assert weights.fingerprint(weights.load(path)) == weights.fingerprint(network)


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


def test_a_header_that_promises_much_takes_no_memory(tmp_path):
    BAD_FILES["huge.safetensors"](tmp_path / "a.safetensors")
    before = mapped()
    error = refusal(weights.load, tmp_path / "a.safetensors", "tiny", None, MEAN, STD)
    assert "weights of wrn-994-999" in error.expected
    assert mapped() - before < 1 << 30


def mapped() -> int:
    """Bytes of memory that this process has asked for, touched or not."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096


def test_a_header_runs_no_code(in_tmp):
    (in_tmp / "evil.py").write_text("open('ran', 'w').close()\ndef make(classes): return None\n")
    header(model="evil:make", classes=10, options={})(in_tmp / "net.safetensors")
    error = refusal(weights.load, "net.safetensors")
    assert "evil:make" in str(error)
    assert not (in_tmp / "ran").exists()


def test_misfits_are_counted(tmp_path):
    torch.save(make("wrn-10-1").body.state_dict(), tmp_path / "net.pth")
    error = refusal(weights.load, tmp_path / "net.pth", "resnet8", 10, MEAN, STD)
    assert "30 missing (layer1.0.conv1.weight [16, 16, 3, 3], layer1.0.bn1.weight [16]" in error.found
    assert ", 24 more), 38 unexpected (block1.layer.0.bn1.weight [16]" in error.found
    assert "of another shape (bn1.weight [64] instead of [16]" in error.found
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
