"""Networks of torchvision, timm and the Hugging Face hub are as good as ours: names, weights, sizes, taps."""

import json

import numpy as np
import pytest
import torch
from cli_cases import good
from model_cases import by_onnx, make, refusal, see
from safetensors.torch import save_file
from train_cases import assert_same_weights, dumped, measured, teacher_of

from kdcache.errors import KdcacheWarning, TeacherError, UsageError
from kdcache.jobs import Data, Student, load_teacher, taught_by
from kdcache.methods import build as build_method
from kdcache.models import foreign, runs_user_code, weights
from kdcache.models.begin import begin
from kdcache.models.maps import grid_of
from kdcache.models.network import check_output, shapes
from kdcache.models.stages import head_of
from kdcache.teachers import Forward, LiveTeacher
from kdcache.train import Settings

VIT = "timm:vit_tiny_patch16_224:img_size=32,depth=4"
QUICK = {  # name -> side of the images
    VIT: 32,
    "timm:mobilenetv4_conv_small": 64,
    "torchvision:shufflenet_v2_x0_5": 64,
}
SLOW = {
    "timm:deit_tiny_distilled_patch16_224:img_size=64": 64,
    "timm:swin_tiny_patch4_window7_224:img_size=64": 64,
    "timm:convnext_atto": 64,
    "timm:efficientnet_b0": 64,
    "timm:mobilenetv3_small_100": 64,
    "timm:resnet18": 64,
    "timm:regnetx_002": 64,
    "timm:ghostnet_100": 64,
    "timm:mixer_s32_224:img_size=64": 64,
    "timm:cait_xxs24_224:img_size=64,depth=4": 64,
    "timm:levit_128s": 224,
    "timm:vit_small_patch14_reg4_dinov2:img_size=56,depth=4": 56,
    "torchvision:resnet18": 64,
    "torchvision:mobilenet_v2": 64,
    "torchvision:efficientnet_b0": 64,
    "torchvision:convnext_tiny": 64,
    "torchvision:swin_t": 64,
    "torchvision:vit_b_16:image_size=64": 64,
    "torchvision:densenet121": 64,
    "torchvision:regnet_y_400mf": 64,
    "torchvision:googlenet": 64,
    "torchvision:vgg11_bn": 64,
}
EVERY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def side(name):
    return (QUICK | SLOW)[name]


def data(size=32, rows=16):
    return Data.open(f"synthetic:{rows},4,{size}", None)


def made(name):
    return data(side(name)).network(name, 0).eval()


def images_of(size, count=2):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit_tiny_patch16_225", "did you mean vit_tiny_patch16_224?"),
        ("torchvision:resnet19", "did you mean resnet18?"),
        ("torchvision:fasterrcnn_resnet50_fpn", "networks of torchvision"),  # no classifier
        ("timm:resnet18:img_size=big", "arguments as in img_size=64"),
        ("timm:resnet18:checkpoint_path=1", "checkpoint_path; leave it out"),
        ("timm:resnet18:pretrained=true", "pretrained; leave it out"),
        ("timm:resnet18:no_such=3", "no_such=3: TypeError"),
        ("timm:resnet18:drop_rate=0.0.1", "a number for drop_rate"),
        ("tim:resnet18", "No module named 'tim'"),
    ],
)
def test_wrong_names_are_answered(name, words):
    error = refusal(make, name)
    assert isinstance(error, UsageError)
    assert words in str(error)


def test_a_library_is_no_code_of_the_users():
    assert not any(runs_user_code(name) for name in ("timm:resnet18", "torchvision:resnet18", "hf-hub:a/b", "resnet20"))
    assert runs_user_code("torchvision.models:resnet18")
    assert foreign("torchvision.models:resnet18") is None


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert "pip install 'kdcache[timm]'" in str(refusal(make, "timm:resnet18"))


# what a network is


@pytest.mark.parametrize("name", EVERY)
def test_a_network_of_a_library_learns_shows_and_is_saved(name, tmp_path):
    network, images = made(name), images_of(side(name))
    heads = [network.body.get_submodule(path) for path in head_of(network)]
    for parameter in heads[0].parameters():  # some begin with zeros
        torch.nn.init.normal_(parameter, std=0.1)
    stages = {tap[:2] for tap in network.taps if tap[0] == "f"}
    assert {"f1", "f2", "f3"} <= stages
    seen = see(network, network.taps, images)
    assert all(torch.equal(seen[f"{stage}.raw"], seen[f"{stage}.post"]) for stage in stages)
    assert all(seen[f"{stage}.raw"].ndim == 4 for stage in stages)
    areas = [seen[f"{stage}.raw"][0, 0].numel() for stage in sorted(stages)]
    assert areas == sorted(areas, reverse=True)
    if "distilled" not in name:  # whose second head has a token of its own
        torch.testing.assert_close(torch.stack([head(seen["emb"]) for head in heads]).mean(0), seen["logits"])
    weights.save(network, tmp_path / "a.safetensors")
    again = weights.load(tmp_path / "a.safetensors")
    assert torch.equal(again(images), network(images))
    network.train()(images).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in list(network.parameters())[:3])


