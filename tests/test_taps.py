"""Taps by the paths of modules: any network can teach and learn features, with nothing written into it."""

import hashlib
import json

import pytest
import torch
from cli_cases import good, refused
from model_cases import hooks, make, refusal
from safetensors import safe_open

import kdcache
from kdcache.models.network import shapes, watch
from kdcache.models.taps import name_taps, parse
from kdcache.runs import read_metrics

RESNET18 = "torchvision.models:resnet18"
TEXT = "f1=layer1,f2=layer2,f3=layer3,emb=avgpool"
BNS = "f1.bn=layer1.1.bn2,f2.bn=layer2.1.bn2,f3.bn=layer3.1.bn2"
IMAGE = (3, 32, 32)
NETS = """
from torch import nn
import torch.nn.functional as F

class Functional(nn.Module):
    def __init__(self, classes, inplace=False):
        super().__init__()
        self.inplace = inplace
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        x = self.norm(self.conv(x))
        if self.inplace:
            x += 1
        return self.fc(F.relu(x).mean((2, 3)))

def small(classes):
    stages = [nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)) for i, o in WIDTHS]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))

WIDTHS = ((3, 4), (4, 6), (6, 8))
"""
SMALL_TAPS = "f1=0,f2=1,f3=2,emb=3,f1.bn=0.1,f2.bn=1.1,f3.bn=2.1"


@pytest.fixture
def nets(in_tmp) -> str:
    """A fresh module in the current folder."""
    name = f"nets_{hashlib.md5(str(in_tmp).encode()).hexdigest()}"
    (in_tmp / f"{name}.py").write_text(NETS)
    return name


def resnet18(text: str):
    return name_taps(make(RESNET18).eval(), text, IMAGE)


def test_a_stage_that_ends_in_an_activation_has_all_three_versions(images):
    """torchvision's blocks call one in-place ReLU twice: the last call counts, and its input is kept as it was."""
    network = resnet18(TEXT)
    taps = ["f2.raw", "f2.pre", "f2.post", "emb", "logits"]
    with torch.no_grad(), watch(network, taps) as look:
        seen = look(images)
        body, x = network.body, network.normalize(images)
        x = body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(x)))))
        block = body.layer2[1]
        x = body.layer2[0](x)
        before = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x))))) + x
    assert torch.equal(seen["f2.pre"], before)
    assert (seen["f2.pre"] < 0).any()
    assert torch.equal(seen["f2.post"], before.relu())
    assert torch.equal(seen["f2.raw"], seen["f2.post"])
    assert torch.equal(body.fc(seen["emb"]), seen["logits"])
    assert hooks(network) == 0


def test_shapes_of_taps_by_path():
    network = resnet18(TEXT)
    expected = {"emb": (512,), "f1.raw": (64, 8, 8), "f2.pre": (128, 4, 4), "f3.post": (256, 2, 2), "logits": (10,)}
    assert shapes(network, expected, IMAGE) == expected
    assert network.arch["taps"] == TEXT


def test_a_module_without_an_activation_at_its_end_is_raw_alone(nets, images):
    network = name_taps(make(f"{nets}:Functional").eval(), "f1=norm,f2.pre=norm,f2.post=norm,emb=fc:in", IMAGE)
    assert network.taps == ("emb", "f1.raw", "f2.post", "f2.pre", "logits")
    with torch.no_grad(), watch(network, ["f1.raw", "emb"]) as look:
        seen = look(images)
    assert torch.allclose(seen["emb"], seen["f1.raw"].relu().mean((2, 3)))


@pytest.mark.parametrize(("text", "place"), [(TEXT, ("layer4", "out")), (f"{TEXT},cam=layer4.1", ("layer4.1", "out"))])
def test_the_map_whose_mean_the_last_layer_reads_shows_the_classes(text, place):
    network = name_taps(make(RESNET18).eval(), text, (3, 64, 64))
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad(), watch(network, ["cam", "logits"]) as look:
        seen = look(images)
    assert network.places["cam"] == place
    assert seen["cam"].shape == (2, 10, 2, 2)
    torch.testing.assert_close(seen["cam"].mean((2, 3)) + network.body.fc.bias, seen["logits"])


