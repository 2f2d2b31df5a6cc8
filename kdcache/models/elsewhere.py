"""Networks of other libraries, by name, with their weights and what those are fed with.

name      library ":" network [ ":" argument { "," argument } ]
argument  option "=" (number | true | false)         of the library's own function

torchvision:resnet50    timm:vit_tiny_patch16_224:img_size=64    hf-hub:timm/resnet18.a1_in1k

A library is imported when one of its networks is asked for, and the internet is asked for pretrained weights alone.
"""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdcache.checks import advice, quoted
from kdcache.errors import TeacherError, UsageError, reason
from kdcache.limits import TEXT, read_text
from kdcache.on_demand import extra

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "hf-hub"
PRETRAINED = "pretrained"  # in place of a file of weights: those of the library
SIZES = ("img_size", "image_size")  # what functions call the side of the images that a network is built for
RESERVED = {
    "aux_logits", "cache_dir", "checkpoint_path", "exportable", "features_only", "global_pool", "in_chans",
    "init_weights", "num_classes", "out_indices", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "progress", "scriptable", "weights", "weights_backbone",
}  # fmt: skip
"""Arguments that would load files, or make something else than a classifier of colour images."""


class Feeding(NamedTuple):
    """What the weights of a library were trained with."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


class Layout(NamedTuple):
    """Which images a body was made for, and how its stages arrange their maps, where it is not [n, c, h, w]."""

    size: tuple[int, int]
    nhwc: bool = False
    prefix: int = 0  # tokens in front of those of the image


@dataclass(frozen=True)
class Foreign(abc.ABC):
    """A network of another library. Leaves: `Torchvision`, `Timm`, `Hub`."""

    text: str
    network: str
    arguments: dict = field(default_factory=dict)

    @property
    def options(self) -> dict:
        """What has to be kept beside the name, so that the network can be built again anywhere."""
        return {}

    @abc.abstractmethod
    def body(self, classes: int) -> nn.Module:
        """The network with fresh weights, for so many classes; `options` are arguments, too."""

    @abc.abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Those that it is published with, in the shapes that its arguments ask for."""

    @abc.abstractmethod
    def classes(self) -> int | None:
        """How many these weights know; None: its library does not tell."""

    @abc.abstractmethod
    def feeding(self) -> Feeding:
        """What these weights were trained with."""

    def made(self, maker: Callable[..., nn.Module], classes: int, **arguments) -> nn.Module:
        """Calls a library's function; what it says of wrong arguments is passed on."""
        try:
            return maker(num_classes=classes, **arguments)
        except Exception as error:  # what a library raises depends on the network
            expected = f"arguments that {self.network} takes" if arguments else f"a network of {classes} classes"
            found = f"{shown(arguments)}: {reason(error)}" if arguments else reason(error)
            raise UsageError(self.text, expected, found, "leave out what it does not take") from error

    @contextmanager
    def reaching(self, what: str) -> Iterator[None]:
        """Whatever keeps a library from having something of the internet, as an error with a way out."""
        try:
            yield
        except Exception as error:  # of sockets, proxies, libraries: they differ
            remedy = "connect to the internet once, or name a file that you have: `weights` FILE, `init_from` FILE"
            raise TeacherError(self.text, what, reason(error), remedy) from error


@dataclass(frozen=True)
class Torchvision(Foreign):
    """By the names of `torchvision.models.list_models`, of those that classify."""

    def body(self, classes: int) -> nn.Module:
        models = self.knowing()
        plain = {"aux_logits": False, "init_weights": True} if self.network in ("googlenet", "inception_v3") else {}
        sized = {"image_size": self.feeding().size[0]} if self.network.startswith("vit") else {}
        body = self.made(partial(models.get_model, self.network, **plain), classes, **sized | self.arguments)
        return marked(body, Layout(self.feeding().size, "swin" in self.network, int(self.network.startswith("vit"))))

    def knowing(self):
        """`torchvision.models`, if it has such a network."""
        from torchvision import models

        if self.network not in (known := models.list_models(module=models)):
            raise unknown(self.text, self.network, known)
        return models

    @property
    def pretrained(self):
        return self.knowing().get_model_weights(self.network).DEFAULT

    def classes(self) -> int | None:
        return len(self.pretrained.meta["categories"])

    def weights(self) -> Mapping[str, Tensor]:
        with self.reaching("its pretrained weights"):
            state = self.pretrained.get_state_dict(progress=False, check_hash=True)
        return {name: tensor for name, tensor in state.items() if not name.lower().startswith("aux")}

    def feeding(self) -> Feeding:
        given = self.pretrained.transforms()
        side = side_of(self.arguments) or given.crop_size[0]
        mean, std = tuple(given.mean), tuple(given.std)
        if self.network in ("googlenet", "inception_v3") and not self.arguments.get("transform_input"):
            # torchvision turns ImageNet's into these inside of them, with its own weights alone
            mean = std = (0.5, 0.5, 0.5)
        return Feeding((side, side), mean, std, given.interpolation.value)


