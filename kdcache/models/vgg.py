"""VGG after Simonyan and Zisserman 2015, with BatchNorm, in the two forms that repositories have for 32x32.

RepDistiller (and mdistiller) pools three times and takes the mean over the 4x4 pixels that are left; kuangliu and
chenyaofo pool five times, to one pixel. The convolutions are the same, and so are the weights: only the names of the
keys tell which form a checkpoint is of. There is no dropout.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdcache.models.blocks import activations, conv_bn_relu, init_convolutions, last_four

WIDTHS = (64, 128, 256, 512, 512)
BLOCKS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def blocks(depth: int) -> list[list[nn.Module]]:
    """The layers of each grid of pixels: convolution, BatchNorm and ReLU in turn."""
    found, inputs = [], 3
    for width, count in zip(WIDTHS, BLOCKS[depth], strict=True):
        widths = [inputs] + [width] * (count - 1)
        found.append([layer for each in widths for layer in conv_bn_relu(each, width)])
        inputs = width
    return found


class VGG(nn.Module):
    """RepDistiller's. Images of 64x64, which are its Tiny ImageNet, are pooled once more."""

    def __init__(self, depth: int, classes: int):
        super().__init__()
        for number, layers in enumerate(blocks(depth)):
            self.add_module(f"block{number}", nn.Sequential(*layers))
        self.pool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)
        init_convolutions(self)

        sizes = [3 * count for count in BLOCKS[depth]]
        relus = last_four([f"block{number}.{size - 1}" for number, size in enumerate(sizes)])
        norms = last_four([f"block{number}.{size - 2}" for number, size in enumerate(sizes)])
        self.taps = activations(relus)
        self.margins = {f"f{i}.pre": norms[f"f{i}"] for i in (1, 2, 3)}

    def forward(self, x: Tensor) -> Tensor:
        pooled = (1, 2, 3, 4) if x.shape[2] == 64 else (1, 2, 3)
        for number in range(5):
            x = self.get_submodule(f"block{number}")(self.pool(x) if number in pooled else x)
        return self.fc(self.avgpool(x).flatten(1))


class PooledVGG(nn.Module):
    """kuangliu's; chenyaofo's has three linear layers, the others one."""

    def __init__(self, depth: int, classes: int, hidden: int = 0):
        super().__init__()
        layers, ends = [], []
        for block in blocks(depth):
            layers += block
            ends.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Sequential(*(layer for _ in range(hidden) for layer in (nn.Linear(512, 512), nn.ReLU())))
        self.fc = nn.Linear(512, classes)
        init_convolutions(self)

        self.taps = activations(last_four([f"features.{end}" for end in ends]))
        if hidden:
            del self.taps["cam"]  # no single layer makes the logits of a map
        self.margins = {f"f{3 - i}.pre": f"features.{end - 1}" for i, end in enumerate(reversed(ends[-3:]))}

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(self.avgpool(self.features(x)).flatten(1)))


def three_layers(depth: int, classes: int) -> PooledVGG:
    return PooledVGG(depth, classes, hidden=2)
