"""Networks by name. A new one is a file with a body and an entry in `table.py`.

>>> network = build("resnet20", 10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), seed=1)
>>> network = build("mypkg.nets:make", 10, mean=mean, std=std)  # make(num_classes=10): a module for normalised images
>>> network = build("torchvision:resnet18", 10, mean=mean, std=std)  # one of another library: see `elsewhere.py`
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kdcache import lazy_torch as torch
from kdcache.checks import advice
from kdcache.errors import KdcacheError, UsageError, reason
from kdcache.models.elsewhere import LIBRARIES, foreign
from kdcache.models.table import MODELS, listed
from kdcache.user_code import from_current_folder, imported, user_fault

if TYPE_CHECKING:
    from torch import nn

    from kdcache.models.network import Network

__all__ = ["CLASSES", "MODELS", "build", "call_of", "find", "foreign", "listed", "runs_user_code"]


def build(name: str, classes: int, mean: Sequence[float], std: Sequence[float], *, seed: int = 0, **options) -> Network:
    """A network with fresh weights, which depend on the seed alone; torch's own generator is left as it was."""
    from kdcache.models.network import Network

    with torch.random.fork_rng(devices=[]):
        builder = find(name)
        if not options and (other := foreign(name)):
            options = other.options
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
    return ":" in name and foreign(name) is None


def find(name: str) -> Callable[..., nn.Module]:
    """The builder behind a name."""
    if other := foreign(name):
        return other.body
    if runs_user_code(name):
        return partial(_call, name, imported(name, "a network"))
    if builder := next(filter(None, (family.builder(name) for family in MODELS)), None):
        return builder
    remedy = advice(name, listed(), "name one of these, or a function of yours")
    known = [*_alike(name), *(f"{library}:NAME" for library in LIBRARIES), "MODULE:FACTORY"]
    raise UsageError("model", f"one of {', '.join(known)}", repr(name), remedy)


def _alike(name: str) -> list[str]:
    """The networks of our own whose names begin as this one, with the numbers that will do; else where all stand."""
    letters = re.split("[^a-z]", name)[0]
    alike = [family for family in MODELS if letters and family.name.startswith(letters)]
    named = [f"{family.name} with {family.rule}" if family.rule else family.name for family in alike]
    return named or ["`kdcache list models`"]


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
        found, remedy = user_fault(error, "KDCACHE_DEBUG=1 shows the whole traceback")
        expected = f"a network from {name.partition(':')[2]}({f'{number}={classes}' if number else ''})"
        raise UsageError(name, expected, found, remedy) from error
    if not isinstance(body, torch.nn.Module):
        remedy = "let the function return a torch.nn.Module that takes normalised float images"
        raise UsageError(name, "a torch.nn.Module", type(body).__name__, remedy)
    return body


def call_of(name: str, classes: int) -> tuple[str, str] | None:
    """The signature of a function of the user's, and how it is called; None of our own models."""
    if not runs_user_code(name):
        return None
    factory, function = imported(name, "a network"), name.rpartition(".")[2].rpartition(":")[2]
    number = _classes_parameter(name, factory)
    try:
        found = inspect.signature(factory)
        plain = [parameter.replace(annotation=parameter.empty) for parameter in found.parameters.values()]
        signature = str(found.replace(parameters=plain, return_annotation=found.empty))
    except (TypeError, ValueError):  # some that are written in C do not tell
        signature = "(...)"
    return f"{function}{signature}", f"{function}({f'{number}={classes}' if number else ''})"


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
