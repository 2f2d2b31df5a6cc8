"""Policies of augmentation by name, each of which follows a geometry: `crop-flip+randaugment:n=2,m=9+erasing:p=0.25`.

To add one: a function that makes what is called with a PIL image, and a line in `POLICIES`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from PIL import Image, ImageFilter, ImageOps

from kdcache.checks import Range
from kdcache.errors import KdcacheError, UsageError
from kdcache.views.erasing import erased

SECTION = re.compile(r"(m|n|p|mstd|mmax|inc|w|d|a|b)\d{1,3}(\.\d{1,3})?|t(weights|3a|3aw)")
OF_TIMM = ("rand", "augmix", "v0", "v0r", "original", "originalr", "3a")
FILL = (124, 116, 104)  # the mean of ImageNet, with which timm fills what a shear uncovers
Step = Callable[[Image.Image], Image.Image]


def randaugment(side: int, n: int, m: int) -> Step:
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops=n, magnitude=m)


def trivialaugment(side: int) -> Step:
    from torchvision.transforms import v2

    return v2.TrivialAugmentWide()


def autoaugment(side: int, policy: str) -> Step:
    from torchvision.transforms import v2

    return v2.AutoAugment(v2.AutoAugmentPolicy(policy))


def augmix(side: int, severity: int, width: int, depth: int, alpha: float) -> Step:
    from torchvision.transforms import v2

    return v2.AugMix(severity=severity, mixture_width=width, chain_depth=depth or -1, alpha=alpha)


def jitter(side: int, brightness: float, contrast: float, saturation: float, hue: float) -> Step:
    from torchvision.transforms import v2

    return v2.ColorJitter(brightness, contrast, saturation, hue)


def three_augment(side: int, jitter: float) -> Step:
    """Touvron et al. 2022, DeiT III: one of grey, solarised and blurred, then colour jitter."""
    from torchvision.transforms import v2

    colours = v2.ColorJitter(jitter, jitter, jitter)
    choices = (
        lambda image: ImageOps.grayscale(image).convert("RGB"),
        lambda image: ImageOps.solarize(image, 128),
        lambda image: image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * random.random())),
    )
    return lambda image: colours(choices[int(3 * random.random())](image))


def of_timm(side: int, config: str) -> Step:
    """timm's own code; a part of the text that it would pass over is refused, and so is what it does not know."""
    place, (kind, *sections) = f"timm:{config}", config.split("-")
    if kind not in OF_TIMM or not all(map(SECTION.fullmatch, sections)):
        expected = f"{', '.join(OF_TIMM)}, with settings such as m9, n2, mstd0.5, inc1"
        raise UsageError(place, expected, repr(config), "try timm:rand-m9-mstd0.5-inc1")
    try:
        from timm.data import auto_augment
    except ImportError:
        raise KdcacheError(place, "timm, whose code it is", "no such package", "pip install 'kdcache[timm]'") from None
    makers = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    make = makers.get(kind, auto_augment.auto_augment_transform)
    try:
        made = make(config, {"translate_const": int(0.45 * side), "img_mean": FILL})
    except (AssertionError, ValueError) as error:
        raise UsageError(place, f"settings that {kind} has", str(error), "leave out what it does not know") from None
    for operation in chain.from_iterable(made.policy) if hasattr(made, "policy") else made.ops:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = partial(posterize, auto_augment.posterize)
    return made


def posterize(theirs: Callable, image: Image.Image, bits: int, **rest) -> Image.Image:
    """Of no bits it leaves black, as it did before Pillow refused that; timm asks for it at its highest strength."""
    return theirs(image, bits, **rest) if bits > 0 else Image.new(image.mode, image.size)


@dataclass(frozen=True)
class Option:
    """What may stand behind a policy, and what it is where it does not; None: it has to be stated."""

    usual: float | str | None
    allowed: Range | tuple[str, ...] | None = None


@dataclass(frozen=True)
class Policy:
    """`make(side, **options)` gives what is called with a PIL image, under generators that are seeded."""

    help: str
    make: Callable[..., Step] | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    packages: tuple[str, ...] = ("torchvision", "torch", "pillow")
    whole: Callable | None = None
    """In its place, a function of whole batches in integer arithmetic: (images, seeds, n, **options)."""


SHARE, STRENGTH = Range(0, 1), Range(0, 2)
FEW = Range(1, 10, whole=True)
AREA = Range(above=0, below=1)

POLICIES: dict[str, Policy] = {
    "randaugment": Policy(
        "n operations of strength m, of 14; behind any of the first six",
        randaugment,
        {"n": Option(2, FEW), "m": Option(9, Range(0, 30, whole=True))},
    ),
    "trivialaugment": Policy("one operation of any strength", trivialaugment),
    "autoaugment": Policy(
        "what was found for imagenet, cifar10 or svhn",
        autoaugment,
        {"policy": Option("imagenet", ("imagenet", "cifar10", "svhn"))},
    ),
    "augmix": Policy(
        "a mixture of chains of operations (depth 0: of 1 to 3)",
        augmix,
        {
            "severity": Option(3, FEW),
            "width": Option(3, FEW),
            "depth": Option(0, Range(0, 10, whole=True)),
            "alpha": Option(1.0, Range(0.01, 100)),
        },
    ),
    "jitter": Policy(
        "brightness, contrast, saturation and hue",
        jitter,
        {name: Option(0.4, STRENGTH) for name in ("brightness", "contrast", "saturation")}
        | {"hue": Option(0.0, Range(0, 0.5))},
    ),
    "3-augment": Policy(
        "grey, solarised or blurred, then colours, as in DeiT III", three_augment, {"jitter": Option(0.3, STRENGTH)}
    ),
    "timm": Policy(
        "such as rand-m9-mstd0.5-inc1, by timm's own code; needs kdcache[timm]",
        of_timm,
        {"config": Option(None)},
        ("timm", "pillow"),
    ),
    "erasing": Policy(
        "a grey box in a share p of the images",
        options={"p": Option(0.25, SHARE), "least": Option(0.02, AREA), "most": Option(0.33, AREA)},
        packages=(),
        whole=erased,
    ),
}
"""name -> what it does, and its options; the first one may be written without its name."""


def line_of(name: str) -> str:
    """A line of help."""
    policy = POLICIES[name]
    stated = (key.upper() if o.usual is None else f"{key}={o.usual}" for key, o in policy.options.items())
    return f"{name}:{','.join(stated)}, {policy.help}" if policy.options else policy.help
