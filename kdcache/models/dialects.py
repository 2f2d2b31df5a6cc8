"""What other repositories call the tensors of our networks, as data.

A dialect is recognised by a key that only its checkpoints have, and its shape. Where two repositories compute different
things with weights of the same shapes, it is the dialect that tells which network a checkpoint belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from kdcache.models.mobilenet import V2

HEAD = (r"^(linear|classifier)\.", "fc.")
SHORTCUT = (r"\.shortcut\.", ".downsample.")


class Dialect(NamedTuple):
    of: str
    """Whose names they are."""
    models: str
    """Which of our networks they fit, as a regular expression."""
    signs: tuple[str, ...]
    """Lines `key [shape]` that are all found in such a checkpoint, as regular expressions."""
    renames: tuple[tuple[str, str], ...] = ()
    """Regular expressions and what takes their place, one after another."""
    remark: str = ""


def numbered(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Names of layers by their numbers in a sequence; those of a BatchNorm's five tensors and a convolution's."""
    return tuple((rf"{theirs}\.(?=weight|bias|running|num_b)", f"{ours}.") for theirs, ours in pairs)


FLAT = [f"{stage}.{block}" for stage, (_, count, _) in enumerate(V2) for block in range(count)]
"""The blocks of a MobileNetV2 in a row: stage, and block in it."""
LAYERS = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
INSIDE = numbered(*((rf"\.conv\.{at}", f".{name}") for at, name in zip((0, 1, 3, 4, 6, 7), LAYERS, strict=True)))
PARTS = numbered(  # of torchvision's blocks: a convolution, its BatchNorm and an activation are one part
    (r"^(layers\.0\.0)\.conv\.0\.0", r"\1.conv2"), (r"^(layers\.0\.0)\.conv\.0\.1", r"\1.bn2"),
    (r"^(layers\.0\.0)\.conv\.1", r"\1.conv3"), (r"^(layers\.0\.0)\.conv\.2", r"\1.bn3"),
    (r"\.conv\.0\.0", ".conv1"), (r"\.conv\.0\.1", ".bn1"), (r"\.conv\.1\.0", ".conv2"), (r"\.conv\.1\.1", ".bn2"),
    (r"\.conv\.2", ".conv3"), (r"\.conv\.3", ".bn3"),
)  # fmt: skip
BRANCHES = numbered(  # of torchvision's ShuffleNetV2: the first block of a stage has two, the others the second alone
    *((rf"^(layer\d\.0)\.branch1\.{at}", rf"\1.{name}") for at, name in enumerate(LAYERS[:4])),
    *((rf"^(layer\d\.0)\.branch2\.{at}", rf"\1.{name}")
      for at, name in zip((0, 1, 3, 4, 5, 6), ("conv3", "bn3", "conv4", "bn4", "conv5", "bn5"), strict=True)),
    *((rf"\.branch2\.{at}", f".{name}") for at, name in zip((0, 1, 3, 4, 5, 6), LAYERS, strict=True)),
)  # fmt: skip