def test_a_single_pixel_is_no_map_and_without_one_linear_layer_there_is_none(nets):
    assert "cam" not in resnet18(TEXT).taps
    found, deeper, without = (make(f"{nets}:small").eval() for _ in range(3))
    assert "cam" in name_taps(found, "f3=2", IMAGE).taps
    deeper.body[5] = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    assert "cam" not in name_taps(deeper, "f3=2", IMAGE).taps
    without.body[3], without.body[5] = torch.nn.Conv2d(8, 10, 4), torch.nn.Identity()
    assert "ends in one linear layer" in str(refusal(name_taps, without, "cam=2", IMAGE))


def test_a_class_map_without_a_known_last_layer_is_refused(nets, images):
    found = make(f"{nets}:small").eval()
    found.places["cam"] = ("2", "out")  # as a body's own `taps` may have it, without an `emb` that goes into a layer
    with torch.no_grad(), watch(found, ["cam"]) as look:
        assert "a known last layer for tap cam" in str(refusal(look, images))


def test_what_a_text_names_goes_before_what_the_body_names():
    network = name_taps(make("resnet8"), "f1=layer1.0.conv2", IMAGE)
    assert [tap for tap in network.taps if tap.startswith("f1")] == ["f1.raw"]
    assert "f2.pre" in network.taps
    assert shapes(make("resnet8"), ["f1.pre"], IMAGE)  # another network of that kind is as it was


def test_the_batchnorm_of_a_margin_goes_by_path():
    network = resnet18(f"{TEXT},{BNS}")
    assert network.bn_before_relu("f2.pre") is network.body.layer2[1].bn2
    assert "f2.bn=PATH" in refusal(resnet18(TEXT).bn_before_relu, "f2.pre").remedy


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("f1", "'f1'"), ("", "''"), ("x=layer1", "'x=layer1'"), ("f4=layer1", "'f4=layer1'"), ("f1=", "'f1='"),
        ("f1=a:out", "'f1=a:out'"), ("f1=a,", "''"), ("emb.raw=fc", "'emb.raw=fc'"), ("f1=a,f1=b", "twice"),
    ],
)  # fmt: skip
def test_texts_that_cannot_be_read(text, found):
    assert refusal(parse, text).found == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("f1=layr1", "did you mean layer1?"),
        ("f1=nothing.like.it", "kdcache check-model torchvision.models:resnet18"),
        ("f1.pre=layer1", "write f1.pre=layer1.1.relu:in, or f1=layer1"),
        ("f1=layer1.1.bn2", "overwritten in the same forward"),
        ("emb=layer1", "expected a vector for each image, found 64x8x8"),
    ],
)
def test_taps_that_are_not_there(text, said):
    network = make(RESNET18)
    assert said in str(refusal(name_taps, network, text, IMAGE))
    assert hooks(network) == 0


def test_values_that_a_network_overwrites_are_refused(nets):
    assert "out = out + x" in str(refusal(name_taps, make(f"{nets}:Functional", inplace=True), "f1=norm", IMAGE))