@dataclass(frozen=True)
class Timm(Foreign):
    """By the names of `timm.list_models`, and of its pretrained weights: vit_tiny_patch16_224.augreg_in21k."""

    def body(self, classes: int) -> nn.Module:
        return self.of_timm(self.network, classes, self.arguments)

    def of_timm(self, network: str, classes: int, arguments: Mapping) -> nn.Module:
        timm = self.knowing(network)
        body = self.made(partial(timm.create_model, network), classes, **arguments)
        return laid_out(body, self.fed(getattr(body, "pretrained_cfg", {}), arguments).size)

    def knowing(self, network: str):
        """timm, if it has such a network."""
        timm = extra("timm", "timm", self.text)
        if not timm.is_model(network.partition(".")[0]):
            raise unknown(self.text, network, timm.list_models())
        return timm

    def weights(self) -> Mapping[str, Tensor]:
        timm = self.knowing(self.network)
        with self.reaching("its pretrained weights"):
            return timm.create_model(self.network, pretrained=True, **self.arguments).state_dict()

    def classes(self) -> int | None:
        return getattr(self.knowing(self.network).get_pretrained_cfg(self.network), "num_classes", None)

    def feeding(self) -> Feeding:
        config = self.knowing(self.network).get_pretrained_cfg(self.network)
        return self.fed(config.to_dict() if config else {}, self.arguments)

    @staticmethod
    def fed(config: Mapping, arguments: Mapping) -> Feeding:
        """What timm makes of a configuration."""
        from timm.data import resolve_data_config

        found = resolve_data_config(pretrained_cfg=dict(config))
        side = side_of(arguments)
        size = (side, side) if side else found["input_size"][1:]
        return Feeding(tuple(size), tuple(found["mean"]), tuple(found["std"]), found["interpolation"])


@dataclass(frozen=True)
class Hub(Timm):
    """A repository of the Hugging Face hub with a network of timm: its config.json names that."""

    @cached_property
    def config(self) -> dict:
        hub = extra("huggingface_hub", "timm", self.text)
        repository, _, revision = self.network.partition("@")
        wanted = {"repo_id": repository, "filename": "config.json", "revision": revision or None}
        with self.reaching("its config.json"):
            try:
                path = hub.hf_hub_download(**wanted, local_files_only=True)
            except hub.errors.LocalEntryNotFoundError:
                path = hub.hf_hub_download(**wanted)
            return dict(json.loads(read_text(Path(path), TEXT)))

    @property
    def options(self) -> dict:
        return {"architecture": self.config["architecture"], "arguments": self.config.get("model_args") or {}}

    def body(self, classes: int, architecture: str | None = None, arguments: Mapping | None = None) -> nn.Module:
        if not isinstance(architecture, str) or not isinstance(arguments, Mapping):
            expected = "the network of timm that it names, and its arguments"
            raise TeacherError(self.text, expected, quoted(architecture), "name it as the model")
        if taken := sorted(RESERVED - {"global_pool"} & arguments.keys()):
            raise TeacherError(self.text, "arguments of a classifier", ", ".join(taken), "take another repository")
        return self.of_timm(architecture, classes, {**arguments, **self.arguments})

    def weights(self) -> Mapping[str, Tensor]:
        timm = extra("timm", "timm", self.text)
        with self.reaching("its pretrained weights"):
            return timm.create_model(f"{HUB}:{self.network}", pretrained=True, **self.arguments).state_dict()

    def classes(self) -> int | None:
        return self.config.get("num_classes", self.config.get("pretrained_cfg", {}).get("num_classes"))

    def feeding(self) -> Feeding:
        return self.fed(
            self.config.get("pretrained_cfg", self.config), self.config.get("model_args", {}) | self.arguments
        )


def laid_out(body: nn.Module, size: tuple[int, int]) -> nn.Module:
    """A network of timm that says how its stages arrange their maps, for images of this size."""
    prefix = getattr(body, "num_prefix_tokens", 0) or 0
    return marked(body, Layout(size, getattr(body, "output_fmt", None) == "NHWC", prefix))


def marked(body: nn.Module, layout: Layout) -> nn.Module:
    body.layout = layout  # type: ignore[assignment]  # torch's types know modules and tensors as attributes alone
    return body


LIBRARIES: dict[str, type[Foreign]] = {"torchvision": Torchvision, "timm": Timm, HUB: Hub}


def foreign(name: object) -> Foreign | None:
    """The network of another library that a name means; None of any other name.

    >>> foreign("timm:vit_tiny_patch16_224:img_size=64").arguments
    {'img_size': 64}
    """
    if not isinstance(name, str) or name.partition(":")[0] not in LIBRARIES:
        return None
    library, _, rest = name.partition(":")
    network, _, text = rest.partition(":")
    return LIBRARIES[library](name, network, arguments_in(name, text))


def weights_of(name: str | None) -> dict[str, Tensor]:
    """Those that its library has for a network."""
    if (other := foreign(name)) is None:
        expected = "a network of torchvision, timm or the Hugging Face hub"
        raise UsageError(f"{PRETRAINED} weights", expected, name or "none", "name a file of weights")
    return dict(other.weights())


def arguments_in(name: str, text: str) -> dict:
    found = {}
    for part in text.split(",") if text else ():
        option, _, value = part.partition("=")
        if not (option.isidentifier() and re.fullmatch(r"true|false|[-+]?[0-9.]+(e[-+]?[0-9]+)?", value)):
            raise UsageError(name, "arguments as in img_size=64,drop_rate=0.1", quoted(part), "numbers, true and false")
        if option in RESERVED:
            raise UsageError(name, "arguments of the network's own", option, "leave it out")
        try:
            found[option] = json.loads(value)
        except ValueError:
            raise UsageError(name, f"a number for {option}", quoted(value), "write it like 0.1") from None
    return found


def shown(arguments: Mapping) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())


def side_of(arguments: Mapping) -> int | None:
    """The side of the images that a network is asked to be built for."""
    return next((int(arguments[name]) for name in SIZES if name in arguments), None)


def unknown(text: str, network: str, known: list[str]) -> UsageError:
    library = text.partition(":")[0]
    where = "its documentation lists them" if library == "torchvision" else "`timm.list_models()` lists them"
    expected = f"one of the {len(known):,} networks of {library}"
    return UsageError(text, expected, repr(network), advice(network, known, where))