@pytest.mark.parametrize("name", [name for name in QUICK if name.startswith("timm")] + [
    pytest.param(name, marks=pytest.mark.slow) for name in SLOW if name.startswith("timm")
])  # fmt: skip
def test_stages_are_those_of_timm(name):
    """What timm itself gives as intermediate features, as maps [n, c, h, w]."""
    network, images = made(name), images_of(side(name))
    body = network.body
    with torch.no_grad():
        theirs = body.forward_intermediates(network.normalize(images), norm=False, intermediates_only=True)
    seen = see(network, [tap for tap in network.taps if tap.endswith(".raw")], images)
    for value in seen.values():
        assert any(one.shape == value.shape and torch.equal(one, value) for one in theirs), value.shape


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (16, (32, 32), (4, 4)),
        (15, (32, 32), None),
        (17, (32, 32), None),
        (168, (224, 192), (14, 12)),
        (0, (8, 8), None),
    ],
)
def test_the_grid_of_tokens(tokens, size, grid):
    assert grid_of(tokens, size) == grid


def test_taps_of_a_text_take_the_place_of_the_librarys():
    network = data().network(VIT, 0, taps="f2=blocks.0")
    assert network.arch["taps"].endswith("f2=blocks.0")
    assert network.places["f2.raw"] == ("blocks.0", "out")
    assert network.places["f3.raw"] == ("blocks.3", "out")
    assert shapes(network, ["f2.raw"], (3, 32, 32)) == {"f2.raw": (192, 2, 2)}


# what it is fed with


def test_a_network_is_fed_as_its_library_says(tmp_path):
    network = data().network(VIT, 0)
    assert network.normalize.mean.tolist() == network.normalize.std.tolist() == [0.5, 0.5, 0.5]
    torch.save(network.body.state_dict(), tmp_path / "w.pth")
    loaded = weights.load(tmp_path / "w.pth", VIT, 4)
    assert loaded.normalize.mean.tolist() == [0.5, 0.5, 0.5]
    assert not loaded.assumed_normalisation
    assert data().network(VIT, 0, ((0.1, 0.2, 0.3), (1, 1, 1))).normalize.mean.tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    imagenet = data().network("torchvision:shufflenet_v2_x0_5", 0).normalize.mean.tolist()
    assert imagenet == pytest.approx([0.485, 0.456, 0.406])


def test_images_of_another_size_are_refused_with_the_view_that_fits():
    error = refusal(data().network, "timm:vit_tiny_patch16_224:depth=1", 0)
    assert isinstance(error, TeacherError)
    assert "`augment` resized-crop:224" in error.remedy


def test_a_header_never_reaches_the_hub(tmp_path):
    network = make("tiny-3")
    network.arch = {"model": "hf-hub:some/repository", "classes": 10, "options": {}}
    weights.save(network, tmp_path / "a.safetensors")
    assert "its name alone" in str(refusal(weights.load, tmp_path / "a.safetensors"))
    network.arch["options"] = {"architecture": "resnet18", "arguments": {"checkpoint_path": "evil.pth"}}
    weights.save(network, tmp_path / "a.safetensors")
    assert "checkpoint_path" in str(refusal(weights.load, tmp_path / "a.safetensors"))


def test_an_architecture_from_a_header_is_json(tmp_path):
    network = made(VIT)
    check_output(network, (3, 32, 32))
    assert json.loads(json.dumps(network.arch)) == network.arch


# cached = live


@pytest.mark.parametrize("name", EVERY)
def test_an_answer_does_not_depend_on_the_images_beside_it(name):
    """Attention, layer norm, depthwise convolutions: the same bits in any order and company, of all that is stored."""
    network, every = teacher_of(name, data(side(name))), images_of(side(name), 35)
    network = data(side(name)).tapped(network, None)
    shown = shapes(network, network.taps, (3, side(name), side(name)))
    with LiveTeacher(network, build_method("st+at+sp", shown, shown), Forward()) as teacher:
        assert teacher.exactness(every) == {"rows": 35, "exact": True}


PAIRS = [(VIT, "torchvision:shufflenet_v2_x0_5"), ("timm:mobilenetv4_conv_small", VIT)]


@pytest.mark.parametrize(("teacher", "student"), PAIRS, ids=["vit teaches", "vit learns"])
def test_cached_equals_online(teacher, student, tmp_path):
    images = data(rows=33)
    network = images.tapped(teacher_of(teacher, images), None)
    cache = dumped(tmp_path / "a.h5", images, network, method := "st+at:grid=2x2+sp")
    settings = Settings(epochs=1, batch=16, lr=0.01)
    outcomes = [Student(images, student, method, settings, taught_by(cache, live)).train() for live in (None, network)]
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])