def test_every_command_takes_them(nets):
    """A network of one's own teaches and learns features; cache and weights know the taps, and import nothing."""
    data, own = "--data synthetic:64,4,16", f"{nets}:small"
    torch.save(make(own, classes=4).body.state_dict(), "own.pt")
    teacher = f"--teacher {own} --weights own.pt --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2"
    method, short = "at+ft+ab+co+vid+rkd+sp", "--epochs 2 --batch 16 --device cpu"
    refused(f"dump-logits {teacher} {data} --method {method}", 2, "name the module that shows it among the taps")
    good(f"plan {teacher} {data} --taps {SMALL_TAPS} --method {method}")
    good(f"dump-logits {teacher} {data} --views 2 --taps {SMALL_TAPS} --method {method} --codec f32 --device cpu")
    assert kdcache.open_cache("logits.h5").meta["teacher"]["taps"] == SMALL_TAPS
    student = f"train-student --cache logits.h5 --student {own} --student-taps {SMALL_TAPS} --method {method} {short}"
    cached = good(f"{student} --json --out cached").json()
    live = good(f"{student} --json --out live --live {teacher}").json()
    assert cached["top1"] == live["top1"]
    losses = [list(read_metrics(run))[-1]["total"] for run in ("cached", "live")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with safe_open("cached/last.safetensors", "pt") as file:
        assert json.loads(file.metadata()["kdcache"])["arch"]["taps"] == SMALL_TAPS
    good(f"verify logits.h5 {teacher}")
    good(f"verify logits.h5 {teacher} --taps {SMALL_TAPS}")
    refused("verify logits.h5 --taps f1=0", 2, "--teacher beside it")
    again = f"dump-logits --teacher {own} --weights cached/last.safetensors {data} --views 1 --method at -o two.h5"
    assert good(f"{again} --json").json()["teacher"]["taps"] == SMALL_TAPS
    refused(f"train-student --cache logits.h5 --student tiny --taps {SMALL_TAPS}", 2, "a live teacher beside them")
    refused(f"train-student --cache logits.h5 --student {own} --student-taps f1", 2, "write them like f1=layer1")


def test_a_teacher_is_trained_with_its_taps_named(nets):
    data, own = "--data synthetic:64,4,16 --device cpu", f"{nets}:small"
    good(f"train-teacher --model {own} --taps {SMALL_TAPS} --epochs 1 --batch 16 --out run {data}")
    refused(f"train-teacher --model {own} --taps f1=nowhere --epochs 1 --out run2 {data}", 2, "nowhere")
    good(f"dump-logits --teacher {own} --weights run/last.safetensors --views 1 --method at {data}")
    assert kdcache.open_cache("logits.h5").meta["teacher"]["taps"] == SMALL_TAPS


def test_list_methods_of_networks_with_taps_by_path():
    def refused_of(*texts: str) -> set[str]:
        pair = [f"--teacher {RESNET18} --student {RESNET18}", *texts]
        found = good(f"list methods --json {' '.join(pair)}").json()["methods"]
        return {name for name, facts in found.items() if facts["refused"]}

    whole = f"{TEXT},cam=layer4"  # a single pixel of these images: it is named, or none is found
    assert refused_of() > refused_of(f"--taps {whole}", f"--student-taps {whole}") == {"fsp"}  # it asks for f0, too
    assert refused_of(f"--taps f0=maxpool,{whole}", f"--student-taps f0=maxpool,{whole}") == set()


def test_a_distiller_takes_modules_with_taps(nets, in_tmp):
    student, teacher = (make(f"{nets}:small", classes=4, seed=seed).body for seed in (0, 1))
    made = kdcache.Distiller(
        student, teacher, "at+rkd", "synthetic:64,4,16", "cpu", taps=SMALL_TAPS, student_taps=SMALL_TAPS
    )
    history = made.compile(batch=16).fit(1)
    assert {"at", "rkd.distance"} & set(history[0]["loss"])
    made.save("student.safetensors")
    with pytest.raises(kdcache.KdcacheError, match="`taps`: expected a live teacher beside them"):
        kdcache.Distiller("tiny-2", None, "none", "synthetic:64,4,16", taps=SMALL_TAPS)


def test_a_file_s_taps_are_a_text_that_is_checked(nets):
    """What a header says of taps finds no more than modules."""
    network = make("tiny-2")
    for text in ("f1=__class__", "f1=conv1.weight", "f1=..", "f1=" + "a" * 10_000):
        assert refusal(name_taps, network, text, IMAGE).place.startswith("taps of tiny-2")
