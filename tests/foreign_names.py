"""Names and shapes of the tensors in other repositories' checkpoints, in their order, written down by reading them."""

from collections.abc import Iterator
from itertools import pairwise

import torch

Named = Iterator[tuple[str, tuple[int, ...]]]
VGG = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VGG_WIDTHS = (64, 128, 256, 512, 512)
V2 = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))  # growth, width, blocks


def conv(name: str, inputs: int, outputs: int, size: int = 3, bias: bool = False, groups: int = 1) -> Named:
    yield f"{name}.weight", (outputs, inputs // groups, size, size)
    if bias:
        yield f"{name}.bias", (outputs,)


def bn(name: str, width: int) -> Named:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def linear(name: str, inputs: int, outputs: int) -> Named:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def unit(place: str, number: int, inputs: int, outputs: int, size: int = 3, groups: int = 1) -> Named:
    """convN and bnN."""
    yield from conv(f"{place}conv{number}", inputs, outputs, size, groups=groups)
    yield from bn(f"{place}bn{number}", outputs)


def pair(place: str, at: int, inputs: int, outputs: int, size: int = 3, bias: bool = False, groups: int = 1) -> Named:
    """A convolution and its BatchNorm, which follow each other in a sequence."""
    yield from conv(f"{place}.{at}", inputs, outputs, size, bias, groups)
    yield from bn(f"{place}.{at + 1}", outputs)


def resnet(stem, widths, blocks, classes, bottleneck=False, shortcut="downsample", head="fc") -> Named:
    yield from unit("", 1, 3, stem)
    inputs, growth = stem, 4 if bottleneck else 1
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        for block in range(count):
            place = f"layer{stage}.{block}."
            sizes = (1, 3, 1) if bottleneck else (3, 3)
            widths_inside = pairwise((inputs, *[width] * (len(sizes) - 1), growth * width))
            for number, (size, (before, after)) in enumerate(zip(sizes, widths_inside, strict=True), 1):
                yield from unit(place, number, before, after, size)
            if block == 0 and (stage > 1 or inputs != growth * width) and shortcut:
                yield from pair(f"{place}{shortcut}", 0, inputs, growth * width, 1)
            inputs = growth * width
    yield from linear(head, inputs, classes)


def wrn(depth, k, classes) -> Named:
    yield from conv("conv1", 3, 16)
    inputs = 16
    for stage in (1, 2, 3):
        for block in range((depth - 4) // 6):
            place, width = f"block{stage}.layer.{block}.", 2 ** (stage - 1) * 16 * k
            yield from preactivated(place, inputs, width)
            if inputs != width:
                yield from conv(f"{place}convShortcut", inputs, width, 1)
            inputs = width
    yield from bn("bn1", inputs)
    yield from linear("fc", inputs, classes)


def preactivated(place, inputs, width) -> Named:
    yield from bn(f"{place}bn1", inputs)
    yield from conv(f"{place}conv1", inputs, width)
    yield from bn(f"{place}bn2", width)
    yield from conv(f"{place}conv2", width, width)


def kuangliu_preact(classes) -> Named:
    yield from conv("conv1", 3, 64)
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            yield from preactivated(f"layer{stage}.{block}.", inputs, width)
            if inputs != width:
                yield from conv(f"layer{stage}.{block}.shortcut.0", inputs, width, 1)
            inputs = width
    yield from linear("linear", 512, classes)


def rep_vgg(depth, classes) -> Named:
    inputs = 3
    for number, (width, count) in enumerate(zip(VGG_WIDTHS, VGG[depth], strict=True)):
        for at in range(count):
            yield from pair(f"block{number}", 3 * at, inputs, width, bias=True)
            inputs = width
    yield from linear("classifier", 512, classes)


def pooled_vgg(depth, classes, heads=("classifier",)) -> Named:
    inputs, at = 3, 0
    for width, count in zip(VGG_WIDTHS, VGG[depth], strict=True):
        for _ in range(count):
            yield from pair("features", at, inputs, width, bias=True)
            inputs, at = width, at + 3
        at += 1
    for head in heads:
        yield from linear(head, 512, classes if head == heads[-1] else 512)


def kuangliu_googlenet(classes) -> Named:
    yield from pair("pre_layers", 0, 3, 192, bias=True)
    table = "a3 64 96 128 16 32 32, b3 128 128 192 32 96 64, a4 192 96 208 16 48 64, b4 160 112 224 24 64 64, \
        c4 128 128 256 24 64 64, d4 112 144 288 32 64 64, e4 256 160 320 32 128 128, a5 256 160 320 32 128 128, \
        b5 384 192 384 48 128 128"
    inputs = 192
    for row in table.split(","):
        name, *numbers = row.split()
        one, small3, three, small5, five, pool = map(int, numbers)
        yield from pair(f"{name}.b1", 0, inputs, one, 1, bias=True)
        yield from pair(f"{name}.b2", 0, inputs, small3, 1, bias=True)
        yield from pair(f"{name}.b2", 3, small3, three, bias=True)
        yield from pair(f"{name}.b3", 0, inputs, small5, 1, bias=True)
        yield from pair(f"{name}.b3", 3, small5, five, bias=True)
        yield from pair(f"{name}.b3", 6, five, five, bias=True)
        yield from pair(f"{name}.b4", 1, inputs, pool, 1, bias=True)
        inputs = one + three + five + pool
    yield from linear("linear", 1024, classes)


def kuangliu_densenet(classes) -> Named:
    width = 64
    yield from conv("conv1", 3, width)
    for stage, count in enumerate((6, 12, 24, 16), 1):
        for layer in range(count):
            place = f"dense{stage}.{layer}."
            yield from bn(f"{place}bn1", width)
            yield from conv(f"{place}conv1", width, 128, 1)
            yield from bn(f"{place}bn2", 128)
            yield from conv(f"{place}conv2", 128, 32)
            width += 32
        if stage < 4:
            yield from bn(f"trans{stage}.bn", width)
            yield from conv(f"trans{stage}.conv", width, width // 2, 1)
            width //= 2
    yield from bn("bn", width)
    yield from linear("linear", width, classes)


def kuangliu_mobilenet(classes) -> Named:
    yield from unit("", 1, 3, 32)
    widths = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
    for number, (inputs, width) in enumerate(pairwise(widths)):
        yield from unit(f"layers.{number}.", 1, inputs, inputs, groups=inputs)
        yield from unit(f"layers.{number}.", 2, inputs, width, 1)
    yield from linear("linear", 1024, classes)


def kuangliu_mobilenetv2(classes) -> Named:
    yield from unit("", 1, 3, 32)
    inputs, flat = 32, 0
    for growth, width, count in V2:
        for block in range(count):
            place, inner = f"layers.{flat}.", growth * inputs
            yield from unit(place, 1, inputs, inner, 1)
            yield from unit(place, 2, inner, inner, groups=inner)
            yield from unit(place, 3, inner, width, 1)
            if block == 0 and width in (16, 24, 96, 320):  # stages that keep the number of pixels
                yield from pair(f"{place}shortcut", 0, inputs, width, 1)
            inputs, flat = width, flat + 1
    yield from unit("", 2, 320, 1280, 1)
    yield from linear("linear", 1280, classes)


def rep_mobilenetv2(classes) -> Named:
    yield from pair("conv1", 0, 3, 16)
    inputs = 16
    for stage, (growth, width, count) in enumerate(V2):
        for block in range(count):
            place, inner = f"blocks.{stage}.{block}.conv", growth * inputs
            yield from pair(place, 0, inputs, inner, 1)
            yield from pair(place, 3, inner, inner, groups=inner)
            yield from pair(place, 6, inner, width // 2, 1)
            inputs = width // 2
    yield from pair("conv2", 0, 160, 1280, 1)
    yield from linear("classifier.0", 1280, classes)


def chenyaofo_mobilenetv2(stem, widths, head, classes) -> Named:
    yield from pair("features.0", 0, 3, stem)
    inputs, flat = stem, 1
    for (growth, _, count), width in zip(V2, widths, strict=True):
        for _ in range(count):
            place, inner, part = f"features.{flat}.conv", growth * inputs, 0
            if growth > 1:
                yield from pair(f"{place}.0", 0, inputs, inner, 1)
                part = 1
            yield from pair(f"{place}.{part}", 0, inner, inner, groups=inner)
            yield from pair(place, part + 1, inner, width, 1)
            inputs, flat = width, flat + 1
    yield from pair("features.18", 0, inputs, head, 1)
    yield from linear("classifier.1", head, classes)


def rep_shufflenetv1(classes) -> Named:
    yield from unit("", 1, 3, 24, 1)
    inputs = 24
    for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
        for block in range(count):
            outputs = width - inputs if block == 0 else width
            inner, place = outputs // 4, f"layer{stage}.{block}."
            yield from unit(place, 1, inputs, inner, 1, groups=1 if inputs == 24 else 3)
            yield from unit(place, 2, inner, inner, groups=inner)
            yield from unit(place, 3, inner, outputs, 1, groups=3)
            inputs = width
    yield from linear("linear", 960, classes)


def shufflenetv2(stem, widths, head, classes) -> Named:
    """Of kuangliu and RepDistiller."""
    yield from unit("", 1, 3, 24, stem)
    inputs = 24
    for stage, (width, count) in enumerate(zip(widths, (3, 7, 3), strict=True), 1):
        half, place = width // 2, f"layer{stage}.0."
        yield from unit(place, 1, inputs, inputs, groups=inputs)
        yield from unit(place, 2, inputs, half, 1)
        yield from unit(place, 3, inputs, half, 1)
        yield from unit(place, 4, half, half, groups=half)
        yield from unit(place, 5, half, half, 1)
        for block in range(1, count + 1):
            yield from unit(f"layer{stage}.{block}.", 1, half, half, 1)
            yield from unit(f"layer{stage}.{block}.", 2, half, half, groups=half)
            yield from unit(f"layer{stage}.{block}.", 3, half, half, 1)
        inputs = width
    yield from unit("", 2, inputs, head, 1)
    yield from linear("linear", head, classes)


def chenyaofo_shufflenetv2(widths, head, classes) -> Named:
    yield from pair("conv1", 0, 3, 24)
    inputs = 24
    for stage, (width, count) in enumerate(zip(widths, (4, 8, 4), strict=True), 2):
        half = width // 2
        for block in range(count):
            place = f"stage{stage}.{block}"
            if block == 0:
                yield from pair(f"{place}.branch1", 0, inputs, inputs, groups=inputs)
                yield from pair(f"{place}.branch1", 2, inputs, half, 1)
            yield from pair(f"{place}.branch2", 0, half if block else inputs, half, 1)
            yield from pair(f"{place}.branch2", 3, half, half, groups=half)
            yield from pair(f"{place}.branch2", 5, half, half, 1)
        inputs = width
    yield from pair("conv5", 0, inputs, head, 1)
    yield from linear("fc", head, classes)


LARGE = (64, 128, 256, 512)
THREE = ("classifier.0", "classifier.3", "classifier.6")
CHECKPOINTS = {
    ("resnet20", "akamaster"): resnet(16, (16, 32, 64), (3,) * 3, 10, shortcut="", head="linear"),
    ("resnet20", "RepDistiller"): resnet(16, (16, 32, 64), (3,) * 3, 100),
    ("resnet56", "chenyaofo"): resnet(16, (16, 32, 64), (9,) * 3, 100),
    ("resnet8x4", "RepDistiller"): resnet(32, (64, 128, 256), (1,) * 3, 100),
    ("resnet32x4", "mdistiller"): resnet(32, (64, 128, 256), (5,) * 3, 100),
    ("resnet18", "kuangliu"): resnet(64, LARGE, (2,) * 4, 10, shortcut="shortcut", head="linear"),
    ("resnet18", "torchvision"): resnet(64, LARGE, (2,) * 4, 10),
    ("resnet50", "RepDistiller"): resnet(64, LARGE, (3, 4, 6, 3), 100, True, "shortcut", "linear"),
    ("wrn-40-2", "RepDistiller"): wrn(40, 2, 100),
    ("preact-resnet18", "kuangliu"): kuangliu_preact(10),
    ("vgg8", "RepDistiller"): rep_vgg(8, 100),
    ("vgg13", "mdistiller"): rep_vgg(13, 100),
    ("vgg16-kuangliu", "kuangliu"): pooled_vgg(16, 10),
    ("vgg11-chenyaofo", "chenyaofo"): pooled_vgg(11, 100, THREE),
    ("googlenet", "kuangliu"): kuangliu_googlenet(10),
    ("densenet121", "kuangliu"): kuangliu_densenet(10),
    ("mobilenetv1", "kuangliu"): kuangliu_mobilenet(10),
    ("mobilenetv2", "kuangliu"): kuangliu_mobilenetv2(10),
    ("mobilenetv2-half", "RepDistiller"): rep_mobilenetv2(100),
    ("mobilenetv2-x50", "chenyaofo"): chenyaofo_mobilenetv2(16, (8, 16, 16, 32, 48, 80, 160), 1280, 10),
    ("mobilenetv2-x140", "chenyaofo"): chenyaofo_mobilenetv2(48, (24, 32, 48, 88, 136, 224, 448), 1792, 100),
    ("shufflenetv1", "RepDistiller"): rep_shufflenetv1(100),
    ("shufflenetv2", "mdistiller"): shufflenetv2(1, (116, 232, 464), 1024, 100),
    ("shufflenetv2-x50", "kuangliu"): shufflenetv2(3, (48, 96, 192), 1024, 10),
    ("shufflenetv2-x100", "chenyaofo"): chenyaofo_shufflenetv2((116, 232, 464), 1024, 100),
}
CHECKPOINTS = {source: list(named) for source, named in CHECKPOINTS.items()}


def tensors(named: list[tuple[str, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    """Each of these with values that no other has."""
    return {
        name: torch.tensor(number) if name.endswith("tracked") else torch.full(shape, float(number))
        for number, (name, shape) in enumerate(named, 1)
    }