# pretrained weights, as they lie on a disk after a download


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts files into a cache of the hub, whose server is out of reach."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repository, state, config=None):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")
        (folder / "snapshots" / ("0" * 40) / "config.json").write_text(json.dumps(config or {}))

    return put


MOBILE = "timm:mobilenetv4_conv_small"
REPOSITORY = "timm/mobilenetv4_conv_small.e2400_r224_in1k"


def same_but_for_the_head(network, state):
    own = network.body.state_dict()
    heads = tuple(f"{path}." for path in head_of(network))
    return all(torch.equal(own[name], state[name]) for name in own if not name.startswith(heads))


def test_pretrained_weights_of_timm(hub):
    published = make(MOBILE, classes=1000, seed=9).body.state_dict()
    hub(REPOSITORY, published)
    images = data(64)
    network = images.network(MOBILE, 0)
    said = begin(network, "pretrained")
    assert "a new head of 4 classes, in place of classifier.bias [1000], classifier.weight [1000, 1280]" in said
    assert same_but_for_the_head(network, published)
    error = refusal(load_teacher, MOBILE, "pretrained", images)
    assert "classifier of 1000" in error.found
    assert "`init_from`" in error.remedy


def test_pretrained_weights_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    published = make("torchvision:shufflenet_v2_x0_5", classes=1000, seed=9).body.state_dict()
    torch.save(published, tmp_path / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth")
    network = data(64).network("torchvision:shufflenet_v2_x0_5", 0, init_from="pretrained")
    assert same_but_for_the_head(network, published)
    assert "a new head of 4 classes" in network.begun


def test_a_repository_of_the_hub(hub, tmp_path):
    """Its own classes, mean and std; once it is saved, the hub is asked nothing."""
    published = make(MOBILE, classes=4, seed=9).body.state_dict()
    fed = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 64, 64], "num_classes": 4}
    config = {"architecture": "mobilenetv4_conv_small", "num_classes": 4, "pretrained_cfg": fed}
    hub("some/birds", published, config)
    images = data(64)
    with pytest.warns(KdcacheWarning, match="with the weights that its library has for it"):
        network = load_teacher("hf-hub:some/birds", None, images, tmp_path)
    assert all(torch.equal(tensor, published[name]) for name, tensor in network.body.state_dict().items())
    assert network.normalize.mean.tolist() == pytest.approx(fed["mean"])
    weights.save(network, tmp_path / "a.safetensors")
    for folder in (tmp_path / "hub").iterdir():
        folder.rename(tmp_path / "elsewhere")
    again = weights.load(tmp_path / "a.safetensors")
    assert torch.equal(again(images_of(64)), network(images_of(64)))


@pytest.mark.parametrize("model", [MOBILE, "torchvision:shufflenet_v2_x0_5"])
def test_weights_of_other_classes_are_not_downloaded_but_trained(model, tmp_path, monkeypatch):
    monkeypatch.setattr("kdcache.models.weights.weights_of", pytest.fail)
    error = refusal(load_teacher, model, None, data(64), tmp_path)
    assert error.found == "none, and those of its library tell 1000 classes, not 4"
    assert f"train-teacher --model {model} --data synthetic:16,4,64" in error.remedy
    assert "--init-from pretrained" in error.remedy


def test_a_training_from_fresh_weights_says_how_to_have_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = good("train-teacher --model torchvision:shufflenet_v2_x0_5 --data synthetic:16,4,32 --epochs 1")
    assert "begins with fresh weights; --init-from pretrained takes its library's" in said.err


def test_a_hub_out_of_reach_is_one_line_with_a_way_out(hub):
    error = refusal(load_teacher, MOBILE, "pretrained", data(64))
    assert (error.place, error.expected) == (MOBILE, "its pretrained weights")
    assert "name a file that you have: `weights` FILE" in error.remedy
    assert isinstance(refusal(make, "hf-hub:nobody/nothing"), TeacherError)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tensor attributes")  # LeViT keeps what it has computed of its weights
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_network_of_a_library_is_exported(name):
    network, images = made(name), images_of(side(name))
    exported = torch.export.export(network, (images,), strict=False)
    torch.testing.assert_close(exported.module()(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_network_of_a_library_leaves_as_onnx(name, tmp_path, request):
    if name == "torchvision:googlenet":
        wrong = "onnx's reference gives a pooling with ceil_mode another size; the export itself ends well"
        request.applymarker(pytest.mark.xfail(raises=ValueError, reason=wrong, strict=True))
    network = made(name)
    for path in head_of(network):
        for parameter in network.body.get_submodule(path).parameters():  # some begin with zeros
            torch.nn.init.normal_(parameter, std=0.1)
    found, own = by_onnx(network, images_of(side(name)), tmp_path)
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-4)
