"""Networks by name. A new one is a file with a body and a line in `MODELS`.

>>> network = build("resnet20", 10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), seed=1)
>>> network = build("mypkg.nets:make", 10, mean=mean, std=std)  # make(num_classes=10): a module for normalised images
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from kdcache.checks import advice
from kdcache.errors import KdcacheError, UsageError, reason
from kdcache.models.network import Network
from kdcache.models.resnet import ResNet
from kdcache.models.tiny import Tiny
from kdcache.models.wrn import WideResNet
from kdcache.user_code import blamed, from_current_folder, imported


def tiny(classes: int, width: int = 8) -> Tiny:
    if not isinstance(width, int) or width < 1:
        raise UsageError("tiny", "a width of 1 or more", repr(width), "give a whole number")
    return Tiny(width, classes)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(ResNet, 8),
    "resnet14": partial(ResNet, 14),
    "resnet20": partial(ResNet, 20),
    "resnet32": partial(ResNet, 32),
    "resnet44": partial(ResNet, 44),
    "resnet56": partial(ResNet, 56),
    "resnet110": partial(ResNet, 110),
    "wrn-16-1": partial(WideResNet, 16, 1),
    "wrn-16-2": partial(WideResNet, 16, 2),
    "wrn-16-4": partial(WideResNet, 16, 4),
    "wrn-28-2": partial(WideResNet, 28, 2),
    "wrn-28-4": partial(WideResNet, 28, 4),
    "wrn-28-10": partial(WideResNet, 28, 10),
    "wrn-40-1": partial(WideResNet, 40, 1),
    "wrn-40-2": partial(WideResNet, 40, 2),
    "wrn-40-4": partial(WideResNet, 40, 4),
    "tiny-3": partial(Tiny, 3),
    "tiny": tiny,
    "tiny-32": partial(Tiny, 32),
}
"""name -> builder(classes, **options) of a body; `wrn-D-K` and `tiny-W` work with other numbers, too."""


def build(name: str, classes: int, mean: Sequence[float], std: Sequence[float], *, seed: int = 0, **options) -> Network:
    """A network with fresh weights, which depend on the seed alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        builder = find(name)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs
        try:
            inspect.signature(builder).bind(classes, **options)
        except TypeError as error:
            known = [option for option in inspect.signature(builder).parameters if option != "classes"]
            expected = f"options out of {', '.join(known)}" if known else "no options"
            raise UsageError(name, expected, reason(error), "leave out the others") from None
        body = builder(classes, **options)
    return Network(body, mean, std, {"model": name, "classes": classes, "options": options})


def runs_user_code(name: str) -> bool:
    """Whether building it imports code that is not ours."""
    return ":" in name


def find(name: str) -> Callable[..., nn.Module]:
    """The builder behind a name."""
    if name in MODELS:
        return MODELS[name]
    if runs_user_code(name):
        return partial(_call, name, imported(name, "a network"))
    if wide := re.fullmatch(r"wrn-(\d{1,3})-(\d{1,3})", name):
        depth, k = map(int, wide.groups())
        if depth < 10 or depth % 6 != 4 or k < 1:
            raise UsageError(name, "wrn-D-K with D = 10, 16, 22, ... and K = 1, 2, ...", name, "take wrn-16-2, say")
        return partial(WideResNet, depth, k)
    if (slim := re.fullmatch(r"tiny-(\d{1,4})", name)) and int(slim[1]):
        return partial(Tiny, int(slim[1]))
    remedy = advice(name, MODELS, "`kdcache list models` explains them; or name a function of yours")
    expected = f"one of {', '.join(MODELS)}, wrn-D-K, tiny-W, MODULE:FACTORY"
    raise UsageError("model", expected, repr(name), remedy)


CLASSES = ("classes", "num_classes", "n_classes", "nclasses", "nb_classes")  # what a function may call their number


def _call(name: str, factory: Callable, classes: int, **options) -> nn.Module:
    """The number of classes goes to a parameter of that name; any other might take it for a width."""
    number = _classes_parameter(name, factory)
    try:
        with from_current_folder():
            body = factory(**({number: classes} if number else {}), **options)
    except KdcacheError:
        raise
    except Exception as error:
        found, remedy = blamed(error, "KDCACHE_DEBUG=1 shows the whole traceback")
        expected = f"a network from {name.partition(':')[2]}({f'{number}={classes}' if number else ''})"
        raise UsageError(name, expected, found, remedy) from error
    if not isinstance(body, nn.Module):
        remedy = "let the function return a torch.nn.Module that takes normalised float images"
        raise UsageError(name, "a torch.nn.Module", type(body).__name__, remedy)
    return body


def _classes_parameter(name: str, factory: Callable) -> str | None:
    """The parameter that takes the number of classes; None of a function that has no parameters at all."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some that are written in C do not tell
        parameters, shown = None, "(...)"
    else:
        parameters, shown = signature.parameters.values(), str(signature)
        if not parameters:
            return None
        by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if named := [spelling for spelling in CLASSES if spelling in by_name]:
            return named[0]
        if any(p.kind == p.VAR_KEYWORD for p in parameters):
            return "num_classes"
    function = name.rpartition(".")[2].rpartition(":")[2]
    remedy = f"add it, or write `def make(num_classes): return {function}(...)` around it"
    expected = f"a parameter for the number of classes, called {' or '.join(CLASSES[:2])}"
    raise UsageError(name, expected, f"{function}{shown[:200]}", remedy)
