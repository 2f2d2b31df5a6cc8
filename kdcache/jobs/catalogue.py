"""What there is to choose from, with a line on each."""

from __future__ import annotations

import inspect

import torch

from kdcache.codecs import CODECS, named
from kdcache.errors import UsageError
from kdcache.methods import METHODS, Method, knowledge_of
from kdcache.methods import build as build_method
from kdcache.models import MODELS, build
from kdcache.models.network import shapes
from kdcache.sources import SOURCES
from kdcache.views import MIXES, VIEWS

IMAGE, CLASSES = (3, 32, 32), 10  # of the pair whose bytes are shown


def tables(names: list[str], teacher: str = "resnet110", student: str = "resnet20") -> dict[str, dict]:
    """Name -> a line, or for methods a dict of facts about a pair of networks on images of 32x32."""
    known = {
        "sources": lambda: {name: kind.help for name, kind in SOURCES.items()},
        "views": lambda: {name: kind.line(**options) for name, (kind, options) in VIEWS.items()} | MIXES,
        "codecs": lambda: {name: first_line(codec) for name, codec in CODECS.items()},
        "methods": lambda: methods(teacher, student),
        "models": lambda: {name: parameters(name) for name in MODELS},
    }
    return {name: known[name]() for name in names}


def first_line(thing) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def methods(teacher: str, student: str) -> dict[str, dict]:
    """Of every method: its paper, what is cached and its bytes for this pair, stages, defaults, variants."""
    shown = {name: taps_of(name) for name in {teacher, student}}
    found = {}
    for name, kind in METHODS.items():
        facts = {"paper": kind.paper, "stores": "", "bytes": 0, "stages": "main"}
        try:
            method = build_method(name, shown[student], shown[teacher])
            sizes = record_sizes(name, method, shown[teacher])
            facts |= {"stores": ", ".join(sizes), "bytes": sum(sizes.values()), "stages": stages_of(method)}
        except UsageError as error:
            facts["stores"] = f"not for this pair: {error.found}"
        found[name] = facts | {"defaults": defaults(kind), "variants": ", ".join(kind.variants)}
    return found


def record_sizes(name: str, method: Method, shown: dict) -> dict[str, int]:
    """Bytes of a record of each knowledge in f16, or in the codec that the method wants."""
    sizes = {}
    for knowledge, shape in knowledge_of(name, shown).items():
        sizes[knowledge] = named(method.codecs.get(knowledge, "f16"), torch.ones(2, *shape)).size
    return sizes


def stages_of(method: Method) -> str:
    init = f"init {100 * method.init_share:g} %, " if method.init_share else ""
    prepared = type(method).prepare is not Method.prepare
    return ("before the dump, " if prepared else "") + init + "main"


def defaults(kind: type[Method]) -> str:
    """The options of a method with what they are, cross-entropy's weight among them."""
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not None
    }
    return " ".join(f"{name}={value}" for name, value in ({"ce": kind.ce} | options).items())


def taps_of(model: str) -> dict[str, tuple[int, ...]]:
    network = build(model, CLASSES, (0.5,) * 3, (0.25,) * 3)
    return shapes(network, network.taps, IMAGE)


def parameters(model: str) -> str:
    with torch.device("meta"):
        network = build(model, CLASSES, (0.0,) * 3, (1.0,) * 3)
    return f"{sum(p.numel() for p in network.parameters()):,} weights for {CLASSES} classes"
