"""Prints, for each of some networks, what is measured of its rounding, and whether that is what happens."""

import json
import sys

import torch
import torch.nn.functional as F
from torch import nn

from kdcache.methods import build
from kdcache.models import build as build_network
from kdcache.models.network import Network
from kdcache.teachers import Forward, LiveTeacher

MEAN, STD = (0.5,) * 3, (0.25,) * 3


class Mixer(nn.Module):
    """Linear layers over tokens and over channels, of odd widths."""

    def __init__(self, width=20, tokens=16, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 50), nn.GELU(), nn.Linear(50, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 77), nn.GELU(), nn.Linear(77, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm(x))).mean(1))


class Attention(nn.Module):
    """Attention in every spelling, of odd widths: fused, matmul, einsum, baddbmm, a product with a vector."""

    def __init__(self, width=15, heads=3, classes=7):
        super().__init__()
        self.heads = heads
        self.stem, self.norm = nn.Conv2d(3, width, 5, 4, 2), nn.GroupNorm(3, width)
        self.parts, self.head = nn.Linear(width, 3 * width), nn.Linear(width, classes)
        self.gate = nn.Parameter(torch.randn(width))

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x))).flatten(2).transpose(1, 2)
        n, t, d = x.shape
        q, k, v = self.parts(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        fused = F.scaled_dot_product_attention(q, k, v)
        spelled = torch.einsum("nhts,nhsd->nhtd", (q @ k.transpose(-2, -1)).softmax(-1), v)
        x = torch.baddbmm((fused + spelled).transpose(1, 2).reshape(n, t, d), x, x.transpose(1, 2) @ x / t)
        return self.head((x * torch.sigmoid(x @ self.gate)[..., None]).mean(1))


OWN = {"mixer": (Mixer, 10), "attention": (Attention, 7)}
LARGE = ("resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "swin_t")  # torchvision's
ZOO = (  # ours: one of each kind of layer that they are made of
    "resnet8x4", "resnet34", "preact-resnet18", "vgg8", "vgg13-kuangliu", "vgg11-chenyaofo", "googlenet",
    "densenetbc-40-12", "mobilenetv1", "mobilenetv2", "mobilenetv2-x50", "shufflenetv1", "shufflenetv2",
)  # fmt: skip


def network(name: str) -> Network:
    torch.manual_seed(0)
    if name in OWN:
        make, classes = OWN[name]
        return Network(make(classes=classes), MEAN, STD, {"model": name, "classes": classes})
    if name in LARGE:
        import torchvision

        return Network(getattr(torchvision.models, name)(), MEAN, STD, {"model": name, "classes": 1000})
    return build_network(name, 10, MEAN, STD)


def same_bits(teacher: LiveTeacher, images: torch.Tensor) -> bool:
    """In orders and batches that the measurement did not see."""
    whole, same = teacher.looks(images)["logits"], True
    for n in (2, 5, 7, 16, 33, 37, 60):
        rows = torch.randperm(len(images))[:n]
        same &= torch.equal(teacher.looks(images[rows])["logits"], whole[rows])
    return same


def main(names: list[str], threads: int, dtype: str, channels_last: bool) -> None:
    torch.set_num_threads(threads)
    found = {}
    for name in names:
        size = 32 if name in LARGE + ZOO else 16
        images = torch.randint(0, 256, (64, 3, size, size)).byte()
        forward = Forward(dtype=dtype, channels_last=channels_last)
        with LiveTeacher(network(name), build("st"), forward) as teacher:
            found[name] = {"measured": teacher.exactness(images), "same": same_bits(teacher, images)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "channels_last")
