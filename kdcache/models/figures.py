"""How large the listed networks are, for 10 classes and images of 32x32.

The figures are kept here, since finding them takes seconds, and torch: `kdcache list models` should answer at once. A
test finds them anew. Those of a network that is not among them are found when they are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

IMAGE, CLASSES = (3, 32, 32), 10


class Figures(NamedTuple):
    weights: int
    multiply_adds: int
    """Of convolutions and linear layers, for one image: each multiplication with its addition is one."""
    taps: str
    """What comes out of the stages, and the embedding; every stage has `pre` and `post`, too."""


def figures(name: str) -> Figures:
    return Figures(*KEPT[name]) if name in KEPT else found(name)


def found(name: str) -> Figures:
    from torch import nn

    from kdcache.models.network import shapes
    from kdcache.models.outline import outline

    network, counts = outline(name, CLASSES), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, _, out: counts.append(out[0].numel() * m.weight[0].numel()))
    stages = [tap for tap in network.taps if tap.endswith(".raw") or tap == "emb"]
    sizes = shapes(network, sorted(stages, key=lambda tap: (tap == "emb", tap)), IMAGE)
    taps = ", ".join(f"{tap.removesuffix('.raw')} {'x'.join(map(str, size))}" for tap, size in sizes.items())
    return Figures(sum(p.numel() for p in network.parameters()), sum(counts), taps)


KEPT = {
    "resnet8": (75_290, 12_239_488, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "resnet14": (172_506, 26_395_264, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "resnet20": (269_722, 40_551_040, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "resnet32": (464_154, 68_862_592, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "resnet44": (658_586, 97_174_144, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "resnet56": (853_018, 125_485_696, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "resnet110": (1_727_962, 252_887_680, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "resnet8x4": (1_210_410, 177_048_064, "f0 32x32x32, f1 64x32x32, f2 128x16x16, f3 256x8x8, emb 256"),
    "resnet32x4": (7_410_730, 1_083_017_728, "f0 32x32x32, f1 64x32x32, f2 128x16x16, f3 256x8x8, emb 256"),
    "resnet18": (11_173_962, 555_422_720, "f0 64x32x32, f1 128x16x16, f2 256x8x8, f3 512x4x4, emb 512"),
    "resnet34": (21_282_122, 1_159_402_496, "f0 64x32x32, f1 128x16x16, f2 256x8x8, f3 512x4x4, emb 512"),
    "resnet50": (23_520_842, 1_297_829_888, "f0 256x32x32, f1 512x16x16, f2 1024x8x8, f3 2048x4x4, emb 2048"),
    "preact-resnet18": (11_171_146, 555_422_720, "f0 64x32x32, f1 128x16x16, f2 256x8x8, f3 512x4x4, emb 512"),
    "wrn-16-1": (175_066, 26_657_408, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "wrn-16-2": (691_674, 101_106_944, "f0 16x32x32, f1 32x32x32, f2 64x16x16, f3 128x8x8, emb 128"),
    "wrn-16-4": (2_748_890, 392_612_352, "f0 16x32x32, f1 64x32x32, f2 128x16x16, f3 256x8x8, emb 256"),
    "wrn-28-2": (1_467_610, 214_353_152, "f0 16x32x32, f1 32x32x32, f2 64x16x16, f3 128x8x8, emb 128"),
    "wrn-28-4": (5_849_050, 845_597_184, "f0 16x32x32, f1 64x32x32, f2 128x16x16, f3 256x8x8, emb 256"),
    "wrn-28-10": (36_479_194, 5_243_328_768, "f0 16x32x32, f1 160x32x32, f2 320x16x16, f3 640x8x8, emb 640"),
    "wrn-40-1": (563_930, 83_280_512, "f0 16x32x32, f1 16x32x32, f2 32x16x16, f3 64x8x8, emb 64"),
    "wrn-40-2": (2_243_546, 327_599_360, "f0 16x32x32, f1 32x32x32, f2 64x16x16, f3 128x8x8, emb 128"),
    "wrn-40-4": (8_949_210, 1_298_582_016, "f0 16x32x32, f1 64x32x32, f2 128x16x16, f3 256x8x8, emb 256"),
    "vgg8": (3_918_858, 96_146_432, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x4x4, emb 512"),
    "vgg11": (9_231_114, 209_392_640, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x4x4, emb 512"),
    "vgg13": (9_416_010, 284_890_112, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x4x4, emb 512"),
    "vgg16": (14_728_266, 398_136_320, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x4x4, emb 512"),
    "vgg19": (20_040_522, 511_382_528, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x4x4, emb 512"),
    "vgg11-kuangliu": (9_231_114, 152_769_536, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "vgg13-kuangliu": (9_416_010, 228_267_008, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "vgg16-kuangliu": (14_728_266, 313_201_664, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "vgg19-kuangliu": (20_040_522, 398_136_320, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "vgg11-chenyaofo": (9_756_426, 153_293_824, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "vgg13-chenyaofo": (9_941_322, 228_791_296, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "vgg16-chenyaofo": (15_253_578, 313_725_952, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "vgg19-chenyaofo": (20_565_834, 398_660_608, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 512x2x2, emb 512"),
    "googlenet": (6_166_250, 1_521_756_160, "f0 192x32x32, f1 480x32x32, f2 832x16x16, f3 1024x8x8, emb 1024"),
    "googlenet-x10": (65_055, 15_725_564, "f0 19x32x32, f1 48x32x32, f2 84x16x16, f3 102x8x8, emb 102"),
    "densenet121": (6_956_298, 888_350_720, "f0 256x32x32, f1 512x16x16, f2 1024x8x8, f3 1024x4x4, emb 1024"),
    "densenetbc-100-12": (769_162, 287_929_692, "f0 24x32x32, f1 216x32x32, f2 300x16x16, f3 342x8x8, emb 342"),
    "mobilenetv1": (3_217_226, 46_354_432, "f0 128x16x16, f1 256x8x8, f2 512x4x4, f3 1024x2x2, emb 1024"),
    "mobilenetv2": (2_296_922, 91_154_944, "f0 24x32x32, f1 32x16x16, f2 96x8x8, f3 320x4x4, emb 1280"),
    "mobilenetv2-half": (697_546, 6_408_448, "f0 12x16x16, f1 16x8x8, f2 48x4x4, f3 160x2x2, emb 1280"),
    "mobilenetv2-x50": (700_490, 27_969_024, "f0 16x32x32, f1 16x16x16, f2 48x8x8, f3 160x4x4, emb 1280"),
    "mobilenetv2-x75": (1_368_234, 59_310_080, "f0 24x32x32, f1 24x16x16, f2 72x8x8, f3 240x4x4, emb 1280"),
    "mobilenetv2-x100": (2_236_682, 87_976_448, "f0 24x32x32, f1 32x16x16, f2 96x8x8, f3 320x4x4, emb 1280"),
    "mobilenetv2-x140": (4_333_706, 170_073_344, "f0 32x32x32, f1 48x16x16, f2 136x8x8, f3 448x4x4, emb 1792"),
    "shufflenetv1": (862_768, 38_605_056, "f0 24x32x32, f1 240x16x16, f2 480x8x8, f3 960x4x4, emb 960"),
    "shufflenetv2": (1_263_278, 44_412_288, "f0 24x32x32, f1 116x16x16, f2 232x8x8, f3 464x4x4, emb 1024"),
    "shufflenetv2-x50": (352_042, 10_902_016, "f0 24x32x32, f1 48x16x16, f2 96x8x8, f3 192x4x4, emb 1024"),
    "shufflenetv2-x100": (1_263_854, 45_002_112, "f0 24x32x32, f1 116x16x16, f2 232x8x8, f3 464x4x4, emb 1024"),
    "shufflenetv2-x150": (2_488_874, 94_259_712, "f0 24x32x32, f1 176x16x16, f2 352x8x8, f3 704x4x4, emb 1024"),
    "shufflenetv2-x200": (5_365_486, 187_811_200, "f0 24x32x32, f1 244x16x16, f2 488x8x8, f3 976x4x4, emb 2048"),
    "tiny": (4_306, 149_152, "f1 8x8x8, f2 16x8x8, f3 16x4x4, emb 16"),
    "tiny-3": (811, 30_012, "f1 3x8x8, f2 6x8x8, f3 6x4x4, emb 6"),
    "tiny-32": (58_666, 1_923_712, "f1 32x8x8, f2 64x8x8, f3 64x4x4, emb 64"),
}