DIALECTS = (
    Dialect("akamaster", r"resnet\d+", (r"^layer3\.0\.conv1\.weight \[64, 32,",), (HEAD, SHORTCUT)),
    Dialect(
        "kuangliu", r"resnet(18|34|50)", (r"^layer4\.0\.shortcut\.1\.weight \[(512|2048)\]",),
        (HEAD, SHORTCUT),
    ),
    Dialect(
        "torchvision", r"resnet(18|34|50)", (r"^conv1\.weight \[64, 3, 3, 3\]", r"^layer4\.0\.downsample\.0\.weight"),
        remark=", without a pooling behind the first convolution: the names do not tell whether it had one",
    ),
    Dialect(
        "kuangliu", "preact-resnet18", (r"^layer2\.0\.bn1\.weight \[64\]", r"^layer4\.0\.shortcut\.0\.weight"),
        (HEAD, (r"\.shortcut\.0\.", ".convShortcut.")),
    ),
    Dialect("RepDistiller", r"vgg\d+", (r"^block4\.0\.weight",), (HEAD,)),
    Dialect("kuangliu", r"vgg\d+-kuangliu", (r"^features\.0\.weight \[64, 3,", r"^classifier\.weight"), (HEAD,)),
    Dialect(
        "chenyaofo", r"vgg\d+-chenyaofo", (r"^features\.0\.weight \[64, 3,", r"^classifier\.3\.weight \[512, 512\]"),
        ((r"^classifier\.0\.", "hidden.0."), (r"^classifier\.3\.", "hidden.2."), (r"^classifier\.6\.", "fc.")),
    ),
    Dialect("kuangliu", "googlenet", (r"^pre_layers\.0\.weight",), (HEAD,)),
    Dialect("kuangliu", "densenet.*", (r"^trans1\.bn\.weight",), (HEAD,)),
    Dialect("kuangliu", "mobilenetv1", (r"^layers\.12\.conv2\.weight \[1024, 1024,",), (HEAD,)),
    Dialect(
        "kuangliu", "mobilenetv2", (r"^layers\.16\.conv3\.weight",),
        (HEAD, SHORTCUT, *((rf"^layers\.{flat}\.(?=\D)", f"layers.{at}.") for flat, at in enumerate(FLAT))),
    ),
    Dialect(
        "RepDistiller", "mobilenetv2-half", (r"^blocks\.6\.0\.conv\.6\.weight",),
        (
            *numbered(*((rf"^conv{n}\.0", f"conv{n}") for n in (1, 2)), *((rf"^conv{n}\.1", f"bn{n}") for n in (1, 2))),
            (r"^classifier\.0\.", "fc."), (r"^blocks\.", "layers."), *INSIDE,
        ),
    ),
    Dialect(
        "chenyaofo", r"mobilenetv2-x\d+", (r"^features\.18\.0\.weight",),
        (
            *numbered((r"^features\.0\.0", "conv1"), (r"^features\.0\.1", "bn1")),
            *numbered((r"^features\.18\.0", "conv2"), (r"^features\.18\.1", "bn2")),
            (r"^classifier\.1\.", "fc."),
            *((rf"^features\.{flat}\.", f"layers.{at}.") for flat, at in enumerate(FLAT, 1)), *PARTS,
        ),
    ),
    Dialect("RepDistiller", "shufflenetv1", (r"^layer1\.0\.conv1\.weight \[54, 24,",), (HEAD,)),
    Dialect(
        "RepDistiller", "shufflenetv2", (r"^conv1\.weight \[24, 3, 1, 1\]", r"^layer1\.0\.conv5\.weight"), (HEAD,)
    ),
    Dialect(
        "kuangliu", r"shufflenetv2-x\d+", (r"^conv1\.weight \[24, 3, 3, 3\]", r"^layer1\.0\.conv5\.weight"), (HEAD,)
    ),
    Dialect(
        "chenyaofo", r"shufflenetv2-x\d+", (r"^stage2\.0\.branch1\.0\.weight",),
        (
            *numbered((r"^conv1\.0", "conv1"), (r"^conv1\.1", "bn1"), (r"^conv5\.0", "conv2"), (r"^conv5\.1", "bn2")),
            *((rf"^stage{stage}\.", f"layer{stage - 1}.") for stage in (2, 3, 4)), *BRANCHES,
        ),
    ),
    Dialect("akamaster", r".*:.*", (), ((r"\blinear\.", "fc."), SHORTCUT)),  # functions of users
)  # fmt: skip


def spoken(state: Mapping[str, Tensor]) -> list[Dialect]:
    """The dialects that the keys and shapes of a checkpoint show."""
    lines = "\n".join(f"{key} {list(tensor.shape)}" for key, tensor in state.items())
    return [dialect for dialect in DIALECTS if all(re.search(sign, lines, re.MULTILINE) for sign in dialect.signs)]


def fitting(dialects: Iterable[Dialect], model: str) -> Dialect | None:
    return next((dialect for dialect in dialects if re.fullmatch(dialect.models, model)), None)


def translated(state: Mapping[str, Tensor], dialect: Dialect, known: Collection[str]) -> dict[str, Tensor]:
    """The same tensors by our names; a name that is known already stays, and none is given twice."""
    found = {}
    for key, tensor in state.items():
        name = key
        for theirs, ours in dialect.renames if key not in known else ():
            name = re.sub(theirs, ours, name)
        found[key if name in state or name in found else name] = tensor
    return found
